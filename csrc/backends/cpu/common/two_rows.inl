// Quantized matmul two rows of activations at a time, for variants with a matrix product of bytes (isa.h: takes_two_rows). The whole sums are exact, so
// each row has the bits that add_block in matmul.inl gives it, which also takes the odd row.
// Operations a block of 8 x 32 weights in NEON: 16 to pair the weights up once, then 16 products for two rows instead of 16 for one, so from four rows on.

template <class T> static inline Ints offset_times(int32_t minus);      // matmul.inl

template <class T> static inline Floats add_sums(const T& t, const Rows& x, int64_t row, int64_t b, const Ints* whole, Floats acc) {
  constexpr int parts = T::halves ? 2 : 1;
  const int64_t at = row * (x.columns / 32) + b;
  const Floats scale = spread(x.quantized.scale[at]);
#pragma GCC unroll 2
  for (int i = 0; i < parts; ++i) {
    Ints sum = whole[i];
    if constexpr (T::shift >= 0) sum = add(sum, offset_times<T>(T::halves ? x.quantized.half_minus[2 * at + i] : x.quantized.minus[at]));
    acc = fma(to_float(sum), mul(t.scale[i], scale), acc);
  }
  if constexpr (T::mins)
#pragma GCC unroll 2
    for (int i = 0; i < parts; ++i) acc = fma(t.min[i], spread(T::halves ? x.quantized.half_sum[2 * at + i] : x.quantized.sum[at]), acc);
  return acc;
}

// Adds block b to the results of rows first.., two at a time; returns the first row that is left.
template <class T> static inline int64_t add_block_to_pairs(const T& t, const Rows& x, int64_t b, int64_t first, int64_t last, float* result) {
  if (last - first < 4) return first;
  constexpr int parts = T::halves ? 2 : 1, count = 8 / parts;
  Bytes pairs[8];
  pair_up(t.w, pairs);
  int64_t r = first;
  for (; r + 2 <= last; r += 2, result += 2 * group_rows) {
    const int8_t *one = x.quantized.q + r * x.columns + 32 * b, *other = one + x.columns;
    Ints of_one[parts], of_other[parts];
#pragma GCC unroll 2
    for (int i = 0; i < parts; ++i) dot_two<count>(pairs + count * i, one + 16 * i, other + 16 * i, of_one[i], of_other[i]);
    store(result, add_sums(t, x, r, b, of_one, load_floats(result)));
    store(result + group_rows, add_sums(t, x, r + 1, b, of_other, load_floats(result + group_rows)));
  }
  return r;
}
