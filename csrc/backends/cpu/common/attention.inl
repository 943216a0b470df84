// Attention over one chunk of 256 cached positions, and the join of chunks.
// Chunks lie at multiples of 256 from position 0 and are joined in order, whoever computes them; within one, every sum follows the positions.
// Two queries at a time share each widened value; caches in blocks of 32 values are widened 32 positions at a time, for all queries.
// Bytes: keys and values once; operations: 2 fma a query and value. A chunk is too short for the processor to find out by itself what comes next, so memory is
// asked for line by line, 32 positions ahead; many lines at once would not do, as the processor drops what it cannot hold.

static inline f32x8 load_cached(const float* p) { return load(p); }
struct Half { uint16_t bits; };
static inline f32x8 load_cached(const Half* p) { return load_f16(&p->bits); }
struct Brain { uint16_t bits; };
static inline f32x8 load_cached(const Brain* p) { return load_bf16(&p->bits); }

// Blocks of 32 values, which are widened for any number of queries.
struct EightBits { uint16_t scale; int8_t q[32]; };
struct FourBits { uint16_t scale; uint8_t q[16]; };             // q - 8; the low halves come first
template <class T> static constexpr int64_t cached_together = 1;
template <> constexpr int64_t cached_together<EightBits> = kv_block_values;
template <> constexpr int64_t cached_together<FourBits> = kv_block_values;

static inline f32x8 spread_half(uint16_t bits) {
  const uint16_t eight[8] = {bits, bits, bits, bits, bits, bits, bits, bits};
  return load_f16(eight);
}
static inline void widen(const EightBits* block, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kv_block_values, ++block) {
    const f32x8 d = spread_half(block->scale);
    for (int j = 0; j < 4; ++j) store(to + i + 8 * j, mul(load_i8(block->q + 8 * j), d));
  }
}
static inline void widen(const FourBits* block, int64_t n, float* to) {
  const f32x8 eight = broadcast(8.0f);
  for (int64_t i = 0; i < n; i += kv_block_values, ++block) {
    const f32x8 d = spread_half(block->scale);
    for (int j = 0; j < 2; ++j) {
      store(to + i + 8 * j, mul(sub(eight_low_nibbles(block->q + 8 * j), eight), d));
      store(to + i + 16 + 8 * j, mul(sub(eight_high_nibbles(block->q + 8 * j), eight), d));
    }
  }
}
template <class T> static inline void widen(const T* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += 8) store(to + i, load_cached(from + i));
}

// Scores of QUERIES queries against eight cached keys; which queries run together changes no bit of them. Where ASK, memory is asked for the eight positions at `next`.
template <int QUERIES, bool ASK, class T>
[[gnu::always_inline]] static inline void eight_scores(const float* const* q, const T* keys, int64_t head, float scale, float* const* scores, const T* next) {
  f32x8 dots[QUERIES][8];
#pragma GCC unroll 2
  for (int start = 0; start < 8; start += 4) {
    f32x8 acc[QUERIES][4];
#pragma GCC unroll 2
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) acc[i][p] = broadcast(0.0f);
    const T* k = keys + start * head;
    for (int64_t d = 0; d < head; d += 8) {
      if constexpr (ASK)
        for (int64_t line = 0; line < 32; line += 64 / static_cast<int64_t>(sizeof(T))) prefetch(next + start * head + 4 * d + line);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) {
        f32x8 key = kept(load_cached(k + p * head + d));
#pragma GCC unroll 2
        for (int i = 0; i < QUERIES; ++i) acc[i][p] = fma(load(q[i] + d), key, acc[i][p]);
      }
    }
#pragma GCC unroll 2
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) dots[i][start + p] = acc[i][p];
  }
  for (int i = 0; i < QUERIES; ++i) store(scores[i], mul(sums(dots[i]), broadcast(scale)));
}

// value += sum over the positions from..to-1 of weight * value row, position after position. Where ASK, memory is asked for the 32 positions at `next`.
template <int QUERIES, int VECTORS, bool ASK, class T>
[[gnu::always_inline]] static inline void weighted_sum(const float* const* weights, const T* values, int64_t head, int64_t from, int64_t to, float* const* value, int64_t d, const T* next) {
  f32x8 acc[QUERIES][VECTORS];
#pragma GCC unroll 2
  for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) acc[i][v] = load(value[i] + d + 8 * v);
  for (int64_t j = from; j < to; ++j) {
    if constexpr (ASK)
      for (int64_t line = 0; line < 8 * VECTORS; line += 64 / static_cast<int64_t>(sizeof(T))) prefetch(next + 32 * d + 8 * VECTORS * j + line);
    f32x8 row[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) row[v] = kept(load_cached(values + j * head + d + 8 * v));
#pragma GCC unroll 2
    for (int i = 0; i < QUERIES; ++i) {
      f32x8 p = broadcast(weights[i][j]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) acc[i][v] = fma(p, row[v], acc[i][v]);
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) store(value[i] + d + 8 * v, acc[i][v]);
}

template <int QUERIES, bool ASK, class T>
[[gnu::always_inline]] static inline void weighted_sums(const float* const* weights, const T* values, int64_t head, int64_t from, int64_t to, float* const* value, const T* next) {
  int64_t d = 0;
  for (; d + 32 <= head; d += 32) weighted_sum<QUERIES, 4, ASK>(weights, values, head, from, to, value, d, next);
  for (; d < head; d += 8) weighted_sum<QUERIES, 1, ASK>(weights, values, head, from, to, value, d, next);
}

// Scores become weights exp(score - largest); positions that the query does not see weigh exactly nothing.
static inline void weigh(float* s, int32_t first, int32_t last, float* largest, float* total) {
  *largest = -__builtin_inff();
  *total = 0.0f;
  if (first >= last) return;
  const int32_t start = first / 8 * 8, end = (last + 7) / 8 * 8;
  for (int32_t j = start; j < first; ++j) s[j] = -__builtin_inff();
  for (int32_t j = last; j < end; ++j) s[j] = -__builtin_inff();
  f32x8 most = load(s + start);
  for (int32_t j = start + 8; j < end; j += 8) most = max(load(s + j), most);
  *largest = max_lane(most);
  f32x8 sums_of_lanes = broadcast(0.0f);
  for (int32_t j = start; j < end; j += 8) {
    store(s + j, exponential(sub(load(s + j), broadcast(*largest))));
    if (j < first) for (int32_t i = j; i < first; ++i) s[i] = 0.0f;
    if (j + 8 > last) for (int32_t i = last; i < j + 8; ++i) s[i] = 0.0f;
    sums_of_lanes = add(sums_of_lanes, load(s + j));
  }
  *total = sum(sums_of_lanes);
}

template <class T> static inline void attend_to(const AttentionCall& c, const T* keys, const T* values) {
  const int64_t head = c.head;
  float* block = c.scratch + c.queries * chunk_positions;
  int32_t low = chunk_positions, high = 0;
  for (int64_t i = 0; i < c.queries; ++i) {
    if (c.first[i] >= c.last[i]) continue;
    low = c.first[i] < low ? c.first[i] : low;
    high = c.last[i] > high ? c.last[i] : high;
  }
  auto scores_of = [&](int64_t i) { return c.scratch + i * chunk_positions; };
  auto score = [&](const auto* of, int64_t start) {             // of: 32 keys
    for (int64_t i = 0; i < c.queries; i += 2)
      for (int64_t j = start; j < start + 32; j += 8) {
        auto needs = [&](int64_t n) { return n < c.queries && j < c.last[n] && j + 8 > c.first[n]; };
        const float* q[2];
        float* scores[2];
        int count = 0;
        for (int64_t n = i; n < i + 2; ++n)
          if (needs(n)) q[count] = c.q + c.offset[n], scores[count++] = scores_of(n) + j;
        const auto* eight = of + (j - start) * head;
        if constexpr (cached_together<T> == 1)
          if (i == 0) {                                          // the first values follow the last keys
            const T* next = j + 32 < high ? keys + (j + 32) * head : values + (low / 32 * 32 + j % 32) * head;
            if (count == 2) eight_scores<2, true>(q, eight, head, c.scale, scores, next);
            else if (count == 1) eight_scores<1, true>(q, eight, head, c.scale, scores, next);
            continue;
          }
        if (count == 2) eight_scores<2, false>(q, eight, head, c.scale, scores, eight);
        else if (count == 1) eight_scores<1, false>(q, eight, head, c.scale, scores, eight);
      }
  };
  for (int64_t start = low / 32 * 32; start < high; start += 32) {
    if constexpr (cached_together<T> == 1) {
      score(keys + start * head, start);
    } else {
      widen(keys + start * head / cached_together<T>, 32 * head, block);
      score(block, start);
    }
  }
  for (int64_t i = 0; i < c.queries; ++i) {
    for (int64_t d = 0; d < head; d += 8) store(c.value + i * head + d, broadcast(0.0f));
    weigh(scores_of(i), c.first[i], c.last[i], c.largest + i, c.total + i);
  }
  auto sum_up = [&](const auto* of, int64_t start) {            // of: 32 values
    auto range = [&](int64_t i, int64_t& from, int64_t& to) {
      from = c.first[i] > start ? c.first[i] - start : 0;
      to = c.last[i] < start + 32 ? c.last[i] - start : 32;
    };
    const auto* next = of;
    bool ask = false;
    if constexpr (cached_together<T> == 1) {
      ask = start + 32 < high;
      next = of + 32 * head;
    }
    for (int64_t i = 0; i < c.queries;) {
      int64_t from, to, next_from = -1, next_to = -1;
      range(i, from, to);
      if (i + 1 < c.queries) range(i + 1, next_from, next_to);
      const float* weights[2] = {scores_of(i) + start, scores_of(i + 1) + start};
      float* value[2] = {c.value + i * head, c.value + (i + 1) * head};
      if (from == next_from && to == next_to) {                  // heads of one row, rows well before the end
        if (from < to && ask) weighted_sums<2, true>(weights, of, head, from, to, value, next);
        else if (from < to) weighted_sums<2, false>(weights, of, head, from, to, value, next);
        ask = ask && from >= to;
        i += 2;
      } else {
        if (from < to && ask) weighted_sums<1, true>(weights, of, head, from, to, value, next);
        else if (from < to) weighted_sums<1, false>(weights, of, head, from, to, value, next);
        ask = ask && from >= to;
        ++i;
      }
    }
  };
  for (int64_t start = low / 32 * 32; start < high; start += 32) {
    if constexpr (cached_together<T> == 1) {
      sum_up(values + start * head, start);
    } else {
      widen(values + start * head / cached_together<T>, 32 * head, block);
      sum_up(block, start);
    }
  }
}

static void attention_chunk(const AttentionCall& c) {
  switch (c.type) {
    case KvType::f16: return attend_to(c, static_cast<const Half*>(c.keys), static_cast<const Half*>(c.values));
    case KvType::bf16: return attend_to(c, static_cast<const Brain*>(c.keys), static_cast<const Brain*>(c.values));
    case KvType::f32: return attend_to(c, static_cast<const float*>(c.keys), static_cast<const float*>(c.values));
    case KvType::q8_0: return attend_to(c, static_cast<const EightBits*>(c.keys), static_cast<const EightBits*>(c.values));
    case KvType::q4_0: return attend_to(c, static_cast<const FourBits*>(c.keys), static_cast<const FourBits*>(c.values));
  }
}

static void attention_join(float* a_largest, float* a_total, float* a_value, float b_largest, float b_total, const float* b_value, int64_t head) {
  if (b_total == 0.0f) return;
  if (*a_total == 0.0f) {
    *a_largest = b_largest;
    *a_total = b_total;
    for (int64_t d = 0; d < head; d += 8) store(a_value + d, load(b_value + d));
    return;
  }
  float largest = *a_largest > b_largest ? *a_largest : b_largest;
  f32x8 keep = exponential(broadcast(*a_largest - largest)), take = exponential(broadcast(b_largest - largest));
  *a_largest = largest;
  *a_total = __builtin_fmaf(b_total, lane0(take), *a_total * lane0(keep));
  for (int64_t d = 0; d < head; d += 8) store(a_value + d, fma(load(b_value + d), take, mul(load(a_value + d), keep)));
}
