// Operations that compute a row from that row alone: a block a row runs a list of pieces, a barrier between two. What a piece's fields hold:
//   norm       a -> y, n wide, groups of m, weights c or none, f = eps          add       a, b -> y, n wide, f = scale
//   rope       a -> y, n wide, head m, k rotated, c = cosines, sines a position      silu, gelu, sigmoid  a, b -> y, n wide
//   split      a -> y, z, n = heads, m = head                                   concat    a, b -> y, n and m wide
//   slice      a -> y, n wide, values from k on; sigmoid with m = 1 has one gate a row
//   quantize   a -> to, n columns, m chunks                                     gather    a[wanted row] -> y, n wide
//   open_norm  a -> to, n columns, m chunks, weights c or none: the norm without its factor, as a matmul's end makes it; z = sums of squares
//   mix        a = qkv, b, c = gates a and b -> y = mixed, z = gamma, beta; d = taps, decay, dt_bias; n = channels, m = kernel, k = head, l = key heads
//   gated      a, b = z -> y, c = norm weights, d = qkv to be remembered, n = value heads, m = head, k = channels, f = eps
#include "backends/gpu/pass.h"
#include "backends/gpu/quantize.h"

namespace skipstone::gpu {

SK_DEVICE void norm(const Piece& p, const float* x, float* y, float* shared_sums) {
  const int lane = thread() & 31, warp = thread() >> 5;
  constexpr int warps = rows_threads / 32;
  if (p.m <= 1024) {                             // a warp a group
    for (int g = warp; g < p.n / p.m; g += warps) {
      const float* from = x + g * p.m;
      float sum = 0.0f;
      for (int i = lane; i < p.m; i += 32) sum = fma(from[i], from[i], sum);
      const float factor = divide(1.0f, square_root(add(divide(sum_lanes(sum), static_cast<float>(p.m)), p.f)));
      for (int i = lane; i < p.m; i += 32) {
        const float v = mul(from[i], factor);
        y[g * p.m + i] = p.c ? mul(v, p.c[i]) : v;
      }
    }
    return;
  }
  for (int g = 0; g < p.n; g += p.m) {
    float sum = 0.0f;
    for (int i = thread(); i < p.m; i += rows_threads) sum = fma(x[g + i], x[g + i], sum);
    sum = sum_lanes(sum);
    if (lane == 0) shared_sums[warp] = sum;
    barrier();
    sum = sum_lanes(lane < warps ? shared_sums[lane] : 0.0f);
    barrier();
    const float factor = divide(1.0f, square_root(add(divide(sum, static_cast<float>(p.m)), p.f)));
    for (int i = thread(); i < p.m; i += rows_threads) {
      const float v = mul(x[g + i], factor);
      y[g + i] = p.c ? mul(v, p.c[i]) : v;
    }
  }
}

SK_DEVICE void rope(const Piece& p, int position, const float* x, float* y) {
  const int half = p.k / 2;
  for (int i = thread(); i < p.n; i += rows_threads) {
    const int j = i % p.m, h = i - j;
    if (j >= p.k) {
      y[i] = x[i];
      continue;
    }
    const int pair = j < half ? j : j - half;
    const float* angles = p.c + i64(2 * half) * position;
    const float c = angles[pair], s = angles[half + pair], a = x[h + pair], b = x[h + half + pair];
    y[i] = j < half ? add(mul(a, c), -mul(b, s)) : add(mul(b, c), mul(a, s));
  }
}

SK_DEVICE void quantize_row(const Piece& p, int row, const float* x, int begin, int end) {
  for (int b = begin / 32 + (thread() >> 5); b < 8 * p.m && 32 * b < end; b += rows_threads / 32) {
    const int at = 32 * b + (thread() & 31);
    quantize_block(at < p.n ? x[at] : 0.0f, p.to + i64(4 * pair_bytes) * p.m * (row / most_rows), row % most_rows, b);
  }
}

SK_DEVICE void open_norm(const Piece& p, int row, const float* x) {
  const int lane = thread() & 31;
  for (int b = thread() >> 5; b < p.n / 32; b += rows_threads / 32) {
    const float v = x[32 * b + lane], square = sum_lanes(mul(v, v));
    if (lane == 0) p.z[i64(p.n / 32) * row + b] = square;
    quantize_block(p.c ? mul(v, p.c[32 * b + lane]) : v, p.to + i64(4 * pair_bytes) * p.m * (row / most_rows), row % most_rows, b);
  }
}

SK_DEVICE i64 delta_inputs(i64 value_heads, i64 head) { return value_heads * (head * head + step_back_rows + 2 * step_back_rows * head); }

// Gated delta-net: convolution over the text's last inputs with silu, l2 norms of q and k, decay and strength of every head.
SK_DEVICE void mix(const Piece& p, const PassTables& pass, int row, int begin, int end) {
  const PartRecord& part = pass.parts[pass.part_of[row]];
  const int channels = p.n, head = p.k, value_heads = (channels - 2 * p.l * head) / head, position = pass.position[row];
  const float* inputs = part.delta + p.offset + delta_inputs(value_heads, head);
  float* y = p.y + i64(row) * channels;
  if (end > channels) end = channels;
  for (int c = begin + thread(); c < end; c += rows_threads) {
    float total = 0.0f;
    for (int t = 0; t < p.m; ++t) {
      const int at = position - (p.m - 1 - t);
      if (at < 0) continue;                      // before the text there is nothing
      const float x = from_device(at >= part.start ? p.a + (i64(part.first + at - part.start) * channels + c) : inputs + (i64(at % input_ring) * channels + c));
      total = fma(p.d[t * channels + c], x, total);
    }
    y[c] = mul(total, sigmoid(total));
  }
  const float *decay = p.d + p.m * channels, *bias = decay + value_heads;
  for (int h = thread(); h < value_heads && begin == 0; h += rows_threads) {
    float* gate = p.z + i64(row) * 2 * value_heads;
    gate[h] = exponential(mul(decay[h], softplus(add(p.b[row * value_heads + h], bias[h]))));
    gate[value_heads + h] = sigmoid(p.c[row * value_heads + h]);
  }
  barrier();
  const int lane = thread() & 31;
  for (int h = begin / head + (thread() >> 5); h < 2 * p.l && head * h < end; h += rows_threads / 32) {
    float sum = 0.0f;
    for (int i = lane; i < head; i += 32) sum = fma(y[h * head + i], y[h * head + i], sum);
    const float factor = divide(h < p.l ? divide(1.0f, square_root(static_cast<float>(head))) : 1.0f, square_root(add(sum_lanes(sum), 1e-6f)));
    for (int i = lane; i < head; i += 32) y[h * head + i] = mul(y[h * head + i], factor);
  }
}

// Value heads of columns begin .. end - 1; of the channels to be remembered, each block its share.
SK_DEVICE void gated(const Piece& p, const PassTables& pass, int row, const float* x, const float* z, float* y, int begin, int end, int stretches) {
  const PartRecord& part = pass.parts[pass.part_of[row]];
  const int lane = thread() & 31, head = p.m;
  for (int h = begin / head + (thread() >> 5); h < p.n && head * h < end; h += rows_threads / 32) {
    float sum = 0.0f;
    for (int i = lane; i < head; i += 32) sum = fma(x[h * head + i], x[h * head + i], sum);
    const float factor = divide(1.0f, square_root(add(divide(sum_lanes(sum), static_cast<float>(head)), p.f)));
    for (int i = lane; i < head; i += 32) {
      const float g = z[h * head + i];
      y[h * head + i] = mul(mul(mul(x[h * head + i], factor), p.c[i]), mul(g, sigmoid(g)));
    }
  }
  if (row < part.first + part.rows - input_ring) return;
  float* inputs = part.delta + p.offset + delta_inputs(p.n, head) + i64(pass.position[row] % input_ring) * p.k;
  for (int c = begin + thread(); c < p.k; c += rows_threads * stretches) to_device(inputs + c, p.d[i64(row) * p.k + c]);
}

// Columns begin .. end - 1 of the row, for the pieces that can be cut.
SK_DEVICE void run_piece(const Piece& p, const PassTables& pass, int row, int begin, int end, int stretches, float* shared_sums) {
  const float* a = p.a + i64(row) * p.a_stride;
  const float* b = p.b + i64(row) * p.b_stride;
  float* y = p.y + i64(row) * p.y_stride;
  const int t = thread();
  switch (p.kind) {
    case norm_piece: return norm(p, a, y, shared_sums);
    case rope_piece: return rope(p, pass.position[row], a, y);
    case silu_piece:
      for (int i = begin + t; i < p.n && i < end; i += rows_threads) y[i] = mul(silu(a[i]), b[i]);
      return;
    case gelu_piece:
      for (int i = begin + t; i < p.n && i < end; i += rows_threads) y[i] = mul(gelu_tanh(a[i]), b[i]);
      return;
    case sigmoid_piece:
      for (int i = begin + t; i < p.n && i < end; i += rows_threads) y[i] = mul(a[i], sigmoid(b[p.m == 1 ? 0 : i]));
      return;
    case split_piece:
      for (int i = t; i < 2 * p.n * p.m; i += rows_threads) {
        const int h = i / (2 * p.m), j = i % (2 * p.m);
        float* to = (j < p.m ? p.y : p.z) + i64(row) * p.y_stride;
        to_device(to + (h * p.m + j % p.m), a[i]);
      }
      return;
    case concat_piece:
      for (int i = t; i < p.n + p.m; i += rows_threads) y[i] = i < p.n ? a[i] : b[i - p.n];
      return;
    case slice_piece:
      for (int i = t; i < p.n; i += rows_threads) y[i] = a[p.k + i];
      return;
    case add_piece:
      for (int i = begin + t; i < p.n && i < end; i += rows_threads) y[i] = p.f == 1.0f ? add(a[i], b[i]) : mul(add(a[i], b[i]), p.f);
      return;
    case quantize_piece: return quantize_row(p, row, a, begin, end);
    case open_norm_piece: return open_norm(p, row, a);
    case mix_piece: return mix(p, pass, row, begin, end);
    case gated_piece: return gated(p, pass, row, a, b, y, begin, end, stretches);
    case gather_piece: {
      const float* from = p.a + i64(pass.wanted[row]) * p.a_stride;
      for (int i = t; i < p.n; i += rows_threads) y[i] = from[i];
      return;
    }
  }
}

SK_KERNEL(1024, 1) rows_in_order(RowsArgs a) {
  SK_SHARED(float, shared_sums, 32);
  let_next_start();
  wait_for_previous();
  const int row = block() / a.stretches, begin = a.stretches == 1 ? 0 : block() % a.stretches * 1024, end = a.stretches == 1 ? 1 << 30 : begin + 1024;
  for (int i = 0; i < a.count; ++i) {
    run_piece(a.pieces[i], a.pass, row, begin, end, a.stretches, shared_sums);
    barrier();
  }
}

}  // namespace skipstone::gpu
