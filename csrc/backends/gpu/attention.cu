// Attention of one row's query heads of one key/value head over one split of the cache (split_positions), from the raw results of the q, k and v matmuls
// to the next matmul's activations: norms, rotary and the store of the row's own key and value happen on the way. The cache of earlier passes is asked
// for before the kernel in front has ended. The block that finishes a row's last split joins the splits in order.
//
// Bits: a score is four chains over the head (or over each 128 values of it), added in order; a value is summed over stretches of 4 or 8 positions, which
// are added in order; splits are joined by their running largest score. All of it depends on the head's size and the row's position alone.
#include "backends/gpu/cache.h"
#include "backends/gpu/quantize.h"

namespace skipstone::gpu {

constexpr int attention_threads = 256, attention_warps = attention_threads / 32, heads_at_once = 4, join_splits = 128;

// Stretches of positions that a value's sum is spread over.
SK_DEVICE int stretches(int head) { return head <= 64 ? 16 : head <= 128 ? 8 : head <= 256 ? 4 : 2; }

// What a warp needs to prepare a head and can ask for before the kernel in front has ended. VALUES: a lane.
template <int VALUES> struct HeadConstants {
  float norm[VALUES], cosine[VALUES / 2], sine[VALUES / 2];
  SK_DEVICE void load(const HeadArgs& a, int position, int head) {
    const int lane = thread() & 31, half = a.rotated / 2;
    const float* angles = a.angles + i64(position) * a.rotated;
    SK_UNROLL for (int i = 0; i < VALUES; ++i) norm[i] = a.norm && lane + 32 * i < head ? a.norm[lane + 32 * i] : 1.0f;
    SK_UNROLL for (int i = 0; i < VALUES / 2; ++i) {
      const bool real = a.angles && lane + 32 * i < half;
      cosine[i] = real ? angles[lane + 32 * i] : 1.0f;
      sine[i] = real ? angles[half + lane + 32 * i] : 0.0f;
    }
  }
};

// One head by one warp: norm, then rotary, into `out` of shared memory.
template <int VALUES> SK_DEVICE void prepare_head(const HeadArgs& a, const HeadConstants<VALUES>& constants, int row, int index, int head, float* out) {
  const int lane = thread() & 31;
  const float* x = a.x + i64(row) * a.stride + i64(index) * a.step;
  float v[VALUES], sum = 0.0f;
  SK_UNROLL for (int i = 0; i < VALUES; ++i) v[i] = lane + 32 * i < head ? x[lane + 32 * i] : 0.0f;
  if (a.normed) {
    SK_UNROLL for (int i = 0; i < VALUES; ++i) sum = fma(v[i], v[i], sum);
    const float factor = divide(1.0f, square_root(add(divide(sum_lanes(sum), static_cast<float>(head)), a.eps)));
    SK_UNROLL for (int i = 0; i < VALUES; ++i) v[i] = mul(mul(v[i], factor), constants.norm[i]);
  }
  SK_UNROLL for (int i = 0; i < VALUES; ++i)
    if (lane + 32 * i < head) out[lane + 32 * i] = v[i];
  meet_lanes();
  if (!a.angles) return;
  const int half = a.rotated / 2;
  SK_UNROLL for (int i = 0; i < VALUES / 2; ++i) {
    const int j = lane + 32 * i;
    if (j >= half) continue;
    const float c = constants.cosine[i], s = constants.sine[i], first = out[j], second = out[half + j];
    out[j] = add(mul(first, c), -mul(second, s));
    out[half + j] = add(mul(second, c), mul(first, s));
  }
  meet_lanes();
}

SK_DEVICE void put_cached(void* to, int type, i64 i, float v) {
  if (type == 0) static_cast<float*>(to)[i] = v;
  else static_cast<u16*>(to)[i] = static_cast<u16>(type == 1 ? to_half(v) : to_brain(v));
}

// Keys (which 0) or values of a row to the cache.
SK_DEVICE void store_head(const AttentionArgs& a, const PartRecord& part, int row, int kv_head, int which, const float* from) {
  const Cache& c = a.cache;
  const int position = a.pass.position[row];
  void* chunk = chunk_of(part.chunks, part.capacity, c, position / chunk_positions);
  const i64 at = (i64(which * c.kv_heads + kv_head) * chunk_positions + position % chunk_positions) * c.head;
  for (int i = thread() & 31; i < c.head; i += 32) put_cached(chunk, c.type, at + i, from[i]);
}

// For passes of many rows: a warp a key or value, before attention.
SK_KERNEL(256, 2) store_heads(AttentionArgs a) {
  SK_SHARED(float, scratch, attention_warps * 512);
  let_next_start();
  wait_for_previous();
  const int warp = thread() >> 5, task = block() * attention_warps + warp, kv_heads = a.cache.kv_heads;
  if (task >= a.rows * 2 * kv_heads) return;
  const int row = task / (2 * kv_heads), which = task / kv_heads % 2, kv_head = task % kv_heads;
  HeadConstants<16> constants;
  constants.load(which ? a.v : a.k, a.pass.position[row], a.cache.head);
  prepare_head<16>(which ? a.v : a.k, constants, row, kv_head, a.cache.head, scratch + 512 * warp);
  store_head(a, a.pass.parts[a.pass.part_of[row]], row, kv_head, which, scratch + 512 * warp);
}

// Value `at` of the heads from `query` on: the gate, then wherever it is wanted. real: there is one; its warp's others need not be.
SK_DEVICE void finish_value(const AttentionArgs& a, int head, int row, int query, int at, bool real, float v) {
  if (real && a.gated) v = mul(v, sigmoid(a.q.x[i64(row) * a.q.stride + i64(query + at / head) * a.q.step + head + at % head]));
  if (real && a.y) a.y[(i64(row) * a.heads + query) * head + at] = v;
  if (a.to) quantize_block(v, a.to + a.to_more * (row / most_rows), row % most_rows, (query * head + at) / 32);
}

// VALUES: of a head a lane. HEAD and TYPE: of heads and caches that are common, so that indices cost little; 0 and -1: whatever they are.
template <int VALUES, int HEAD, int TYPE> SK_DEVICE void attend(const AttentionArgs& a) {
  SK_SHARED(float, queries, heads_at_once * 512);
  SK_SHARED(float, scores, attention_threads);           // [part of the head][query head][position]
  SK_SHARED(float, values, heads_at_once * 1024);        // [query head][stretch][head]; before that, a head a warp; at last, what joins splits
  SK_SHARED(i32, is_last, 1);
  const Cache& cache = a.cache;
  const int head = HEAD ? HEAD : cache.head, type = TYPE >= 0 ? TYPE : cache.type, group = a.heads / cache.kv_heads, lane = thread() & 31, warp = thread() >> 5, size = cache_bytes(type);
  const int row = block() % a.rows, offset = block() / a.rows % a.splits, kv_head = block() / a.rows / a.splits;
  const PartRecord part = a.pass.parts[a.pass.part_of[row]];
  const int position = a.pass.position[row];
  constexpr int span = VALUES == 4 ? 64 : VALUES == 8 ? 32 : 16;      // split_positions(head)
  const Visible seen = visible(part, position, cache.window, a.borrows);
  const int first_split = seen.low / span, count = (seen.high + span - 1) / span - first_split, base = (first_split + offset) * span;
  const bool idle = offset >= count;
  const int from = seen.low > base ? seen.low - base : 0, to = seen.high - base < span ? seen.high - base : span;
  const int chunk = base / chunk_positions, within = base % chunk_positions;
  const u8* memory = nullptr;
  u8 *keys = dynamic_shared(), *stored = keys + span * row_bytes(head, type);
  const int pieces = head * size / 16;           // of 16 bytes
  const auto fetch = [&](int begin, int end) {
    const u8* k = memory + ((i64(kv_head) * chunk_positions + within) * head) * size;
    const u8* v = k + i64(cache.kv_heads) * chunk_positions * head * size;
    for (int i = thread(); i < (end - begin) * pieces; i += attention_threads) {
      const int j = begin + i / pieces, p = i % pieces;
      copy_later(keys + j * row_bytes(head, type) + 16 * p, k + (i64(j) * head * size + 16 * p));
      copy_later(stored + j * head * size + 16 * p, v + (i64(j) * head * size + 16 * p));
    }
  };
  // Positions of this pass: computed here, unless store_heads was.
  const int fresh = a.borrows || a.stored || part.start - base >= to ? to : part.start - base > from ? part.start - base : from;
  if (!idle) {
    memory = static_cast<const u8*>(a.borrows ? chunk_of(part.borrowed, part.borrowed_capacity, cache, chunk) : chunk_of(part.chunks, part.capacity, cache, chunk));
    if (!a.stored) fetch(from, fresh);
  }
  // The first heads to prepare: of q by the first four warps, of k and v by the others.
  const bool queries_first = warp < heads_at_once;
  HeadConstants<VALUES> constants;
  if (!idle) {
    if (queries_first) constants.load(a.q, position, head);
    else if (warp - heads_at_once < 2 * (to - fresh)) constants.load(warp & 1 ? a.v : a.k, base + fresh + (warp - heads_at_once) / 2, head);
  }
  let_next_start();
  wait_for_previous();
  if (idle) return;
  if (a.stored) fetch(from, to);
  close_copies();
  float* scratch = values + 512 * warp;      // of a warp
  if (queries_first && warp < group) prepare_head<VALUES>(a.q, constants, row, kv_head * group + warp, head, queries + warp * head);
  const int tasks = 2 * (to - fresh), own_first = queries_first ? warp + heads_at_once : warp - heads_at_once;
  for (int task = own_first; task < tasks; task += attention_warps) {
    const int which = task & 1, j = fresh + task / 2, r = part.first + base + j - part.start;
    const HeadArgs& from_matmul = which ? a.v : a.k;
    if (queries_first || task != own_first) constants.load(from_matmul, base + j, head);
    prepare_head<VALUES>(from_matmul, constants, r, kv_head, head, scratch);
    void* place = which ? static_cast<void*>(stored + j * head * size) : keys + j * row_bytes(head, type);
    for (int i = lane; i < head; i += 32) put_cached(place, type, i, scratch[i]);
    if (r == row) store_head(a, part, row, kv_head, which, scratch);
    meet_lanes();
  }
  const i64 partial_step = i64(a.splits) * (head + 2);

  for (int first = 0; first < group; first += heads_at_once) {
    const int heads = group - first < heads_at_once ? group - first : heads_at_once;
    const int query = kv_head * group + first;
    if (first == 0) wait_copies<0>();
    if (first > 0 && warp < heads) {
      constants.load(a.q, position, head);
      prepare_head<VALUES>(a.q, constants, row, query + warp, head, queries + warp * head);
    }
    barrier();
    // A thread a position, query head and 128 values of the head.
    const int parts = attention_threads / heads_at_once / span, long_part = (head / parts + 7) / 8 * 8;
    {
      const int j = thread() % span, h = thread() / span / parts, p = thread() / span % parts;
      if (h < heads && j >= from && j < to) {
        F4 sum{};
        const u8* k = keys + j * row_bytes(head, type);
        const int end = (p + 1) * long_part < head ? (p + 1) * long_part : head;
        SK_UNROLL_4 for (int d = p * long_part; d < end; d += 4) {
          const F4 q = *reinterpret_cast<const F4*>(queries + h * head + d), v = four_cached(k, type, d);
          sum = {fma(q.x, v.x, sum.x), fma(q.y, v.y, sum.y), fma(q.z, v.z, sum.z), fma(q.w, v.w, sum.w)};
        }
        scores[(p * heads_at_once + h) * span + j] = add(add(sum.x, sum.y), add(sum.z, sum.w));
      }
    }
    barrier();
    for (int h = warp; h < heads; h += attention_warps) {
      float largest = -__builtin_inff();
      for (int j = lane; j < span; j += 32) {
        if (j < from || j >= to) continue;
        float s = scores[h * span + j];
        for (int p = 1; p < parts; ++p) s = add(s, scores[(p * heads_at_once + h) * span + j]);
        s = mul(s, a.scale);
        scores[h * span + j] = s;
        largest = larger(s, largest);
      }
      largest = largest_lane(largest);
      float total = 0.0f;
      for (int j = lane; j < span; j += 32) {
        const float e = j >= from && j < to ? exponential(add(scores[h * span + j], -largest)) : 0.0f;
        scores[h * span + j] = e;
        total = add(total, e);
      }
      total = sum_lanes(total);
      if (lane == 0) {
        float* out = a.partial + (i64(row) * a.heads + query + h) * partial_step + i64(offset) * (head + 2) + head;
        out[0] = largest;
        out[1] = total;
      }
    }
    barrier();
    // Four columns a thread.
    const int runs = HEAD || VALUES > 4 ? (VALUES == 4 ? stretches(head) : VALUES == 8 ? 4 : 2) : stretches(head), length = span / runs, threads = attention_threads / runs;
    const int which = thread() / threads, start = which * length;
    for (int d = 4 * (thread() % threads); d < head; d += 4 * threads) {
      F4 sums[heads_at_once] = {};
      const int begin = from > start ? from : start, end = to < start + length ? to : start + length;
      for (int j = begin; j < end; ++j) {
        const F4 v = four_cached(stored, type, i64(j) * head + d);
        SK_UNROLL for (int h = 0; h < heads_at_once; ++h) {
          if (h >= heads) continue;
          const float w = scores[h * span + j];
          sums[h] = {fma(w, v.x, sums[h].x), fma(w, v.y, sums[h].y), fma(w, v.z, sums[h].z), fma(w, v.w, sums[h].w)};
        }
      }
      SK_UNROLL for (int h = 0; h < heads_at_once; ++h)
        if (h < heads) *reinterpret_cast<F4*>(values + (h * runs + which) * head + d) = sums[h];
    }
    barrier();
    for (int i = thread(); i < heads * head; i += attention_threads) {
      const int h = i / head, d = i % head;
      float v = values[h * runs * head + d];
      for (int s = 1; s < runs; ++s) v = add(v, values[(h * runs + s) * head + d]);
      a.partial[(i64(row) * a.heads + query + h) * partial_step + i64(offset) * (head + 2) + d] = v;
    }
    share_writes();
    barrier();
  }

  if (thread() == 0) *is_last = arrives_last(a.arrived + row * cache.kv_heads + kv_head, count);
  barrier();
  if (!*is_last) return;
  float *joined = values, *of_splits = joined + heads_at_once * join_splits * 2, *carried = of_splits + heads_at_once * join_splits, *totals = carried + heads_at_once;
  for (int first = 0; first < group; first += heads_at_once) {
    const int heads = group - first < heads_at_once ? group - first : heads_at_once;
    const int query = kv_head * group + first;
    const float* from_heads = a.partial + (i64(row) * a.heads + query) * partial_step;
    constexpr int own = heads_at_once * VALUES * 32 / attention_threads, few = 8;
    float sums[own] = {};
    if (count <= few) {                          // all loads at once; the same steps as below
      float value[own][few];
      SK_UNROLL for (int i = 0; i < own; ++i) {
        const int at = thread() + attention_threads * i, h = at / head, d = at % head;
        SK_UNROLL for (int s = 0; s < few; ++s) value[i][s] = at < heads * head && s < count ? from_heads[h * partial_step + i64(s) * (head + 2) + d] : 0.0f;
      }
      float *steps = joined, *inverse = totals;
      if (warp == 0) {                           // a lane a head and split
        const int h = lane / few, s = lane % few;
        const bool real = h < heads && s < count;
        const float* from = from_heads + h * partial_step + i64(s) * (head + 2) + head;
        const float m = real ? from[0] : -__builtin_inff();
        of_splits[lane] = real ? from[1] : 0.0f;
        float all = m, earlier = -__builtin_inff();
        const auto scan = [&](float other, int mask) {
          if (lane & mask) earlier = larger(earlier, other);
          all = larger(all, other);
        };
        scan(other_lane<1>(all), 1), scan(other_lane<2>(all), 2), scan(other_lane<4>(all), 4);
        const float both = larger(earlier, m);
        steps[2 * lane] = exponential(add(earlier, -both));
        steps[2 * lane + 1] = exponential(add(m, -both));
        meet_lanes();
        if (lane < heads) {
          float total = 0.0f;
          for (int i = 0; i < count; ++i) total = fma(of_splits[few * lane + i], steps[2 * (few * lane + i) + 1], mul(total, steps[2 * (few * lane + i)]));
          inverse[lane] = divide(1.0f, total);
        }
      }
      barrier();
      SK_UNROLL for (int i = 0; i < own; ++i) {
        const int at = thread() + attention_threads * i, h = at / head;
        if (at - lane >= heads * head) break;
        float v = 0.0f;
        if (at < heads * head) {
          SK_UNROLL for (int s = 0; s < few; ++s)
            if (s < count) v = fma(value[i][s], steps[2 * (few * h + s) + 1], mul(v, steps[2 * (few * h + s)]));
          v = mul(v, inverse[h]);
        }
        finish_value(a, head, row, query, at, at < heads * head, v);
      }
      barrier();
      continue;
    }
    barrier();
    if (thread() < heads_at_once) carried[thread()] = -__builtin_inff(), totals[thread()] = 0.0f;
    for (int done = 0; done < count; done += join_splits) {
      const int now = count - done < join_splits ? count - done : join_splits;
      barrier();
      // Of each split: by how much what was before is scaled, and by how much the split is.
      for (int h = warp; h < heads; h += attention_warps) {
        float before = carried[h];
        for (int s = lane; s < (now + 31) / 32 * 32; s += 32) {
          const float m = s < now ? from_heads[h * partial_step + i64(done + s) * (head + 2) + head] : -__builtin_inff();
          float all = m, earlier = -__builtin_inff();
          const auto scan = [&](float other, int mask) {
            if (lane & mask) earlier = larger(earlier, other);
            all = larger(all, other);
          };
          scan(other_lane<1>(all), 1), scan(other_lane<2>(all), 2), scan(other_lane<4>(all), 4), scan(other_lane<8>(all), 8), scan(other_lane<16>(all), 16);
          earlier = larger(earlier, before);
          const float both = larger(earlier, m);
          if (s < now) {
            joined[2 * (h * join_splits + s)] = exponential(add(earlier, -both));
            joined[2 * (h * join_splits + s) + 1] = exponential(add(m, -both));
            of_splits[h * join_splits + s] = from_heads[h * partial_step + i64(done + s) * (head + 2) + head + 1];
          }
          before = larger(before, all);
        }
        if (lane == 0) carried[h] = before;
      }
      barrier();
      if (thread() < heads) {
        const int h = thread();
        float total = totals[h];
        for (int s = 0; s < now; ++s) total = fma(of_splits[h * join_splits + s], joined[2 * (h * join_splits + s) + 1], mul(total, joined[2 * (h * join_splits + s)]));
        totals[h] = total;
      }
      SK_UNROLL for (int i = 0; i < own; ++i) {
        const int at = thread() + attention_threads * i, h = at / head, d = at % head;
        if (at >= heads * head) break;
        SK_UNROLL_8 for (int s = 0; s < now; ++s)
          sums[i] = fma(from_heads[h * partial_step + i64(done + s) * (head + 2) + d], joined[2 * (h * join_splits + s) + 1], mul(sums[i], joined[2 * (h * join_splits + s)]));
      }
    }
    barrier();
    SK_UNROLL for (int i = 0; i < own; ++i) {
      const int at = thread() + attention_threads * i;
      if (at - lane >= heads * head) break;
      const bool real = at < heads * head;
      finish_value(a, head, row, query, at, real, real ? mul(sums[i], divide(1.0f, totals[at / head])) : 0.0f);
    }
  }
}

#define ATTENTION(name, ...) SK_KERNEL(256, 2) attention_##name(AttentionArgs a) { attend<__VA_ARGS__>(a); }
SK_KERNEL(256, 3) attention_128_f16(AttentionArgs a) { attend<4, 128, 1>(a); }
ATTENTION(256_f16, 8, 256, 1)
ATTENTION(to_128, 4, 0, -1)
ATTENTION(to_256, 8, 0, -1)
ATTENTION(to_512, 16, 0, -1)
#undef ATTENTION

}  // namespace skipstone::gpu
