// Gated delta-net of one value head, token by token in the arithmetic, one sweep over the state a token in memory:
//   S <- gamma S;  delta = beta (v - S^T k);  S <- S + k delta^T;  o = S^T q
// as  o = gamma S^T q + (k.q) delta  and  delta = beta (v - gamma S^T k)  from the old S, so that a row's update can wait for the next row's
// sweep. What waits beyond the call (keep rows) is handed back as (gamma, k, delta) and applied by the next call, or dropped: rollback is free.

// S <- gamma S + k delta^T (delta null: S stays), and from the new S: sk = S^T k2, sq = S^T q2 (k2 null: not wanted).
static inline void sweep(float* to, const float* from, int64_t head, float gamma, const float* k, const float* delta, const float* k2, const float* q2,
                         float* sk, float* sq) {
  auto columns = [&]<int VECTORS>(int64_t c) {
    f32x8 d[VECTORS], a[VECTORS], b[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
      d[v] = delta ? load(delta + c + 8 * v) : broadcast(0.0f);
      a[v] = b[v] = broadcast(0.0f);
    }
    for (int64_t i = 0; i < head; ++i) {
      f32x8 ki = broadcast(delta ? k[i] : 0.0f), g = broadcast(gamma);
      f32x8 k2i = broadcast(k2 ? k2[i] : 0.0f), q2i = broadcast(k2 ? q2[i] : 0.0f);
      for (int v = 0; v < VECTORS; ++v) {
        f32x8 s = load(from + i * head + c + 8 * v);
        if (delta) {
          s = fma(ki, d[v], mul(g, s));
          store(to + i * head + c + 8 * v, s);
        }
        if (k2) {
          a[v] = fma(s, k2i, a[v]);
          b[v] = fma(s, q2i, b[v]);
        }
      }
    }
    if (k2)
      for (int v = 0; v < VECTORS; ++v) {
        store(sk + c + 8 * v, a[v]);
        store(sq + c + 8 * v, b[v]);
      }
  };
  int64_t c = 0;
  for (; c + 32 <= head; c += 32) columns.template operator()<4>(c);
  for (; c < head; c += 8) columns.template operator()<1>(c);
}

static void delta_rule(const DeltaCall& call) {
  const int64_t head = call.head;
  float sk[512], sq[512];
  const float* k = call.k;
  const float* q = call.q;
  // Accepted updates of the last call; the last of them shares its sweep with the first row.
  for (int64_t i = 0; i + 1 < call.pending; ++i)
    sweep(call.state, call.state, head, call.pending_gamma[i], call.pending_k + i * head, call.pending_delta + i * head, nullptr, nullptr, nullptr, nullptr);
  float* state = call.state;
  for (int64_t r = 0; r < call.rows; ++r, k += call.qk_stride, q += call.qk_stride) {
    if (r == 0 && call.pending) {
      int64_t i = call.pending - 1;
      sweep(state, state, head, call.pending_gamma[i], call.pending_k + i * head, call.pending_delta + i * head, k, q, sk, sq);
    } else if (r == 0) {
      sweep(state, state, head, 1.0f, nullptr, nullptr, k, q, sk, sq);
    } else {
      float* to = r - 1 < call.rows - call.keep ? call.state : call.work;      // the update of row r-1
      sweep(to, state, head, call.gamma[r - 1], k - call.qk_stride, call.delta + (r - 1) * head, k, q, sk, sq);
      state = to;
    }
    const float gamma = call.gamma[r], beta = call.beta[r], kq = sum_of_products(k, q, head);
    const float* v = call.v + r * call.v_stride;
    float* delta = call.delta + r * head;
    float* out = call.out + r * call.out_stride;
    for (int64_t c = 0; c < head; c += 8) {
      f32x8 d = mul(broadcast(beta), fma(broadcast(-gamma), load(sk + c), load(v + c)));
      store(delta + c, d);
      store(out + c, fma(broadcast(kq), d, mul(broadcast(gamma), load(sq + c))));
    }
  }
}

static void l2_norm(const float* x, float* y, int64_t n, float eps, float factor) {
  f32x8 inverse = broadcast(factor / __builtin_sqrtf(sum_of_products(x, x, n) + eps));
  map_vectors(x, y, n, [&](int64_t, f32x8 v) { return mul(v, inverse); });
}

static void gated_norm(const float* x, const float* gate, const float* weight, float* y, int64_t n, float eps) {
  float mean = sum_of_products(x, x, n) / static_cast<float>(n);
  f32x8 factor = broadcast(1.0f / __builtin_sqrtf(mean + eps));
  map_vectors(x, y, n, [&](int64_t i, f32x8 v) {
    f32x8 g = load_some(gate + i, n - i);
    return mul(mul(mul(v, factor), load_some(weight + i, n - i)), mul(g, sigmoid(g)));
  });
}

// y = silu(sum over taps of weight * input), oldest tap first.
static void causal_conv(const float* const taps[], const float* const weights[], int64_t kernel, float* y, int64_t channels) {
  for (int64_t c = 0; c < channels; c += 8) {
    f32x8 total = broadcast(0.0f);
    for (int64_t t = 0; t < kernel; ++t) total = fma(load(weights[t] + c), load(taps[t] + c), total);
    store(y + c, mul(total, sigmoid(total)));
  }
}
