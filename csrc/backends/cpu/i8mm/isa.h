// The vocabulary of the CPU kernels in NEON with dot products and matrix products of bytes (64-bit ARM, FEAT_I8MM).
// Matmul takes activations two rows at a time: one instruction makes the sums of eight products for two weight rows and two activation rows.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace skipstone::cpu::i8mm {

#include "backends/cpu/neon/vectors.inl"

static constexpr bool takes_two_rows = true;
static constexpr bool takes_tiles = false;

// w: eight registers of four consecutive weights of each row. Becomes registers of eight consecutive weights of two rows in each half: of the columns of
// w[j] and w[j + 1], rows 0 to 3 in pairs[j] and rows 4 to 7 in pairs[j + 1].
static inline void pair_up(const Bytes w[8], Bytes pairs[8]) {
#pragma GCC unroll 4
  for (int j = 0; j < 8; j += 2) {
    const uint32x4x2_t low = vzipq_u32(vreinterpretq_u32_u8(w[j].low), vreinterpretq_u32_u8(w[j + 1].low));
    const uint32x4x2_t high = vzipq_u32(vreinterpretq_u32_u8(w[j].high), vreinterpretq_u32_u8(w[j + 1].high));
    pairs[j] = {vreinterpretq_u8_u32(low.val[0]), vreinterpretq_u8_u32(low.val[1])};
    pairs[j + 1] = {vreinterpretq_u8_u32(high.val[0]), vreinterpretq_u8_u32(high.val[1])};
  }
}

// What dot_signed<COUNT> gives for the activations a and for b, from zero.
template <int COUNT> static inline void dot_two(const Bytes* pairs, const int8_t* a, const int8_t* b, Ints& of_a, Ints& of_b) {
  int32x4_t total[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};      // of two rows each: a and b of the first, a and b of the second
#pragma GCC unroll 4
  for (int j = 0; j < COUNT; j += 2) {
    const int8x16_t both = vcombine_s8(vld1_s8(a + 4 * j), vld1_s8(b + 4 * j));
    total[0] = vmmlaq_s32(total[0], vreinterpretq_s8_u8(pairs[j].low), both);
    total[1] = vmmlaq_s32(total[1], vreinterpretq_s8_u8(pairs[j].high), both);
    total[2] = vmmlaq_s32(total[2], vreinterpretq_s8_u8(pairs[j + 1].low), both);
    total[3] = vmmlaq_s32(total[3], vreinterpretq_s8_u8(pairs[j + 1].high), both);
  }
  of_a = {vuzp1q_s32(total[0], total[1]), vuzp1q_s32(total[2], total[3])};
  of_b = {vuzp2q_s32(total[0], total[1]), vuzp2q_s32(total[2], total[3])};
}

}  // namespace skipstone::cpu::i8mm
