// Products with unquantized matrices: a warp an output, several rows at once. A lane adds its share of the columns, four side by side where rows of the
// matrix allow it, then the lanes are added as a tree.
#pragma once
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

SK_DEVICE float plain_weight(const void* w, int type, i64 i) {
  if (type == 0) return from_device(static_cast<const float*>(w) + i);
  const u32 h = from_device(static_cast<const u16*>(w) + i);
  return type == 1 ? from_half(h) : from_brain(h);
}
SK_DEVICE F4 four_floats(const float* p) {
  const U4 v = from_device(reinterpret_cast<const U4*>(p));
  return {bits<float>(v.x), bits<float>(v.y), bits<float>(v.z), bits<float>(v.w)};
}
SK_DEVICE F4 four_plain(const void* w, int type, i64 i) {
  if (type == 0) return four_floats(static_cast<const float*>(w) + i);
  const unsigned long long both = from_device(reinterpret_cast<const unsigned long long*>(static_cast<const u16*>(w) + i));
  const struct { u32 low, high; } h{static_cast<u32>(both), static_cast<u32>(both >> 32)};
  if (type == 1) return {from_half(h.low & 0xffffu), from_half(h.low >> 16), from_half(h.high & 0xffffu), from_half(h.high >> 16)};
  return {bits<float>(h.low << 16), bits<float>(h.low & 0xffff0000u), bits<float>(h.high << 16), bits<float>(h.high & 0xffff0000u)};
}

// Output n of a matrix for `count` rows, of which row i begins at x(i); every lane has the results. norm: factors of x, or null.
template <int ROWS, class X> SK_DEVICE void plain_output(const void* w, int type, const float* factors, int stretch, int n, int columns, const float* norm, int count, X x, float* y) {
  const int lane = thread() & 31;
  const i64 from = i64(n) * columns;
  const float* own = factors ? factors + i64(n) * ((columns + stretch - 1) / stretch) : nullptr;
  SK_UNROLL for (int r = 0; r < ROWS; ++r) y[r] = 0.0f;
  const int whole = columns % 4 || (factors && stretch % 4) ? 0 : columns / 4 * 4;
  SK_UNROLL_4 for (int i = 4 * lane; i < whole; i += 128) {
    F4 v = four_plain(w, type, from + i);
    if (own) {
      const float f = from_device(own + i / stretch);
      v = {mul(v.x, f), mul(v.y, f), mul(v.z, f), mul(v.w, f)};
    }
    if (norm) {
      const F4 f = *reinterpret_cast<const F4*>(norm + i);
      v = {mul(v.x, f.x), mul(v.y, f.y), mul(v.z, f.z), mul(v.w, f.w)};
    }
    SK_UNROLL for (int r = 0; r < ROWS; ++r)
      if (r < count) {
        const F4 o = four_floats(x(r) + i);
        y[r] = fma(v.w, o.w, fma(v.z, o.z, fma(v.y, o.y, fma(v.x, o.x, y[r]))));
      }
  }
  for (int i = whole + lane; i < columns; i += 32) {
    float v = plain_weight(w, type, from + i);
    if (own) v = mul(v, from_device(own + i / stretch));
    if (norm) v = mul(v, norm[i]);
    SK_UNROLL for (int r = 0; r < ROWS; ++r)
      if (r < count) y[r] = fma(v, from_device(x(r) + i), y[r]);
  }
  SK_UNROLL for (int r = 0; r < ROWS; ++r) y[r] = sum_lanes(y[r]);
}

SK_DEVICE void touch_plain(const void* w, int type, i64 n, int columns) {
  const i64 size = i64(columns) * (type == 0 ? 4 : 2), most = size < 16384 ? size : 16384;
  for (i64 at = 128 * (thread() & 31); at < most; at += 128 * 32) touch(static_cast<const u8*>(w) + n * size + at);
}

// A row's factor of the norm in front, for every lane; squares are added in a fixed order.
SK_DEVICE float norm_factor(const float* squares, int count, int columns, float eps, int row) {
  float sum = 0.0f;
  for (int i = thread() & 31; i < count; i += 32) sum = add(sum, squares[i64(count) * row + i]);
  return divide(1.0f, square_root(add(divide(sum_lanes(sum), static_cast<float>(columns)), eps)));
}

// Output `which` of all parts for the rows from `first` on, by one warp.
SK_DEVICE void plain_products(const PlainArgs& a, int which, int first) {
  PlainPart p = a.parts[0];
  int n = which, before = 0;
  SK_UNROLL for (int i = 1; i < most_plain_parts; ++i) {
    before += a.parts[i - 1].outputs;
    if (i < a.count && which >= before) p = a.parts[i], n = which - before;
  }
  const int count = a.rows - first < plain_rows ? a.rows - first : plain_rows, lane = thread() & 31;
  float y[plain_rows];
  plain_output<plain_rows>(p.weights, p.type, p.factors, p.stretch, n, a.columns, a.norm, count, [&](int r) { return a.x + a.x_stride * (first + r); }, y);
  SK_UNROLL for (int r = 0; r < plain_rows; ++r) {
    if (r >= count) break;
    const float v = a.squares ? mul(y[r], norm_factor(a.squares, a.squares_count, a.columns, a.eps, first + r)) : y[r];
    if (lane == 0) p.y[i64(p.stride) * (first + r) + n] = v;
  }
}
SK_DEVICE void touch_outputs(const PlainArgs& a, int which) {
  int before = 0;
  for (int i = 0; i < a.count; ++i) {
    if (which >= before && which < before + a.parts[i].outputs) touch_plain(a.parts[i].weights, a.parts[i].type, which - before, a.columns);
    before += a.parts[i].outputs;
  }
}

}  // namespace skipstone::gpu
