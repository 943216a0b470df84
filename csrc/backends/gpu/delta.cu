// Gated delta-net of one value head of one sequence, token by token (csrc/backends/cpu/common/delta_rule.inl has the algebra). A thread owns columns of
// the state and one of four stretches of its rows; the stretches' sums are added in order. The last tokens' updates are kept aside as (gamma, k, delta),
// so that rejected drafts leave no trace.
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

constexpr int delta_columns = 128, delta_stretches = 4;

// S <- gamma S + k delta^T (delta null: S stays), and from the new S: sk = S^T k2, sq = S^T q2 (k2 null: not wanted).
SK_DEVICE void sweep(float* to, const float* from, int head, float gamma, const float* k, const float* delta, const float* k2, const float* q2, float* sk, float* sq) {
  const int stretch = thread() / delta_columns, begin = head * stretch / delta_stretches, end = head * (stretch + 1) / delta_stretches;
  for (int c = thread() % delta_columns; c < head; c += delta_columns) {
    const float d = delta ? delta[c] : 0.0f;
    float a = 0.0f, b = 0.0f;
    SK_UNROLL_8 for (int i = begin; i < end; ++i) {
      float s = from[i * head + c];
      if (delta) to[i * head + c] = s = fma(k[i], d, mul(gamma, s));
      if (k2) a = fma(s, k2[i], a), b = fma(s, q2[i], b);
    }
    sk[stretch * 512 + c] = a;
    sq[stretch * 512 + c] = b;
  }
  barrier();
}

SK_KERNEL(512, 1) delta_rule(DeltaArgs a) {
  SK_SHARED(float, sk, delta_stretches * 512);
  SK_SHARED(float, sq, delta_stretches * 512);
  let_next_start();
  wait_for_previous();
  const int head = a.head, h = block() % a.value_heads, which = block() / a.value_heads;
  const PartRecord& part = a.pass.parts[which];
  float* layer = part.delta + a.offset;
  float* matrix = layer + i64(h) * head * head;
  float* gammas = layer + i64(a.value_heads) * head * head + h * step_back_rows;
  float* ks = layer + i64(a.value_heads) * (head * head + step_back_rows) + i64(h) * step_back_rows * head;
  float* deltas = ks + i64(a.value_heads) * step_back_rows * head;
  float* work = a.work + i64(block()) * head * head;
  const int keys = a.key_heads * head, values = a.value_heads * head, keep = part.rows < step_back_rows ? part.rows : step_back_rows;
  const float* q = a.mixed + i64(part.first) * a.channels + a.key_of_value[h] * head;
  const float* k = q + keys;
  const float* v = a.mixed + i64(part.first) * a.channels + 2 * keys + h * head;
  float* delta = a.delta + i64(part.first) * values + h * head;
  float* y = a.y + i64(part.first) * values + h * head;
  const float* gate = a.gates + i64(part.first) * 2 * a.value_heads + h;

  for (int i = 0; i + 1 < part.pending; ++i) sweep(matrix, matrix, head, gammas[i], ks + i * head, deltas + i * head, nullptr, nullptr, sk, sq);
  const float* state = matrix;
  for (int r = 0; r < part.rows; ++r) {
    if (r == 0 && part.pending) {
      const int i = part.pending - 1;
      sweep(matrix, matrix, head, gammas[i], ks + i * head, deltas + i * head, k, q, sk, sq);
    } else if (r == 0) {
      sweep(matrix, matrix, head, 1.0f, nullptr, nullptr, k, q, sk, sq);
    } else {
      float* to = r - 1 < part.rows - keep ? matrix : work;
      sweep(to, state, head, gate[i64(r - 1) * 2 * a.value_heads], k + i64(r - 1) * a.channels, delta + i64(r - 1) * values, k + i64(r) * a.channels, q + i64(r) * a.channels, sk, sq);
      state = to;
    }
    const float* kr = k + i64(r) * a.channels;
    const float* qr = q + i64(r) * a.channels;
    const float gamma = gate[i64(r) * 2 * a.value_heads], beta = gate[i64(r) * 2 * a.value_heads + a.value_heads];
    float kq = 0.0f;                             // every warp for itself
    for (int i = thread() & 31; i < head; i += 32) kq = fma(kr[i], qr[i], kq);
    kq = sum_lanes(kq);
    for (int c = thread(); c < head; c += 512) {
      float from_k = sk[c], from_q = sq[c];
      for (int s = 1; s < delta_stretches; ++s) from_k = add(from_k, sk[s * 512 + c]), from_q = add(from_q, sq[s * 512 + c]);
      const float d = mul(beta, fma(-gamma, from_k, v[i64(r) * a.channels + c]));
      delta[i64(r) * values + c] = d;
      y[i64(r) * values + c] = fma(kq, d, mul(gamma, from_q));
    }
    barrier();
  }
  for (int i = 0; i < keep; ++i) {
    const int r = part.rows - keep + i;
    if (thread() == 0) gammas[i] = gate[i64(r) * 2 * a.value_heads];
    for (int c = thread(); c < head; c += 512) {
      ks[i * head + c] = k[i64(r) * a.channels + c];
      deltas[i * head + c] = delta[i64(r) * values + c];
    }
  }
}

// Heads of 128, with the state in registers from the first row to the last: the same sums, operation by operation.
SK_KERNEL(512, 1) delta_rule_128(DeltaArgs a) {
  constexpr int head = 128, own = head / delta_stretches;
  SK_SHARED(float, waiting, step_back_rows * head);
  SK_SHARED(float, kq, 2 * 2 * head);            // [turn][k, q]
  SK_SHARED(float, updates, head);
  SK_SHARED(float, sk, delta_stretches * head);
  SK_SHARED(float, sq, delta_stretches * head);
  let_next_start();
  wait_for_previous();
  const int h = block() % a.value_heads, c = thread() % head, stretch = thread() / head, lane = thread() & 31;
  const PartRecord& part = a.pass.parts[block() / a.value_heads];
  float* layer = part.delta + a.offset;
  float* matrix = layer + i64(h) * head * head + own * stretch * head + c;
  float* gammas = layer + i64(a.value_heads) * head * head + h * step_back_rows;
  float* ks = layer + i64(a.value_heads) * (head * head + step_back_rows) + i64(h) * step_back_rows * head;
  float* deltas = ks + i64(a.value_heads) * step_back_rows * head;
  const int keys = a.key_heads * head, values = a.value_heads * head, rows = part.rows, pending = part.pending, keep = rows < step_back_rows ? rows : step_back_rows;
  const float* q = a.mixed + i64(part.first) * a.channels + a.key_of_value[h] * head;
  const float* k = q + keys;
  const float* v = a.mixed + i64(part.first) * a.channels + 2 * keys + h * head;
  float* delta = a.delta + i64(part.first) * values + h * head;
  float* y = a.y + i64(part.first) * values + h * head;
  const float* gate = a.gates + i64(part.first) * 2 * a.value_heads + h;

  float s[own], ahead = 0.0f;                    // ahead: of the next row's k and q
  SK_UNROLL for (int i = 0; i < own; ++i) s[i] = matrix[i * head];
  for (int i = thread(); i < pending * head; i += 512) waiting[i] = ks[i];
  if (thread() < 2 * head) ahead = (stretch ? q : k)[c];
  barrier();
  for (int p = 0; p < pending; ++p) {
    const float d = deltas[p * head + c], gamma = gammas[p];
    SK_UNROLL for (int i = 0; i < own; ++i) s[i] = fma(waiting[p * head + own * stretch + i], d, mul(gamma, s[i]));
  }
  if (pending)
    SK_UNROLL for (int i = 0; i < own; ++i) matrix[i * head] = s[i];
  for (int r = 0; r < rows; ++r) {
    float *now = kq + (r & 1) * 2 * head, *before = kq + (~r & 1) * 2 * head;
    const float gamma = gate[i64(r) * 2 * a.value_heads], beta = gate[i64(r) * 2 * a.value_heads + a.value_heads], value = v[i64(r) * a.channels + c];
    if (thread() < 2 * head) {
      now[thread()] = ahead;
      if (r + 1 < rows) ahead = (stretch ? q : k)[i64(r + 1) * a.channels + c];
    }
    barrier();
    if (r > 0) {
      const float d = updates[c], old = gate[i64(r - 1) * 2 * a.value_heads];
      SK_UNROLL for (int i = 0; i < own; ++i) s[i] = fma(before[own * stretch + i], d, mul(old, s[i]));
      if (r == rows - keep)
        SK_UNROLL for (int i = 0; i < own; ++i) matrix[i * head] = s[i];
    }
    float from_k = 0.0f, from_q = 0.0f, both = 0.0f;
    SK_UNROLL for (int i = 0; i < own; ++i) from_k = fma(s[i], now[own * stretch + i], from_k), from_q = fma(s[i], now[head + own * stretch + i], from_q);
    sk[stretch * head + c] = from_k;
    sq[stretch * head + c] = from_q;
    SK_UNROLL for (int i = 0; i < head / 32; ++i) both = fma(now[lane + 32 * i], now[head + lane + 32 * i], both);
    both = sum_lanes(both);
    barrier();
    if (stretch) continue;
    from_k = sk[c], from_q = sq[c];
    SK_UNROLL for (int i = 1; i < delta_stretches; ++i) from_k = add(from_k, sk[i * head + c]), from_q = add(from_q, sq[i * head + c]);
    const float d = mul(beta, fma(-gamma, from_k, value));
    updates[c] = d;
    delta[i64(r) * values + c] = d;
    y[i64(r) * values + c] = fma(both, d, mul(gamma, from_q));
  }
  barrier();
  for (int i = stretch; i < keep; i += delta_stretches) {
    const int r = rows - keep + i;
    if (c == 0) gammas[i] = gate[i64(r) * 2 * a.value_heads];
    ks[i * head + c] = k[i64(r) * a.channels + c];
    deltas[i * head + c] = delta[i64(r) * values + c];
  }
}

}  // namespace skipstone::gpu
