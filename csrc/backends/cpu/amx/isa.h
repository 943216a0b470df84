// The vocabulary of the CPU kernels with AMX: that of AVX-512 VNNI, and tile registers, which multiply sixteen rows of activations by a block of sixteen
// weight rows in one instruction. Matmul uses them from a few rows on (common/tiles.inl).
#pragma once
#include "backends/cpu/avx512/isa.h"

namespace skipstone::cpu::amx {

using namespace avx512;
static constexpr bool takes_tiles = true;

// The shapes of the eight tile registers, as ldtilecfg reads them.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3: sums, rows x 16 of 32 bits. 4 and 5: activations, rows x depth. 6 and 7: weights, 16 rows x depth, four columns of each row together.
static inline void begin_tiles(int rows, int depth) {
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) {
    shapes.rows[t] = static_cast<uint8_t>(t < 6 ? rows : depth / 4);
    shapes.row_bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? depth : 64);
  }
  asm volatile("ldtilecfg %0" ::"m"(shapes));
}
// Threads that keep tiles make the system save them at every switch.
static inline void end_tiles() { asm volatile("tilerelease"); }

// Tile SUMS: [r][n] = sum over k < depth of x[r][k] * w[n][k], a row of x every 32 bytes, through tiles 4 + IN and 6 + IN.
template <int SUMS, int IN> static inline void tile_product(const int8_t* x, const uint8_t* w) {
  asm volatile("tilezero %%tmm%c0" ::"n"(SUMS));
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(x), "r"(int64_t{32}), "n"(4 + IN) : "memory");
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(w), "r"(int64_t{64}), "n"(6 + IN) : "memory");
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"n"(SUMS), "n"(4 + IN), "n"(6 + IN));
}
template <int SUMS> static inline void store_tile(int32_t* sums) { asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(sums), "r"(int64_t{64}), "n"(SUMS) : "memory"); }

}  // namespace skipstone::cpu::amx
