// The vocabulary of the CPU kernels in AVX2, FMA and F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace skipstone::cpu::avx2 {

#include "backends/cpu/avx2/vectors.inl"

// 8-bit weights stay signed: as unsigned ones their products would not fit 16 bits.
static constexpr bool dot_is_wide = false;

// A product pair is at most 2 * LARGEST * 127, so this many fit a 16-bit lane before it must widen.
template <int LARGEST, int COUNT> static inline i32x8 dot_unsigned(const bytes32* w, const int8_t* y) {
  constexpr int most = 32767 / (2 * LARGEST * 127), together = most < COUNT ? most : COUNT;
  static_assert(together >= 1 && COUNT % together == 0);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i total = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int k = 0; k < COUNT; k += together) {
    __m256i words = _mm256_maddubs_epi16(w[k], four(y + 4 * k));
    for (int j = k + 1; j < k + together; ++j) words = _mm256_add_epi16(words, _mm256_maddubs_epi16(w[j], four(y + 4 * j)));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(words, ones));
  }
  return total;
}
// maddubs wants one unsigned operand: the weight's sign moves to the activation, whose -127..127 keeps the pair within 16 bits.
template <int COUNT> static inline i32x8 dot_signed(const bytes32* w, const int8_t* y) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i total = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int k = 0; k < COUNT; ++k)
    total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w[k]), _mm256_sign_epi8(four(y + 4 * k), w[k])), ones));
  return total;
}

}  // namespace skipstone::cpu::avx2
