// Quantized matmul for many rows: what matmul.cu computes, bit for bit, by blocks of eight or four warps. A block takes UNITS units of 32 outputs and
// COLUMNS * 8 * NT activation rows; weights and activations of a chunk are copied to shared memory once for all its warps, while the one before is multiplied.
// A warp multiplies one unit by 8 * NT rows. So a weight is decoded once for 8 * NT rows and read once for all rows of the block.
//
// Sums have matmul.cu's order: slice by slice, an even one waiting in registers for its odd neighbour, the pairs' sum in shared memory (a lane its own).
// The end works on the matrix instruction's fragments: a lane has of a row (one of two columns) the outputs g, g + 8, g + 16, g + 24 of the unit, so that
// sums over 32 outputs are two additions and three exchanges, in sum_lanes' order.
#include "backends/gpu/decode.h"
#include "backends/gpu/matmul.h"
#include "backends/gpu/quantize.h"

namespace skipstone::gpu {

// A block's steps in order: chunks by slices, halves (gate, up) of an item, items. An item is a group of units and one of activation rows.
template <class T, int UNITS, int ROWS> struct PromptSteps {
  int item, half, chunk, unit0, row0;
  SK_DEVICE void start(const MatmulArgs& a, int first, int groups) {
    item = first, half = 0, chunk = 0;
    find(groups);
  }
  SK_DEVICE void find(int groups) { unit0 = item / groups * UNITS, row0 = item % groups * ROWS; }
  SK_DEVICE bool more(const MatmulArgs& a) const { return unit0 < a.units; }
  SK_DEVICE void next(const MatmulArgs& a, int groups) {
    if (chunk + slices < a.chunks) { chunk += slices; return; }
    chunk = chunk % slices + 1;
    if (chunk < slices && chunk < a.chunks) return;
    chunk = 0;
    if (a.end >= silu_end && half == 0) { half = 1; return; }
    half = 0, item += a.blocks;
    find(groups);
  }
};

// 16 pieces a call by all threads: `bytes` (a multiple of 16) from `from` to `to`.
template <int THREADS> SK_DEVICE void copy_block(u8* to, const u8* from, int bytes) {
  for (int i = 16 * thread(); i < bytes; i += 16 * THREADS) copy_later(to + i, from + i);
}

// Four bytes a lane, of lanes that differ in bits 2 and 3 of their number: lane q of the four has byte q of each of them afterwards.
SK_DEVICE u32 turn_bytes(u32 v) {
  const int lane = thread() & 31;
  v = bytes_of(v, swap_lanes<4>(v), lane & 4 ? 0x3715u : 0x6240u);
  return bytes_of(v, swap_lanes<8>(v), lane & 8 ? 0x3276u : 0x5410u);
}
// quantize_block for a lane with the outputs g, g + 8, g + 16, g + 24 of a row.
SK_DEVICE void quantize_column(const float z[4], u8* to, int row, int b, bool real) {
  const int lane = thread() & 31, g = lane >> 2;
  u32 largest_bits = 0;
  const auto take = [&](u32 other) { largest_bits = other > largest_bits ? other : largest_bits; };
  SK_UNROLL for (int k = 0; k < 4; ++k) take(bits<u32>(z[k]) & 0x7fffffffu);
  take(swap_lanes<16>(largest_bits));
  take(swap_lanes<8>(largest_bits));
  take(swap_lanes<4>(largest_bits));
  const float largest = bits<float>(largest_bits);
  const bool counts = largest > 1e-30f;
  const float inverse = counts ? divide(127.0f, largest) : 0.0f, scale = counts ? divide(largest, 127.0f) : 0.0f;
  u32 sum = 0, packed = 0;
  SK_UNROLL for (int k = 0; k < 4; ++k) {
    const u32 q = static_cast<u32>(static_cast<i32>(round_even(mul(z[k], inverse))));
    sum += q;
    packed |= (q & 255u) << (8 * k);
  }
  sum += swap_lanes<16>(sum);
  sum += swap_lanes<8>(sum);
  sum += swap_lanes<4>(sum);
  packed = turn_bytes(packed);
  if (!real) return;
  // Now outputs 8 * (g % 4) + 4 * (g / 4) .. + 3.
  u8* out = to + i64(pair_bytes) * (b / 2) + group_bytes * (row / 8);
  const int r = row % 8, k = g & 3;
  *reinterpret_cast<u32*>(out + 16 * (4 * r + 2 * (k & 1) + (g >> 2)) + 8 * (b & 1) + 4 * (k >> 1)) = packed;
  if (g == 0) {
    const int at = 4 * (r >> 1) + 2 * (b & 1) + (r & 1);
    reinterpret_cast<float*>(out + scale_bytes)[at] = scale;
    reinterpret_cast<float*>(out + sum_bytes)[at] = mul(scale, static_cast<float>(static_cast<i32>(sum)));
  }
}

// What finish_column adds to a row's results: outputs g, g + 8, g + 16, g + 24. Asked for long before it is needed, for memory is far.
struct Residual {
  float of[2][4];                        // [column]
  SK_DEVICE void load(const MatmulArgs& a, const MatmulPart& p, int block32, int row) {
    if (a.end != add_end) return;
    SK_UNROLL for (int c = 0; c < 2; ++c)
      SK_UNROLL for (int k = 0; k < 4; ++k) {
        const int n = unit_rows * block32 + ((thread() & 31) >> 2) + 8 * k;
        of[c][k] = row + c < a.rows && n < p.outputs ? from_device(a.residual + i64(p.stride) * (row + c) + n) : 0.0f;
      }
  }
};
// Of a unit's results for one row, what the kernel's end makes of them. z, gate, residual, norm: outputs g, g + 8, g + 16, g + 24.
SK_DEVICE void finish_column(const MatmulArgs& a, const MatmulPart& p, int block32, int row, float factor, const float gate[4], const float residual[4], const float norm[4], float z[4]) {
  const int g = (thread() & 31) >> 2;
  const bool real = row < a.rows;
  u8* to = a.to + a.to_more * (row / most_rows);
  if (a.squares)
    SK_UNROLL for (int k = 0; k < 4; ++k) z[k] = mul(z[k], factor);
  if (a.end >= silu_end) {
    SK_UNROLL for (int k = 0; k < 4; ++k) {
      const float v = a.squares ? mul(gate[k], factor) : gate[k];
      z[k] = mul(a.end == silu_end ? silu(v) : gelu_tanh(v), z[k]);
    }
    return quantize_column(z, to, row % most_rows, block32, real);
  }
  SK_UNROLL for (int k = 0; k < 4; ++k) {
    const int n = unit_rows * block32 + g + 8 * k;
    const bool there = real && n < p.outputs;
    if (a.end == add_end) {
      if (there) z[k] = add(residual[k], z[k]);
      if (a.scale != 1.0f) z[k] = mul(z[k], a.scale);
    }
    if (there && p.y) to_device(p.y + (i64(p.stride) * row + n), z[k]);
  }
  if (!a.to) return;
  if (a.squares_to) {
    float square = add(add(mul(z[0], z[0]), mul(z[2], z[2])), add(mul(z[1], z[1]), mul(z[3], z[3])));
    square = add(square, other_lane<16>(square));
    square = add(square, other_lane<8>(square));
    square = add(square, other_lane<4>(square));
    if (g == 0 && real) a.squares_to[i64(p.outputs / unit_rows) * row + block32] = square;
    if (a.norm)
      SK_UNROLL for (int k = 0; k < 4; ++k) z[k] = mul(z[k], norm[k]);
  }
  quantize_column(z, to, row % most_rows, block32, real);
}

// NT: groups of 8 activation rows of a warp.
template <class T, int UNITS, int COLUMNS, int NT> SK_DEVICE void prompt(const MatmulArgs& a) {
  constexpr int warps = UNITS * COLUMNS, threads = 32 * warps, rows = COLUMNS * 8 * NT, weight_bytes = UNITS * 2 * T::bytes, group16 = 4 * pair_bytes, stage_bytes = weight_bytes + rows / 16 * group16;
  const int lane = thread() & 31, warp = thread() >> 5, own_unit = warp % UNITS, own_rows = warp / UNITS * 8 * NT, t = lane & 3;
  const int groups = (a.rows + rows - 1) / rows, halves = a.end >= silu_end ? 2 : 1;
  u8* stages = dynamic_shared();
  F4* whole = reinterpret_cast<F4*>(stages + 2 * stage_bytes) + thread();      // [value / 4][thread]
  float* factors = reinterpret_cast<float*>(stages + 2 * stage_bytes + threads * 2 * NT * 16);
  F4* gates = reinterpret_cast<F4*>(a.work) + i64(block()) * threads * 2 * NT + thread();

  PromptSteps<T, UNITS, rows> ahead;
  ahead.start(a, block(), groups);
  const auto copy_weights = [&](u8* stage) {
    if (!ahead.more(a)) return;
    SK_UNROLL for (int u = 0; u < UNITS; ++u) {
      const int unit = ahead.unit0 + u;
      if (unit >= a.units) break;
      const MatmulPart p = a.end >= silu_end ? (ahead.half ? a.parts[1] : a.parts[0]) : part_of(a, unit);
      copy_block<threads>(stage + u * 2 * T::bytes, p.weights + i64(2 * T::bytes) * (i64(a.chunks) * (a.end >= silu_end ? unit : unit - p.first) + ahead.chunk), 2 * T::bytes);
    }
  };
  const auto copy_activations = [&](u8* stage) {
    if (!ahead.more(a)) return;
    const u8* from = a.x + a.x_more * (ahead.row0 / 16) + i64(group16) * ahead.chunk;
    SK_UNROLL_NOT for (int i = 0; i < rows / 16 && ahead.row0 + 16 * i < a.rows; ++i) copy_block<threads>(stage + weight_bytes + i * group16, from + i * a.x_more, group16);
  };
  // Weights do not depend on the kernel in front; activations and everything else do.
  copy_weights(stages);
  let_next_start();
  wait_for_previous();
  copy_activations(stages);
  close_copies();
  ahead.next(a, groups);

  const u32 exponent = 0x4B000000u + (static_cast<u32>(a.units) >> 31);
  int slot = 0;
  for (int item = block(); ; item += a.blocks) {
    const int unit = item / groups * UNITS + own_unit, row0 = item % groups * rows;
    if (item / groups * UNITS >= a.units) break;
    SK_UNROLL_NOT for (int half = 0; half < halves; ++half) {
      Sums<NT> pair[2];
      SK_UNROLL_NOT for (int s = 0; s < slices; ++s) {
        Sums<NT> acc[2] = {};
        SK_UNROLL_NOT for (int c = s; c < a.chunks; c += slices) {
          wait_copies<0>();
          barrier();
          u8* other = stages + (slot ^ 1) * stage_bytes;
          copy_weights(other);
          copy_activations(other);
          close_copies();
          if (ahead.more(a)) ahead.next(a, groups);
          const u8 *stage = stages + slot * stage_bytes, *x = stage + weight_bytes + own_rows / 16 * group16 + own_rows / 8 % 2 * group_bytes;
#ifdef USE_OLD
          T::template use<2, NT>(stage + own_unit * 2 * T::bytes, Lane{x + Columns::offset(), x + scale_bytes + 16 * t, group16, exponent}, acc);
#else
          T::template use_many<2, NT>(stage + own_unit * 2 * T::bytes, Lane{x + Columns::offset(), x + scale_bytes + 16 * t, group16, exponent}, acc);
#endif
          slot ^= 1;
        }
        SK_UNROLL for (int of = 0; of < 2; ++of)
          SK_UNROLL for (int n = 0; n < NT; ++n) {
            if (s & 1) {
              float v[4];
              SK_UNROLL for (int i = 0; i < 4; ++i) v[i] = add(pair[of].of[n][i], acc[of].of[n][i]);
              F4& w = whole[(NT * of + n) * threads];
              if (s == 1) w = {v[0], v[1], v[2], v[3]};
              else w = {add(w.x, v[0]), add(w.y, v[1]), add(w.z, v[2]), add(w.w, v[3])};
            } else {
              SK_UNROLL for (int i = 0; i < 4; ++i) pair[of].of[n][i] = acc[of].of[n][i];
            }
          }
      }
      if (half + 1 < halves)
        SK_UNROLL for (int i = 0; i < 2 * NT; ++i) gates[i * threads] = whole[i * threads];
    }
    if (a.squares) {
      barrier();                                 // the item before has read its factors
      SK_UNROLL_4 for (int i = warp; i < rows; i += warps) {
        const float f = row0 + i < a.rows ? factor_of(a, row0 + i) : 0.0f;
        if (lane == 0) factors[i] = f;
      }
      barrier();
    }
    if (unit >= a.units) continue;
    const bool gated = a.end >= silu_end;
    const MatmulPart p = gated ? a.parts[0] : part_of(a, unit);
    const int block32 = unit - p.first, first_row = row0 + own_rows + 2 * t;
    float norm[4];
    SK_UNROLL for (int k = 0; k < 4; ++k) norm[k] = a.norm && unit_rows * block32 + (lane >> 2) + 8 * k < p.outputs ? a.norm[unit_rows * block32 + (lane >> 2) + 8 * k] : 0.0f;
    Residual next;
    next.load(a, p, block32, first_row);
    SK_UNROLL_NOT for (int n = 0; n < NT; ++n) {
      const int column = own_rows + 8 * n + 2 * t;
      if (row0 + own_rows + 8 * n >= a.rows) break;
      const Residual residual = next;
      if (n + 1 < NT) next.load(a, p, block32, first_row + 8 * (n + 1));
      const F4 low = whole[n * threads], high = whole[(NT + n) * threads];
      F4 gate_low{}, gate_high{};
      if (gated) gate_low = gates[n * threads], gate_high = gates[(NT + n) * threads];
      SK_UNROLL for (int c = 0; c < 2; ++c) {
        float z[4] = {part(low, c), part(low, 2 + c), part(high, c), part(high, 2 + c)};
        const float gate[4] = {part(gate_low, c), part(gate_low, 2 + c), part(gate_high, c), part(gate_high, 2 + c)};
        finish_column(a, p, block32, row0 + column + c, a.squares ? factors[column + c] : 1.0f, gate, residual.of[c], norm, z);
      }
    }
  }
  wait_copies<0>();
}

// Blocks of 128 rows by 128 outputs, one a processor, and of 64 by 64. The host chooses (program.cpp); which runs changes no bit. Where scales are of 16
// positions, registers suffice for the smaller ones alone.
#ifndef SK_NO_KERNELS
#define PROMPT_64(type, name) SK_KERNEL(128, 2) prompt_##name##_64(MatmulArgs a) { prompt<type, 2, 2, 4>(a); }
#define PROMPT_128(type, name) SK_KERNEL(256, 1) prompt_##name##_128(MatmulArgs a) { prompt<type, 4, 2, 8>(a); }
#if SK_EMULATED || (SK_CUDA && (!defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800))
PROMPT_64(Q8_0, q8_0) PROMPT_64(Q4_K, q4_k) PROMPT_64(Q6_K, q6_k) PROMPT_64(Q5_K, q5_k) PROMPT_64(Q4_0, q4_0) PROMPT_64(Q5_0, q5_0) PROMPT_64(Canonical, canonical)
PROMPT_128(Q8_0, q8_0) PROMPT_128(Q4_K, q4_k) PROMPT_128(Q5_K, q5_k) PROMPT_128(Q4_0, q4_0) PROMPT_128(Q5_0, q5_0)
#endif
#endif

}  // namespace skipstone::gpu
