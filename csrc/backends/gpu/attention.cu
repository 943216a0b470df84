// Attention of all query heads of one key/value head, of all rows of a sequence in a pass, over one split of the cache (split_of): the cache is read once for
// all of them. From the raw results of the q, k and v matmuls to the next matmul's activations: norms, rotary and the store of the rows' own keys and values
// happen on the way. The cache of earlier passes is asked for before the kernel in front has ended. The block that finishes a tile's last split joins the
// splits in order, or a kernel of its own does where that is much work.
//
// A block has up to 8 * COLUMNS queries (row by row, each with the heads that share the key/value head) and steps through its split by step_positions.
// Scores are keys x queries by the matrix instruction, a warp 16 positions and up to 128 values of the head; values x weights the same way, a warp
// 16 values of the head or several times that.
//
// Bits: queries and weights go in as two f16 terms (three bf16 terms for caches in bf16 and f32), which together have as good as all their bits. A query is a
// column of both products, so it sees no other; all forms of the kernel add in the same order:
//   score of a position: products of the first terms 16 values after another, apart from those of the other terms; parts of 128 values in order
//   a split: step by step, weights by the largest score so far, and what was before scaled when that grows
//   splits: in order, by their largest scores
// So a row's bits depend on its own position and text, the head's size and the cache's type alone.
#include "backends/gpu/cache.h"
#include "backends/gpu/quantize.h"

namespace skipstone::gpu {

constexpr int attention_threads = 256, attention_warps = attention_threads / 32;

// One head on its way to attention, by one warp. VALUES: a lane.
template <int VALUES> struct Head {
  float value[VALUES], norm[VALUES], cosine[VALUES / 2], sine[VALUES / 2];
  // What does not depend on the kernel in front.
  SK_DEVICE void load_constants(const HeadArgs& a, int position, int head) {
    const int lane = thread() & 31, half = a.rotated / 2;
    const float* angles = a.angles + i64(position) * a.rotated;
    SK_UNROLL for (int i = 0; i < VALUES; ++i) norm[i] = a.norm && lane + 32 * i < head ? a.norm[lane + 32 * i] : 1.0f;
    SK_UNROLL for (int i = 0; i < VALUES / 2; ++i) {
      const bool real = a.angles && lane + 32 * i < half;
      cosine[i] = real ? angles[lane + 32 * i] : 1.0f;
      sine[i] = real ? angles[half + lane + 32 * i] : 0.0f;
    }
  }
  SK_DEVICE void load(const HeadArgs& a, int row, int index, int head) {
    const int lane = thread() & 31;
    const float* x = a.x + i64(row) * a.stride + i64(index) * a.step;
    SK_UNROLL for (int i = 0; i < VALUES; ++i) value[i] = lane + 32 * i < head ? x[lane + 32 * i] : 0.0f;
  }
  // Norm, then rotary, into `out` of shared memory.
  SK_DEVICE void finish(const HeadArgs& a, int head, float* out) {
    const int lane = thread() & 31;
    if (a.normed) {
      float sum = 0.0f;
      SK_UNROLL for (int i = 0; i < VALUES; ++i) sum = fma(value[i], value[i], sum);
      const float factor = divide(1.0f, square_root(add(divide(sum_lanes(sum), static_cast<float>(head)), a.eps)));
      SK_UNROLL for (int i = 0; i < VALUES; ++i) value[i] = mul(mul(value[i], factor), norm[i]);
    }
    SK_UNROLL for (int i = 0; i < VALUES; ++i)
      if (lane + 32 * i < head) out[lane + 32 * i] = value[i];
    meet_lanes();
    if (!a.angles) return;
    const int half = a.rotated / 2;
    SK_UNROLL for (int i = 0; i < VALUES / 2; ++i) {
      const int j = lane + 32 * i;
      if (j >= half) continue;
      const float c = cosine[i], s = sine[i], first = out[j], second = out[half + j];
      out[j] = add(mul(first, c), -mul(second, s));
      out[half + j] = add(mul(second, c), mul(first, s));
    }
    meet_lanes();
  }
};

// For passes of many rows: a warp a key or value, before attention.
SK_KERNEL(256, 2) store_heads(AttentionArgs a) {
  SK_SHARED(float, scratch, attention_warps * 512);
  let_next_start();
  wait_for_previous();
  const int warp = thread() >> 5, task = block() * attention_warps + warp, kv_heads = a.cache.kv_heads;
  if (task >= a.rows * 2 * kv_heads) return;
  const int row = task / (2 * kv_heads), which = task / kv_heads % 2, kv_head = task % kv_heads;
  Head<16> h;
  h.load_constants(which ? a.v : a.k, a.pass.position[row], a.cache.head);
  h.load(which ? a.v : a.k, row, kv_head, a.cache.head);
  h.finish(which ? a.v : a.k, a.cache.head, scratch + 512 * warp);
  store_head(a.cache, a.pass.parts[a.pass.part_of[row]], a.pass.position[row], kv_head, which, scratch + 512 * warp);
}

// Value `d` of a row's head: the gate, then wherever it is wanted. Its warp's others need not be real.
SK_DEVICE void finish_value(const AttentionArgs& a, int row, int query, int d, bool real, float v) {
  const int head = a.cache.head;
  if (real && a.gated) v = mul(v, sigmoid(a.q.x[i64(row) * a.q.stride + i64(query) * a.q.step + head + d]));
  if (real && a.y) a.y[(i64(row) * a.heads + query) * head + d] = v;
  if (a.to) quantize_block(v, a.to + a.to_more * (row / most_rows), row % most_rows, (query * head + d) / 32);
}

// A row's splits among those of its cache.
struct Splits { int first, count; };
SK_DEVICE Splits splits_of(const AttentionArgs& a, const Visible& seen) {
  const int first = split_of(seen.low, a.cache.window);
  return {first, split_of(seen.high - 1, a.cache.window) - first + 1};
}
SK_DEVICE float* partial_of(const AttentionArgs& a, int row, int query) { return a.partial + (i64(row) * a.heads + query) * a.splits * (a.cache.head + 2); }

// 32 values of a row's head from d on, joined of its splits, by one warp. What lies in front of a split is scaled as the largest score grows.
SK_DEVICE void join(const AttentionArgs& a, int row, int query, int d) {
  constexpr int ahead = 8;
  const int lane = thread() & 31, head = a.cache.head, step = head + 2, at = d + lane;
  const bool real = at < head;
  const int count = splits_of(a, visible(a.pass.parts[a.pass.part_of[row]], a.pass.position[row], a.cache.window, a.borrows)).count;
  const float* from = partial_of(a, row, query);
  float before = -__builtin_inff(), total = 0.0f, v = 0.0f;
  for (int done = 0; done < count; done += 32) {
    const int now = count - done < 32 ? count - done : 32;
    float value[ahead];
    SK_UNROLL for (int i = 0; i < ahead; ++i) value[i] = real && i < now ? from[i64(done + i) * step + at] : 0.0f;
    const float m = lane < now ? from[i64(done + lane) * step + head] : -__builtin_inff(), of_split = lane < now ? from[i64(done + lane) * step + head + 1] : 0.0f;
    float all = m, earlier = -__builtin_inff();
    const auto scan = [&](float other, int mask) {
      if (lane & mask) earlier = larger(earlier, other);
      all = larger(all, other);
    };
    scan(other_lane<1>(all), 1), scan(other_lane<2>(all), 2), scan(other_lane<4>(all), 4), scan(other_lane<8>(all), 8), scan(other_lane<16>(all), 16);
    earlier = larger(earlier, before);
    const float both = larger(earlier, m);
    const u32 old_factor = bits<u32>(exponential(add(earlier, -both))), new_factor = bits<u32>(exponential(add(m, -both))), totals = bits<u32>(of_split);
    for (int s = 0; s < now; s += ahead) {
      float next[ahead];
      SK_UNROLL for (int i = 0; i < ahead; ++i) next[i] = real && s + ahead + i < now ? from[i64(done + s + ahead + i) * step + at] : 0.0f;
      SK_UNROLL for (int i = 0; i < ahead; ++i) {
        if (s + i >= now) break;
        const float f = bits<float>(from_lane(old_factor, s + i)), n = bits<float>(from_lane(new_factor, s + i));
        v = fma(value[i], n, mul(v, f));
        total = fma(bits<float>(from_lane(totals, s + i)), n, mul(total, f));
      }
      SK_UNROLL for (int i = 0; i < ahead; ++i) value[i] = next[i];
    }
    before = larger(before, all);
  }
  finish_value(a, row, query, at, real, mul(v, divide(1.0f, total)));
}
SK_KERNEL(256, 4) attention_join(AttentionArgs a) {
  let_next_start();
  wait_for_previous();
  const int blocks32 = (a.cache.head + 31) / 32, task = block() * attention_warps + (thread() >> 5);
  if (task < a.rows * a.heads * blocks32) join(a, task / blocks32 / a.heads, task / blocks32 % a.heads, 32 * (task % blocks32));
}

// A float as narrow terms that add up to it: two f16 or three bf16.
template <int TERMS> struct Narrow {
  u32 term[TERMS];
  SK_DEVICE explicit Narrow(float v) {
    SK_UNROLL for (int i = 0; i < TERMS; ++i) {
      term[i] = TERMS == 2 ? to_half(v) : to_brain(v);
      v = add(v, -(TERMS == 2 ? from_half(term[i]) : from_brain(term[i])));
    }
  }
};
// Two registers a term of a lane's part of 16 x 8 narrow values (b of the matrix instruction), side by side a lane.
template <int TERMS> struct Fragment {
  u32 word[TERMS][2];
  SK_DEVICE void load(const u8* from) {
    if constexpr (TERMS == 2) {
      const U4 v = *reinterpret_cast<const U4*>(from + 16 * (thread() & 31));
      word[0][0] = v.x, word[0][1] = v.y, word[1][0] = v.z, word[1][1] = v.w;
    } else {
      SK_UNROLL for (int i = 0; i < TERMS; ++i)
        SK_UNROLL for (int r = 0; r < 2; ++r) word[i][r] = *reinterpret_cast<const u32*>(from + 256 * i + 8 * (thread() & 31) + 4 * r);
    }
  }
  SK_DEVICE void store(u8* to) const {
    if constexpr (TERMS == 2) *reinterpret_cast<U4*>(to + 16 * (thread() & 31)) = {word[0][0], word[0][1], word[1][0], word[1][1]};
    else
      SK_UNROLL for (int i = 0; i < TERMS; ++i)
        SK_UNROLL for (int r = 0; r < 2; ++r) *reinterpret_cast<u32*>(to + 256 * i + 8 * (thread() & 31) + 4 * r) = word[i][r];
  }
  static SK_DEVICE u32* at(u8* to, int term, int lane, int r) { return reinterpret_cast<u32*>(TERMS == 2 ? to + 16 * lane + 8 * term + 4 * r : to + 256 * term + 8 * lane + 4 * r); }
  static constexpr int bytes = 256 * TERMS;
};
// a of the matrix instruction: 16 x 16 cached values in shared memory, keys as they lie, values turned. TYPE 1, 2: one term; 0 (f32): three.
template <int TYPE> struct Cached {
  static constexpr int terms = TYPE == 0 ? 3 : 1;
  U4 term[terms];
  SK_DEVICE void load_keys(const u8* from, int stride) {
    if constexpr (TYPE != 0) term[0] = matrix_rows(from, stride);
    else fill([&](int row, int column) { return *reinterpret_cast<const float*>(from + row * stride + 4 * column); });
  }
  SK_DEVICE void load_values(const u8* from, int stride) {
    if constexpr (TYPE != 0) term[0] = matrix_columns(from, stride);
    else fill([&](int row, int column) { return *reinterpret_cast<const float*>(from + column * stride + 4 * row); });
  }
  template <class F> SK_DEVICE void fill(F f) {
    const int g = (thread() & 31) >> 2, t = thread() & 3;
    const auto both = [&](int row, int column, u32* to) {
      const Narrow<3> low(f(row, column)), high(f(row, column + 1));
      SK_UNROLL for (int i = 0; i < terms; ++i) to[i] = low.term[i] | high.term[i] << 16;
    };
    u32 x[3], y[3], z[3], w[3];
    both(g, 2 * t, x), both(g + 8, 2 * t, y), both(g, 8 + 2 * t, z), both(g + 8, 8 + 2 * t, w);
    SK_UNROLL for (int i = 0; i < terms; ++i) term[i] = {x[i], y[i], z[i], w[i]};
  }
};
// The product of the first terms is added to `most`, those of the others to `rest`.
template <int TYPE, int TERMS> SK_DEVICE void multiply(float most[4], float rest[4], const Cached<TYPE>& a, const Fragment<TERMS>& b) {
  SK_UNROLL for (int i = 0; i < TERMS; ++i)
    SK_UNROLL for (int j = 0; j < Cached<TYPE>::terms; ++j)
      if (i + j < 3) multiply_narrow<TYPE != 1>(i + j ? rest : most, a.term[j], b.word[i][0], b.word[i][1]);
}
SK_DEVICE void wait_pieces(int left) {
  if (left <= 0) wait_copies<0>();
  else if (left == 1) wait_copies<1>();
  else if (left == 2) wait_copies<2>();
  else if (left == 3) wait_copies<3>();
  else if (left == 4) wait_copies<4>();
  else wait_copies<5>();
}
SK_DEVICE int lanes_for(int pieces) {              // a power of two
  int lanes = 1;
  while (lanes < pieces) lanes *= 2;
  return lanes;
}
constexpr float query_unit = 1.0f / 16;          // f16 queries are stored times this, so that none is too large

// PARTS: of at most 128 values of a head. HEAD: of heads that are common, so that indices cost little; 0: whatever it is. COLUMNS: groups of 8 queries.
template <int PARTS, int HEAD, int SOURCE, int COLUMNS> SK_DEVICE void attend(const AttentionArgs& a) {
  SK_SHARED(i32, is_last, 1);
  constexpr bool blocks = SOURCE == 3;           // become f16 on the way to shared memory
  constexpr int TYPE = blocks ? 1 : SOURCE;
  constexpr int most_chunks = 4;                 // of a split
  SK_SHARED(unsigned long long, chunks, most_chunks);      // keys of this head in the split's chunks of the cache
  constexpr int terms = TYPE == 1 ? 2 : 3, tiles = attention_warps / PARTS, step = 16 * tiles, queries = 8 * COLUMNS, size = TYPE == 0 ? 4 : 2, most_steps = 8;
  using Piece = Fragment<terms>;
  const Cache& cache = a.cache;
  const int head = HEAD ? HEAD : cache.head, whole = whole_head(head), stride = whole * size + 16, group = a.heads / cache.kv_heads;
  const u32 inverse_group = (1u << 20) / static_cast<u32>(group) + 1;      // exact for so few queries
  const int lane = thread() & 31, warp = thread() >> 5, g = lane >> 2, t = lane & 3, tile = warp % tiles, part_of_head = warp / tiles, head_steps = whole / 16, piece_size = step * stride;

  // Which queries, and which positions.
  int of_grid = block();
  const int kv_head = of_grid % cache.kv_heads;
  of_grid /= cache.kv_heads;
  const int query_tile = of_grid % a.tiles;
  of_grid /= a.tiles;
  const int part_index = of_grid % a.parts, offset = a.splits - 1 - of_grid / a.parts;      // later splits first: what is new takes longest
  const PartRecord part = a.pass.parts[part_index];
  const int first_query = query_tile * queries, end_query = part.rows * group < first_query + queries ? part.rows * group : first_query + queries;
  if (first_query >= end_query) return;
  const int first_row = first_query / group, last_row = (end_query - 1) / group;      // of the part
  const Visible earliest = visible(part, part.start + first_row, cache.window, a.borrows), latest = visible(part, part.start + last_row, cache.window, a.borrows);
  const Splits all = splits_of(a, {earliest.low, latest.high});
  if (offset >= all.count) return;
  const int split = all.first + offset, low = split_start(split, cache.window), high = split_start(split + 1, cache.window);
  const int begin = earliest.low > low ? earliest.low : low, end = latest.high < high ? latest.high : high;
  const int first_step = begin / step, steps = (end - 1) / step - first_step + 1, pieces = 2 * steps;

  const i64 plane = blocks ? plane_bytes(head, cache.type) : i64(chunk_positions) * head * size;      // keys, or values, of one head in a chunk
  if (thread() < most_chunks && low + chunk_positions * thread() < end) {
    const int chunk = low / chunk_positions + thread();
    const void* memory = a.borrows ? chunk_of(part.borrowed, part.borrowed_capacity, cache, chunk) : chunk_of(part.chunks, part.capacity, cache, chunk);
    chunks[thread()] = reinterpret_cast<unsigned long long>(memory) + kv_head * plane;
  }
  barrier();
  u8 *ring = dynamic_shared(), *query_terms = ring + a.pieces * piece_size, *work = query_terms + COLUMNS * head_steps * Piece::bytes;
  float* told = reinterpret_cast<float*>(dynamic_shared() + attention_shared(head, TYPE, COLUMNS, a.pieces, a.preparers)) - queries * (query_stride + 4);      // [query][tile]
  int* sees = reinterpret_cast<int*>(told + queries * query_stride);      // [query] low, high; then largest and total
  const auto row_of = [&](int query) { return static_cast<int>((static_cast<u32>(query) * inverse_group) >> 20); };
  // Rows of a piece (an even one: keys, an odd one: values of the same positions) that lie before position `until`. A lane copies 16 bytes of a row.
  const int row_pieces = whole * size / 16, row_lanes = HEAD ? HEAD * size / 16 : lanes_for(row_pieces), rows_at_once = attention_threads / row_lanes;
  const int own_piece = thread() % row_lanes, own_row = thread() / row_lanes, row_size = head * size, own_from = own_row * row_size + 16 * own_piece, own_to = own_row * stride + 16 * own_piece;
  const bool inside = 16 * own_piece < row_size;
  const i64 to_values = cache.kv_heads * plane;
  const auto fetch = [&](int piece, u8* slot, int until) {
    if (piece < pieces) {
      const int base = (first_step + piece / 2) * step;
      const u8* memory = static_cast<const u8*>(device_pointer(chunks[(base - low) / chunk_positions])) + (piece & 1 ? to_values : 0);
      const u8* from = memory + base % chunk_positions * row_size + own_from;
      u8* to = slot + own_to;
      if (HEAD && !blocks && base + step <= until) {
        SK_UNROLL for (int j = 0; j < step * (HEAD ? HEAD : 1) * size / 16 / attention_threads; ++j) copy_later(to + j * rows_at_once * stride, from + j * rows_at_once * row_size);
      } else if (own_piece < row_pieces) {
        for (int j = own_row; j < step; j += rows_at_once, to += rows_at_once * stride, from += rows_at_once * row_size) {
          if (blocks && base + j < until && inside) *reinterpret_cast<U4*>(to) = eight_of_block(memory, cache.type, head, base % chunk_positions + j, 8 * own_piece);
          else if (base + j < until && inside) copy_later(to, from);
          else if (base + j >= end || !inside) *reinterpret_cast<U4*>(to) = U4{};      // for no weight of 0 may meet what is no number
        }
      }
    }
    close_copies();
  };

  // Keys and values of this pass: computed here, unless store_heads did.
  const int fresh = a.borrows || a.stored || part.start >= end ? end : part.start > begin ? part.start : begin;
  if (!a.stored)
    for (int i = 0; i < a.pieces; ++i) fetch(i, ring + i * piece_size, fresh);
  const int new_heads = 2 * (end - fresh), tasks = new_heads + end_query - first_query;
  struct Task { HeadArgs from; int row, index, position, which; };
  const auto task_of = [&](int i) {
    Task task{a.q, 0, 0, 0, 0};
    if (i < new_heads) {
      task.from = a.k;
      if (i & 1) task.from = a.v;
      task.row = part.first + fresh + i / 2 - part.start, task.index = kv_head, task.position = fresh + i / 2, task.which = i & 1;
    } else {
      const int q = first_query + i - new_heads, row = row_of(q);
      task.row = part.first + row, task.index = kv_head * group + q - row * group, task.position = part.start + (a.borrows ? 0 : row), task.which = i - new_heads;
    }
    return task;
  };
  Head<4 * PARTS> next;
  if (warp < a.preparers && warp < tasks) {
    const Task own = task_of(warp);
    next.load_constants(own.from, own.position, head);
  }
  for (int i = thread(); i < queries; i += attention_threads) {
    const int row = row_of(first_query + i);
    const Visible seen = visible(part, part.start + row, cache.window, a.borrows);
    sees[2 * i] = seen.low, sees[2 * i + 1] = first_query + i < end_query ? seen.high : 0;
  }
  let_next_start();
  wait_for_previous();
  if (a.stored)
    for (int i = 0; i < a.pieces; ++i) fetch(i, ring + i * piece_size, end);
  if (warp < a.preparers && warp < tasks) {
    const Task own = task_of(warp);
    next.load(own.from, own.row, own.index, head);
  }
  float* scratch = reinterpret_cast<float*>(work) + whole * warp;
  for (int i = warp < a.preparers ? warp : tasks; i < tasks; i += a.preparers) {
    const Task own = task_of(i);
    Head<4 * PARTS> now = next;
    if (i + a.preparers < tasks) {
      const Task after = task_of(i + a.preparers);
      next.load_constants(after.from, after.position, head);
      next.load(after.from, after.row, after.index, head);
    }
    now.finish(own.from, head, scratch);
    if (i < new_heads) {
      store_head(cache, part, own.position, kv_head, own.which, scratch);
      const int in_steps = own.position - first_step * step, piece = 2 * (in_steps / step) + own.which;
      u8* to = ring + piece * piece_size + in_steps % step * stride;
      if (piece < a.pieces)
        for (int d = lane; d < head; d += 32) put_cached(to, TYPE, d, scratch[d]);
    } else {
      const int column = own.which / 8, owner = 4 * (own.which % 8);
      for (int d = 2 * lane; d < whole; d += 64) {
        const float unit = TYPE == 1 ? query_unit : 1.0f;
        const Narrow<terms> even(d < head ? mul(scratch[d], unit) : 0.0f), odd(d + 1 < head ? mul(scratch[d + 1], unit) : 0.0f);
        SK_UNROLL for (int i = 0; i < terms; ++i) *Piece::at(query_terms + (column * head_steps + d / 16) * Piece::bytes, i, owner + d % 8 / 2, d / 8 % 2) = even.term[i] | odd.term[i] << 16;
      }
    }
    meet_lanes();
  }
  const float scale = TYPE == 1 ? mul(a.scale, 1.0f / query_unit) : a.scale;
  const Visible whole_tile{latest.low, earliest.high};     // what every row of it sees
  float sum[PARTS][COLUMNS][4] = {}, largest[COLUMNS][2], total[COLUMNS][2] = {};
  SK_UNROLL for (int n = 0; n < COLUMNS; ++n) largest[n][0] = largest[n][1] = -__builtin_inff();
  int keys_slot = 0;                             // of the step's keys; its values are in the next one
  const auto after = [&](int slot, int n) { return slot + n >= a.pieces ? slot + n - a.pieces : slot + n; };
  for (int i = 0; i < steps; ++i) {
    const int base = (first_step + i) * step, to = end - base < step ? end - base : step, values_slot = a.pieces == 1 ? 0 : after(keys_slot, 1);
    // Where values were, another piece comes as soon as all are through with them.
    if (a.pieces == 1 && i) {
      barrier();
      fetch(2 * i, ring, end);
    }
    wait_pieces(a.pieces - 2);
    barrier();
    if (a.pieces > 1 && i) fetch(2 * i - 1 + a.pieces, ring + after(keys_slot, a.pieces - 1) * piece_size, end);
    else if (i == 0) close_copies();
    // Scores of 16 positions.
    const bool active = 16 * tile < to;
    float score[COLUMNS][4];
    {
      float rest[COLUMNS][4] = {};
      SK_UNROLL for (int n = 0; n < COLUMNS; ++n)
        SK_UNROLL for (int c = 0; c < 4; ++c) score[n][c] = 0.0f;
      if (active) {
        const u8* keys = ring + keys_slot * piece_size + 16 * tile * stride;
        SK_UNROLL for (int k = 0; k < most_steps; ++k) {
          const int of_head = most_steps * part_of_head + k;
          if (of_head >= head_steps) break;
          Cached<TYPE> key;
          key.load_keys(keys + 16 * size * of_head, stride);
          SK_UNROLL for (int n = 0; n < COLUMNS; ++n) {
            Piece q;
            q.load(query_terms + (n * head_steps + of_head) * Piece::bytes);
            multiply<TYPE>(score[n], rest[n], key, q);
          }
        }
      }
      SK_UNROLL for (int n = 0; n < COLUMNS; ++n)
        SK_UNROLL for (int c = 0; c < 4; ++c) score[n][c] = add(score[n][c], rest[n][c]);
    }
    if constexpr (PARTS > 1) {                   // columns are shared out among the warps that have parts of the same positions
      F4* exchanged = reinterpret_cast<F4*>(work);
      SK_UNROLL for (int n = 0; n < COLUMNS; ++n)
        exchanged[((part_of_head * tiles + tile) * COLUMNS + n) * 32 + lane] = {score[n][0], score[n][1], score[n][2], score[n][3]};
      barrier();
      SK_UNROLL for (int n = 0; n < COLUMNS; ++n) {
        if (n % PARTS != part_of_head) continue;
        SK_UNROLL for (int p = 0; p < PARTS; ++p) {
          const F4 s = exchanged[((p * tiles + tile) * COLUMNS + n) * 32 + lane];
          if (p == 0) score[n][0] = s.x, score[n][1] = s.y, score[n][2] = s.z, score[n][3] = s.w;
          else score[n][0] = add(score[n][0], s.x), score[n][1] = add(score[n][1], s.y), score[n][2] = add(score[n][2], s.z), score[n][3] = add(score[n][3], s.w);
        }
      }
    }
    const bool masks = base < whole_tile.low || base + step > whole_tile.high;
    SK_UNROLL for (int n = 0; n < COLUMNS; ++n) {
      if (PARTS > 1 && n % PARTS != part_of_head) continue;
      float most[2] = {-__builtin_inff(), -__builtin_inff()};
      SK_UNROLL for (int c = 0; c < 4; ++c) {
        score[n][c] = mul(score[n][c], scale);
        if (masks) {
          const int position = base + 16 * tile + g + 8 * (c >> 1), query = 8 * n + 2 * t + (c & 1);
          if (position < sees[2 * query] || position >= sees[2 * query + 1]) score[n][c] = -__builtin_inff();
        }
        most[c & 1] = larger(score[n][c], most[c & 1]);
      }
      SK_UNROLL for (int c = 0; c < 2; ++c) {
        most[c] = larger(most[c], other_lane<4>(most[c]));
        most[c] = larger(most[c], other_lane<8>(most[c]));
        most[c] = larger(most[c], other_lane<16>(most[c]));
        if (g == 0) told[(8 * n + 2 * t + c) * query_stride + tile] = most[c];
      }
    }
    barrier();
    fetch(2 * i + a.pieces, ring + keys_slot * piece_size, end);
    // Weights by the largest score so far.
    SK_UNROLL for (int n = 0; n < COLUMNS; ++n) {
      float old_factor[2];
      SK_UNROLL for (int c = 0; c < 2; ++c) {
        const float* of_tiles = told + (8 * n + 2 * t + c) * query_stride;
        float now = largest[n][c];
        if constexpr (tiles >= 4)
          SK_UNROLL for (int i = 0; i < tiles; i += 4) {
            const F4 m = *reinterpret_cast<const F4*>(of_tiles + i);
            now = larger(larger(larger(m.x, m.y), larger(m.z, m.w)), now);
          }
        else now = larger(larger(of_tiles[0], of_tiles[1]), now);
        old_factor[c] = now == largest[n][c] ? 1.0f : exponential(add(largest[n][c], -now));
        largest[n][c] = now;
      }
      SK_UNROLL for (int d = 0; d < PARTS; ++d)
        SK_UNROLL for (int c = 0; c < 4; ++c) sum[d][n][c] = mul(sum[d][n][c], old_factor[c & 1]);
      if (PARTS > 1 && n % PARTS != part_of_head) continue;
      float weight[4];
      SK_UNROLL for (int c = 0; c < 4; ++c) weight[c] = score[n][c] == -__builtin_inff() ? 0.0f : exponential(add(score[n][c], -largest[n][c & 1]));
      SK_UNROLL for (int c = 0; c < 2; ++c) total[n][c] = fma(total[n][c], old_factor[c], add(weight[c], weight[c + 2]));
      Piece narrow;
      const Narrow<terms> w0(weight[0]), w1(weight[1]), w2(weight[2]), w3(weight[3]);
      SK_UNROLL for (int i = 0; i < terms; ++i) {
        narrow.word[i][0] = turned(w0.term[i] | w1.term[i] << 16);
        narrow.word[i][1] = turned(w2.term[i] | w3.term[i] << 16);
      }
      narrow.store(work + (n * tiles + tile) * Piece::bytes);
    }
    wait_pieces(a.pieces - 1);
    barrier();
    // Values times weights.
    {
      float rest[PARTS][COLUMNS][4] = {};
      const u8* values = ring + values_slot * piece_size;
      SK_UNROLL for (int k = 0; k < tiles; ++k) {
        if (k % 2 == 0 && 16 * k >= to) break;
        Cached<TYPE> value[PARTS];
        SK_UNROLL for (int d = 0; d < PARTS; ++d)
          if (warp + attention_warps * d < head_steps) value[d].load_values(values + 16 * k * stride + 16 * size * (warp + attention_warps * d), stride);
        SK_UNROLL for (int n = 0; n < COLUMNS; ++n) {
          Piece w;
          w.load(work + (n * tiles + k) * Piece::bytes);
          SK_UNROLL for (int d = 0; d < PARTS; ++d)
            if (warp + attention_warps * d < head_steps) multiply<TYPE>(sum[d][n], rest[d][n], value[d], w);
        }
      }
      SK_UNROLL for (int d = 0; d < PARTS; ++d)
        SK_UNROLL for (int n = 0; n < COLUMNS; ++n)
          SK_UNROLL for (int c = 0; c < 4; ++c) sum[d][n][c] = add(sum[d][n][c], rest[d][n][c]);
    }
    keys_slot = a.pieces == 1 ? 0 : after(keys_slot, 2);
  }
  wait_copies<0>();
  barrier();

  // Results by query, through shared memory.
  float* results = reinterpret_cast<float*>(dynamic_shared());
  const int result_stride = whole + 4;
  SK_UNROLL for (int n = 0; n < COLUMNS; ++n) {
    SK_UNROLL for (int d = 0; d < PARTS; ++d)
      if (warp + attention_warps * d < head_steps)
        SK_UNROLL for (int c = 0; c < 4; ++c) results[(8 * n + 2 * t + (c & 1)) * result_stride + 16 * (warp + attention_warps * d) + g + 8 * (c >> 1)] = sum[d][n][c];
    SK_UNROLL for (int c = 0; c < 2; ++c) {
      const int query = 8 * n + 2 * t + c;
      if (PARTS == 1 || n % PARTS == part_of_head) {
        float own = total[n][c];
        own = add(own, other_lane<4>(own));
        own = add(own, other_lane<8>(own));
        own = add(own, other_lane<16>(own));
        if (g == 0) told[query * query_stride + tile] = own;
      }
      if (warp == 0 && g == 0) told[query * query_stride + 8] = largest[n][c];
    }
  }
  barrier();
  const auto total_of = [&](int query) {
    float sum_of_tiles = told[query * query_stride];
    SK_UNROLL for (int i = 1; i < tiles; ++i) sum_of_tiles = add(sum_of_tiles, told[query * query_stride + i]);
    return sum_of_tiles;
  };
  const int blocks32 = (head + 31) / 32, results32 = (end_query - first_query) * blocks32;
  for (int i = warp; i < results32; i += attention_warps) {
    const int query = i / blocks32, d = 32 * (i % blocks32) + lane, in_part = row_of(first_query + query), row = part.first + in_part, of_heads = kv_head * group + first_query + query - in_part * group;
    const float v = d < head ? results[query * result_stride + d] : 0.0f;
    if (all.count == 1 && a.joins) {
      finish_value(a, row, of_heads, d, d < head, mul(v, divide(1.0f, total_of(query))));
      continue;
    }
    const Splits own = splits_of(a, {sees[2 * query], sees[2 * query + 1]});
    if (split < own.first || split >= own.first + own.count) continue;
    float* partial = partial_of(a, row, of_heads) + i64(split - own.first) * (head + 2);
    if (d < head) partial[d] = v;
    if (d == 0) partial[head] = told[query * query_stride + 8], partial[head + 1] = total_of(query);
  }
  if (all.count == 1 || !a.joins) return;
  share_writes();
  barrier();
  if (thread() == 0) *is_last = arrives_last(a.arrived + (part_index * a.tiles + query_tile) * cache.kv_heads + kv_head, all.count);
  barrier();
  if (!*is_last) return;
  for (int i = warp; i < results32; i += attention_warps) {
    const int query = first_query + i / blocks32, row = row_of(query);
    join(a, part.first + row, kv_head * group + query - row * group, 32 * (i % blocks32));
  }
}

#define ATTENTION(name, blocks, ...) SK_KERNEL(256, blocks) attention_##name(AttentionArgs a) { attend<__VA_ARGS__>(a); }
// name: f16 with heads of 128, 256, else heads up to 128, 256, 512 in f16, bf16, f32, blocks; then groups of 8 queries. The host chooses (program.cpp).
ATTENTION(128_f16_1, 2, 1, 128, 1, 1)
ATTENTION(to_512_f16_1, 1, 4, 0, 1, 1)
ATTENTION(to_128_f16_4, 2, 1, 0, 1, 4)
ATTENTION(to_128_blocks_4, 1, 1, 0, 3, 4)
ATTENTION(to_128_bf16_4, 1, 1, 0, 2, 4)
// Not where a block has 64 KiB of shared memory.
#if !SK_AMD && !(defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750)
ATTENTION(128_f16_4, 2, 1, 128, 1, 4)
ATTENTION(128_f16_8, 1, 1, 128, 1, 8)
ATTENTION(256_f16_1, 2, 2, 256, 1, 1)
ATTENTION(256_f16_4, 1, 2, 256, 1, 4)
ATTENTION(256_f16_8, 1, 2, 256, 1, 8)
ATTENTION(to_256_f16_4, 1, 2, 0, 1, 4)
ATTENTION(to_512_f16_4, 1, 4, 0, 1, 4)
ATTENTION(to_256_blocks_4, 1, 2, 0, 3, 4)
ATTENTION(to_512_blocks_4, 1, 4, 0, 3, 4)
ATTENTION(to_256_bf16_4, 1, 2, 0, 2, 4)
ATTENTION(to_512_bf16_4, 1, 4, 0, 2, 4)
ATTENTION(to_128_f32_4, 1, 1, 0, 0, 4)
ATTENTION(to_256_f32_4, 1, 2, 0, 0, 4)
ATTENTION(to_512_f32_4, 1, 4, 0, 0, 4)
#endif
// Where a block has at most 99 KiB, four groups are too many for some.
#if SK_AMD || SK_EMULATED || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ == 750 || __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
ATTENTION(to_128_f16_1, 1, 1, 0, 1, 1)
ATTENTION(to_256_f16_1, 1, 2, 0, 1, 1)
ATTENTION(to_128_blocks_1, 1, 1, 0, 3, 1)
ATTENTION(to_256_blocks_1, 1, 2, 0, 3, 1)
ATTENTION(to_512_blocks_1, 1, 4, 0, 3, 1)
ATTENTION(to_128_bf16_1, 1, 1, 0, 2, 1)
ATTENTION(to_256_bf16_1, 1, 2, 0, 2, 1)
ATTENTION(to_512_bf16_1, 1, 4, 0, 2, 1)
ATTENTION(to_128_f32_1, 1, 1, 0, 0, 1)
ATTENTION(to_256_f32_1, 1, 2, 0, 0, 1)
#endif
#undef ATTENTION

}  // namespace skipstone::gpu
