// The vocabulary of the CPU kernels, eight lanes wide, in plain C++: what every other isa.h must reproduce bit for bit.
#pragma once
#include <cstdint>
#include <cstring>

#include "formats/float16.h"

namespace skipstone::cpu::baseline {

struct f32x8 {
  float lane[8];
};
struct i32x8 {
  int32_t lane[8];
};

#define EACH_LANE for (int i = 0; i < 8; ++i)

static inline f32x8 load(const float* p) { f32x8 r; memcpy(r.lane, p, 32); return r; }
static inline void store(float* p, f32x8 a) { memcpy(p, a.lane, 32); }
static inline f32x8 kept(f32x8 a) { return a; }      // see avx2/vectors.inl
static inline f32x8 broadcast(float a) { f32x8 r; EACH_LANE r.lane[i] = a; return r; }
static inline f32x8 add(f32x8 a, f32x8 b) { f32x8 r; EACH_LANE r.lane[i] = a.lane[i] + b.lane[i]; return r; }
static inline f32x8 sub(f32x8 a, f32x8 b) { f32x8 r; EACH_LANE r.lane[i] = a.lane[i] - b.lane[i]; return r; }
static inline f32x8 mul(f32x8 a, f32x8 b) { f32x8 r; EACH_LANE r.lane[i] = a.lane[i] * b.lane[i]; return r; }
static inline f32x8 div(f32x8 a, f32x8 b) { f32x8 r; EACH_LANE r.lane[i] = a.lane[i] / b.lane[i]; return r; }
static inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) { f32x8 r; EACH_LANE r.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); return r; }
// As the x86 instructions: the second operand where the two do not compare.
static inline f32x8 max(f32x8 a, f32x8 b) { f32x8 r; EACH_LANE r.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; return r; }
static inline f32x8 min(f32x8 a, f32x8 b) { f32x8 r; EACH_LANE r.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; return r; }
static inline f32x8 abs(f32x8 a) { f32x8 r; EACH_LANE r.lane[i] = __builtin_fabsf(a.lane[i]); return r; }
static inline f32x8 round_even(f32x8 a) { f32x8 r; EACH_LANE r.lane[i] = __builtin_nearbyintf(a.lane[i]); return r; }
static inline float lane0(f32x8 a) { return a.lane[0]; }

// Sum over the lanes as a fixed tree: (0+4)+(2+6), (1+5)+(3+7), then the two.
static inline float sum(f32x8 a) {
  const float* l = a.lane;
  return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]));
}
static inline float max_lane(f32x8 a) {
  float m = a.lane[0];
  for (int i = 1; i < 8; ++i) m = m > a.lane[i] ? m : a.lane[i];
  return m;
}
// Lane i of the result is sum(a[i]).
static inline f32x8 sums(const f32x8 a[8]) { f32x8 r; EACH_LANE r.lane[i] = sum(a[i]); return r; }

// 2^n for whole n in -126..127.
static inline f32x8 power_of_two(f32x8 n) {
  f32x8 r;
  EACH_LANE { int32_t bits = (static_cast<int32_t>(n.lane[i]) + 127) << 23; memcpy(&r.lane[i], &bits, 4); }
  return r;
}

static inline f32x8 load_f16(const uint16_t* p) { f32x8 r; EACH_LANE r.lane[i] = formats::f16_to_f32(p[i]); return r; }
static inline f32x8 load_bf16(const uint16_t* p) { f32x8 r; EACH_LANE r.lane[i] = formats::bf16_to_f32(p[i]); return r; }
static inline void store_f16(uint16_t* p, f32x8 a) { EACH_LANE p[i] = formats::f32_to_f16(a.lane[i]); }
static inline void store_bf16(uint16_t* p, f32x8 a) { EACH_LANE p[i] = formats::f32_to_bf16(a.lane[i]); }
static inline f32x8 load_u8(const uint8_t* p) { f32x8 r; EACH_LANE r.lane[i] = p[i]; return r; }
static inline f32x8 load_i8(const int8_t* p) { f32x8 r; EACH_LANE r.lane[i] = p[i]; return r; }
static inline f32x8 eight_low_nibbles(const uint8_t* p) { f32x8 r; EACH_LANE r.lane[i] = p[i] & 15; return r; }
static inline f32x8 eight_high_nibbles(const uint8_t* p) { f32x8 r; EACH_LANE r.lane[i] = p[i] >> 4; return r; }

static inline i32x8 zero() { return i32x8{}; }
static inline i32x8 broadcast_int(int32_t a) { i32x8 r; EACH_LANE r.lane[i] = a; return r; }
static inline i32x8 add(i32x8 a, i32x8 b) { i32x8 r; EACH_LANE r.lane[i] = a.lane[i] + b.lane[i]; return r; }
static inline f32x8 to_float(i32x8 a) { f32x8 r; EACH_LANE r.lane[i] = static_cast<float>(a.lane[i]); return r; }
// 32 whole numbers in -127..127 as int8.
static inline void store_i8(int8_t* p, const f32x8 a[4]) { for (int v = 0; v < 4; ++v) EACH_LANE p[8 * v + i] = static_cast<int8_t>(a[v].lane[i]); }

// 32 bytes: four consecutive weights of each of eight rows (lane = row).
struct bytes32 {
  uint8_t byte[32];
};
static inline bytes32 load_bytes(const void* p) { bytes32 r; memcpy(r.byte, p, 32); return r; }
static inline void store_bytes(void* p, bytes32 a) { memcpy(p, a.byte, 32); }
static inline bytes32 low_nibbles(bytes32 a) { for (uint8_t& b : a.byte) b &= 15; return a; }
static inline bytes32 high_nibbles(bytes32 a) { for (uint8_t& b : a.byte) b >>= 4; return a; }
// Bit `bit` of each byte, moved to bit `to`.
template <int bit, int to> static inline bytes32 take_bit(bytes32 a) { for (uint8_t& b : a.byte) b = static_cast<uint8_t>(((b >> bit) & 1) << to); return a; }
// Two bits from `bit` of each byte, moved to bits 4 and 5.
template <int bit> static inline bytes32 take_pair(bytes32 a) { for (uint8_t& b : a.byte) b = static_cast<uint8_t>(((b >> bit) & 3) << 4); return a; }
static inline bytes32 either(bytes32 a, bytes32 b) { for (int i = 0; i < 32; ++i) a.byte[i] |= b.byte[i]; return a; }

// Entry of the table for each byte, which is 0..15.
static inline bytes32 lookup(const int8_t table[16], bytes32 a) { for (uint8_t& b : a.byte) b = static_cast<uint8_t>(table[b]); return a; }
template <int bit> static inline bytes32 low_pair(bytes32 a) { for (uint8_t& b : a.byte) b = (b >> bit) & 3; return a; }
static inline bytes32 flip_sign_bit(bytes32 a) { for (uint8_t& b : a.byte) b ^= 128; return a; }

#include "backends/cpu/common/eight_lanes.inl"

static inline Floats load_low_nibbles(const uint8_t* p) { f32x8 r; EACH_LANE r.lane[i] = p[i] & 15; return r; }
static inline Floats load_high_nibbles(const uint8_t* p) { f32x8 r; EACH_LANE r.lane[i] = p[i] >> 4; return r; }
// 2^(e - 128) of a byte e: e - 1 is the float32 exponent, and the two smallest are subnormal.
static inline Floats load_exponents(const uint8_t* p) {
  f32x8 r;
  EACH_LANE { uint32_t bits = p[i] < 2 ? 0x00200000u << p[i] : (p[i] - 1u) << 23; memcpy(&r.lane[i], &bits, 4); }
  return r;
}
template <int BITS> static inline Ints shifted(Ints a) { for (int32_t& i : a.lane) i = static_cast<int32_t>(static_cast<uint32_t>(i) << BITS); return a; }

static inline Ints load_ints(const int32_t* p) { Ints r; memcpy(r.lane, p, 32); return r; }
static inline void store_register(void* p, Bytes a) { memcpy(p, a.byte, 32); }
template <int COUNT> static inline Bytes take_away(Bytes a) { for (uint8_t& b : a.byte) b = static_cast<uint8_t>(b - COUNT); return a; }

// Can dot_unsigned take weights up to 255? Then signed ones are given as weight + 128.
static constexpr bool dot_is_wide = false;
// Has it a product of two weight rows by two rows of activations? See common/two_rows.inl.
static constexpr bool takes_two_rows = false;
// Has it tile registers? See common/tiles.inl.
static constexpr bool takes_tiles = false;

// r + sum over COUNT registers of weight x activation: lane l gains the sum over i, c of w[i].byte[4l + c] * y[4i + c].
// LARGEST bounds the weights (unsigned), so that other variants know how many products fit 16 bits.
template <int LARGEST, int COUNT> static inline Ints dot_unsigned(Ints r, const Bytes* w, const int8_t* y) {
  for (int k = 0; k < COUNT; ++k)
    EACH_LANE for (int c = 0; c < 4; ++c) r.lane[i] += int32_t(w[k].byte[4 * i + c]) * y[4 * k + c];
  return r;
}
template <int COUNT> static inline Ints dot_signed(Ints r, const Bytes* w, const int8_t* y) {
  for (int k = 0; k < COUNT; ++k)
    EACH_LANE for (int c = 0; c < 4; ++c) r.lane[i] += int32_t(static_cast<int8_t>(w[k].byte[4 * i + c])) * y[4 * k + c];
  return r;
}

static inline void prefetch(const void*) {}

#undef EACH_LANE

}  // namespace skipstone::cpu::baseline
