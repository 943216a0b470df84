// The experts of every row: the router's product, then, by the block that comes last, the ranking of every row's logits, its softmax, and the jobs.
// Logits go by value, equal ones by the lower expert, what is no number last. The shares' total is added in the order of the ranking, or over all
// experts by lanes and a tree.
#include "backends/gpu/experts.h"
#include "backends/gpu/plain.h"

namespace skipstone::gpu {

// In the order of the logits; 1: not a number. 0 is below all.
SK_DEVICE u32 rank_key(float z) {
  if (!(z == z)) return 1;
  const u32 b = bits<u32>(add(z, 0.0f));
  return b & 0x80000000u ? ~b : b | 0x80000000u;
}

// A lane's best expert among its stretch of those that come after the one with key `last` and number `last_id`.
struct Ranked { u32 key; int id; };
SK_DEVICE Ranked best_after(const float* z, int begin, int end, u32 last, int last_id) {
  Ranked best{0, 0};
  SK_UNROLL_8 for (int e = begin; e < end; ++e) {
    const u32 key = rank_key(z[e]);
    if ((key < last || (key == last && e > last_id)) && key > best.key) best = {key, e};
  }
  return best;
}

// One row by one warp.
SK_DEVICE void choose_row(const RouteArgs& a, int row) {
  const int lane = thread() & 31, each = (a.experts + 31) / 32, begin = lane * each < a.experts ? lane * each : a.experts, end = begin + each < a.experts ? begin + each : a.experts;
  const float* z = a.logits + i64(row) * a.experts;
  int* chosen = a.to.chosen + i64(row) * a.used;
  float* share = a.to.share + i64(row) * a.used;
  Ranked best = best_after(z, begin, end, ~0u, -1);
  for (int i = 0; i < a.used; ++i) {
    const u32 key = largest_u32(best.key);
    const int winner = first_lane(best.key == key);
    const int id = static_cast<int>(from_lane(static_cast<u32>(best.id), winner));
    if (lane == winner) {
      chosen[i] = id;
      share[i] = z[id];
      best = best_after(z, begin, end, key, id);
    }
  }
  meet_lanes();
  const float top = share[0];
  float total = 0.0f;
  if (a.normalize) {
    SK_UNROLL_8 for (int i = 0; i < a.used; ++i) total = add(total, exponential(add(share[i], -top)));
  } else {
    for (int e = lane; e < a.experts; e += 32) total = add(total, exponential(add(z[e], -top)));
    total = sum_lanes(total);
  }
  meet_lanes();
  for (int i = lane; i < a.used; i += 32) {
    const float s = divide(exponential(add(share[i], -top)), total);
    share[i] = a.scale ? mul(s, a.scale[chosen[i]]) : s;
  }
}

// The sum of v over the threads before this one; both arrays hold route_threads values.
SK_DEVICE int sum_before(int v, int* values, int* others) {
  const int t = thread();
  values[t] = v;
  barrier();
  for (int step = 1; step < route_threads; step *= 2) {
    others[t] = values[t] + (t >= step ? values[t - step] : 0);
    barrier();
    int* swap = values;
    values = others, others = swap;
  }
  const int before = t ? values[t - 1] : 0;
  barrier();
  return before;
}

SK_DEVICE void list_jobs(const RouteArgs& a, int* one, int* two) {
  const int pairs = a.rows * a.used, t = thread();
  int jobs;
  if (a.rows == 1) {
    for (int i = t; i < pairs; i += route_threads) {
      a.to.jobs[i] = {a.to.chosen[i], i, 1, 0};
      a.to.order[i] = i;
    }
    jobs = pairs;
  } else {
    const int each = (a.experts + route_threads - 1) / route_threads, begin = t * each < a.experts ? t * each : a.experts, end = begin + each < a.experts ? begin + each : a.experts;
    int own_pairs = 0, own_jobs = 0;
    const auto count_of = [&](int e) {
      int count = 0;
      SK_UNROLL_8 for (int p = 0; p < pairs; ++p) count += a.to.chosen[p] == e;
      return count;
    };
    for (int e = begin; e < end; ++e) {
      const int count = count_of(e);
      own_pairs += count;
      own_jobs += (count + a.columns - 1) / a.columns;
    }
    int at = sum_before(own_pairs, one, two), job = sum_before(own_jobs, one, two);
    if (t == route_threads - 1) one[0] = job + own_jobs;
    for (int e = begin; e < end; ++e) {
      const int count = begin + 1 == end ? own_pairs : count_of(e);
      for (int i = 0; i < count; i += a.columns) a.to.jobs[job++] = {e, at + i, count - i < a.columns ? count - i : a.columns, 0};
      if (!count) continue;
      for (int p = 0; p < pairs; ++p)
        if (a.to.chosen[p] == e) a.to.order[at++] = p;
    }
    barrier();
    jobs = one[0];
  }
  const int more = a.shared ? (a.rows + a.columns - 1) / a.columns : 0;
  for (int i = t; i < more; i += route_threads) {
    const int first = i * a.columns;
    a.to.jobs[jobs + i] = {-1, pairs + first, a.rows - first < a.columns ? a.rows - first : a.columns, 0};
  }
  for (int r = t; a.shared && r < a.rows; r += route_threads) a.to.order[pairs + r] = pairs + r;
  if (t == 0) a.to.counts[0] = jobs, a.to.counts[1] = more;
}

SK_KERNEL(256, 2) route(RouteArgs a) {
  SK_SHARED(i32, one, route_threads);
  SK_SHARED(i32, two, route_threads);
  SK_SHARED(i32, is_last, 1);
  const int warp = thread() >> 5, warps = route_threads / 32, outputs = a.products.outputs, stretches = (outputs + warps - 1) / warps;
  const int n = outputs ? warps * (block() % stretches) + warp : 0;
  if (n < outputs) touch_outputs(a.products, n);
  let_next_start();
  wait_for_previous();
  if (outputs) {
    if (n < outputs) plain_products(a.products, n, block() / stretches * plain_rows);
    share_writes();
    barrier();
    if (thread() == 0) *is_last = arrives_last(a.arrived, a.blocks);
    barrier();
    if (!*is_last) return;
  }
  for (int row = warp; row < a.rows; row += warps) choose_row(a, row);
  barrier();
  list_jobs(a, one, two);
}

}  // namespace skipstone::gpu
