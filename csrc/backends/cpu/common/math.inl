// exp and what is made of it, eight at a time: the same polynomial on every instruction set.

// exp(x) within 1.2e-7 relative; below -87 it stays at the smallest normal number, above 88 at the largest power. Not-a-number passes through.
static inline f32x8 exponential(f32x8 x) {
  x = min(broadcast(88.0f), max(broadcast(-87.3f), x));
  f32x8 n = round_even(mul(x, broadcast(1.44269504f)));
  f32x8 r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  f32x8 p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), broadcast(1.0f));
  return mul(p, power_of_two(n));
}

static inline f32x8 sigmoid(f32x8 x) {
  return div(broadcast(1.0f), add(broadcast(1.0f), exponential(sub(broadcast(0.0f), x))));
}

// Calls body(index, vector of x) over n values; the last vector may hold fewer, the rest of it is zero.
template <class Body> static inline void map_vectors(const float* x, float* y, int64_t n, Body body) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) store(y + i, body(i, load(x + i)));
  if (i < n) {
    float tail[8] = {};
    for (int64_t j = i; j < n; ++j) tail[j - i] = x[j];
    float out[8];
    store(out, body(i, load(tail)));
    for (int64_t j = i; j < n; ++j) y[j] = out[j - i];
  }
}

// Up to eight values from p, zero beyond n.
static inline f32x8 load_some(const float* p, int64_t n) {
  if (n >= 8) return load(p);
  float part[8] = {};
  for (int64_t j = 0; j < n; ++j) part[j] = p[j];
  return load(part);
}

// Four chains, as one would wait for itself.
static inline float sum_of_products(const float* a, const float* b, int64_t n) {
  f32x8 total[4];
  for (f32x8& t : total) t = broadcast(0.0f);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) total[j] = fma(load(a + i + 8 * j), load(b + i + 8 * j), total[j]);
  for (; i < n; i += 8) total[0] = fma(load_some(a + i, n - i), load_some(b + i, n - i), total[0]);
  return sum(add(add(total[0], total[1]), add(total[2], total[3])));
}
