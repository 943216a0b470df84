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
SK_DEVICE void take_better(Ranked& best, u32 key, int e, u32 last, int last_id) {
  if ((key < last || (key == last && e > last_id)) && key > best.key) best = {key, e};
}

// What a row's ranking says, told to the kernels behind. In `told` (shared memory) as well, where there is room for it.
SK_DEVICE void tell_choice(const RouteArgs& a, int row, int i, int id, float share, i32* told) {
  const int pair = row * a.used + i;
  a.to.chosen[pair] = id;
  a.to.share[pair] = a.scale ? mul(share, a.scale[id]) : share;
  if (told) told[pair] = id;
}

// One row by one warp; up to 32 experts of up to 256: all of it in registers.
SK_DEVICE void choose_row_of_few(const RouteArgs& a, int row, i32* told) {
  constexpr int each = 8;
  const int lane = thread() & 31, begin = each * lane;
  const float* z = a.logits + i64(row) * a.experts;
  float logit[each];
  u32 key[each];
  SK_UNROLL for (int i = 0; i < each; ++i) logit[i] = begin + i < a.experts ? z[begin + i] : 0.0f;
  SK_UNROLL for (int i = 0; i < each; ++i) key[i] = begin + i < a.experts ? rank_key(logit[i]) : 0;
  float own = 0.0f, top = 0.0f;                  // of the lane's place in the ranking
  int own_id = 0;
  for (int place = 0; place < a.used; ++place) {
    u32 best = key[0];
    int at = 0;
    float value = logit[0];
    SK_UNROLL for (int i = 1; i < each; ++i)
      if (key[i] > best) best = key[i], at = i, value = logit[i];
    const int winner = first_lane(best == largest_u32(best));
    const int id = static_cast<int>(from_lane(static_cast<u32>(begin + at), winner));
    value = bits<float>(from_lane(bits<u32>(value), winner));
    if (place == 0) top = value;
    if (lane == place) own = value, own_id = id;
    SK_UNROLL for (int i = 0; i < each; ++i)
      if (begin + i == id) key[i] = 0;
  }
  const float e = lane < a.used ? exponential(add(own, -top)) : 0.0f;
  float total = 0.0f;
  if (a.normalize) {
    for (int i = 0; i < a.used; ++i) total = add(total, bits<float>(from_lane(bits<u32>(e), i)));
  } else {
    for (int i = lane; i < a.experts; i += 32) total = add(total, exponential(add(z[i], -top)));
    total = sum_lanes(total);
  }
  if (lane < a.used) tell_choice(a, row, lane, own_id, divide(e, total), told);
}

// The same for any number of them.
SK_DEVICE void choose_row_of_many(const RouteArgs& a, int row, i32* told) {
  const int lane = thread() & 31, each = (a.experts + 31) / 32, begin = lane * each < a.experts ? lane * each : a.experts, end = begin + each < a.experts ? begin + each : a.experts;
  const float* z = a.logits + i64(row) * a.experts;
  int* chosen = a.to.chosen + i64(row) * a.used;
  float* share = a.to.share + i64(row) * a.used;
  u32 last = ~0u;
  int last_id = -1;
  bool scans = true;
  Ranked best{0, 0};
  for (int i = 0; i < a.used; ++i) {
    if (scans) {
      best = {0, 0};
      for (int e = begin; e < end; ++e) take_better(best, rank_key(z[e]), e, last, last_id);
    }
    last = largest_u32(best.key);
    const int winner = first_lane(best.key == last);
    last_id = static_cast<int>(from_lane(static_cast<u32>(best.id), winner));
    scans = lane == winner;
    if (scans) chosen[i] = last_id, share[i] = z[last_id];
  }
  meet_lanes();
  const float top = share[0];
  float total = 0.0f;
  if (a.normalize) {
    for (int i = 0; i < a.used; ++i) total = add(total, exponential(add(share[i], -top)));
  } else {
    for (int e = lane; e < a.experts; e += 32) total = add(total, exponential(add(z[e], -top)));
    total = sum_lanes(total);
  }
  meet_lanes();
  for (int i = lane; i < a.used; i += 32) tell_choice(a, row, i, chosen[i], divide(exponential(add(share[i], -top)), total), told);
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

// Pairs in shared memory; more are read from where they were told.
constexpr int told_pairs = 512;

// Of passes of several rows; the others' jobs follow from their pairs (experts.h: job_of).
SK_DEVICE void list_jobs(const RouteArgs& a, const i32* told, int* one, int* two) {
  const int pairs = a.rows * a.used, t = thread();
  const i32* chosen = pairs <= told_pairs ? told : a.to.chosen;
  const int each = (a.experts + route_threads - 1) / route_threads, begin = t * each < a.experts ? t * each : a.experts, end = begin + each < a.experts ? begin + each : a.experts;
  int own_pairs = 0, own_jobs = 0;
  const auto count_of = [&](int e) {
    int count = 0;
    SK_UNROLL_8 for (int p = 0; p < pairs; ++p) count += chosen[p] == e;
    return count;
  };
  for (int e = begin; e < end; ++e) {
    const int count = count_of(e);
    own_pairs += count;
    own_jobs += (count + a.columns - 1) / a.columns;
  }
  int at = sum_before(own_pairs, one, two), job = sum_before(own_jobs, one, two);
  if (t == route_threads - 1) one[0] = job + own_jobs;
  for (int e = begin; e < end && own_pairs; ++e) {
    const int count = begin + 1 == end ? own_pairs : count_of(e);
    for (int i = 0; i < count; i += a.columns) a.to.jobs[job++] = {e, at + i, count - i < a.columns ? count - i : a.columns, 0};
    if (!count) continue;
    for (int p = 0; p < pairs; ++p)
      if (chosen[p] == e) a.to.order[at++] = p;
  }
  barrier();
  const int jobs = one[0], more = a.shared ? (a.rows + a.columns - 1) / a.columns : 0;
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
  SK_SHARED(i32, told, told_pairs);
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
  const bool few = a.experts <= 256 && a.used <= 32;
  for (int row = warp; row < a.rows; row += warps) {
    if (few) choose_row_of_few(a, row, a.rows * a.used <= told_pairs ? told : nullptr);
    else choose_row_of_many(a, row, a.rows * a.used <= told_pairs ? told : nullptr);
  }
  if (a.rows == 1) return;
  barrier();
  list_jobs(a, told, one, two);
}

}  // namespace skipstone::gpu
