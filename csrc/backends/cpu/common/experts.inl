// What a mixture of experts does beside its matmuls: choosing the experts of a row, and adding up what they gave.

static void choose_experts(const float* logits, int64_t n, int64_t used, bool normalize, int32_t* chosen, float* share) {
  // `chosen` stays sorted. What is no number sinks to the end, and any other logit takes its place.
  int64_t held = 0;
  for (int64_t e = 0; e < n; ++e) {
    auto goes_before = [&](int32_t other) { return logits[e] > logits[other] || (logits[other] != logits[other] && logits[e] == logits[e]); };
    if (held == used && !goes_before(chosen[used - 1])) continue;
    int64_t at = held < used ? held++ : used - 1;
    for (; at > 0 && goes_before(chosen[at - 1]); --at) chosen[at] = chosen[at - 1];
    chosen[at] = static_cast<int32_t>(e);
  }
  const f32x8 top = broadcast(logits[chosen[0]]);
  float total = 0;
  for (int64_t i = 0; i < used; i += 8) {
    float z[8] = {};
    for (int64_t j = i; j < used && j < i + 8; ++j) z[j - i] = logits[chosen[j]];
    store(z, exponential(sub(load(z), top)));
    for (int64_t j = i; j < used && j < i + 8; ++j) total += share[j] = z[j - i];
  }
  if (!normalize) {
    f32x8 sums = broadcast(0.0f);
    int64_t e = 0;
    for (; e + 8 <= n; e += 8) sums = add(sums, exponential(sub(load(logits + e), top)));
    total = sum(sums);
    if (e < n) {
      float rest[8];
      store(rest, exponential(sub(load_some(logits + e, n - e), top)));
      for (int64_t j = e; j < n; ++j) total += rest[j - e];
    }
  }
  for (int64_t i = 0; i < used; ++i) share[i] /= total;
}

static void weighted_sum(const float* const x[], const float* factors, int64_t count, float* y, int64_t n) {
  int64_t j = 0;
  for (; j + 8 <= n; j += 8) {
    f32x8 total = mul(load(x[0] + j), broadcast(factors[0]));
    for (int64_t i = 1; i < count; ++i) total = fma(load(x[i] + j), broadcast(factors[i]), total);
    store(y + j, total);
  }
  if (j == n) return;
  float rest[8];
  f32x8 total = mul(load_some(x[0] + j, n - j), broadcast(factors[0]));
  for (int64_t i = 1; i < count; ++i) total = fma(load_some(x[i] + j, n - j), broadcast(factors[i]), total);
  store(rest, total);
  for (int64_t k = j; k < n; ++k) y[k] = rest[k - j];
}
