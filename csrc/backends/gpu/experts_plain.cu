// The same with unquantized experts: a block has a job and 32 outputs, a warp computes four of them for up to eight rows at once.
#include "backends/gpu/experts.h"
#include "backends/gpu/plain.h"
#include "backends/gpu/quantize.h"

namespace skipstone::gpu {

template <bool ENTER> SK_DEVICE void plain_experts(const ExpertsArgs& a) {
  SK_SHARED(float, results, 2 * plain_rows * unit_rows);      // [half][row][output]
  SK_SHARED(i32, is_last, 1);
  wait_for_previous();
  let_next_start();
  const int warp = thread() >> 5, lane = thread() & 31, items = item_count(a, 1);
  for (int i = block(); i < items; i += a.blocks) {
    const Item item = item_of(a, i, 1);
    const ExpertWeights& w = item.shared ? a.shared : a.own;
    const i64 at = item.shared ? 0 : item.job.expert * w.bytes, factors = !item.shared ? i64(item.job.expert) * w.outputs * ((w.columns + w.stretch - 1) / w.stretch) : 0;
    const float* rows = !ENTER && item.shared ? a.plain_shared : a.plain;
    for (int first = 0; first < item.job.count; first += plain_rows) {
      const int count = item.job.count - first < plain_rows ? item.job.count - first : plain_rows;
      const auto pair = [&](int r) { return pair_of(a, item.job.first + first + r); };
      for (int task = warp; task < (ENTER ? 2 : 1) * unit_rows; task += expert_warps) {
        const int half = task / unit_rows, n = unit_rows * item.stretch + task % unit_rows;
        if (n >= w.outputs) continue;
        const float* of_half = half ? w.second_factors : w.first_factors;
        float y[plain_rows];
        plain_output<plain_rows>(static_cast<const u8*>(half ? w.second : w.first) + at, w.type, of_half ? of_half + factors : nullptr, w.stretch, n, w.columns, nullptr, count,
                                 [&](int r) { return rows + i64(w.columns) * source_of<ENTER>(a, pair(r)); }, y);
        SK_UNROLL for (int r = 0; r < plain_rows; ++r)
          if (r < count && lane == 0) results[(half * plain_rows + r) * unit_rows + task % unit_rows] = y[r];
      }
      barrier();
      for (int r = warp; r < count; r += expert_warps) {
        const int n = unit_rows * item.stretch + lane;
        const bool real = n < w.outputs;
        const float one = real ? results[r * unit_rows + lane] : 0.0f;
        if constexpr (ENTER) finish_enter(a, item, item.stretch, pair(r), enter_factor(a, pair(r)), one, real ? results[(plain_rows + r) * unit_rows + lane] : 0.0f);
        else if (real) a.made[i64(pair(r)) * w.outputs + n] = one;
      }
      barrier();
    }
    if constexpr (!ENTER) join_stretch(a, item.stretch, 1, is_last);
  }
}

SK_KERNEL(256, 2) experts_enter_plain(ExpertsArgs a) { plain_experts<true>(a); }
SK_KERNEL(256, 2) experts_leave_plain(ExpertsArgs a) { plain_experts<false>(a); }

}  // namespace skipstone::gpu
