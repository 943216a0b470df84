// The vocabulary of the CPU kernels with AVX-VNNI: AVX2, and one instruction that multiplies 32 pairs of bytes and adds into 32 bits. Processors without
// AVX-512 have it in the encoding of AVX; AVX-512 VNNI has the same instruction in its own, which tests compile instead where the former does not run.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace skipstone::cpu::avxvnni {

#include "backends/cpu/avx2/vectors.inl"

#include "backends/cpu/common/eight_lanes.inl"

#include "backends/cpu/avx2/widening.inl"

static constexpr bool dot_is_wide = true;
static constexpr bool takes_two_rows = false;
static constexpr bool takes_tiles = false;

static inline Ints dot_add(Ints total, Bytes w, __m256i y) {
#ifdef __AVXVNNI__
  return _mm256_dpbusd_avx_epi32(total, w, y);
#else
  return _mm256_dpbusd_epi32(total, w, y);
#endif
}

// Two chains, even and odd, hide the instruction's latency; whole numbers add up to the same either way.
template <int LARGEST, int COUNT> static inline Ints dot_unsigned(Ints even, const Bytes* w, const int8_t* y) {
  Ints odd = zeros();
#pragma GCC unroll 8
  for (int k = 0; k < COUNT; k += 2) {
    even = dot_add(even, w[k], four(y + 4 * k));
    odd = dot_add(odd, w[k + 1], four(y + 4 * k + 4));
  }
  return _mm256_add_epi32(even, odd);
}

}  // namespace skipstone::cpu::avxvnni
