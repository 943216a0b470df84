// Quantized matmul sixteen rows of activations at a time, for variants with tile registers (isa.h: takes_tiles). A tile product gives the exact whole sums of
// a block of 32 columns (or of its halves, where the type scales 16 at a time) for sixteen rows; the float32 chain over the blocks is that of add_block in
// matmul.inl, operation by operation, so the bits are the same.
//
// Activations are laid out in the order in which tiles read them, by those who quantize them or else here (MatmulCall: rows.tiles). Blocks of weights are
// unpacked to bytes once for 128 rows, whose activations stay in the second cache level, as much of the columns at a time as fits there.
// Cost of a block of 16 x 32 weights: unpacking about 30 operations and 8 stores once; for sixteen rows one product of 16 cycles, sixteen lines of sums stored
// and loaded again, and 3 (4 with minima) float operations a row: 24 to 32 cycles on two ports, so at best 256 to 340 multiplications a cycle,
// where VNNI has 80. Measured on 16 virtual cores of a Xeon, in cycles of its 2.1 GHz time stamp counter: tile operations alone 60, float operations alone 39,
// together 87 (in order 97; two products early 123; sums or activations away from each other's page offsets no better); within whole prompts about 130.

static inline void write_results(const float* result, int64_t rows, float* y, int64_t y_stride, int64_t count);      // matmul.inl
template <class T> static inline void read_block(T& t, const uint8_t* group, int64_t b);                                 // matmul.inl

constexpr int64_t most_tile_rows = 128;          // in one go over the weights
constexpr int64_t blocks_unpacked = 16;          // together, so that they stay in the first cache level
constexpr int64_t blocks_at_once = 128;          // of most_tile_rows rows, so that they stay in the second

// Blocks first..last-1 of a row to its place among the rows that are laid out together.
static void lay_out_row(QuantizedRow x, int64_t columns, int64_t first, int64_t last, int64_t row, uint8_t* tiles) {
  const int64_t i = row % tile_height;
  uint8_t* out = tiles + (row / tile_height * (columns / 32) + first) * tile_block_bytes;
  for (int64_t b = 0; b < last - first; ++b, out += tile_block_bytes) {
    __builtin_memcpy(out + 32 * i, x.q + 32 * b, 32);
    float* factors = reinterpret_cast<float*>(out + 32 * tile_height) + i;
    factors[0] = x.scale[b];
    factors[tile_height] = x.sum[b];
    factors[2 * tile_height] = x.half_sum[2 * b];
    factors[3 * tile_height] = x.half_sum[2 * b + 1];
  }
}

// For callers without rows.tiles, in memory of this thread.
static inline const uint8_t* lay_out_rows(const Rows& x, int64_t row, int64_t rows) {
  static thread_local std::vector<uint8_t> memory;
  const int64_t blocks = x.columns / 32;
  memory.resize(static_cast<size_t>(tile_bytes(rows, x.columns) + 64));
  uint8_t* to = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = (row + r) * blocks;
    const QuantizedRow& q = x.quantized;
    lay_out_row({q.q + 32 * at, q.scale + at, q.sum + at, q.half_sum + 2 * at, q.minus + at, q.half_minus + 2 * at}, x.columns, 0, blocks, r, to);
  }
  return to;
}

// Weights of a block as signed bytes, eight registers, and its factors.
template <class T> struct UnpackedBlock {
  alignas(64) uint8_t w[8 * sizeof(Bytes)];
  alignas(64) float scale[T::halves ? 2 : 1][group_rows], min[T::halves ? 2 : 1][group_rows];
  void fill(const uint8_t* group, int64_t b) {
    T t;
    read_block(t, group, b);
    for (int i = 0; i < 8; ++i) {
      if constexpr (T::largest == 0 || T::shift < 0) store_register(w + sizeof(Bytes) * i, t.w[i]);
      else if constexpr (T::shift == 7) store_register(w + sizeof(Bytes) * i, flip_sign_bit(t.w[i]));
      else store_register(w + sizeof(Bytes) * i, take_away<1 << T::shift>(t.w[i]));
    }
    for (int p = 0; p < (T::halves ? 2 : 1); ++p) {
      store(scale[p], t.scale[p]);
      if constexpr (T::mins) store(min[p], t.min[p]);
    }
  }
};

// The sums of a block and sixteen rows: their product begins early, in one of two slots of tiles, and is stored late, when it is done.
template <class T> struct TileSums {
  alignas(64) int32_t part[T::halves ? 2 : 1][tile_height * group_rows];
  template <int SLOT> static void begin(const uint8_t* x, const UnpackedBlock<T>& w) {
    const int8_t* q = reinterpret_cast<const int8_t*>(x);
    if constexpr (!T::halves) {
      tile_product<SLOT, SLOT>(q, w.w);
    } else {
      tile_product<2 * SLOT, 0>(q, w.w);
      tile_product<2 * SLOT + 1, 1>(q + 16, w.w + 4 * sizeof(Bytes));
    }
  }
  template <int SLOT> void end() {
    if constexpr (!T::halves) {
      store_tile<SLOT>(part[0]);
    } else {
      store_tile<2 * SLOT>(part[0]);
      store_tile<2 * SLOT + 1>(part[1]);
    }
  }
};

template <class T, int ROWS> [[gnu::always_inline]] static inline void add_sums(const TileSums<T>& sums, const uint8_t* x, const UnpackedBlock<T>& w, Floats (&acc)[ROWS]) {
  constexpr int parts = T::halves ? 2 : 1;
  const float *factors = reinterpret_cast<const float*>(x + 32 * tile_height), *of_minima = factors + (T::halves ? 2 : 1) * tile_height;
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < parts; ++p) acc[r] = fma(to_float(load_ints(sums.part[p] + group_rows * r)), mul(load_floats(w.scale[p]), spread(factors[r])), acc[r]);
    if constexpr (T::mins)
#pragma GCC unroll 2
      for (int p = 0; p < parts; ++p) acc[r] = fma(load_floats(w.min[p]), spread(of_minima[tile_height * p + r]), acc[r]);
  }
}

// `count` lanes at y, where a group ends beyond the matrix.
static inline Floats load_lanes(const float* y, int64_t count) {
  if (count >= group_rows) return load_floats(y);
  float lanes[group_rows] = {};
  __builtin_memcpy(lanes, y, static_cast<size_t>(count) * 4);
  return load_floats(lanes);
}

// Adds `blocks` blocks to ROWS rows of sums, which stay in registers. The product of a block runs beside the float operations of the one before.
template <class T, int ROWS> static inline void add_tile(const uint8_t* x, const UnpackedBlock<T>* w, int64_t blocks, float* result) {
  Floats acc[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) acc[r] = load_floats(result + group_rows * r);
  TileSums<T> sums;
  sums.template begin<0>(x, w[0]);
  sums.template end<0>();
  for (int64_t b = 0; b < blocks; b += 2, x += 2 * tile_block_bytes, w += 2) {
    const bool one_more = b + 1 < blocks, two_more = b + 2 < blocks;
    if (one_more) sums.template begin<1>(x + tile_block_bytes, w[1]);
    add_sums(sums, x, w[0], acc);
    if (!one_more) break;
    sums.template end<1>();
    if (two_more) sums.template begin<0>(x + 2 * tile_block_bytes, w[2]);
    add_sums(sums, x + tile_block_bytes, w[1], acc);
    if (two_more) sums.template end<0>();
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) store(result + group_rows * r, acc[r]);
}

template <class T> static void matmul_tiles(const MatmulCall& c) {
  const Matrix& m = *c.weight;
  const int64_t blocks = m.columns / 32, chunk = blocks_at_once;
  UnpackedBlock<T> w[blocks_unpacked];
  alignas(64) float result[most_tile_rows * group_rows];
  for (int64_t row = 0; row < c.rows.count; row += most_tile_rows) {
    const int64_t rows = c.rows.count - row < most_tile_rows ? c.rows.count - row : most_tile_rows, tiles = (rows + tile_height - 1) / tile_height;
    const uint8_t* x = c.rows.tiles ? c.rows.tiles + row * blocks * (tile_block_bytes / tile_height) : lay_out_rows(c.rows, row, rows);
    begin_tiles(rows > tile_height / 2 ? tile_height : tile_height / 2, T::halves ? 16 : 32);
    for (int64_t first = 0; first < blocks; first += chunk) {
      const int64_t end = first + chunk < blocks ? first + chunk : blocks;
      for (int64_t g = c.first; g < c.last; ++g) {
        const uint8_t* group = m.packed + g * m.group_bytes;
        float* y = c.y + row * c.y_stride + group_rows * (g - c.first);
        const int64_t lanes = m.rows - group_rows * g;
        for (int64_t r = 0; r < tiles * tile_height; ++r) store(result + group_rows * r, first && r < rows ? load_lanes(y + r * c.y_stride, lanes) : spread(0.0f));
        for (int64_t b = first; b < end; b += blocks_unpacked) {
          const int64_t count = end - b < blocks_unpacked ? end - b : blocks_unpacked;
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t p = 0; p < T::bytes; p += 64) prefetch(group + T::bytes * (b + i) + 4096 + p);
            w[i].fill(group, b + i);
          }
          for (int64_t t = 0; t < tiles; ++t) {
            const uint8_t* in = x + tile_block_bytes * (blocks * t + b);
            float* sums = result + tile_height * group_rows * t;
            if (rows - tile_height * t > tile_height / 2) add_tile<T, tile_height>(in, w, count, sums);
            else add_tile<T, tile_height / 2>(in, w, count, sums);
          }
        }
        write_results(result, rows, y, c.y_stride, lanes);
      }
    }
    end_tiles();
  }
}
