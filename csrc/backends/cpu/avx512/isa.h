// The vocabulary of the CPU kernels with AVX-512 VNNI in 256-bit registers: one instruction multiplies 32 pairs of bytes and adds into 32 bits.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace skipstone::cpu::avx512 {

#include "backends/cpu/avx2/vectors.inl"

static constexpr bool dot_is_wide = true;

// Two chains, even and odd, hide the instruction's latency; whole numbers add up to the same either way.
template <int LARGEST, int COUNT> static inline i32x8 dot_unsigned(const bytes32* w, const int8_t* y) {
  __m256i even = _mm256_setzero_si256(), odd = even;
#pragma GCC unroll 8
  for (int k = 0; k < COUNT; k += 2) {
    even = _mm256_dpbusd_epi32(even, w[k], four(y + 4 * k));
    odd = _mm256_dpbusd_epi32(odd, w[k + 1], four(y + 4 * k + 4));
  }
  return _mm256_add_epi32(even, odd);
}

}  // namespace skipstone::cpu::avx512
