// Quantized matmul for any number of rows. A lane is a weight row, so there is no lane reduction; a block of 32 columns is unpacked once, into
// eight registers, and serves every row. Variants with wide registers have sixteen lanes (isa.h: group_rows). Per output one chain of float32 sums over the blocks, in order:
//   acc = fma(whole sum, scale_w * scale_x, acc)      for the block, or for its two halves where the type scales 16 at a time
//   acc = fma(min_w, sum_x, acc)                      where the type has minima, sum_x = scale_x * (sum of the activations)
// The whole sums are exact, so the bits of an output depend on its own row and column alone: not on the rows beside it, the tile, the threads
// or the instruction set. Unquantized weights: one fma chain over the columns.
// Cost of a block of 8 x 32 weights in AVX2 operations: unpacking 9 to 40 once, then about 28 (4 bits) to 43 (8 bits) a row.

constexpr int64_t W = group_rows / 8;            // the layouts grow with it, see layout.h

template <bool HALVES, bool MINS> struct Block {
  static constexpr bool halves = HALVES, mins = MINS;
  static constexpr bool asks_alone = false;      // prefetch_distance: one row asks for memory too
  static constexpr int times = 1;
  Bytes w[8];
  Floats scale[HALVES ? 2 : 1];
  Floats min[MINS ? (HALVES ? 2 : 1) : 1];
};

// A layout says where block b of a group has its weights and factors, and the range of its weights: unsigned up to `largest` with
// times << shift still to be taken away (shift < 0: nothing), or signed (largest = 0). Signed bytes become unsigned ones where the instruction set
// prefers that.
static constexpr int bytes_largest = dot_is_wide ? 255 : 0, bytes_shift = dot_is_wide ? 7 : -1;
static inline Bytes as_preferred(Bytes a) { return dot_is_wide ? flip_sign_bit(a) : a; }

// Keeps loads in the order of their addresses. The processor's own prefetching follows that, and loses the thread where the compiler turns them round:
// one row of Q5_0, whose fifth bits were read before its nibbles, came to 65 % of the read loop's speed, in order it comes to 98.
static inline void in_order() { asm volatile("" ::: "memory"); }

// The eight registers of a block's weights, each four consecutive weights of every row, read in order of memory.
struct PlainBytes {
  static void all(const uint8_t* plane, Bytes w[8]) {
    for (int i = 0; i < 8; ++i) {
      in_order();
      w[i] = as_preferred(load_register(plane + planes<W>::register_bytes * i));
    }
  }
};

struct Nibbles {
  static void all(const uint8_t* plane, Bytes w[8]) {
    for (int j = 0; j < 4; ++j) {
      in_order();
      Bytes both = load_register(plane + planes<W>::register_bytes * j);
      w[j] = low_nibbles(both);
      w[4 + j] = high_nibbles(both);
    }
  }
};

struct NibblesAndBits : Nibbles {
  static void all(const uint8_t* plane, Bytes w[8]) {
    Nibbles::all(plane, w);
    in_order();
    const Bytes bits = load_register(plane + planes<W>::after_nibbles);
    w[0] = either(w[0], take_bit<0, 4>(bits));
    w[1] = either(w[1], take_bit<1, 4>(bits));
    w[2] = either(w[2], take_bit<2, 4>(bits));
    w[3] = either(w[3], take_bit<3, 4>(bits));
    w[4] = either(w[4], take_bit<4, 4>(bits));
    w[5] = either(w[5], take_bit<5, 4>(bits));
    w[6] = either(w[6], take_bit<6, 4>(bits));
    w[7] = either(w[7], take_bit<7, 4>(bits));
  }
};

struct NibblesAndPairs : Nibbles {
  static Bytes pairs(const uint8_t* plane, int p) { return load_register(plane + planes<W>::after_nibbles + planes<W>::register_bytes * p); }
  static void all(const uint8_t* plane, Bytes w[8]) {
    Nibbles::all(plane, w);
    for (int p = 0; p < 2; ++p) {
      in_order();
      const Bytes four = pairs(plane, p);
      w[4 * p + 0] = either(w[4 * p + 0], take_pair<0>(four));
      w[4 * p + 1] = either(w[4 * p + 1], take_pair<2>(four));
      w[4 * p + 2] = either(w[4 * p + 2], take_pair<4>(four));
      w[4 * p + 3] = either(w[4 * p + 3], take_pair<6>(four));
    }
  }
};

struct Pairs {
  static void all(const uint8_t* plane, Bytes w[8]) {
    for (int p = 0; p < 2; ++p) {
      in_order();
      const Bytes four = load_register(plane + planes<W>::register_bytes * p);
      w[4 * p + 0] = low_pair<0>(four);
      w[4 * p + 1] = low_pair<2>(four);
      w[4 * p + 2] = low_pair<4>(four);
      w[4 * p + 3] = low_pair<6>(four);
    }
  }
};

// Nibbles that choose from a table: of weights that are counted from the smallest, or, where their range leaves no room for that in a product of two
// (most_counted), of bytes as the instruction set prefers them. Tiles want bytes.
template <const Codes& CODES> struct Chosen {
  static constexpr int smallest = -smallest_weight(CODES), range = largest_weight(CODES) + smallest;
  static constexpr bool counted = range <= most_counted && !takes_tiles;
  static constexpr int largest = counted ? range : bytes_largest, shift = counted ? 0 : bytes_shift, times = counted ? smallest : 1;
  static constexpr Codes table = codes_plus(CODES, counted ? smallest : dot_is_wide ? 128 : 0);
};
template <const Codes& CODES> struct FromTable : Nibbles {
  static void all(const uint8_t* plane, Bytes w[8]) {
    Nibbles::all(plane, w);
    for (int i = 0; i < 8; ++i) w[i] = lookup(Chosen<CODES>::table.weight, w[i]);
  }
};

struct UnpackQ8_0 : Block<false, false> {
  using Weights = PlainBytes;
  static constexpr int largest = bytes_largest, shift = bytes_shift;
  static constexpr int64_t bytes = q8_0<W>::pair / 2;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + q8_0<W>::piece_at(b); }
  void read_factors(const uint8_t* group, int64_t b) { scale[0] = load_halves(group + q8_0<W>::scale_at(b)); }
};

struct UnpackQ4_0 : Block<false, false> {
  using Weights = Nibbles;
  static constexpr int largest = 15, shift = 3;
  static constexpr int64_t bytes = q4_0<W>::pair / 2;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + q4_0<W>::piece_at(b); }
  void read_factors(const uint8_t* group, int64_t b) { scale[0] = load_halves(group + q4_0<W>::scale_at(b)); }
};

struct UnpackQ5_0 : Block<false, false> {
  using Weights = NibblesAndBits;
  static constexpr int largest = 31, shift = 4;
  static constexpr int64_t bytes = q5_0<W>::pair / 2;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + q5_0<W>::piece_at(b); }
  void read_factors(const uint8_t* group, int64_t b) { scale[0] = load_halves(group + q5_0<W>::scale_at(b)); }
};

template <class L, class WEIGHTS, int LARGEST> struct UnpackQ45_1 : Block<false, true> {
  using Weights = WEIGHTS;
  static constexpr int largest = LARGEST, shift = -1;
  static constexpr int64_t bytes = L::pair / 2;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + L::piece_at(b); }
  void read_factors(const uint8_t* group, int64_t b) {
    const uint8_t* scales = group + L::scale_at(b);
    scale[0] = load_halves(scales);
    min[0] = load_halves(scales + L::scale / 2);
  }
};

template <const Codes& CODES, bool HALVES> struct UnpackTable : Block<HALVES, false> {
  using Weights = FromTable<CODES>;
  static constexpr bool asks_alone = true;
  static constexpr int largest = Chosen<CODES>::largest, shift = Chosen<CODES>::shift, times = Chosen<CODES>::times;
};

struct UnpackIQ4_NL : UnpackTable<iq4_codes, false> {
  static constexpr int64_t bytes = q4_0<W>::pair / 2;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + q4_0<W>::piece_at(b); }
  void read_factors(const uint8_t* group, int64_t b) { scale[0] = load_halves(group + q4_0<W>::scale_at(b)); }
};

struct UnpackMXFP4 : UnpackTable<fp4_codes, false> {
  static constexpr int64_t bytes = mxfp4<W>::pair / 2;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + mxfp4<W>::piece_at(b); }
  void read_factors(const uint8_t* group, int64_t b) { scale[0] = load_exponents(group + mxfp4<W>::scale_at(b)); }
};

struct UnpackNVFP4 : UnpackTable<fp4_codes, true> {
  static constexpr int64_t bytes = nvfp4<W>::pair / 2;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + nvfp4<W>::piece_at(b); }
  void read_factors(const uint8_t* group, int64_t b) {
    const uint8_t* scales = group + nvfp4<W>::scale_at(b);
    for (int half = 0; half < 2; ++half) scale[half] = load_halves(scales + half * (nvfp4<W>::scale / 2));
  }
};

template <bool HALVES, const Codes& CODES> struct UnpackCoded : UnpackTable<CODES, HALVES> {
  using L = coded<HALVES, W>;
  static constexpr int64_t bytes = L::super / 8;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + L::super * (b / 8) + L::header + L::piece * (b % 8); }
  void read_factors(const uint8_t* group, int64_t b) {
    const uint8_t* super = group + L::super * (b / 8);
    const Floats unit = mul(load_halves(super), spread(CODES.factor));
    for (int half = 0; half < (HALVES ? 2 : 1); ++half) this->scale[half] = mul(unit, load_signed(super + L::scales + L::scale * ((HALVES ? 2 : 1) * (b % 8) + half)));
  }
};

struct UnpackQ2_K : Block<true, true> {
  using Weights = Pairs;
  static constexpr int largest = 3, shift = -1;
  static constexpr int64_t bytes = q2_k<W>::super / 8;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + q2_k<W>::super * (b / 8) + q2_k<W>::header + q2_k<W>::piece * (b % 8); }
  void read_factors(const uint8_t* group, int64_t b) {
    const uint8_t* super = group + q2_k<W>::super * (b / 8);
    const Floats d = load_halves(super), dmin = load_halves(super + q2_k<W>::dmin);
    for (int half = 0; half < 2; ++half) {
      const uint8_t* both = super + q2_k<W>::scales + q2_k<W>::scale * (2 * (b % 8) + half);
      scale[half] = mul(d, load_low_nibbles(both));
      min[half] = sub(spread(0.0f), mul(dmin, load_high_nibbles(both)));
    }
  }
};

template <class K, class WEIGHTS, int LARGEST> struct UnpackQ45_K : Block<false, true> {
  using Weights = WEIGHTS;
  static constexpr bool asks_alone = LARGEST > 15;
  static constexpr int largest = LARGEST, shift = -1;
  static constexpr int64_t bytes = K::super / 8;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + K::super * (b / 8) + K::header + K::piece * (b % 8); }
  void read_factors(const uint8_t* group, int64_t b) {
    const uint8_t *super = group + K::super * (b / 8), *block = super + K::blocks + K::block * (b % 8);
    scale[0] = mul(load_halves(super), load_unsigned(block));
    min[0] = sub(spread(0.0f), mul(load_halves(super + K::dmin), load_unsigned(block + K::min)));
  }
};

struct UnpackQ6_K : Block<true, false> {
  using Weights = NibblesAndPairs;
  static constexpr bool asks_alone = true;
  static constexpr int largest = 63, shift = 5;
  static constexpr int64_t bytes = q6_k<W>::super / 8;
  static const uint8_t* piece(const uint8_t* group, int64_t b) { return group + q6_k<W>::super * (b / 8) + q6_k<W>::header + q6_k<W>::piece * (b % 8); }
  void read_factors(const uint8_t* group, int64_t b) {
    const uint8_t* super = group + q6_k<W>::super * (b / 8);
    const Floats d = load_halves(super);
    for (int half = 0; half < 2; ++half) scale[half] = mul(d, load_signed(super + q6_k<W>::scales + q6_k<W>::scale * (2 * (b % 8) + half)));
  }
};

// Block b of a group: factors and all weights.
template <class T> static inline void read_block(T& t, const uint8_t* group, int64_t b) {
  t.read_factors(group, b);
  T::Weights::all(T::piece(group, b), t.w);
}

// What remains to be taken away from a sum of unsigned weights: their offset times the sum of the activations, negated.
template <class T> static inline Ints offset_times(int32_t minus) {
  if constexpr (T::shift < 0) return zeros();
  else if constexpr (T::times == 1) return shifted<T::shift>(spread_int(minus));
  else return spread_int(minus * (T::times << T::shift));
}

// Block b of row r, as far as one type needs it.
template <class T> static inline Floats add_block(const T& t, const Rows& x, int64_t row, int64_t b, Floats acc) {
  const int64_t at = row * (x.columns / 32) + b;
  const int8_t* y = x.quantized.q + row * x.columns + 32 * b;
  const Floats scale = spread(x.quantized.scale[at]);
  if constexpr (!T::halves) {
    Ints whole = offset_times<T>(x.quantized.minus[at]);
    if constexpr (T::largest == 0) whole = dot_signed<8>(whole, t.w, y);
    else whole = dot_unsigned<T::largest, 8>(whole, t.w, y);
    acc = fma(to_float(whole), mul(t.scale[0], scale), acc);
    if constexpr (T::mins) acc = fma(t.min[0], spread(x.quantized.sum[at]), acc);
  } else {
    for (int half = 0; half < 2; ++half) {
      Ints whole = offset_times<T>(x.quantized.half_minus[2 * at + half]);
      if constexpr (T::largest == 0) whole = dot_signed<4>(whole, t.w + 4 * half, y + 16 * half);
      else whole = dot_unsigned<T::largest, 4>(whole, t.w + 4 * half, y + 16 * half);
      acc = fma(to_float(whole), mul(t.scale[half], scale), acc);
    }
    if constexpr (T::mins)
      for (int half = 0; half < 2; ++half) acc = fma(t.min[half], spread(x.quantized.half_sum[2 * at + half]), acc);
  }
  return acc;
}

constexpr int64_t tile_rows = 64;                // of activations, so that their blocks stay in the first two cache levels

// Up to eight rows, whose sums stay in registers: where there are 32 of them and blocks leave room (measured: with two halves a block they do not).
constexpr int64_t few_rows = 8;
template <class T, class Read> static inline void few_products(const Rows& x, int64_t first, int64_t rows, Read read, float* result) {
  Floats acc[few_rows];
#pragma GCC unroll 8
  for (int r = 0; r < few_rows; ++r) acc[r] = spread(0.0f);
  for (int64_t b = 0; b < x.columns / 32; ++b) {
    T t;
    read(t, b);
#pragma GCC unroll 8
    for (int r = 0; r < few_rows; ++r) {
      if (r >= rows) break;
      acc[r] = add_block(t, x, first + r, b, acc[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < few_rows; ++r)
    if (r < rows) store(result + group_rows * r, acc[r]);
}

// Rows first..last-1 against the groups that `read` unpacks; results: group_rows floats a row.
template <class T, class Read> static inline void product(const Rows& x, int64_t first, int64_t last, Read read, float* result) {
  const int64_t blocks = x.columns / 32;
  if (last - first == 1) {                       // the sum stays in a register
    Floats acc = spread(0.0f);
    for (int64_t b = 0; b < blocks; ++b) {
      T t;
      read(t, b);
      acc = add_block(t, x, first, b, acc);
    }
    store(result, acc);
    return;
  }
  if constexpr (dot_is_wide && !T::halves)
    if (last - first <= few_rows) return few_products<T>(x, first, last - first, read, result);
  for (int64_t r = first; r < last; ++r) store(result + group_rows * (r - first), spread(0.0f));
  for (int64_t b = 0; b < blocks; ++b) {
    T t;
    read(t, b);
    int64_t r = first;
    if constexpr (takes_two_rows) r = add_block_to_pairs(t, x, b, first, last, result);
    for (; r < last; ++r) store(result + group_rows * (r - first), add_block(t, x, r, b, load_floats(result + group_rows * (r - first))));
  }
}

// Lanes first .. first + count - 1 of each row's results.
static inline void write_results(const float* result, int64_t rows, float* y, int64_t y_stride, int64_t count) {
  for (int64_t r = 0; r < rows; ++r) {
    if (count >= group_rows) store(y + r * y_stride, load_floats(result + group_rows * r));
    else __builtin_memcpy(y + r * y_stride, result + group_rows * r, static_cast<size_t>(count) * 4);
  }
}

// How many bytes ahead the second cache level is asked for memory, 0: not at all. With several rows the arithmetic of a block outlasts the out-of-order
// window, and memory would wait for it; asked for line by line, without gaps, it does not. With fewer rows the processor's own prefetching does better
// alone, but for types whose block takes long to unpack. Measured on Zen 4 over widths of 640 and 4096, four to eight bits, 1 to 16 rows: the best of 0 to 24576, the first level never (it has too few
// lines on their way). Four rows of Q8_0, Q4_K, Q6_K at 4096 columns: 18, 14, 19 ns a block of 16 x 32 instead of 26, 29, 35.
template <class T> static inline int64_t prefetch_distance(int64_t columns, int64_t rows) {
  constexpr int64_t bytes = 2 * T::bytes / W;                            // of sixteen rows' block
  if constexpr (takes_tiles) return columns >= 4096 && bytes < 512 ? 8192 : 4096;      // on Sapphire Rapids one row gains too: 46 instead of 59 ms a pass
  if (rows == 1) return T::asks_alone ? 8192 : 0;
  constexpr bool much = dot_is_wide && T::bytes >= 32 * group_rows;      // much memory for its arithmetic
  const int64_t fewest = (much ? 4 : 2) + (dot_is_wide && columns < 2048 ? 2 : 0);
  return rows >= fewest ? 8192 : 0;
}

constexpr int64_t fewest_tile_rows = 16;         // of activations; with fewer, dot products do better than tiles

template <class T> static void matmul_packed(const MatmulCall& c) {
  if constexpr (takes_tiles)
    if (c.rows.count >= fewest_tile_rows) return matmul_tiles<T>(c);
  const Matrix& m = *c.weight;
  alignas(64) float result[tile_rows * group_rows];
  // A slab of groups stays in the second cache level while the tiles of rows pass over it.
  int64_t slab = c.last - c.first;
  if (c.rows.count > tile_rows) slab = (192 << 10) / m.group_bytes > 0 ? (192 << 10) / m.group_bytes : 1;
  for (int64_t s = c.first; s < c.last; s += slab)
    for (int64_t tile = 0; tile < c.rows.count; tile += tile_rows) {
      const int64_t end = tile + tile_rows < c.rows.count ? tile + tile_rows : c.rows.count, until = s + slab < c.last ? s + slab : c.last;
      const int64_t distance = prefetch_distance<T>(m.columns, end - tile);
      for (int64_t g = s; g < until; ++g) {
        const uint8_t* group = m.packed + g * m.group_bytes;
        product<T>(c.rows, tile, end, [&](T& t, int64_t b) {
          if (distance)
            for (int64_t p = 0; p < T::bytes; p += 64) prefetch(group + T::bytes * b + distance + p);
          read_block(t, group, b);
        }, result);
        write_results(result, end - tile, c.y + tile * c.y_stride + group_rows * (g - c.first), c.y_stride, m.rows - group_rows * g);
      }
    }
}

struct LoadF32 { static constexpr int64_t bytes = 4; static inline Floats at(const uint8_t* p) { return load_floats(reinterpret_cast<const float*>(p)); } };
struct LoadF16 { static constexpr int64_t bytes = 2; static inline Floats at(const uint8_t* p) { return load_halves(p); } };
struct LoadBF16 { static constexpr int64_t bytes = 2; static inline Floats at(const uint8_t* p) { return load_brains(p); } };

// GROUPS x ROWS chains at once hide the latency of fma; which chains run together changes no bit of them.
template <class L, int GROUPS, int ROWS> static inline void float_tile(const MatmulCall& c, int64_t g, int64_t row) {
  const Matrix& m = *c.weight;
  Floats acc[GROUPS][ROWS];
  for (auto& group : acc) for (Floats& a : group) a = spread(0.0f);
  const uint8_t* w = m.packed + g * m.group_bytes;
  const float* x = c.rows.x + row * c.rows.columns;
  auto add_columns = [&](int64_t from, int64_t to) {
    // One line a column or less; with few rows of float32 the processor does better alone.
    constexpr int64_t column_bytes = group_rows * L::bytes, columns_a_line = column_bytes < 64 ? 64 / column_bytes : 1;
    for (int64_t k = from; k < to; ++k) {
      if (ROWS > (L::bytes == 4 ? 5 : 1) && k % columns_a_line == 0)
#pragma GCC unroll 4
        for (int i = 0; i < GROUPS; ++i) prefetch(w + i * m.group_bytes + column_bytes * k + 8192);
      Floats wk[GROUPS];
#pragma GCC unroll 4
      for (int i = 0; i < GROUPS; ++i) wk[i] = L::at(w + i * m.group_bytes + group_rows * L::bytes * k);
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r) {
        const Floats xk = spread(x[r * c.rows.columns + k]);
#pragma GCC unroll 4
        for (int i = 0; i < GROUPS; ++i) acc[i][r] = fma(wk[i], xk, acc[i][r]);
      }
    }
  };
  const int64_t stretches = scale_stretches(m);
  if (stretches < 2) {
    add_columns(0, m.columns);
  } else {                                         // the sum of each stretch is scaled, then added to those before
    Floats total[GROUPS][ROWS];
    for (auto& group : total) for (Floats& t : group) t = spread(0.0f);
    for (int64_t s = 0; s < stretches; ++s) {
      add_columns(s * m.scale_columns, (s + 1) * m.scale_columns < m.columns ? (s + 1) * m.scale_columns : m.columns);
      for (int i = 0; i < GROUPS; ++i) {
        const Floats factors = load_floats(m.scales + ((g + i) * stretches + s) * group_rows);
        for (int r = 0; r < ROWS; ++r) {
          total[i][r] = fma(acc[i][r], factors, total[i][r]);
          acc[i][r] = spread(0.0f);
        }
      }
    }
    for (int i = 0; i < GROUPS; ++i)
      for (int r = 0; r < ROWS; ++r) acc[i][r] = total[i][r];
  }
  for (int i = 0; i < GROUPS; ++i)
    for (int r = 0; r < ROWS; ++r) {
      float result[group_rows];
      store(result, acc[i][r]);
      write_results(result, 1, c.y + (row + r) * c.y_stride + group_rows * (g + i - c.first), c.y_stride, m.rows - group_rows * (g + i));
    }
}

// Four rows or more go over one group at a time, whose weights are widened once for up to eight; with fewer, more groups at once make enough chains.
template <class L> static void matmul_float(const MatmulCall& c) {
  const int64_t rows = c.rows.count;
  int64_t g = c.first;
  if (rows == 1) for (; g + 4 <= c.last; g += 4) float_tile<L, 4, 1>(c, g, 0);
  if (rows < 4)
    for (; g + 2 <= c.last; g += 2) {
      if (rows == 1) float_tile<L, 2, 1>(c, g, 0);
      if (rows == 2) float_tile<L, 2, 2>(c, g, 0);
      if (rows == 3) float_tile<L, 2, 3>(c, g, 0);
    }
  for (; g < c.last; ++g)
    for (int64_t r = 0; r < rows;) {
      const int64_t left = rows - r, take = left > 11 ? 8 : left > 8 ? left - 4 : left;      // never fewer than four of many
      switch (take) {
        case 1: float_tile<L, 1, 1>(c, g, r); break;
        case 2: float_tile<L, 1, 2>(c, g, r); break;
        case 3: float_tile<L, 1, 3>(c, g, r); break;
        case 4: float_tile<L, 1, 4>(c, g, r); break;
        case 5: float_tile<L, 1, 5>(c, g, r); break;
        case 6: float_tile<L, 1, 6>(c, g, r); break;
        case 7: float_tile<L, 1, 7>(c, g, r); break;
        default: float_tile<L, 1, 8>(c, g, r);
      }
      r += take;
    }
}

static void multiply(const MatmulCall& c) {
  switch (c.weight->type->id) {
    case 0: return matmul_float<LoadF32>(c);
    case 1: return matmul_float<LoadF16>(c);
    case 30: return matmul_float<LoadBF16>(c);
    case 2: return matmul_packed<UnpackQ4_0>(c);
    case 3: return matmul_packed<UnpackQ45_1<q4_1<W>, Nibbles, 15>>(c);
    case 6: return matmul_packed<UnpackQ5_0>(c);
    case 7: return matmul_packed<UnpackQ45_1<q5_1<W>, NibblesAndBits, 31>>(c);
    case 8: return matmul_packed<UnpackQ8_0>(c);
    case 10: return matmul_packed<UnpackQ2_K>(c);
    case 11: return matmul_packed<UnpackCoded<true, q3_k_codes>>(c);
    case 12: return matmul_packed<UnpackQ45_K<q4_k<W>, Nibbles, 15>>(c);
    case 13: return matmul_packed<UnpackQ45_K<q5_k<W>, NibblesAndBits, 31>>(c);
    case 14: return matmul_packed<UnpackQ6_K>(c);
    case 16: return matmul_packed<UnpackCoded<false, iq2_codes>>(c);
    case 17: case 22: return matmul_packed<UnpackCoded<true, iq2_codes>>(c);
    case 18: return matmul_packed<UnpackCoded<false, iq3_xxs_codes>>(c);
    case 19: return matmul_packed<UnpackCoded<false, iq1_codes>>(c);
    case 20: return matmul_packed<UnpackIQ4_NL>(c);
    case 21: return matmul_packed<UnpackCoded<false, iq3_s_codes>>(c);
    case 23: return matmul_packed<UnpackCoded<false, iq4_codes>>(c);
    case 29: return matmul_packed<UnpackCoded<true, iq1_codes>>(c);
    case 34: case 35: return matmul_packed<UnpackCoded<false, ternary_codes>>(c);
    case 39: return matmul_packed<UnpackMXFP4>(c);
    case 40: return matmul_packed<UnpackNVFP4>(c);
  }
}

static void matmul(const MatmulCall& c) {
  multiply(c);
  const Matrix& m = *c.weight;
  if (scale_stretches(m) != 1) return;
  const int64_t first = c.first * group_rows, count = (m.rows < c.last * group_rows ? m.rows : c.last * group_rows) - first;
  for (int64_t r = 0; r < c.rows.count; ++r)
    for (int64_t i = 0; i < count; ++i) c.y[r * c.y_stride + i] *= m.scales[first + i];
}
