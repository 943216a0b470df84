// Tile registers in plain C++, with the shapes and the meaning of the amx variant's (backends/cpu/amx/isa.h), for sums group_rows wide.
static constexpr bool takes_tiles = true;

struct Tile {
  int rows = 0, row_bytes = 0;
  uint8_t bytes[16][64];
};
static thread_local Tile tiles[6];
static thread_local bool tiles_in_use = false;

static inline void begin_tiles(int rows, int depth) {
  if (tiles_in_use || rows < 1 || rows > 16 || depth < 4 || depth > 64 || depth % 4) __builtin_trap();
  tiles_in_use = true;
  for (int slot = 0; slot < 2; ++slot) {
    tiles[slot].rows = tiles[2 + slot].rows = rows;
    tiles[4 + slot].rows = depth / 4;
    tiles[slot].row_bytes = tiles[4 + slot].row_bytes = 4 * group_rows;
    tiles[2 + slot].row_bytes = depth;
  }
}
static inline void end_tiles() {
  if (!tiles_in_use) __builtin_trap();
  tiles_in_use = false;
}

static inline void load_tile(Tile& t, const void* from, int64_t stride) {
  for (int r = 0; r < t.rows; ++r) __builtin_memcpy(t.bytes[r], static_cast<const uint8_t*>(from) + r * stride, static_cast<size_t>(t.row_bytes));
}
template <int SLOT> static inline void tile_product(const int8_t* x, const uint8_t* w, int32_t* sums) {
  if (!tiles_in_use) __builtin_trap();
  load_tile(tiles[2 + SLOT], x, 32);
  load_tile(tiles[4 + SLOT], w, 4 * group_rows);
  const Tile &a = tiles[2 + SLOT], &b = tiles[4 + SLOT];
  for (int r = 0; r < a.rows; ++r)
    for (int n = 0; n < group_rows; ++n) {
      int32_t sum = 0;
      for (int k = 0; k < a.row_bytes; ++k) sum += int32_t(static_cast<int8_t>(a.bytes[r][k])) * static_cast<int8_t>(b.bytes[k / 4][4 * n + k % 4]);
      sums[r * group_rows + n] = sum;
    }
}
