// Row-interleaved weight layouts: a group of 8 or 16 rows in which a register (32 or 64 bytes)
// holds four consecutive weights of each row (lane = row).
// Bits are only moved, so packing loses nothing. All 4-, 5- and 6-bit types end up in the same planes, a block of 32 columns at a time:
//   nibbles, 4 registers: byte (row, c) of register j has the low bits of column 4j + c below and of column 16 + 4j + c above
//   bits, 1 register: bit i of byte (row, c) is the fifth bit of column 4i + c
//   pairs, 2 registers: in register p, bits 2i and 2i + 1 of byte (row, c) are the fifth and sixth of column 16p + 4i + c
#include <cstring>
#include <type_traits>

#include "backends/cpu/layout.h"
#include "formats/float16.h"

namespace skipstone::cpu {
namespace {

// The unsigned values of 32 columns of one row go to their places in the planes.
template <int W> void put_nibbles(const uint8_t v[32], int row, uint8_t* plane) {
  for (int j = 0; j < 4; ++j)
    for (int c = 0; c < 4; ++c) plane[32 * W * j + 4 * row + c] = static_cast<uint8_t>((v[4 * j + c] & 15) | (v[16 + 4 * j + c] & 15) << 4);
}
template <int W> void put_bits(const uint8_t v[32], int row, uint8_t* plane) {
  for (int c = 0; c < 4; ++c) {
    uint8_t byte = 0;
    for (int i = 0; i < 8; ++i) byte = static_cast<uint8_t>(byte | ((v[4 * i + c] >> 4) & 1) << i);
    plane[4 * row + c] = byte;
  }
}
template <int W> void put_pairs(const uint8_t v[32], int row, uint8_t* plane) {
  for (int p = 0; p < 2; ++p)
    for (int c = 0; c < 4; ++c) {
      uint8_t byte = 0;
      for (int i = 0; i < 4; ++i) byte = static_cast<uint8_t>(byte | ((v[16 * p + 4 * i + c] >> 4) & 3) << (2 * i));
      plane[32 * W * p + 4 * row + c] = byte;
    }
}
void put_half(uint8_t* scales, int row, const uint8_t* half) { memcpy(scales + 2 * row, half, 2); }

template <int W> void pack_q8_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 34 * b;
      put_half(group + q8_0<W>::scales(blocks) + q8_0<W>::scale * b, r, in);
      for (int j = 0; j < 8; ++j) memcpy(group + q8_0<W>::piece * b + 32 * W * j + 4 * r, in + 2 + 4 * j, 4);
    }
}

template <int W> void pack_q4_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 18 * b;
      put_half(group + q4_0<W>::scales(blocks) + q4_0<W>::scale * b, r, in);
      uint8_t v[32];
      for (int i = 0; i < 16; ++i) v[i] = in[2 + i] & 15, v[16 + i] = in[2 + i] >> 4;
      put_nibbles<W>(v, r, group + q4_0<W>::piece * b);
    }
}

template <int W> void pack_q5_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 22 * b;
      put_half(group + q5_0<W>::scales(blocks) + q5_0<W>::scale * b, r, in);
      uint32_t high;
      memcpy(&high, in + 2, 4);
      uint8_t v[32];
      for (int i = 0; i < 32; ++i) {
        uint8_t low = i < 16 ? in[6 + i] & 15 : in[6 + i - 16] >> 4;
        v[i] = static_cast<uint8_t>(low | ((high >> i) & 1) << 4);
      }
      put_nibbles<W>(v, r, group + q5_0<W>::piece * b);
      put_bits<W>(v, r, group + q5_0<W>::piece * b + planes<W>::after_nibbles);
    }
}

// The 6-bit scale and minimum of block j, as Q4_K and Q5_K pack them into 12 bytes.
void scale_and_min(const uint8_t* s, int j, uint8_t& scale, uint8_t& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
    min = static_cast<uint8_t>((s[j + 4] >> 4) | (s[j] >> 6) << 4);
  }
}

template <bool FIVE, int W> void pack_q45_k(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using K = std::conditional_t<FIVE, q5_k<W>, q4_k<W>>;
  constexpr int block_bytes = FIVE ? 176 : 144, low_at = FIVE ? 48 : 16;
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + block_bytes * b;
      uint8_t* out = group + K::super * b;
      put_half(out, r, in);
      put_half(out + K::dmin, r, in + 2);
      for (int j = 0; j < 8; ++j) {
        scale_and_min(in + 4, j, out[K::blocks + K::block * j + r], out[K::blocks + K::block * j + K::min + r]);
        uint8_t v[32];
        for (int i = 0; i < 32; ++i) {
          v[i] = (in[low_at + 32 * (j / 2) + i] >> (4 * (j & 1))) & 15;
          if (FIVE) v[i] = static_cast<uint8_t>(v[i] | ((in[16 + i] >> j) & 1) << 4);
        }
        put_nibbles<W>(v, r, out + K::header + K::piece * j);
        if (FIVE) put_bits<W>(v, r, out + K::header + K::piece * j + planes<W>::after_nibbles);
      }
    }
}

template <int W> void pack_q6_k(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 210 * b;
      uint8_t* out = group + q6_k<W>::super * b;
      put_half(out, r, in + 208);
      for (int s = 0; s < 16; ++s) out[q6_k<W>::scales + q6_k<W>::scale * s + r] = in[192 + s];
      for (int j = 0; j < 8; ++j) {
        uint8_t v[32];
        const int half = j / 4, k = j % 4;
        for (int i = 0; i < 32; ++i) {
          uint8_t low = (in[64 * half + 32 * (k & 1) + i] >> (4 * (k >> 1))) & 15, high = (in[128 + 32 * half + i] >> (2 * k)) & 3;
          v[i] = static_cast<uint8_t>(low | high << 4);
        }
        put_nibbles<W>(v, r, out + q6_k<W>::header + q6_k<W>::piece * j);
        put_pairs<W>(v, r, out + q6_k<W>::header + q6_k<W>::piece * j + planes<W>::after_nibbles);
      }
    }
}

template <int BYTES, int W> void pack_values(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  for (int64_t k = 0; k < columns; ++k)
    for (int r = 0; r < 8 * W; ++r) memcpy(group + BYTES * (8 * W * k + r), rows[r] + BYTES * k, BYTES);
}

// Bytes of eight rows; pack functions for groups of 8 and of 16.
#define PACK(function) {function<1>, function<2>}
const MatmulLayout layouts[] = {
    {"F32", true, [](int64_t n) { return 32 * n; }, {pack_values<4, 1>, pack_values<4, 2>}},
    {"F16", true, [](int64_t n) { return 16 * n; }, {pack_values<2, 1>, pack_values<2, 2>}},
    {"BF16", true, [](int64_t n) { return 16 * n; }, {pack_values<2, 1>, pack_values<2, 2>}},
    {"Q8_0", false, [](int64_t n) { return n / 32 * (q8_0<1>::piece + q8_0<1>::scale); }, PACK(pack_q8_0)},
    {"Q4_0", false, [](int64_t n) { return n / 32 * (q4_0<1>::piece + q4_0<1>::scale); }, PACK(pack_q4_0)},
    {"Q5_0", false, [](int64_t n) { return n / 32 * (q5_0<1>::piece + q5_0<1>::scale); }, PACK(pack_q5_0)},
    {"Q4_K", false, [](int64_t n) { return n / 256 * q4_k<1>::super; }, {pack_q45_k<false, 1>, pack_q45_k<false, 2>}},
    {"Q5_K", false, [](int64_t n) { return n / 256 * q5_k<1>::super; }, {pack_q45_k<true, 1>, pack_q45_k<true, 2>}},
    {"Q6_K", false, [](int64_t n) { return n / 256 * q6_k<1>::super; }, PACK(pack_q6_k)},
};
#undef PACK

}  // namespace

const MatmulLayout* find_layout(int type_id) {
  const formats::TypeInfo* type = formats::find(type_id);
  for (const MatmulLayout& layout : layouts)
    if (type && std::string_view(layout.type) == type->name) return &layout;
  return nullptr;
}

}  // namespace skipstone::cpu
