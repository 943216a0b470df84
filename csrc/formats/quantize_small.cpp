// Quantizers of the types whose blocks have one level of scales.
#include "formats/fp4.h"
#include "formats/iq4.h"
#include "formats/q4_0.h"
#include "formats/q4_1.h"
#include "formats/q5_0.h"
#include "formats/q5_1.h"
#include "formats/q8_0.h"
#include "formats/search.h"
#include "formats/ternary.h"

#include <cfloat>
#include <functional>

namespace skipstone::formats {
namespace {

// q of 32 weights to low nibbles (0..15) and high ones (16..31); returns the fifth bits.
uint32_t pack_nibbles(const int (&q)[32], uint8_t* bytes) {
  uint32_t fifth = 0;
  for (int i = 0; i < 16; i++) bytes[i] = uint8_t((q[i] & 15) | (q[i + 16] & 15) << 4);
  for (int i = 0; i < 32; i++) fifth |= uint32_t(q[i] >> 4 & 1) << i;
  return fifth;
}

template <int half_range>
uint32_t quantize_symmetric(const float* in, Half& d, uint8_t* qs) {
  using Levels = Integers<-half_range, half_range - 1>;
  float x[32];
  load_bounded(in, x);
  const float inv = inverse(store(d, best_scale<Levels, 32>(x)));
  int q[32];
  for (int i = 0; i < 32; i++) q[i] = int(Levels::nearest(x[i] * inv)) + half_range;
  return pack_nibbles(q, qs);
}

template <int top>
uint32_t quantize_affine(const float* in, Half& d, Half& m, uint8_t* qs) {
  float x[32];
  load_bounded(in, x);
  const Line line = best_line<top, 32, false>(x);
  const float inv = inverse(store(d, line.scale)), min = store_min(m, line.min);
  int q[32];
  for (int i = 0; i < 32; i++) q[i] = int(Integers<0, top>::nearest((x[i] - min) * inv));
  return pack_nibbles(q, qs);
}

// The scale of least squares for -scale, 0, scale: some number of the largest weights are not zero.
float best_ternary_scale(const float* x, int n) {
  float magnitudes[256];
  for (int i = 0; i < n; i++) magnitudes[i] = std::fabs(x[i]);
  std::sort(magnitudes, magnitudes + n, std::greater<>());
  double sum = 0, best = 0, scale = 0;
  for (int i = 0; i < n; i++) {
    sum += magnitudes[i];
    if (sum * sum > best * (i + 1)) {
      best = sum * sum / (i + 1);
      scale = sum / (i + 1);
    }
  }
  return float(scale);
}

// q = 0, 1, 2 for -d, 0, d
void quantize_ternary(const float* in, Half& d, int (&q)[256]) {
  float x[256];
  load_bounded(in, x);
  const float inv = inverse(store(d, best_ternary_scale(x, 256)));
  for (int i = 0; i < 256; i++) q[i] = int(Integers<-1, 1>::nearest(x[i] * inv)) + 1;
}

}  // namespace

void Q4_0::quantize(const float* x, Block& block) { quantize_symmetric<8>(x, block.d, block.qs); }
void Q5_0::quantize(const float* x, Block& block) { block.qh = quantize_symmetric<16>(x, block.d, block.qs); }
void Q4_1::quantize(const float* x, Block& block) { quantize_affine<15>(x, block.d, block.m, block.qs); }
void Q5_1::quantize(const float* x, Block& block) { block.qh = quantize_affine<31>(x, block.d, block.m, block.qs); }

void Q8_0::quantize(const float* in, Block& block) {
  float x[32];
  load_bounded(in, x);
  const float wanted = std::fabs(peak_of(x, 32)) / 127;
  // Among the subnormals of f16 the nearest could be too small by half.
  const float inv = inverse(wanted < 0x1p-14f ? store_away(block.d, wanted) : store(block.d, wanted));
  for (int i = 0; i < 32; i++) block.q[i] = int8_t(Integers<-127, 127>::nearest(x[i] * inv));
}

void IQ4_NL::quantize(const float* in, Block& block) {
  float x[32];
  load_bounded(in, x);
  const float inv = inverse(store_for<Iq4Levels, 32>(x, block.d, best_scale<Iq4Levels, 32>(x)));
  int q[32];
  for (int i = 0; i < 32; i++) q[i] = Iq4Levels::index(x[i] * inv);
  pack_nibbles(q, block.qs);
}

void MXFP4::quantize(const float* in, Block& block) {
  float x[32], y[32];
  for (int i = 0; i < 32; i++) x[i] = clamp(in[i], -FLT_MAX, FLT_MAX);
  const float peak = std::fabs(peak_of(x, 32));
  // The exponent that puts the peak between 4 and 8 (FP4 ends at 6), or a neighbour. From 2 on the inverse of the scale is
  // finite, up to 252 all values are.
  const int middle = peak > 0 ? std::clamp(std::ilogb(peak) + 125, 2, 252) : 2;
  // In units of the middle scale no sum leaves float32, whatever the weights are.
  const float unit = inverse(e8m0_half_to_f32(uint8_t(middle)));
  for (int i = 0; i < 32; i++) y[i] = x[i] * unit;
  float best_error = INFINITY, best_scale = 1;
  block.e = 0;
  for (int step = -1; step <= 1 && peak > 0; step++) {
    if (middle + step < 2 || middle + step > 252) continue;
    const float scale = std::ldexp(1.f, step), error = error_of<Fp4Levels, 32>(y, scale);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
      block.e = uint8_t(middle + step);
    }
  }
  int q[32];
  for (int i = 0; i < 32; i++) q[i] = Fp4Levels::index(y[i] / best_scale);
  pack_nibbles(q, block.qs);
}

void NVFP4::quantize(const float* in, Block& block) {
  for (int group = 0; group < 4; group++) {
    float x[16];
    load_bounded(in + 16 * group, x);
    const float peak = std::fabs(peak_of(x, 16));
    // Scales that put the peak somewhere between 3 and 12 (FP4 ends at 6), or the nearest to that.
    float best_error = INFINITY;
    int best = 0;
    for (int code = 1; code < 0x7f && peak > 0; code++) {
      const float scale = ue4m3_half_to_f32(uint8_t(code));
      if (scale * 24 < peak && code < 0x7e) continue;
      if (scale * 6 > peak && code > 1) break;
      const float error = error_of<Fp4Levels, 16>(x, scale);
      if (error < best_error) {
        best_error = error;
        best = code;
      }
    }
    block.scales[group] = uint8_t(best);
    const float inv = inverse(ue4m3_half_to_f32(uint8_t(best)));
    for (int i = 0; i < 8; i++)
      block.qs[8 * group + i] = uint8_t(Fp4Levels::index(x[i] * inv) | Fp4Levels::index(x[i + 8] * inv) << 4);
  }
}

void TQ1_0::quantize(const float* x, Block& block) {
  int q[256];
  quantize_ternary(x, block.d, q);
  // The fraction of five trits (a missing one is 0) in 256ths, rounded up, so that multiplying by 3 carries each out again.
  auto pack = [](const int* first, int stride, int count) {
    int value = 0;
    for (int n = 0; n < 5; n++) value = 3 * value + (n < count ? first[n * stride] : 0);
    return uint8_t((value * 256 + 242) / 243);
  };
  for (int i = 0; i < 32; i++) block.qs[i] = pack(q + i, 32, 5);
  for (int i = 0; i < 16; i++) block.qs[32 + i] = pack(q + 160 + i, 16, 5);
  for (int i = 0; i < 4; i++) block.qh[i] = pack(q + 240 + i, 4, 4);
}

void TQ2_0::quantize(const float* x, Block& block) {
  int q[256];
  quantize_ternary(x, block.d, q);
  for (int i = 0; i < 64; i++) {
    const int* first = q + 128 * (i / 32) + i % 32;
    block.qs[i] = uint8_t(first[0] | first[32] << 2 | first[64] << 4 | first[96] << 6);
  }
}

}  // namespace skipstone::formats
