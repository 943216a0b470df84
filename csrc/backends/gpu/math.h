// Arithmetic beyond port.h: roots, narrow floats, sums over lanes, exp and what is made of it. One meaning on every target.
#pragma once
#include "backends/gpu/port.h"

#if SK_EMULATED
#define SK_UNROLL_4
#define SK_UNROLL_8
#else
#define SK_UNROLL_4 _Pragma("unroll 4")
#define SK_UNROLL_8 _Pragma("unroll 8")
#endif

namespace skipstone::gpu {

#if SK_CUDA
SK_DEVICE float square_root(float a) { return __fsqrt_rn(a); }
SK_DEVICE float natural_log(float a) { return logf(a); }
SK_DEVICE u32 to_half(float f) {
  u32 h;
  asm("{.reg .b16 h; cvt.rn.f16.f32 h, %1; cvt.u32.u16 %0, h;}" : "=r"(h) : "f"(f));
  return h;
}
#else
SK_DEVICE float square_root(float a) { return __builtin_sqrtf(a); }
SK_DEVICE float natural_log(float a) { return __builtin_logf(a); }
SK_DEVICE u32 to_half(float f) { return bits<u16>(static_cast<_Float16>(f)); }
#endif
SK_DEVICE float from_brain(u32 h) { return bits<float>(h << 16); }
SK_DEVICE u32 to_brain(float f) {
  const u32 v = bits<u32>(f);
  return (v & 0x7fffffffu) > 0x7f800000u ? (v >> 16) | 0x40u : (v + 0x7fffu + ((v >> 16) & 1u)) >> 16;
}
SK_DEVICE float larger(float a, float b) { return a > b ? a : b; }

// Over the 32 lanes, as one fixed tree; every lane has the result.
template <int MASK> SK_DEVICE float other_lane(float v) { return bits<float>(swap_lanes<MASK>(bits<u32>(v))); }
SK_DEVICE float sum_lanes(float v) {
  v = add(v, other_lane<16>(v));
  v = add(v, other_lane<8>(v));
  v = add(v, other_lane<4>(v));
  v = add(v, other_lane<2>(v));
  return add(v, other_lane<1>(v));
}
SK_DEVICE float largest_lane(float v) {
  v = larger(v, other_lane<16>(v));
  v = larger(v, other_lane<8>(v));
  v = larger(v, other_lane<4>(v));
  v = larger(v, other_lane<2>(v));
  return larger(v, other_lane<1>(v));
}

// exp within 1.2e-7 relative: the polynomial of the CPU kernels, operation by operation. Not-a-number passes through.
SK_DEVICE float exponential(float x) {
  x = -87.3f > x ? -87.3f : x;
  x = 88.0f < x ? 88.0f : x;
  const float n = round_even(mul(x, 1.44269504f));
  float r = fma(n, -0.693359375f, x);
  r = fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fma(p, r, 1.3981999507e-3f);
  p = fma(p, r, 8.3334519073e-3f);
  p = fma(p, r, 4.1665795894e-2f);
  p = fma(p, r, 1.6666665459e-1f);
  p = fma(p, r, 5.0000001201e-1f);
  p = add(fma(mul(r, r), p, r), 1.0f);
  return mul(p, bits<float>(static_cast<u32>(static_cast<i32>(n) + 127) << 23));
}
SK_DEVICE float sigmoid(float x) { return divide(1.0f, add(1.0f, exponential(-x))); }
// log(1 + e^x)
SK_DEVICE float softplus(float x) {
  if (x > 20.0f) return x;
  const float e = exponential(x), u = add(1.0f, e);
  return u == 1.0f ? e : divide(mul(natural_log(u), e), add(u, -1.0f));
}

SK_DEVICE float silu(float x) { return mul(x, sigmoid(x)); }
// The tanh form; 0.5 (1 + tanh u) = sigmoid(2u).
SK_DEVICE float gelu_tanh(float g) { return mul(g, sigmoid(mul(g, fma(mul(g, g), 2.0f * 0.7978845608f * 0.044715f, 2.0f * 0.7978845608f)))); }

}  // namespace skipstone::gpu
