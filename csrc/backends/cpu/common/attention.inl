// Attention over one chunk of 256 cached positions, and the join of chunks.
// Chunks lie at multiples of 256 from position 0 and are joined in order, whoever computes them; within one, every sum follows the positions.
// A block of 32 positions is widened to float32 once and serves all queries, so k rows and all heads of a group share one read of the cache.

static inline f32x8 load_kv(const void* p, KvType type, int64_t i) {
  if (type == KvType::f16) return load_f16(static_cast<const uint16_t*>(p) + i);
  if (type == KvType::bf16) return load_bf16(static_cast<const uint16_t*>(p) + i);
  return load(static_cast<const float*>(p) + i);
}

static inline void widen(const void* from, KvType type, int64_t at, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += 8) store(to + i, load_kv(from, type, at + i));
}

static void attention_chunk(const AttentionCall& c) {
  const int64_t head = c.head;
  float* scores = c.scratch;
  float* block = c.scratch + c.queries * chunk_positions;
  int32_t low = chunk_positions, high = 0;
  for (int64_t i = 0; i < c.queries; ++i) {
    if (c.first[i] >= c.last[i]) continue;
    low = c.first[i] < low ? c.first[i] : low;
    high = c.last[i] > high ? c.last[i] : high;
  }
  for (int64_t start = low / 32 * 32; start < high; start += 32) {
    widen(c.keys, c.type, start * head, 32 * head, block);
    for (int64_t i = 0; i < c.queries; ++i) {
      const float* q = c.q + c.offset[i];
      for (int64_t j = start; j < start + 32; j += 8) {
        if (j >= c.last[i] || j + 8 <= c.first[i]) continue;
        f32x8 dot[8];
        for (int p = 0; p < 8; ++p) dot[p] = broadcast(0.0f);
        const float* k = block + (j - start) * head;
        for (int64_t d = 0; d < head; d += 8) {
          f32x8 x = load(q + d);
          for (int p = 0; p < 8; ++p) dot[p] = fma(x, load(k + p * head + d), dot[p]);
        }
        store(scores + i * chunk_positions + j, mul(sums(dot), broadcast(c.scale)));
      }
    }
  }
  for (int64_t i = 0; i < c.queries; ++i) {
    float* s = scores + i * chunk_positions;
    float* value = c.value + i * head;
    for (int64_t d = 0; d < head; d += 8) store(value + d, broadcast(0.0f));
    c.total[i] = 0.0f;
    c.largest[i] = -__builtin_inff();
    const int32_t first = c.first[i], last = c.last[i];
    if (first >= last) continue;
    float largest = s[first];
    for (int32_t j = first + 1; j < last; ++j) largest = s[j] > largest ? s[j] : largest;
    // Positions that this query does not see weigh exactly nothing: their lanes are set to zero, after exp.
    f32x8 total = broadcast(0.0f);
    for (int32_t j = first / 8 * 8; j < last; j += 8) {
      float e[8];
      store(e, exponential(sub(load(s + j), broadcast(largest))));
      for (int p = 0; p < 8; ++p) s[j + p] = j + p >= first && j + p < last ? e[p] : 0.0f;
      total = add(total, load(s + j));
    }
    c.largest[i] = largest;
    c.total[i] = sum(total);
  }
  for (int64_t start = low / 32 * 32; start < high; start += 32) {
    widen(c.values, c.type, start * head, 32 * head, block);
    for (int64_t i = 0; i < c.queries; ++i) {
      const float* s = c.scratch + i * chunk_positions;
      const int64_t from = c.first[i] > start ? c.first[i] : start, to = c.last[i] < start + 32 ? c.last[i] : start + 32;
      if (from >= to) continue;
      float* value = c.value + i * head;
      int64_t d = 0;
      for (; d + 32 <= head; d += 32) {
        f32x8 a0 = load(value + d), a1 = load(value + d + 8), a2 = load(value + d + 16), a3 = load(value + d + 24);
        for (int64_t j = from; j < to; ++j) {
          const float* v = block + (j - start) * head + d;
          f32x8 p = broadcast(s[j]);
          a0 = fma(p, load(v), a0);
          a1 = fma(p, load(v + 8), a1);
          a2 = fma(p, load(v + 16), a2);
          a3 = fma(p, load(v + 24), a3);
        }
        store(value + d, a0);
        store(value + d + 8, a1);
        store(value + d + 16, a2);
        store(value + d + 24, a3);
      }
      for (; d < head; d += 8) {
        f32x8 a = load(value + d);
        for (int64_t j = from; j < to; ++j) a = fma(broadcast(s[j]), load(block + (j - start) * head + d), a);
        store(value + d, a);
      }
    }
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
