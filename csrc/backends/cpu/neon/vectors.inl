// Eight lanes in pairs of NEON registers; included into the namespace of each variant that uses them. Same bits as baseline/isa.h.

struct f32x8 {
  float32x4_t low, high;
};
struct i32x8 {
  int32x4_t low, high;
};
struct bytes32 {
  uint8x16_t low, high;
};

static inline f32x8 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
static inline void store(float* p, f32x8 a) { vst1q_f32(p, a.low); vst1q_f32(p + 4, a.high); }
static inline f32x8 kept(f32x8 a) {                      // see avx2/vectors.inl
  asm("" : "+w"(a.low), "+w"(a.high));
  return a;
}
static inline f32x8 broadcast(float a) { return {vdupq_n_f32(a), vdupq_n_f32(a)}; }
static inline f32x8 add(f32x8 a, f32x8 b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
static inline f32x8 sub(f32x8 a, f32x8 b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
static inline f32x8 mul(f32x8 a, f32x8 b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
static inline f32x8 div(f32x8 a, f32x8 b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
static inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
// Not fmax and fmin: where the two do not compare the vocabulary wants the second operand.
static inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline f32x8 max(f32x8 a, f32x8 b) { return {larger(a.low, b.low), larger(a.high, b.high)}; }
static inline f32x8 min(f32x8 a, f32x8 b) { return {smaller(a.low, b.low), smaller(a.high, b.high)}; }
static inline f32x8 abs(f32x8 a) { return {vabsq_f32(a.low), vabsq_f32(a.high)}; }
static inline f32x8 round_even(f32x8 a) { return {vrndnq_f32(a.low), vrndnq_f32(a.high)}; }
static inline float lane0(f32x8 a) { return vgetq_lane_f32(a.low, 0); }

static inline float sum(f32x8 a) {
  const float32x4_t half = vaddq_f32(a.low, a.high);                                     // 0+4 1+5 2+6 3+7
  return vpadds_f32(vadd_f32(vget_low_f32(half), vget_high_f32(half)));                  // (0+4)+(2+6)  (1+5)+(3+7)
}
static inline float max_lane(f32x8 a) {
  const float32x4_t four = larger(a.low, a.high), two = larger(four, vextq_f32(four, four, 2));
  const float first = vgetq_lane_f32(two, 0), second = vgetq_lane_f32(two, 1);
  return first > second ? first : second;
}
[[gnu::always_inline]] static inline f32x8 sums(const f32x8 a[8]) {
  // Halves first (l + l+4), then l + l+2, then l + l+1: the tree of sum(), eight at once.
  float32x4_t pair[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float64x2_t even = vreinterpretq_f64_f32(vaddq_f32(a[2 * i].low, a[2 * i].high)), odd = vreinterpretq_f64_f32(vaddq_f32(a[2 * i + 1].low, a[2 * i + 1].high));
    pair[i] = vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(even, odd)), vreinterpretq_f32_f64(vzip2q_f64(even, odd)));
  }
  return {vpaddq_f32(pair[0], pair[1]), vpaddq_f32(pair[2], pair[3])};
}

static inline float32x4_t power_of_two(float32x4_t n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23)); }
static inline f32x8 power_of_two(f32x8 n) { return {power_of_two(n.low), power_of_two(n.high)}; }

static inline f32x8 load_f16(const uint16_t* p) {
  const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(p));
  return {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
}
static inline void store_f16(uint16_t* p, f32x8 a) { vst1q_u16(p, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.low), a.high))); }
static inline f32x8 load_bf16(const uint16_t* p) {
  const uint16x8_t halves = vld1q_u16(p);
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(halves, 16))};
}
static inline uint16x4_t to_bf16(float32x4_t a) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint16x4_t rounded = vshrn_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16), quiet = vorr_u16(vshrn_n_u32(bits, 16), vdup_n_u16(64));
  return vbsl_u16(vmovn_u32(vceqq_f32(a, a)), rounded, quiet);
}
static inline void store_bf16(uint16_t* p, f32x8 a) { vst1q_u16(p, vcombine_u16(to_bf16(a.low), to_bf16(a.high))); }

static inline i32x8 widened(const uint8_t* p) {
  const uint16x8_t words = vmovl_u8(vld1_u8(p));
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))), vreinterpretq_s32_u32(vmovl_high_u16(words))};
}
static inline i32x8 zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
static inline i32x8 broadcast_int(int32_t a) { return {vdupq_n_s32(a), vdupq_n_s32(a)}; }
static inline i32x8 add(i32x8 a, i32x8 b) { return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }
static inline f32x8 to_float(i32x8 a) { return {vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)}; }
static inline f32x8 load_u8(const uint8_t* p) { return to_float(widened(p)); }
static inline f32x8 load_i8(const int8_t* p) {
  const int16x8_t words = vmovl_s8(vld1_s8(p));
  return to_float(i32x8{vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)});
}
static inline f32x8 eight_low_nibbles(const uint8_t* p) {
  const i32x8 both = widened(p);
  return to_float(i32x8{vandq_s32(both.low, vdupq_n_s32(15)), vandq_s32(both.high, vdupq_n_s32(15))});
}
static inline f32x8 eight_high_nibbles(const uint8_t* p) {
  const i32x8 both = widened(p);
  return to_float(i32x8{vshrq_n_s32(both.low, 4), vshrq_n_s32(both.high, 4)});
}
static inline int16x8_t to_words(f32x8 a) { return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(a.low)), vcvtnq_s32_f32(a.high)); }
static inline void store_i8(int8_t* p, const f32x8 a[4]) {
  for (int v = 0; v < 4; v += 2) vst1q_s8(p + 8 * v, vqmovn_high_s16(vqmovn_s16(to_words(a[v])), to_words(a[v + 1])));
}

static inline bytes32 load_bytes(const void* p) { return {vld1q_u8(static_cast<const uint8_t*>(p)), vld1q_u8(static_cast<const uint8_t*>(p) + 16)}; }
static inline void store_bytes(void* p, bytes32 a) { vst1q_u8(static_cast<uint8_t*>(p), a.low); vst1q_u8(static_cast<uint8_t*>(p) + 16, a.high); }
template <int BY> static inline uint8x16_t moved_up(uint8x16_t a) {
  if constexpr (BY > 0) return vshlq_n_u8(a, BY);
  else if constexpr (BY < 0) return vshrq_n_u8(a, -BY);
  else return a;
}
// Shifted left by BY bits (right where it is negative) within each byte, and masked.
template <int BY, int MASK> static inline bytes32 moved(bytes32 a) { return {vandq_u8(moved_up<BY>(a.low), vdupq_n_u8(MASK)), vandq_u8(moved_up<BY>(a.high), vdupq_n_u8(MASK))}; }
static inline bytes32 low_nibbles(bytes32 a) { return moved<0, 15>(a); }
static inline bytes32 high_nibbles(bytes32 a) { return {vshrq_n_u8(a.low, 4), vshrq_n_u8(a.high, 4)}; }
template <int bit, int to> static inline bytes32 take_bit(bytes32 a) { return moved<to - bit, 1 << to>(a); }
template <int bit> static inline bytes32 take_pair(bytes32 a) { return moved<4 - bit, 0x30>(a); }
template <int bit> static inline bytes32 low_pair(bytes32 a) { return moved<-bit, 3>(a); }
static inline bytes32 either(bytes32 a, bytes32 b) { return {vorrq_u8(a.low, b.low), vorrq_u8(a.high, b.high)}; }
static inline bytes32 flip_sign_bit(bytes32 a) { return {veorq_u8(a.low, vdupq_n_u8(128)), veorq_u8(a.high, vdupq_n_u8(128))}; }
static inline bytes32 lookup(const int8_t table[16], bytes32 a) {
  const uint8x16_t entries = vreinterpretq_u8_s8(vld1q_s8(table));
  return {vqtbl1q_u8(entries, a.low), vqtbl1q_u8(entries, a.high)};
}

[[gnu::always_inline]] static inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

#include "backends/cpu/common/eight_lanes.inl"

static inline Floats load_low_nibbles(const uint8_t* p) { return eight_low_nibbles(p); }
static inline Floats load_high_nibbles(const uint8_t* p) { return eight_high_nibbles(p); }
static inline float32x4_t power_of_exponent(int32x4_t e) {
  const int32x4_t normal = vshlq_n_s32(vsubq_s32(e, vdupq_n_s32(1)), 23), subnormal = vshlq_s32(vdupq_n_s32(0x00200000), e);
  return vreinterpretq_f32_s32(vbslq_s32(vcltq_s32(e, vdupq_n_s32(2)), subnormal, normal));
}
static inline Floats load_exponents(const uint8_t* p) {
  const i32x8 e = widened(p);
  return {power_of_exponent(e.low), power_of_exponent(e.high)};
}
template <int BITS> static inline Ints shifted(Ints a) { return {vshlq_n_s32(a.low, BITS), vshlq_n_s32(a.high, BITS)}; }

// Both operands of the dot products are signed: 8-bit weights stay so, and unsigned ones are below 128 anyway.
static constexpr bool dot_is_wide = false;

// Four activations are a lane of the second operand and meet all rows' weights, so nothing is broadcast.
template <int COUNT> static inline Ints dot_signed(Ints total, const Bytes* w, const int8_t* y) {
  static_assert(COUNT % 4 == 0);
#pragma GCC unroll 2
  for (int k = 0; k < COUNT; k += 4) {
    const int8x16_t sixteen = vld1q_s8(y + 4 * k);
    total.low = vdotq_laneq_s32(total.low, vreinterpretq_s8_u8(w[k].low), sixteen, 0);
    total.high = vdotq_laneq_s32(total.high, vreinterpretq_s8_u8(w[k].high), sixteen, 0);
    total.low = vdotq_laneq_s32(total.low, vreinterpretq_s8_u8(w[k + 1].low), sixteen, 1);
    total.high = vdotq_laneq_s32(total.high, vreinterpretq_s8_u8(w[k + 1].high), sixteen, 1);
    total.low = vdotq_laneq_s32(total.low, vreinterpretq_s8_u8(w[k + 2].low), sixteen, 2);
    total.high = vdotq_laneq_s32(total.high, vreinterpretq_s8_u8(w[k + 2].high), sixteen, 2);
    total.low = vdotq_laneq_s32(total.low, vreinterpretq_s8_u8(w[k + 3].low), sixteen, 3);
    total.high = vdotq_laneq_s32(total.high, vreinterpretq_s8_u8(w[k + 3].high), sixteen, 3);
  }
  return total;
}
template <int LARGEST, int COUNT> static inline Ints dot_unsigned(Ints total, const Bytes* w, const int8_t* y) {
  static_assert(LARGEST < 128);
  return dot_signed<COUNT>(total, w, y);
}
