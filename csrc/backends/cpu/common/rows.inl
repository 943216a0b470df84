// Operations that touch one row at a time: norms, rotary embedding, gates, sums, quantization of activations.

static void rms_norm(const float* x, const float* weight, float* y, int64_t width, int64_t group, float eps) {
  for (int64_t g = 0; g < width; g += group) {
    float mean = sum_of_products(x + g, x + g, group) / static_cast<float>(group);
    f32x8 factor = broadcast(1.0f / __builtin_sqrtf(mean + eps));
    if (weight)
      map_vectors(x + g, y + g, group, [&](int64_t i, f32x8 v) { return mul(mul(v, factor), load_some(weight + i, group - i)); });
    else
      map_vectors(x + g, y + g, group, [&](int64_t, f32x8 v) { return mul(v, factor); });
  }
}

// Pairs (j, j + rotated/2) of every head turn by the angles whose cosines and sines are given; the rest passes through.
static void rope(const float* x, float* y, int64_t heads, int64_t head, int64_t rotated, const float* cosine, const float* sine) {
  const int64_t half = rotated / 2;
  for (int64_t h = 0; h < heads; ++h, x += head, y += head) {
    int64_t j = 0;
    for (; j + 8 <= half; j += 8) {
      f32x8 a = load(x + j), b = load(x + half + j), c = load(cosine + j), s = load(sine + j);
      f32x8 bs = mul(b, s), as = mul(a, s);
      store(y + j, sub(mul(a, c), bs));
      store(y + half + j, add(mul(b, c), as));
    }
    for (; j < half; ++j) {
      float a = x[j], b = x[half + j];
      float ac = a * cosine[j], bs = b * sine[j], bc = b * cosine[j], as = a * sine[j];
      y[j] = ac - bs;
      y[half + j] = bc + as;
    }
    if (x != y) for (j = rotated; j < head; ++j) y[j] = x[j];
  }
}

static void silu_gate(const float* gate, const float* up, float* y, int64_t n) {
  map_vectors(gate, y, n, [&](int64_t i, f32x8 g) { return mul(mul(g, sigmoid(g)), load_some(up + i, n - i)); });
}

// gelu in its tanh form; 0.5 (1 + tanh u) = sigmoid(2u).
static void gelu_gate(const float* gate, const float* up, float* y, int64_t n) {
  map_vectors(gate, y, n, [&](int64_t i, f32x8 g) {
    f32x8 inner = mul(g, fma(mul(g, g), broadcast(2.0f * 0.7978845608f * 0.044715f), broadcast(2.0f * 0.7978845608f)));
    return mul(mul(g, sigmoid(inner)), load_some(up + i, n - i));
  });
}

static void sigmoid_gate(const float* x, const float* gate, float* y, int64_t n) {
  map_vectors(x, y, n, [&](int64_t i, f32x8 v) { return mul(v, sigmoid(load_some(gate + i, n - i))); });
}

static void add_rows(const float* a, const float* b, float* y, int64_t n, float factor) {
  if (factor == 1.0f)
    map_vectors(a, y, n, [&](int64_t i, f32x8 v) { return add(v, load_some(b + i, n - i)); });
  else
    map_vectors(a, y, n, [&](int64_t i, f32x8 v) { return mul(add(v, load_some(b + i, n - i)), broadcast(factor)); });
}

static void scale_row(const float* x, float* y, int64_t n, float factor) {
  map_vectors(x, y, n, [&](int64_t, f32x8 v) { return mul(v, broadcast(factor)); });
}

// cap * tanh(x / cap)
static void softcap(const float* x, float* y, int64_t n, float cap) {
  map_vectors(x, y, n, [&](int64_t, f32x8 v) {
    f32x8 e = exponential(mul(v, broadcast(2.0f / cap)));
    return mul(broadcast(cap), sub(broadcast(1.0f), div(broadcast(2.0f), add(e, broadcast(1.0f)))));
  });
}

static float largest(const float* x, int64_t n) {
  f32x8 most = broadcast(-__builtin_inff());
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) most = max(load(x + i), most);       // max keeps its second operand where the first is no number
  float m = max_lane(most);
  for (; i < n; ++i) m = x[i] > m ? x[i] : m;
  return m;
}

// Blocks of 32: scale = largest magnitude / 127, q = x / scale rounded half to even. A block too small for its scale's reciprocal counts as zero.
static void quantize(const float* x, int64_t n, QuantizedRow out) {
  for (int64_t b = 0; b < n / 32; ++b) {
    f32x8 v[4];
    for (int i = 0; i < 4; ++i) v[i] = load(x + 32 * b + 8 * i);
    float largest = max_lane(max(max(abs(v[0]), abs(v[1])), max(abs(v[2]), abs(v[3]))));
    const bool counts = largest > 1e-30f;
    const f32x8 inverse = broadcast(counts ? 127.0f / largest : 0.0f);
    const float scale = counts ? largest / 127.0f : 0.0f;
    for (int i = 0; i < 4; ++i) v[i] = round_even(mul(v[i], inverse));
    store_i8(out.q + 32 * b, v);
    // Sums of whole numbers this small are exact in float32, in any order.
    const float low = sum(add(v[0], v[1])), high = sum(add(v[2], v[3]));
    out.scale[b] = scale;
    out.sum[b] = scale * (low + high);
    out.half_sum[2 * b] = scale * low;
    out.half_sum[2 * b + 1] = scale * high;
    // Negated as floats: rows that are no numbers (a hostile model's) become INT32_MIN, which has no negative.
    out.minus[b] = static_cast<int32_t>(-(low + high));
    out.half_minus[2 * b] = static_cast<int32_t>(-low);
    out.half_minus[2 * b + 1] = static_cast<int32_t>(-high);
  }
}

// Blocks of 32 as GGUF has them: a scale in half precision, and q = x / scale rounded half to even. Q4_0's scale is that at which the value of
// largest magnitude is -8.
static void store_kv_blocks(const float* x, uint8_t* out, KvType type, int64_t n) {
  for (int64_t b = 0; b < n; b += kv_block_values, x += kv_block_values) {
    f32x8 v[4];
    for (int i = 0; i < 4; ++i) v[i] = load(x + 8 * i);
    const float above = max_lane(max(max(v[0], v[1]), max(v[2], v[3]))), below = max_lane(max(max(sub(broadcast(0.0f), v[0]), sub(broadcast(0.0f), v[1])), max(sub(broadcast(0.0f), v[2]), sub(broadcast(0.0f), v[3]))));
    const float largest = above > below ? above : below, most = 65504.0f;
    float d = type == KvType::q8_0 ? largest / 127.0f : (above > below ? above : -below) / -8.0f;
    d = d > most ? most : d < -most ? -most : d;
    uint16_t bits[8];
    store_f16(bits, broadcast(d));
    d = lane0(load_f16(bits));
    const f32x8 inverse = broadcast(d == 0.0f ? 0.0f : 1.0f / d);
    __builtin_memcpy(out, bits, 2);
    out += 2;
    if (type == KvType::q8_0) {
      for (int i = 0; i < 4; ++i) v[i] = max(min(round_even(mul(v[i], inverse)), broadcast(127.0f)), broadcast(-127.0f));
      store_i8(reinterpret_cast<int8_t*>(out), v);
      out += 32;
    } else {
      for (int i = 0; i < 4; ++i) v[i] = max(min(add(round_even(mul(v[i], inverse)), broadcast(8.0f)), broadcast(15.0f)), broadcast(0.0f));
      int8_t q[32];
      store_i8(q, v);
      for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>(q[i] | q[i + 16] << 4);
      out += 16;
    }
  }
}

static void store_kv(const float* x, void* out, KvType type, int64_t n) {
  if (in_blocks(type)) return store_kv_blocks(x, static_cast<uint8_t*>(out), type, n);
  for (int64_t i = 0; i < n; i += 8) {
    f32x8 v = load(x + i);
    if (type == KvType::f16) store_f16(static_cast<uint16_t*>(out) + i, v);
    else if (type == KvType::bf16) store_bf16(static_cast<uint16_t*>(out) + i, v);
    else store(static_cast<float*>(out) + i, v);
  }
}
