// Quantized matmul sixteen rows of activations at a time, for variants with tile registers (isa.h: takes_tiles). A tile product gives the exact whole sums of
// a block of 32 columns (or of its halves, where the type scales 16 at a time) for sixteen rows; the float32 chain over the blocks is that of add_block in
// matmul.inl, operation by operation, so the bits are the same.
//
// Blocks are unpacked to bytes once for up to 512 rows. Activations are laid out anew in the order in which tiles read them, as much of the columns at a
// time as the second cache level holds; the sums wait in y meanwhile.
// Cost of a block of 16 x 32 weights: unpacking about 30 operations and 8 stores once; for sixteen rows one product of 16 cycles, sixteen lines of sums stored
// and loaded again, and 3 (4 with minima) float operations a row: 24 to 32 cycles on two ports, so at best 256 to 340 multiplications a cycle,
// where VNNI has 80.

constexpr int64_t tile_height = 16;              // rows of activations
constexpr int64_t most_tile_rows = 512;          // in one go over the weights
constexpr int64_t blocks_unpacked = 16;          // together, so that they stay in the first cache level
constexpr int64_t laid_out_bytes = 256 << 10;    // of activations, so that they stay in the second

// Of this thread, for the activations laid out anew.
static inline uint8_t* tile_memory() {
  struct Memory {
    uint8_t* start = static_cast<uint8_t*>(::operator new(laid_out_bytes, std::align_val_t{64}));
    ~Memory() { ::operator delete(start, std::align_val_t{64}); }
  };
  static thread_local Memory memory;
  return memory.start;
}

// A block of sixteen rows of activations: the values, row after row, then the factors of every row.
template <class T> struct TileBlock {
  static constexpr int64_t parts = T::halves ? 2 : 1, scales = 32 * tile_height, sums = scales + 4 * tile_height, bytes = sums + (T::mins ? 4 * parts * tile_height : 0);
};

// Blocks first..last-1 of `rows` rows, sixteen rows after sixteen; the last row again where the sixteen are not full.
template <class T> static inline void lay_out_rows(const Rows& x, int64_t row, int64_t rows, int64_t first, int64_t last, uint8_t* to) {
  using Out = TileBlock<T>;
  const int64_t blocks = x.columns / 32;
  for (int64_t tile = 0; tile < rows; tile += tile_height, to += Out::bytes * (last - first))
    for (int64_t i = 0; i < tile_height; ++i) {
      const int64_t r = row + (tile + i < rows ? tile + i : rows - 1);
      const int8_t* q = x.quantized.q + r * x.columns;
      const float* scale = x.quantized.scale + r * blocks;
      const float* sum = T::halves ? x.quantized.half_sum + 2 * r * blocks : x.quantized.sum + r * blocks;
      uint8_t* out = to;
      for (int64_t b = first; b < last; ++b, out += Out::bytes) {
        __builtin_memcpy(out + 32 * i, q + 32 * b, 32);
        __builtin_memcpy(out + Out::scales + 4 * i, scale + b, 4);
        if constexpr (T::mins)
          for (int64_t p = 0; p < Out::parts; ++p) __builtin_memcpy(out + Out::sums + 4 * (tile_height * p + i), sum + Out::parts * b + p, 4);
      }
    }
}

// Weights of a block as signed bytes, eight registers, and its factors.
template <class T> struct UnpackedBlock {
  alignas(64) uint8_t w[8 * sizeof(Bytes)];
  alignas(64) float scale[TileBlock<T>::parts][group_rows], min[TileBlock<T>::parts][group_rows];
  void fill(const uint8_t* group, int64_t b) {
    T t;
    t.read(group, b);
    for (int i = 0; i < 8; ++i) {
      if constexpr (T::largest == 0 || T::shift < 0) store_register(w + sizeof(Bytes) * i, t.w[i]);
      else if constexpr (T::shift == 7) store_register(w + sizeof(Bytes) * i, flip_sign_bit(t.w[i]));
      else store_register(w + sizeof(Bytes) * i, take_away<1 << T::shift>(t.w[i]));
    }
    for (int p = 0; p < TileBlock<T>::parts; ++p) {
      store(scale[p], t.scale[p]);
      if constexpr (T::mins) store(min[p], t.min[p]);
    }
  }
};

// The sums of a block and sixteen rows.
template <class T> struct TileSums {
  alignas(64) int32_t part[TileBlock<T>::parts][tile_height * group_rows];
  template <int SLOT> void fill(const uint8_t* x, const UnpackedBlock<T>& w) {
    const int8_t* q = reinterpret_cast<const int8_t*>(x);
    if constexpr (!T::halves) {
      tile_product<SLOT>(q, w.w, part[0]);
    } else {
      tile_product<0>(q, w.w, part[0]);
      tile_product<1>(q + 16, w.w + 4 * sizeof(Bytes), part[1]);
    }
  }
};

template <class T, int ROWS> [[gnu::always_inline]] static inline void add_sums(const TileSums<T>& sums, const uint8_t* x, const UnpackedBlock<T>& w, Floats (&acc)[ROWS]) {
  const float* factors = reinterpret_cast<const float*>(x + TileBlock<T>::scales);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 2
    for (int p = 0; p < TileBlock<T>::parts; ++p) acc[r] = fma(to_float(load_ints(sums.part[p] + group_rows * r)), mul(load_floats(w.scale[p]), spread(factors[r])), acc[r]);
    if constexpr (T::mins)
#pragma GCC unroll 2
      for (int p = 0; p < TileBlock<T>::parts; ++p) acc[r] = fma(load_floats(w.min[p]), spread(factors[tile_height * (p + 1) + r]), acc[r]);
  }
}

// `count` lanes at y, where a group ends beyond the matrix.
static inline Floats load_lanes(const float* y, int64_t count) {
  if (count >= group_rows) return load_floats(y);
  float lanes[group_rows] = {};
  __builtin_memcpy(lanes, y, static_cast<size_t>(count) * 4);
  return load_floats(lanes);
}
static inline void store_lanes(float* y, Floats a, int64_t count) {
  if (count >= group_rows) return store(y, a);
  float lanes[group_rows];
  store(lanes, a);
  __builtin_memcpy(y, lanes, static_cast<size_t>(count) * 4);
}

// Adds `blocks` blocks to rows 0..rows-1 of y (rows <= ROWS); their sums stay in registers. The products of a block run beside the sums of the one before.
template <class T, int ROWS> static inline void add_tile(const uint8_t* x, const UnpackedBlock<T>* w, int64_t blocks, int64_t rows, float* y, int64_t y_stride, int64_t lanes, bool fresh) {
  Floats acc[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) acc[r] = r < rows && !fresh ? load_lanes(y + r * y_stride, lanes) : spread(0.0f);
  TileSums<T> sums[2];
  sums[0].template fill<0>(x, w[0]);
  for (int64_t b = 0; b < blocks; b += 2, x += 2 * TileBlock<T>::bytes, w += 2) {
    if (b + 1 < blocks) sums[1].template fill<1>(x + TileBlock<T>::bytes, w[1]);
    add_sums(sums[0], x, w[0], acc);
    if (b + 1 == blocks) break;
    if (b + 2 < blocks) sums[0].template fill<0>(x + 2 * TileBlock<T>::bytes, w[2]);
    add_sums(sums[1], x + TileBlock<T>::bytes, w[1], acc);
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
    if (r < rows) store_lanes(y + r * y_stride, acc[r], lanes);
}

template <class T> static void matmul_tiles(const MatmulCall& c) {
  using In = TileBlock<T>;
  const Matrix& m = *c.weight;
  const int64_t blocks = m.columns / 32;
  uint8_t* x = tile_memory();
  UnpackedBlock<T> w[blocks_unpacked];
  for (int64_t row = 0; row < c.rows.count; row += most_tile_rows) {
    const int64_t rows = c.rows.count - row < most_tile_rows ? c.rows.count - row : most_tile_rows, tiles = (rows + tile_height - 1) / tile_height;
    const int64_t fit = laid_out_bytes / (In::bytes * tiles) / 8 * 8, chunk = fit < blocks ? fit : blocks;
    begin_tiles(rows > tile_height / 2 ? tile_height : tile_height / 2, T::halves ? 16 : 32);
    for (int64_t first = 0; first < blocks; first += chunk) {
      const int64_t end = first + chunk < blocks ? first + chunk : blocks;
      lay_out_rows<T>(c.rows, row, rows, first, end, x);
      for (int64_t g = c.first; g < c.last; ++g) {
        const uint8_t* group = m.packed + g * m.group_bytes;
        const int64_t lanes = m.rows - group_rows * g;
        for (int64_t b = first; b < end; b += blocks_unpacked) {
          const int64_t count = end - b < blocks_unpacked ? end - b : blocks_unpacked;
          for (int64_t i = 0; i < count; ++i) {
            for (int64_t p = 0; p < T::bytes; p += 64) prefetch(group + T::bytes * (b + i) + 4096 + p);
            w[i].fill(group, b + i);
          }
          for (int64_t t = 0; t < tiles; ++t) {
            const uint8_t* in = x + In::bytes * ((end - first) * t + b - first);
            float* y = c.y + (row + tile_height * t) * c.y_stride + group_rows * (g - c.first);
            const int64_t left = rows - tile_height * t;
            if (left > tile_height / 2) add_tile<T, tile_height>(in, w, count, left, y, c.y_stride, lanes, b == 0);
            else add_tile<T, tile_height / 2>(in, w, count, left, y, c.y_stride, lanes, b == 0);
          }
        }
      }
    }
    end_tiles();
  }
}
