// Attention of one row's query heads of one key/value head over one chunk of 256 cached positions; rows.cu joins the chunks in order.
// A score is summed over the lanes as a tree; a value over positions in a fixed number of stretches of the chunk, which depends on the head size alone.
#include "backends/gpu/cache.h"

namespace skipstone::gpu {

constexpr int attention_threads = 256, heads_at_once = 4, positions_at_once = 4;

// Stretches of positions that a value's sum is spread over.
SK_DEVICE int stretches(int head) { return head <= 64 ? 16 : head <= 128 ? 8 : head <= 256 ? 4 : 2; }

SK_KERNEL(256, 2) attention(AttentionArgs a) {
  SK_SHARED(float, queries, heads_at_once * 512);
  SK_SHARED(float, weights, heads_at_once * chunk_positions);
  SK_SHARED(float, values, heads_at_once * 1024);
  let_next_start();
  wait_for_previous();
  const Cache& cache = a.cache;
  const int head = cache.head, group = a.heads / cache.kv_heads, lane = thread() & 31, warp = thread() >> 5;
  const int offset = block() % a.chunks, kv_head = block() / a.chunks % cache.kv_heads, row = block() / a.chunks / cache.kv_heads;
  const PartRecord& part = a.pass.parts[a.pass.part_of[row]];
  const Visible seen = visible(part, a.pass.position[row], cache.window, a.borrows);
  const int chunk = seen.low / chunk_positions + offset, base = chunk * chunk_positions;
  if (base >= seen.high) return;
  const int from = seen.low > base ? seen.low - base : 0, to = seen.high - base < chunk_positions ? seen.high - base : chunk_positions;
  const void* memory = a.borrows ? chunk_of(part.borrowed, part.borrowed_capacity, cache, chunk) : chunk_of(part.chunks, part.capacity, cache, chunk);
  const i64 keys = i64(kv_head) * chunk_positions * head, stored = keys + i64(cache.kv_heads) * chunk_positions * head;

  for (int first = 0; first < group; first += heads_at_once) {
    const int heads = group - first < heads_at_once ? group - first : heads_at_once;
    const int query = kv_head * group + first;
    for (int i = thread(); i < heads * head; i += attention_threads) queries[i] = a.q[(i64(row) * a.heads + query) * head + i];
    barrier();
    for (int j = from + positions_at_once * warp; j < to; j += positions_at_once * attention_threads / 32) {
      float sums[positions_at_once][heads_at_once] = {};
      for (int d = 4 * lane; d < head; d += 128) {
        F4 k[positions_at_once];
        SK_UNROLL for (int i = 0; i < positions_at_once; ++i) k[i] = four_cached(memory, cache.type, keys + i64(j + i < to ? j + i : j) * head + d);
        SK_UNROLL for (int h = 0; h < heads_at_once; ++h) {
          if (h >= heads) continue;
          const F4 q = *reinterpret_cast<const F4*>(queries + h * head + d);
          SK_UNROLL for (int i = 0; i < positions_at_once; ++i) sums[i][h] = fma(q.w, k[i].w, fma(q.z, k[i].z, fma(q.y, k[i].y, fma(q.x, k[i].x, sums[i][h]))));
        }
      }
      SK_UNROLL for (int i = 0; i < positions_at_once; ++i)
        SK_UNROLL for (int h = 0; h < heads_at_once; ++h) {
          if (h >= heads) continue;
          const float score = mul(sum_lanes(sums[i][h]), a.scale);
          if (lane == 0 && j + i < to) weights[h * chunk_positions + j + i] = score;
        }
    }
    barrier();
    for (int h = warp; h < heads; h += attention_threads / 32) {
      float* w = weights + h * chunk_positions;
      float largest = -__builtin_inff();
      for (int j = lane; j < chunk_positions; j += 32)
        if (j >= from && j < to) largest = larger(w[j], largest);
      largest = largest_lane(largest);
      float total = 0.0f;
      for (int j = lane; j < chunk_positions; j += 32) {
        const float e = j >= from && j < to ? exponential(add(w[j], -largest)) : 0.0f;
        w[j] = e;
        total = add(total, e);
      }
      total = sum_lanes(total);
      if (lane == 0) {
        float* out = a.partial + ((i64(row) * a.heads + query + h) * a.chunks + offset) * (head + 2) + head;
        out[0] = largest;
        out[1] = total;
      }
    }
    barrier();
    // Four columns a thread.
    const int parts = stretches(head), length = chunk_positions / parts, threads = attention_threads / parts;
    const int which = thread() / threads, start = which * length;
    for (int d = 4 * (thread() % threads); d < head; d += 4 * threads) {
      F4 sums[heads_at_once] = {};
      const int begin = from > start ? from : start, end = to < start + length ? to : start + length;
      SK_UNROLL_8 for (int j = begin; j < end; ++j) {
        const F4 v = four_cached(memory, cache.type, stored + i64(j) * head + d);
        SK_UNROLL for (int h = 0; h < heads_at_once; ++h) {
          if (h >= heads) continue;
          const float w = weights[h * chunk_positions + j];
          sums[h] = {fma(w, v.x, sums[h].x), fma(w, v.y, sums[h].y), fma(w, v.z, sums[h].z), fma(w, v.w, sums[h].w)};
        }
      }
      SK_UNROLL for (int h = 0; h < heads_at_once; ++h)
        if (h < heads) *reinterpret_cast<F4*>(values + (h * parts + which) * head + d) = sums[h];
    }
    barrier();
    for (int i = thread(); i < heads * head; i += attention_threads) {
      const int h = i / head, d = i % head;
      float v = values[h * parts * head + d];
      for (int s = 1; s < parts; ++s) v = add(v, values[(h * parts + s) * head + d]);
      a.partial[((i64(row) * a.heads + query + h) * a.chunks + offset) * (head + 2) + d] = v;
    }
    barrier();
  }
}

}  // namespace skipstone::gpu
