// Quantized matmul one product after the other, from the file's own blocks, in the order of sums that csrc/backends/gpu/matmul.cu and decode.h promise.
// What the GPU kernels' emulation is compared with, bit for bit.
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

float half_at(const uint8_t* p) {
  _Float16 h;
  std::memcpy(&h, p, 2);
  return static_cast<float>(h);
}

// One block of 32 weights (as whole numbers), its scale, or for each half of it one, and its minimum.
struct Block { int q[32]; float scale[2], min; bool halves; };

void six_bits(const uint8_t* s, int b, int& scale, int& min) {
  if (b < 4) scale = s[b] & 63, min = s[b + 4] & 63;
  else scale = (s[b + 4] & 15) | (s[b - 4] >> 6) << 4, min = (s[b + 4] >> 4) | (s[b] >> 6) << 4;
}

Block read(int type, const uint8_t* row, int block) {
  Block out{};
  if (type == 8 || type == 2 || type == 6) {     // Q8_0, Q4_0, Q5_0
    const uint8_t* p = row + (type == 8 ? 34 : type == 2 ? 18 : 22) * int64_t{block};
    out.scale[0] = out.scale[1] = half_at(p);
    uint32_t fifth = 0;
    if (type == 6) std::memcpy(&fifth, p + 2, 4);
    const uint8_t* q = p + (type == 6 ? 6 : 2);
    for (int i = 0; i < 32; ++i) {
      const int nibble = q[i % 16] >> (4 * (i / 16)) & 15;
      out.q[i] = type == 8 ? static_cast<int8_t>(q[i]) : type == 2 ? nibble - 8 : (nibble | static_cast<int>(fifth >> i & 1) << 4) - 16;
    }
    return out;
  }
  const int super = block / 8, b = block % 8;
  if (type == 14) {                              // Q6_K
    const uint8_t* p = row + 210 * int64_t{super};
    out.halves = true;
    for (int h = 0; h < 2; ++h) out.scale[h] = static_cast<int8_t>(p[192 + 2 * b + h]);
    for (int i = 0; i < 32; ++i) {
      const int low = p[64 * (b / 4) + 32 * (b % 2) + i] >> (b % 4 / 2 * 4) & 15, high = p[128 + 32 * (b / 4) + i] >> (2 * (b % 4)) & 3;
      out.q[i] = (low | high << 4) - 32;
    }
    return out;
  }
  const uint8_t* p = row + (type == 12 ? 144 : 176) * int64_t{super};      // Q4_K, Q5_K
  int scale = 0, min = 0;
  six_bits(p + 4, b, scale, min);
  out.scale[0] = out.scale[1] = half_at(p) * static_cast<float>(scale);      // exact: 11 and 6 bits
  out.min = -half_at(p + 2) * static_cast<float>(min);
  for (int i = 0; i < 32; ++i) out.q[i] = (p[(type == 12 ? 16 : 48) + 32 * (b / 2) + i] >> (4 * (b % 2)) & 15) | (type == 13 ? (p[16 + i] >> b & 1) << 4 : 0);
  return out;
}

}  // namespace

// q: rows x blocks x 32; scale, sum: rows x blocks; y: rows x outputs. row_bytes: of the weights.
extern "C" void scalar_matmul(int type, const uint8_t* weights, int64_t row_bytes, int outputs, int blocks, int rows, const int8_t* q, const float* scale, const float* sum, float* y) {
  const int chunks = (blocks + 7) / 8;
  for (int n = 0; n < outputs; ++n)
    for (int r = 0; r < rows; ++r) {
      float slice[8] = {};
      for (int s = 0; s < 8; ++s)
        for (int c = s; c < chunks; c += 8) {
          float own = 0.0f;                      // Q6_K: of the chunk
          for (int b = 8 * c; b < 8 * c + 8 && b < blocks; ++b) {
            const Block w = read(type, weights + n * row_bytes, b);
            const int8_t* x = q + (int64_t{r} * blocks + b) * 32;
            const float xs = scale[int64_t{r} * blocks + b];
            int product[2] = {};
            for (int i = 0; i < 32; ++i) product[i / 16] += w.q[i] * x[i];
            if (w.halves) {
              for (int h = 0; h < 2; ++h) own = std::fmaf(static_cast<float>(product[h]) * w.scale[h], xs, own);
            } else {
              slice[s] = std::fmaf(static_cast<float>(product[0] + product[1]) * w.scale[0], xs, slice[s]);
              if (type == 12 || type == 13) slice[s] = std::fmaf(w.min, sum[int64_t{r} * blocks + b], slice[s]);
            }
          }
          if (type == 14) slice[s] = std::fmaf(half_at(weights + n * row_bytes + 210 * int64_t{c} + 208), own, slice[s]);
        }
      float total = slice[0] + slice[1];
      for (int s = 2; s < 8; s += 2) total += slice[s] + slice[s + 1];
      y[int64_t{r} * outputs + n] = total;
    }
}
