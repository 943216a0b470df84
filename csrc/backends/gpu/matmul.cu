// Quantized matmul for 1 to 16 activation rows, y[r][n] = sum over k of x[r][k] * w[n][k], and the quantization of its activations.
// A warp multiplies tiles of 16 weight rows by 8 or 16 activation rows with the int8 matrix instruction; a weight is read and decoded once for all.
// Rows do not see each other: a column of the product depends on its own column of activations, and both forms (8 and 16 columns) run one expression.
//
// An H100 reads weights at 68 % (Q4_K, 9 MB) to 109 % (Q8_0, 661 MB) of its copy rate, with 8 rows as with 1; 16 rows cost 1.02 to 1.32 as much.
// Instructions a chunk of 16 x 256 weights and 8 (16) rows: Q8_0 162 (243), Q4_K 312 (440), Q6_K 427 (603).
//
// Order of a result's sum (decode.h says what one block adds):
//   slice s of 8 adds its chunks s, s + 8, s + 16, ... with their blocks in order, in one float (Q6_K: and one of its own a chunk);
//   slices are added in pairs, then the pairs in order: (((0 + 1) + (2 + 3)) + (4 + 5)) + (6 + 7).
#include "backends/gpu/decode.h"

namespace skipstone::gpu {

// WARPS: 8, a slice each; or 4, a pair of slices each one after the other, with half as many barriers and sums to exchange.
template <class T, int WARPS, int NT> SK_DEVICE void matmul(const MatmulArgs& a) {
  constexpr int slice_floats = NT * 8 * tile_rows;
  constexpr int own = slices / WARPS;
  SK_SHARED(float, partial, 2 * WARPS * slice_floats);      // [which][warp][column][weight row], two in turn: one barrier a tile
  const int lane = thread() & 31, warp = thread() >> 5, g = lane >> 2, t = lane & 3;
  const i64 tile_bytes = i64(T::bytes) * a.chunks;
  int tile = block();
  T w = {};
  // Weights do not depend on the kernel in front; activations and y do.
  w.load(a.weights + tile_bytes * tile + i64(T::bytes) * own * warp, own * warp < a.chunks && tile < a.tiles);
  let_next_start();
  wait_for_previous();

  const u32 exponent = 0x4B000000u + (static_cast<u32>(a.tiles) >> 31);
  for (int which = 0; tile < a.tiles; tile += a.blocks, which ^= 1) {
    const u8 *at = a.weights + tile_bytes * tile, *after = at + tile_bytes * a.blocks;
    float* sums = partial + which * WARPS * slice_floats;
    Sums<NT> total = {};
    for (int slice = own * warp; slice < own * (warp + 1); ++slice) {
      Sums<NT> acc = {};
      for (int c = slice; c < a.chunks; c += slices) {
        // The chunk after this one: of the slice, of the warp's next slice, of its next tile.
        const bool here = c + slices < a.chunks, then = slice + 1 < own * (warp + 1) && slice + 1 < a.chunks;
        const int next = here ? c + slices : then ? slice + 1 : own * warp;
        const u8* x = a.x + i64(4 * pair_bytes) * c;
        const bool stays = here || then, wanted = stays || tile + a.blocks < a.tiles;
        w.use((stays ? at : after) + T::bytes * next, wanted, Lane{x + 16 * lane, x + scale_bytes + 16 * t, exponent}, acc);
      }
      SK_UNROLL for (int n = 0; n < NT; ++n)
        SK_UNROLL for (int i = 0; i < 4; ++i) total.of[n][i] = slice == own * warp ? acc.of[n][i] : add(total.of[n][i], acc.of[n][i]);
    }
    SK_UNROLL for (int n = 0; n < NT; ++n)
      SK_UNROLL for (int i = 0; i < 4; ++i) sums[warp * slice_floats + (8 * n + 2 * t + (i & 1)) * tile_rows + g + 8 * (i >> 1)] = total.of[n][i];
    barrier();
    for (int i = thread(); i < slice_floats; i += 32 * WARPS) {
      const int row = i / tile_rows, n = tile_rows * tile + i % tile_rows;
      if (row >= a.rows || n >= a.outputs) continue;
      float y = 0;
      SK_UNROLL for (int pair = 0; pair < slices / 2; ++pair) {
        const float both = own == 2 ? sums[pair * slice_floats + i] : add(sums[2 * pair * slice_floats + i], sums[(2 * pair + 1) * slice_floats + i]);
        y = pair == 0 ? both : add(y, both);
      }
      a.y[a.stride * row + n] = y;
    }
  }
}

// Blocks of 32 to int8 with scale = largest / 127, as the CPU's quantize: same operations, same bits. A lane a value, grid: rows x chunks x 2.
SK_DEVICE void quantize(const QuantizeArgs& a) {
  let_next_start();
  wait_for_previous();
  const int blocks = 8 * a.chunks, i = thread() & 31;
  const int which = 4 * block() + (thread() >> 5), row = which / blocks, b = which % blocks;
  const int at = 32 * b + i;
  const float v = at < a.columns ? a.x[a.stride * row + at] : 0.0f;
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
  u8* out = a.out + i64(pair_bytes) * (b / 2) + group_bytes * (row / 8);
  const int g = row % 8, lane = 4 * g + (i & 15) / 4;
  out[16 * lane + 8 * (b & 1) + 4 * (i >> 4) + (i & 3)] = static_cast<u8>(q);
  if (i == 0) {
    const int to = 4 * (g >> 1) + 2 * (b & 1) + (g & 1);
    reinterpret_cast<float*>(out + scale_bytes)[to] = scale;
    reinterpret_cast<float*>(out + sum_bytes)[to] = mul(scale, static_cast<float>(static_cast<i32>(sum)));
  }
}

// Blocks an SM: 16 warps of 128 registers, a chunk each on its way: 37 to 70 KB, which is what an H100's memory needs. More warps of fewer registers
// lose 10 to 50 % in most shapes, for then the activations' loads are no longer far ahead of their use. With 16 columns Q8_0 has so little to decode
// that fewer warps of more registers win 1 to 10 %; the other types mostly lose by it.
#define MATMUL(type, name, four_wide, eight_wide)                                                                  \
  SK_KERNEL(128, 4) matmul_##name##_warps4_columns8(MatmulArgs a) { matmul<type, 4, 1>(a); }                       \
  SK_KERNEL(128, four_wide) matmul_##name##_warps4_columns16(MatmulArgs a) { matmul<type, 4, 2>(a); }              \
  SK_KERNEL(256, 2) matmul_##name##_warps8_columns8(MatmulArgs a) { matmul<type, 8, 1>(a); }                       \
  SK_KERNEL(256, eight_wide) matmul_##name##_warps8_columns16(MatmulArgs a) { matmul<type, 8, 2>(a); }
MATMUL(Q8_0, q8_0, 3, 1)
MATMUL(Q4_K, q4_k, 4, 2)
MATMUL(Q6_K, q6_k, 4, 2)
MATMUL(Q5_K, q5_k, 4, 2)
MATMUL(Q4_0, q4_0, 4, 2)
MATMUL(Q5_0, q5_0, 4, 2)
#undef MATMUL

SK_KERNEL(128, 8) quantize_rows(QuantizeArgs a) { quantize(a); }

}  // namespace skipstone::gpu
