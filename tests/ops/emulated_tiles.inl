// Tile registers in plain C++, with the shapes and the meaning of the amx variant's (backends/cpu/amx/isa.h), for sums group_rows wide.
static constexpr bool takes_tiles = true;

struct Tile {
  int rows = 0, row_bytes = 0;
  uint8_t bytes[16][64];
};
static thread_local Tile tiles[8];
static thread_local bool tiles_in_use = false;

static inline void begin_tiles(int rows, int depth) {
  if (tiles_in_use || rows < 1 || rows > 16 || depth < 4 || depth > 64 || depth % 4) __builtin_trap();
  tiles_in_use = true;
  for (int t = 0; t < 8; ++t) {
    tiles[t].rows = t < 6 ? rows : depth / 4;
    tiles[t].row_bytes = t == 4 || t == 5 ? depth : 4 * group_rows;
  }
}
static inline void end_tiles() {
  if (!tiles_in_use) __builtin_trap();
  tiles_in_use = false;
}

static inline void load_tile(Tile& t, const void* from, int64_t stride) {
  for (int r = 0; r < t.rows; ++r) __builtin_memcpy(t.bytes[r], static_cast<const uint8_t*>(from) + r * stride, static_cast<size_t>(t.row_bytes));
}
template <int SUMS, int IN> static inline void tile_product(const int8_t* x, const uint8_t* w) {
  if (!tiles_in_use) __builtin_trap();
  load_tile(tiles[4 + IN], x, 32);
  load_tile(tiles[6 + IN], w, 4 * group_rows);
  const Tile &a = tiles[4 + IN], &b = tiles[6 + IN];
  for (int r = 0; r < a.rows; ++r)
    for (int n = 0; n < group_rows; ++n) {
      int32_t sum = 0;
      for (int k = 0; k < a.row_bytes; ++k) sum += int32_t(static_cast<int8_t>(a.bytes[r][k])) * static_cast<int8_t>(b.bytes[k / 4][4 * n + k % 4]);
      __builtin_memcpy(tiles[SUMS].bytes[r] + 4 * n, &sum, 4);
    }
}
template <int SUMS> static inline void store_tile(int32_t* sums) {
  if (!tiles_in_use) __builtin_trap();
  for (int r = 0; r < tiles[SUMS].rows; ++r) __builtin_memcpy(sums + r * group_rows, tiles[SUMS].bytes[r], 4 * group_rows);
}
