// The vocabulary of the CPU kernels in AVX2, FMA and F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace skipstone::cpu::avx2 {

#include "backends/cpu/avx2/vectors.inl"

#include "backends/cpu/common/eight_lanes.inl"

#include "backends/cpu/avx2/widening.inl"

// 8-bit weights stay signed: as unsigned ones their products would not fit 16 bits.
static constexpr bool dot_is_wide = false;
static constexpr bool takes_two_rows = false;
static constexpr bool takes_tiles = false;

// A product pair is at most 2 * LARGEST * 127, so this many fit a 16-bit lane before it must widen.
template <int LARGEST, int COUNT> static inline Ints dot_unsigned(Ints total, const Bytes* w, const int8_t* y) {
  constexpr int most = 32767 / (2 * LARGEST * 127), together = most >= COUNT ? COUNT : most >= 4 ? 4 : most >= 2 ? 2 : 1;
  static_assert(most >= 1 && COUNT % together == 0);
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int k = 0; k < COUNT; k += together) {
    __m256i words = _mm256_maddubs_epi16(w[k], four(y + 4 * k));
    for (int j = k + 1; j < k + together; ++j) words = _mm256_add_epi16(words, _mm256_maddubs_epi16(w[j], four(y + 4 * j)));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(words, ones));
  }
  return total;
}
// maddubs wants one unsigned operand: the weight's sign moves to the activation, whose -127..127 keeps the pair within 16 bits.
template <int COUNT> static inline Ints dot_signed(Ints total, const Bytes* w, const int8_t* y) {
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int k = 0; k < COUNT; ++k)
    total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w[k]), _mm256_sign_epi8(four(y + 4 * k), w[k])), ones));
  return total;
}

}  // namespace skipstone::cpu::avx2
