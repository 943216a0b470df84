// The vocabulary of the CPU kernels with AVX-512 VNNI: eight lanes as in AVX2, and sixteen for matmul;
// one instruction multiplies 64 pairs of bytes and adds into 32 bits.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace skipstone::cpu::avx512 {

#include "backends/cpu/avx2/vectors.inl"

static constexpr int group_rows = 16;
using Bytes = __m512i;
using Ints = __m512i;
using Floats = __m512;
static inline Bytes load_register(const void* p) { return _mm512_loadu_si512(p); }
static inline Floats load_halves(const uint8_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline Floats load_brains(const uint8_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
static inline Floats load_unsigned(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
static inline Floats load_signed(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
static inline __m512i load_widened(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
static inline Floats load_low_nibbles(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_and_si512(load_widened(p), _mm512_set1_epi32(15))); }
static inline Floats load_high_nibbles(const uint8_t* p) { return _mm512_cvtepi32_ps(_mm512_srli_epi32(load_widened(p), 4)); }
static inline Floats load_exponents(const uint8_t* p) {
  const __m512i e = load_widened(p), normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
  const __m512i subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
  return _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2)), normal, subnormal));
}
static inline Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
static inline void store_register(void* p, Bytes a) { _mm512_storeu_si512(p, a); }
template <int COUNT> static inline Bytes take_away(Bytes a) { return _mm512_sub_epi8(a, _mm512_set1_epi8(COUNT)); }
static inline Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
static inline Floats spread(float a) { return _mm512_set1_ps(a); }
static inline Ints spread_int(int32_t a) { return _mm512_set1_epi32(a); }
static inline Ints zeros() { return _mm512_setzero_si512(); }
template <int BITS> static inline Ints shifted(Ints a) { return _mm512_slli_epi32(a, BITS); }
static inline Floats to_float(Ints a) { return _mm512_cvtepi32_ps(a); }
static inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
static inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
static inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
static inline Bytes low_nibbles(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
static inline Bytes high_nibbles(Bytes a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
template <int bit, int to> static inline Bytes take_bit(Bytes a) {
  if constexpr (bit < to) a = _mm512_slli_epi16(a, to - bit);
  if constexpr (bit > to) a = _mm512_srli_epi16(a, bit - to);
  return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(1 << to)));
}
template <int bit> static inline Bytes take_pair(Bytes a) {
  if constexpr (bit < 4) a = _mm512_slli_epi16(a, 4 - bit);
  if constexpr (bit > 4) a = _mm512_srli_epi16(a, bit - 4);
  return _mm512_and_si512(a, _mm512_set1_epi8(0x30));
}
static inline Bytes either(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
static inline Bytes lookup(const int8_t table[16], Bytes a) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), a);
}
template <int bit> static inline Bytes low_pair(Bytes a) { return _mm512_and_si512(bit ? _mm512_srli_epi16(a, bit) : a, _mm512_set1_epi8(3)); }
static inline Bytes flip_sign_bit(Bytes a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }

static constexpr bool dot_is_wide = true;
static constexpr bool takes_two_rows = false;
static constexpr bool takes_tiles = false;

static inline __m512i four_wide(const int8_t* y) {
  int32_t bits;
  __builtin_memcpy(&bits, y, 4);
  return _mm512_set1_epi32(bits);
}

// Two chains, even and odd, hide the instruction's latency; whole numbers add up to the same either way.
template <int LARGEST, int COUNT> static inline Ints dot_unsigned(Ints even, const Bytes* w, const int8_t* y) {
  Ints odd = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int k = 0; k < COUNT; k += 2) {
    even = _mm512_dpbusd_epi32(even, w[k], four_wide(y + 4 * k));
    odd = _mm512_dpbusd_epi32(odd, w[k + 1], four_wide(y + 4 * k + 4));
  }
  return _mm512_add_epi32(even, odd);
}

}  // namespace skipstone::cpu::avx512
