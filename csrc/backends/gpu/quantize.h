// Blocks of 32 activations to int8 with scale = largest / 127, as the CPU's quantize: same operations, same bits. A warp a block, a lane a value.
#pragma once
#include "backends/gpu/kernels.h"
#include "backends/gpu/math.h"

namespace skipstone::gpu {

// Block b of row `row` of up to 16 rows; v: the lane's value.
SK_DEVICE void quantize_block(float v, u8* to, int row, int b) {
  const int i = thread() & 31;
  u32 largest_bits = bits<u32>(v) & 0x7fffffffu;      // of numbers without sign, the bits are in the numbers' order
  const auto take = [&](u32 other) { largest_bits = other > largest_bits ? other : largest_bits; };
  take(swap_lanes<16>(largest_bits));
  take(swap_lanes<8>(largest_bits));
  take(swap_lanes<4>(largest_bits));
  take(swap_lanes<2>(largest_bits));
  take(swap_lanes<1>(largest_bits));
  const float largest = bits<float>(largest_bits);
  const bool counts = largest > 1e-30f;
  const float inverse = counts ? divide(127.0f, largest) : 0.0f, scale = counts ? divide(largest, 127.0f) : 0.0f;
  const i32 q = static_cast<i32>(round_even(mul(v, inverse)));
  u32 sum = static_cast<u32>(q);
  sum += swap_lanes<16>(sum);
  sum += swap_lanes<8>(sum);
  sum += swap_lanes<4>(sum);
  sum += swap_lanes<2>(sum);
  sum += swap_lanes<1>(sum);
  u8* out = to + i64(pair_bytes) * (b / 2) + group_bytes * (row / 8);
  const int g = row % 8, lane = 4 * g + (i & 15) / 4;
  out[16 * lane + 8 * (b & 1) + 4 * (i >> 4) + (i & 3)] = static_cast<u8>(q);
  if (i == 0) {
    const int at = 4 * (g >> 1) + 2 * (b & 1) + (g & 1);
    reinterpret_cast<float*>(out + scale_bytes)[at] = scale;
    reinterpret_cast<float*>(out + sum_bytes)[at] = mul(scale, static_cast<float>(static_cast<i32>(sum)));
  }
}

}  // namespace skipstone::gpu
