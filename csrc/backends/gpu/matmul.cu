// Quantized matmul, y[r][n] = sum over k of x[r][k] * w[n][k], with what comes after it: a norm's factor, the sum with the residual, gate * up, the next
// matmul's activations. A warp multiplies one or two tiles of 16 weight rows by 8, 16 or 32 activation rows with the int8 matrix instruction; a weight is read
// and decoded once for all. Rows do not see each other: a column of the product depends on its own column of activations, and every form runs one expression.
//
// Weights come through a ring of shared memory a warp, asked for before the kernel in front has ended. A team of warps computes a unit of 32 outputs:
// sixteen with one tile of a slice each, four with both tiles of two slices, or (prompts) one with everything.
//
// Order of a result's sum (decode.h says what one block adds):
//   slice s of 8 adds its chunks s, s + 8, s + 16, ... with their blocks in order, in one float (Q6_K: and one of its own a chunk);
//   slices are added in pairs, then the pairs in order: (((0 + 1) + (2 + 3)) + (4 + 5)) + (6 + 7).
#include "backends/gpu/decode.h"
#include "backends/gpu/matmul.h"
#include "backends/gpu/quantize.h"

namespace skipstone::gpu {

SK_DEVICE void copy_step(u8* to, const u8* from, int bytes) {
  const int lane = thread() & 31;
  SK_UNROLL for (int i = 0; i < bytes / 512; ++i) copy_later(to + 512 * i + 16 * lane, from + 512 * i + 16 * lane);
  if (bytes % 512 && lane < bytes % 512 / 16) copy_later(to + bytes / 512 * 512 + 16 * lane, from + bytes / 512 * 512 + 16 * lane);
}
// A step on its way through registers, where copies do not go by themselves.
template <int BYTES> struct Held {
  U4 v[(BYTES + 511) / 512 + (BYTES == 0)];
  SK_DEVICE void load(const u8* from) {
    const int lane = thread() & 31;
    SK_UNROLL for (int i = 0; i < (BYTES + 511) / 512; ++i)
      if (512 * (i + 1) <= BYTES || lane < BYTES % 512 / 16) v[i] = load_once(from + 512 * i + 16 * lane);
  }
  SK_DEVICE void store(u8* to) const {
    const int lane = thread() & 31;
    SK_UNROLL for (int i = 0; i < (BYTES + 511) / 512; ++i)
      if (512 * (i + 1) <= BYTES || lane < BYTES % 512 / 16) *reinterpret_cast<U4*>(to + 512 * i + 16 * lane) = v[i];
  }
};
SK_DEVICE void wait_step(int depth) {
  if (depth == 1) wait_copies<0>();
  else if (depth == 2) wait_copies<1>();
  else wait_copies<2>();
}

// A warp's steps in order: chunks of its slices, halves (gate, up) of a unit, items. An item is a group of activation rows and TEAMS units side by side,
// so that the teams of a block read the same activations.
template <class T, int WARPS, int TEAMS> struct Steps {
  static constexpr int own = slices / WARPS;
  int item, half, slice, chunk, unit, member;
  const u8* base;
  SK_DEVICE void start(const MatmulArgs& a, int first, int warp, int of_teams, int groups) {
    item = first, half = 0, member = of_teams;
    chunk = slice = own * warp;
    find(a, groups);
  }
  SK_DEVICE bool more(const MatmulArgs& a, int warp) const { return unit < a.units && own * warp < a.chunks; }
  SK_DEVICE const u8* at() const { return base + i64(2 * T::bytes) * chunk; }
  SK_DEVICE void find(const MatmulArgs& a, int groups) {
    unit = item / groups * TEAMS + member;
    if (unit >= a.units) return;
    const MatmulPart p = a.end >= silu_end ? (half ? a.parts[1] : a.parts[0]) : part_of(a, unit);
    base = p.weights + i64(2 * T::bytes) * a.chunks * (a.end >= silu_end ? unit : unit - p.first);
  }
  SK_DEVICE void next(const MatmulArgs& a, int warp, int groups) {
    chunk += slices;
    if (chunk < a.chunks) return;
    if (slice + 1 < own * (warp + 1) && slice + 1 < a.chunks) {
      chunk = ++slice;
      return;
    }
    chunk = slice = own * warp;
    if (a.end >= silu_end && half == 0) half = 1;
    else half = 0, item += a.blocks;
    find(a, groups);
  }
};

// Of a unit's results for one row, what the kernel's end makes of them. z: of output 32 * block32 + lane.
SK_DEVICE void finish(const MatmulArgs& a, const MatmulPart& p, int block32, int row, float factor, float gate, float z) {
  u8* to = a.to + a.to_more * (row / most_rows);
  const int lane = thread() & 31, n = unit_rows * block32 + lane;
  if (a.squares) z = mul(z, factor);
  if (a.end >= silu_end) {
    if (a.squares) gate = mul(gate, factor);
    return quantize_block(mul(a.end == silu_end ? silu(gate) : gelu_tanh(gate), z), to, row % most_rows, block32);
  }
  const i64 at = i64(p.stride) * row + n;
  const bool real = n < p.outputs;
  if (a.end == add_end) {
    if (real) z = add(a.residual[at], z);
    if (a.scale != 1.0f) z = mul(z, a.scale);
  }
  if (real && p.y) p.y[at] = z;
  if (!a.to) return;
  if (a.squares_to) {
    const float square = sum_lanes(mul(z, z));
    if (lane == 0) a.squares_to[i64(p.outputs / unit_rows) * row + block32] = square;
    if (a.norm) z = mul(z, a.norm[n]);
  }
  quantize_block(z, to, row % most_rows, block32);
}

// Lines of the activations that a later step reads into the first cache level: those of 16 rows, or a team's share of those of 32.
template <int TEAMS> SK_DEVICE void fetch_ahead(const u8* x, i64 more, int member) {
  constexpr int lines = 4 * pair_bytes / 128;
  const int lane = thread() & 31;
  if constexpr (TEAMS == 1) touch(x + 128 * lane);
  else if (lane < 2 * lines / TEAMS) {
    const int line = 2 * lines / TEAMS * member + lane;
    touch(x + (line < lines ? 128 * line : more + 128 * (line - lines)));
  }
}

// WARPS: that share a unit's slices. TILES: of a warp; 1: two warps share a slice. NT: groups of 8 activation rows of an item.
// A block is one team, or four teams of one warp.
template <class T, int WARPS, int TILES, int NT> SK_DEVICE void matmul(const MatmulArgs& a) {
  constexpr int teams = WARPS == 1 ? 4 : 1, columns = 8 * NT, own = slices / WARPS, area = columns * sum_stride, warps = WARPS * 2 / TILES, step_bytes = TILES * T::bytes;
  constexpr int values = (columns + warps - 1) / warps;
  const int lane = thread() & 31, in_block = thread() >> 5, warp = WARPS == 1 ? 0 : in_block * TILES / 2, tile = TILES == 1 ? in_block & 1 : 0, g = lane >> 2, t = lane & 3;
  const int depth = through_registers ? 1 : a.depth;
  const int groups = (a.rows + columns - 1) / columns, member = WARPS == 1 ? in_block : 0, halves = a.end >= silu_end ? 2 : 1;
  u8* ring = dynamic_shared() + in_block * depth * step_bytes;
  float* sums = reinterpret_cast<float*>(dynamic_shared() + teams * warps * depth * step_bytes) + (WARPS == 1 ? 3 * in_block * area : 0);
  float* factors = sums + WARPS * area;          // of teams with several warps
  Steps<T, WARPS, teams> ahead;
  ahead.start(a, block(), warp, member, groups);
  // Weights do not depend on the kernel in front; activations and everything else do.
  constexpr bool hold = through_registers && NT == 1;      // with more columns registers are short, and a step has more to do than to wait
  Held<hold ? step_bytes : 0> held;
  if constexpr (hold) {
    if (ahead.more(a, warp)) {
      held.load(ahead.at() + tile * T::bytes);
      ahead.next(a, warp, groups);
    }
  }
  for (int i = 0; !hold && i < depth; ++i) {
    if (ahead.more(a, warp)) {
      copy_step(ring + i * step_bytes, ahead.at() + tile * T::bytes, step_bytes);
      ahead.next(a, warp, groups);
    }
    close_copies();
  }
  let_next_start();
  wait_for_previous();
  if (WARPS > 1 && a.squares && groups == 1)
    for (int row = in_block; row < a.rows; row += warps) {
      const float f = factor_of(a, row);
      if (lane == 0) factors[row] = f;
    }

  const u32 exponent = 0x4B000000u + (static_cast<u32>(a.units) >> 31);
  // Where this lane's results of tile `of` lie in an area of columns x outputs.
  const auto at = [&](int of, int n, int i) { return (8 * n + 2 * t + (i & 1)) * sum_stride + 16 * of + g + 8 * (i >> 1); };
  int slot = 0;
  for (int item = block(); ; item += a.blocks) {
    const int unit = item / groups * teams + member, row0 = item % groups * columns;
    if (unit >= a.units) break;
    const u8* activations = a.x + a.x_more * (row0 / most_rows) + group_bytes * (row0 % most_rows / 8);
    float gate[values] = {}, y[values] = {};      // of teams with several warps
    for (int half = 0; half < halves; ++half) {
      Sums<NT> total[TILES] = {};
      SK_UNROLL_NOT for (int s = 0; s < own; ++s) {
        Sums<NT> acc[TILES] = {};
        for (int c = own * warp + s; c < a.chunks; c += slices) {
          if constexpr (hold) held.store(ring);
          else wait_step(depth);
          meet_lanes();
          if constexpr (hold) {
            if (ahead.more(a, warp)) {
              held.load(ahead.at() + tile * T::bytes);
              ahead.next(a, warp, groups);
            }
          }
          const u8* x = activations + i64(4 * pair_bytes) * c;
          const int later = c + slices < a.chunks ? c + slices : own * warp + s + 1;      // or the next slice's first
          if (c + slices < a.chunks || (s + 1 < own && later < a.chunks)) fetch_ahead<teams>(activations + i64(4 * pair_bytes) * later, a.x_more, member);
          T::template use<TILES, NT>(ring + slot * step_bytes, Lane{x + Columns::offset(), x + scale_bytes + 16 * t, a.x_more, exponent}, acc);
          SK_UNROLL for (int of = 0; of < TILES; ++of) acc[of].settle();
          meet_lanes();
          if constexpr (hold) continue;
          if (ahead.more(a, warp)) {
            copy_step(ring + slot * step_bytes, ahead.at() + tile * T::bytes, step_bytes);
            ahead.next(a, warp, groups);
          }
          close_copies();
          slot = slot + 1 == depth ? 0 : slot + 1;
        }
        float *whole = sums + half * area, *pair = sums + 2 * area;
        SK_UNROLL for (int of = 0; of < TILES; ++of)
          SK_UNROLL for (int n = 0; n < NT; ++n)
            SK_UNROLL for (int i = 0; i < 4; ++i) {
              const float v = acc[of].of[n][i];
              if constexpr (WARPS > 1) total[of].of[n][i] = s == 0 ? v : add(total[of].of[n][i], v);
              else if (!(s & 1)) pair[at(of, n, i)] = v;
              else whole[at(of, n, i)] = s == 1 ? add(pair[at(of, n, i)], v) : add(whole[at(of, n, i)], add(pair[at(of, n, i)], v));
            }
      }
      if constexpr (WARPS > 1) {
        barrier();
        SK_UNROLL for (int of = 0; of < TILES; ++of)
          SK_UNROLL for (int n = 0; n < NT; ++n)
            SK_UNROLL for (int i = 0; i < 4; ++i) sums[warp * area + at(tile + of, n, i)] = total[of].of[n][i];
        barrier();
        SK_UNROLL for (int v = 0; v < values; ++v) {
          if (in_block + warps * v >= columns) break;
          const float* from = sums + (in_block + warps * v) * sum_stride + lane;
          if (half) gate[v] = y[v];
          SK_UNROLL for (int p = 0; p < slices / 2; ++p) {
            const float both = own == 2 ? from[p * area] : add(from[2 * p * area], from[(2 * p + 1) * area]);
            y[v] = p == 0 ? both : add(y[v], both);
          }
        }
      }
    }
    const bool gated = a.end >= silu_end;
    const MatmulPart p = gated ? a.parts[0] : part_of(a, unit);
    if constexpr (WARPS > 1) {
      SK_UNROLL for (int v = 0; v < values; ++v) {
        const int in_item = in_block + warps * v, row = row0 + in_item;
        if (in_item < columns && row < a.rows) finish(a, p, unit - p.first, row, !a.squares ? 1.0f : groups == 1 ? factors[row] : factor_of(a, row), gate[v], y[v]);
      }
    } else {
      meet_lanes();
      SK_UNROLL_NOT for (int v = 0; v < columns && row0 + v < a.rows; ++v) {
        const float* from = sums + v * sum_stride + lane;
        finish(a, p, unit - p.first, row0 + v, a.squares ? factor_of(a, row0 + v) : 1.0f, from[0], from[gated ? area : 0]);
      }
      meet_lanes();
    }
  }
  wait_copies<0>();
}

// Sixteen warps an SM of at most 128 registers, as one block: all of them work on a unit, so that few units keep the card busy and many end together.
// Cards with little shared memory take teams of four (host: program.cpp); which runs changes no bit.
#define MATMUL_16(type, name)                                                                         \
  SK_KERNEL(512, 1) matmul_##name##_team16_columns8(MatmulArgs a) { matmul<type, 8, 1, 1>(a); }       \
  SK_KERNEL(512, 1) matmul_##name##_team16_columns16(MatmulArgs a) { matmul<type, 8, 1, 2>(a); }
#define MATMUL_4(type, name)                                                                          \
  SK_KERNEL(128, 4) matmul_##name##_team4_columns8(MatmulArgs a) { matmul<type, 4, 2, 1>(a); }        \
  SK_KERNEL(128, 3) matmul_##name##_team4_columns16(MatmulArgs a) { matmul<type, 4, 2, 2>(a); }
#define EVERY_TYPE(F) F(Q8_0, q8_0) F(Q4_K, q4_k) F(Q6_K, q6_k) F(Q5_K, q5_k) F(Q4_0, q4_0) F(Q5_0, q5_0) F(Canonical, canonical)
#if SK_EMULATED
EVERY_TYPE(MATMUL_16)
EVERY_TYPE(MATMUL_4)
#elif SK_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
EVERY_TYPE(MATMUL_16)
MATMUL_4(Canonical, canonical)
#else
EVERY_TYPE(MATMUL_4)
#endif

}  // namespace skipstone::gpu
