// Gate and up of the chosen experts with their activation ("enter"), then down and the sum over a row's experts ("leave"), quantized weights. A block has a job
// and one or more units of 32 outputs; its warps are teams of 2, 4 or 8 that share a unit, one slice of the columns each, both tiles. A weight is read and
// decoded once for all rows of the job.
//
// Order of a result's sum: slice s of S adds its chunks s, s + S, ... with their blocks in order, in one float (decode.h); then slices in order. S follows
// from the experts' columns alone. A row's experts are added in the order of its own ranking, then what all rows share, then the residual.
#include "backends/gpu/decode.h"
#include "backends/gpu/experts.h"
#include "backends/gpu/plain.h"
#include "backends/gpu/quantize.h"

namespace skipstone::gpu {

// Activations of rows that lie anywhere: byte offsets of a lane's own column, and of the scales of the two columns whose results it holds.
template <int NT> struct Scattered {
  const u8* x;
  u32 exponent;
  i32 q[NT][Columns::count], scale[NT][2];
  SK_DEVICE Columns quants(int pair, int n) const {
    Columns c;
    c.load(x + pair_bytes * pair, q[n]);
    return c;
  }
  SK_DEVICE F4 floats(int at, int n) const {
    const float *s0 = reinterpret_cast<const float*>(x + scale[n][0] + at), *s1 = reinterpret_cast<const float*>(x + scale[n][1] + at);
    return {s0[0], s1[0], s0[2], s1[2]};
  }
  SK_DEVICE F4 scales(int pair, int n) const { return floats(pair_bytes * pair + scale_bytes, n); }
  SK_DEVICE F4 sums(int pair, int n) const { return floats(pair_bytes * pair + sum_bytes, n); }
};

// Which row of the activations a pair reads and writes.
SK_DEVICE int row_of_pair(const ExpertsArgs& a, int pair) { return pair < a.rows * a.used ? pair / a.used : pair - a.rows * a.used; }
template <bool ENTER> SK_DEVICE int source_of(const ExpertsArgs& a, int pair) { return ENTER || a.by_row || pair >= a.rows * a.used ? row_of_pair(a, pair) : pair; }

// Items: first all stretches of units of the first job, and so on; the shared expert's jobs come last.
struct Item {
  Job job;
  int stretch;
  bool shared;
};
SK_DEVICE int stretches_of(const ExpertWeights& w, int teams) { return (w.units + teams - 1) / teams; }
// A pass of one row needs no list of jobs: they are its pairs.
SK_DEVICE int own_jobs(const ExpertsArgs& a) { return a.rows == 1 ? a.used : from_device(a.routes.counts); }
SK_DEVICE int shared_jobs(const ExpertsArgs& a) { return a.rows == 1 ? a.shared.units > 0 : from_device(a.routes.counts + 1); }
SK_DEVICE Job job_of(const ExpertsArgs& a, int i) {
  if (a.rows > 1) return a.routes.jobs[i];
  return {i < a.used ? from_device(a.routes.chosen + i) : -1, i, 1, 0};
}
SK_DEVICE int pair_of(const ExpertsArgs& a, int place) { return a.rows == 1 ? place : from_device(a.routes.order + place); }
SK_DEVICE int item_count(const ExpertsArgs& a, int teams) { return own_jobs(a) * stretches_of(a.own, teams) + shared_jobs(a) * stretches_of(a.shared, teams); }
SK_DEVICE Item item_of(const ExpertsArgs& a, int item, int teams) {
  const int own = stretches_of(a.own, teams), jobs = own_jobs(a);
  if (item < jobs * own) return {job_of(a, item / own), item % own, false};
  item -= jobs * own;
  const int of_shared = stretches_of(a.shared, teams);
  return {job_of(a, jobs + item / of_shared), item % of_shared, true};
}

SK_DEVICE void copy_tiles(u8* to, const u8* from, int bytes) {
  const int lane = thread() & 31;
  SK_UNROLL for (int i = 0; i < bytes / 512; ++i) copy_later(to + 512 * i + 16 * lane, from + 512 * i + 16 * lane);
  if (bytes % 512 && lane < bytes % 512 / 16) copy_later(to + bytes / 512 * 512 + 16 * lane, from + bytes / 512 * 512 + 16 * lane);
}
SK_DEVICE void wait_tiles(int depth) {
  if (depth == 1) wait_copies<0>();
  else if (depth == 2) wait_copies<1>();
  else wait_copies<3>();
}

// A warp's steps in order: chunks of its slice, halves (gate, up), items.
template <class T, bool ENTER> struct ExpertSteps {
  int item, half, chunk, chunks;
  const u8 *base, *other;                        // of the half, of the second half
  SK_DEVICE void start(const ExpertsArgs& a, int items) {
    item = block();
    find(a, items);
  }
  SK_DEVICE void find(const ExpertsArgs& a, int items) {
    const int warp = thread() >> 5, team = warp >> a.slice_bits, teams = expert_warps >> a.slice_bits, slice = warp & ((1 << a.slice_bits) - 1);
    half = 0, chunk = slice;
    for (; item < items; item += a.blocks) {
      const Item i = item_of(a, item, teams);
      const ExpertWeights& w = i.shared ? a.shared : a.own;
      const int unit = i.stretch * teams + team;
      if (unit >= w.units || slice >= w.chunks) continue;
      chunks = w.chunks;
      const i64 at = (i.shared ? 0 : i.job.expert * w.bytes) + i64(2 * T::bytes) * w.chunks * unit;
      base = static_cast<const u8*>(w.first) + at;
      other = static_cast<const u8*>(w.second) + at;
      return;
    }
  }
  SK_DEVICE const u8* at() const { return base + i64(2 * T::bytes) * chunk; }
  SK_DEVICE void next(const ExpertsArgs& a, int items) {
    chunk += 1 << a.slice_bits;
    if (chunk < chunks) return;
    if (ENTER && half == 0) {
      half = 1, base = other, chunk = (thread() >> 5) & ((1 << a.slice_bits) - 1);
      return;
    }
    item += a.blocks;
    find(a, items);
  }
};

// Output 32 * unit + lane of a pair, from the sums of gate and up.
SK_DEVICE float enter_factor(const ExpertsArgs& a, int pair) { return a.squares ? norm_factor(a.squares, a.squares_count, a.norm_columns, a.eps, row_of_pair(a, pair)) : 1.0f; }
SK_DEVICE void finish_enter(const ExpertsArgs& a, const Item& item, int unit, int pair, float factor, float gate, float up) {
  const int row = row_of_pair(a, pair), lane = thread() & 31;
  const ExpertWeights& w = item.shared ? a.shared : a.own;
  if (a.squares) gate = mul(gate, factor), up = mul(up, factor);
  if (!item.shared && a.first_scale) gate = mul(gate, a.first_scale[item.job.expert]), up = mul(up, a.second_scale[item.job.expert]);
  const float v = mul(a.gelu ? gelu_tanh(gate) : silu(gate), up);
  const int at = item.shared ? row : pair, n = unit_rows * unit + lane;
  if (float* gated = item.shared ? a.gated_shared : a.gated; gated && n < w.outputs) gated[i64(at) * w.outputs + n] = v;
  u8* to = item.shared ? a.to_shared : a.to;
  if (!to) return;
  to += (item.shared ? a.to_shared_more : a.to_more) * (at / most_rows);
  quantize_block(v, to, at % most_rows, unit);
  if (unit + 1 == w.units)
    for (int b = w.units; b < (item.shared ? a.to_shared_blocks : a.to_blocks); ++b) quantize_block(0.0f, to, at % most_rows, b);
}

// Outputs 32 * unit .. + 31 of a row, from its pairs.
SK_DEVICE void join_row(const ExpertsArgs& a, int row, int unit) {
  const int n = unit_rows * unit + (thread() & 31), outputs = a.own.outputs, first = row * a.used;
  const bool real = n < outputs;
  float z = 0.0f;
  if (real) {
    const float* made = a.made + i64(first) * outputs + n;
    z = mul(made[0], a.routes.share[first]);
    SK_UNROLL_8 for (int i = 1; i < a.used; ++i) z = fma(made[i64(i) * outputs], a.routes.share[first + i], z);
    const float* more = a.shared.units ? a.made + i64(a.rows * a.used) * outputs : a.extra;
    if (more) {
      float v = more[i64(row) * outputs + n];
      if (a.opening) v = mul(v, sigmoid(a.opening[i64(row) * a.opening_stride]));
      z = add(z, v);
    }
    if (a.residual) z = add(a.residual[i64(row) * outputs + n], z);
    if (a.residual_scale != 1.0f) z = mul(z, a.residual_scale);
    if (a.y) a.y[i64(row) * outputs + n] = z;
  }
  if (!a.y_to) return;
  const float square = sum_lanes(mul(z, z));
  if ((thread() & 31) == 0) a.squares_to[i64(outputs / unit_rows) * row + unit] = square;
  if (a.norm && real) z = mul(z, a.norm[n]);
  quantize_block(z, a.y_to + a.y_to_more * (row / most_rows), row % most_rows, unit);
}

// After a block has stored its pairs' results: the last of a stretch adds them up for every row.
SK_DEVICE void join_stretch(const ExpertsArgs& a, int stretch, int teams, i32* is_last) {
  if (!a.joins) return barrier();
  share_writes();
  barrier();
  if (thread() == 0) *is_last = arrives_last(a.arrived + stretch, own_jobs(a) + shared_jobs(a));
  barrier();
  if (!*is_last) return;
  for (int task = thread() >> 5; task < a.rows * teams; task += expert_warps)
    if (const int unit = stretch * teams + task % teams; unit < a.own.units) join_row(a, task / teams, unit);
}

template <class T, int NT, bool ENTER> SK_DEVICE void experts(const ExpertsArgs& a) {
  SK_SHARED(i32, is_last, 1);
  constexpr int columns = 8 * NT, halves = ENTER ? 2 : 1, step_bytes = 2 * T::bytes, area = columns * sum_stride;
  const int lane = thread() & 31, warp = thread() >> 5, g = lane >> 2, t = lane & 3, slices = 1 << a.slice_bits, slice = warp & (slices - 1), team = warp >> a.slice_bits, teams = expert_warps >> a.slice_bits;
  u8* ring = dynamic_shared() + warp * a.depth * step_bytes;
  float* sums = reinterpret_cast<float*>(dynamic_shared() + expert_warps * a.depth * step_bytes);
  // Gate and up wait for the router; only then may the kernel of down begin, which therefore finds the routes and may ask for its weights at once.
  if (ENTER) {
    wait_for_previous();
    let_next_start();
  }
  const int items = item_count(a, teams);
  ExpertSteps<T, ENTER> ahead;
  ahead.start(a, items);
  for (int i = 0; i < a.depth; ++i) {
    if (ahead.item < items) {
      copy_tiles(ring + i * step_bytes, ahead.at(), step_bytes);
      ahead.next(a, items);
    }
    close_copies();
  }
  if (!ENTER) {
    let_next_start();
    wait_for_previous();
  }
  const u32 exponent = 0x4B000000u + (static_cast<u32>(items) >> 31);
  const float only_factor = ENTER && a.rows == 1 ? enter_factor(a, 0) : 1.0f;
  int slot = 0;
  for (int i = block(); i < items; i += a.blocks) {
    const Item item = item_of(a, i, teams);
    const ExpertWeights& w = item.shared ? a.shared : a.own;
    const int unit = item.stretch * teams + team;
    const i64 more = !ENTER && item.shared ? a.x_shared_more : a.x_more;
    Scattered<NT> x;
    x.x = !ENTER && item.shared ? a.x_shared : a.x;
    x.exponent = exponent;
    SK_UNROLL for (int n = 0; n < NT; ++n) {
      const auto source = [&](int column) { return source_of<ENTER>(a, pair_of(a, item.job.first + (column < item.job.count ? column : 0))); };
      const auto place = [&](int r) { return static_cast<i32>(more * (r / most_rows)) + group_bytes * (r % most_rows / 8); };
      SK_UNROLL for (int c = 0; c < Columns::count; ++c) {
        const int r = source(8 * n + Columns::column(c));
        x.q[n][c] = place(r) + Columns::within(r);
      }
      SK_UNROLL for (int c = 0; c < 2; ++c) {
        const int s = source(8 * n + 2 * t + c);
        x.scale[n][c] = place(s) + 4 * (4 * (s % 8 >> 1) + (s & 1));
      }
    }
    if (unit < w.units && slice < w.chunks && lane < 20) touch(x.x + i64(4 * pair_bytes) * slice + pair_bytes * (lane / 5) + 128 * (lane % 5));
    SK_UNROLL for (int half = 0; half < halves; ++half) {
      Sums<NT> acc[2] = {};
      if (unit < w.units)
        for (int c = slice; c < w.chunks; c += slices) {
          wait_tiles(a.depth);
          meet_lanes();
          Scattered<NT> chunk = x;
          chunk.x += i64(4 * pair_bytes) * c;
          T::template use<2, NT>(ring + slot * step_bytes, chunk, acc);
          acc[0].settle(), acc[1].settle();
          meet_lanes();
          if (ahead.item < items) {
            copy_tiles(ring + slot * step_bytes, ahead.at(), step_bytes);
            ahead.next(a, items);
          }
          close_copies();
          slot = slot + 1 == a.depth ? 0 : slot + 1;
        }
      float* own = sums + (half * expert_warps + warp) * area;
      SK_UNROLL for (int of = 0; of < 2; ++of)
        SK_UNROLL for (int n = 0; n < NT; ++n)
          SK_UNROLL for (int k = 0; k < 4; ++k) own[(8 * n + 2 * t + (k & 1)) * sum_stride + 16 * of + g + 8 * (k >> 1)] = acc[of].of[n][k];
    }
    barrier();
    for (int task = warp; task < teams * item.job.count; task += expert_warps) {
      const int column = task / teams, of_team = task % teams, its = item.stretch * teams + of_team;
      if (its >= w.units) continue;
      const int pair = pair_of(a, item.job.first + column);
      float total[halves];
      SK_UNROLL for (int half = 0; half < halves; ++half) {
        const float* from = sums + (half * expert_warps + of_team * slices) * area + column * sum_stride + lane;
        total[half] = from[0];
        for (int s = 1; s < slices; ++s) total[half] = add(total[half], from[s * area]);
      }
      if constexpr (ENTER) finish_enter(a, item, its, pair, a.rows == 1 ? only_factor : enter_factor(a, pair), total[0], total[1]);
      else if (unit_rows * its + lane < w.outputs) a.made[i64(pair) * w.outputs + unit_rows * its + lane] = total[0];
    }
    if constexpr (ENTER) barrier();
    else join_stretch(a, item.stretch, teams, is_last);
  }
  wait_copies<0>();
}

// For passes of many rows, a warp a row and unit.
SK_KERNEL(256, 2) join_experts(ExpertsArgs a) {
  let_next_start();
  wait_for_previous();
  const int task = block() * expert_warps + (thread() >> 5), row = task / a.own.units;
  if (row < a.rows) join_row(a, row, task % a.own.units);
}

#define EXPERTS_8(type, name)                                                                          \
  SK_KERNEL(256, 2) experts_enter_##name##_columns8(ExpertsArgs a) { experts<type, 1, true>(a); }       \
  SK_KERNEL(256, 2) experts_leave_##name##_columns8(ExpertsArgs a) { experts<type, 1, false>(a); }
// Where a block has 64 KiB of shared memory, 16 columns have no room.
#if SK_AMD || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750)
#define EXPERTS(type, name) EXPERTS_8(type, name)
#else
#define EXPERTS(type, name)                                                                            \
  EXPERTS_8(type, name)                                                                                \
  SK_KERNEL(256, 1) experts_enter_##name##_columns16(ExpertsArgs a) { experts<type, 2, true>(a); }      \
  SK_KERNEL(256, 1) experts_leave_##name##_columns16(ExpertsArgs a) { experts<type, 2, false>(a); }
#endif
EXPERTS(Q8_0, q8_0)
EXPERTS(Q4_K, q4_k)
EXPERTS(Q6_K, q6_k)
EXPERTS(Q5_K, q5_k)
EXPERTS(Q4_0, q4_0)
EXPERTS(Q5_0, q5_0)
EXPERTS(Canonical, canonical)
#undef EXPERTS_8
#undef EXPERTS

}  // namespace skipstone::gpu
