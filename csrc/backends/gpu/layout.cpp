// A chunk holds the fragments of the matrix instruction (port.h: multiply) as lanes want them: 16 bytes a lane and block, lane order, so that a
// warp's load is 512 bytes in a row and needs no shuffle. Bits are only moved (Q6_K: and two of them flipped), so packing loses nothing:
//   Q8_0        8 pieces of 512: block b of every lane;  2 x 128: for g = 0..7 of 4 blocks the half scales of rows g and g + 8
//   Q4_0, Q4_K  4 pieces of 512: piece p has block 2p in the low nibbles and 2p + 1 in the high ones
//   Q5_0, Q5_K  the same, then 512: for each lane and pair p a word whose bit 8i + 4j + c is the fifth bit of byte i, register c, block 2p + j
//   scales      Q4_0 and Q5_0 as Q8_0;  Q4_K and Q5_K: 2 x 128, for g = 0..7 the 16 header bytes of row g, then of rows g + 8
//   Q6_K        nibbles as Q4_K, then 2 x 512: for each lane and block b a word whose bits 8i + 2c, + 1 are the upper pair of byte i, register c, top
//               bit flipped;  2 x 128: the 16 scales plus 128 of row g, of row g + 8;  32: for g the halves d of rows g and g + 8
#include "backends/gpu/layout.h"

#include <cstring>

#include "backends/gpu/kernels.h"

namespace skipstone::gpu {
namespace {

// Where position k of a block and row r of a tile sit: lane, and byte among the lane's 16.
constexpr int lane_of(int r, int k) { return 4 * (r % 8) + (k % 16) / 4; }
constexpr int register_of(int r, int k) { return 2 * (k / 16) + r / 8; }
constexpr int byte_of(int r, int k) { return 4 * register_of(r, k) + k % 4; }
constexpr int scale_at(int r, int b) { return 128 * (b / 4) + 16 * (r % 8) + 4 * (b % 4) + 2 * (r / 8); }

void put_nibble(uint8_t* chunk, int r, int b, int k, int value) {
  chunk[512 * (b / 2) + 16 * lane_of(r, k) + byte_of(r, k)] |= static_cast<uint8_t>((value & 15) << (4 * (b % 2)));
}
void put_fifth(uint8_t* plane, int r, int b, int k, int value) {
  plane[16 * lane_of(r, k) + 4 * (b / 2) + k % 4] |= static_cast<uint8_t>(((value >> 4) & 1) << (4 * (b % 2) + register_of(r, k)));
}

void pack_q8_0(const uint8_t* const row[16], int64_t blocks, uint8_t* chunk) {
  for (int r = 0; r < 16; ++r)
    for (int b = 0; row[r] && b < blocks; ++b) {
      const uint8_t* in = row[r] + 34 * b;
      memcpy(chunk + 4096 + scale_at(r, b), in, 2);
      for (int k = 0; k < 32; k += 4) memcpy(chunk + 512 * b + 16 * lane_of(r, k) + byte_of(r, k), in + 2 + k, 4);
    }
}

template <bool FIVE> void pack_q45_0(const uint8_t* const row[16], int64_t blocks, uint8_t* chunk) {
  for (int r = 0; r < 16; ++r)
    for (int b = 0; row[r] && b < blocks; ++b) {
      const uint8_t* in = row[r] + (FIVE ? 22 : 18) * b;
      memcpy(chunk + (FIVE ? 2560 : 2048) + scale_at(r, b), in, 2);
      uint32_t fifth = 0;
      if (FIVE) memcpy(&fifth, in + 2, 4);
      const uint8_t* nibbles = in + (FIVE ? 6 : 2);
      for (int k = 0; k < 32; ++k) {
        put_nibble(chunk, r, b, k, nibbles[k % 16] >> (4 * (k / 16)));
        if (FIVE) put_fifth(chunk + 2048, r, b, k, static_cast<int>((fifth >> k & 1) << 4));
      }
    }
}

template <bool FIVE> void pack_q45_k(const uint8_t* const row[16], int64_t, uint8_t* chunk) {
  for (int r = 0; r < 16; ++r) {
    if (!row[r]) continue;
    memcpy(chunk + (FIVE ? 2560 : 2048) + 128 * (r / 8) + 16 * (r % 8), row[r], 16);
    const uint8_t *fifth = row[r] + 16, *nibbles = row[r] + (FIVE ? 48 : 16);
    for (int b = 0; b < 8; ++b)
      for (int k = 0; k < 32; ++k) {
        put_nibble(chunk, r, b, k, nibbles[32 * (b / 2) + k] >> (4 * (b % 2)));
        if (FIVE) put_fifth(chunk + 2048, r, b, k, (fifth[k] >> b & 1) << 4);
      }
  }
}

void pack_q6_k(const uint8_t* const row[16], int64_t, uint8_t* chunk) {
  for (int r = 0; r < 16; ++r) {
    if (!row[r]) continue;
    const uint8_t *low = row[r], *high = row[r] + 128, *scales = row[r] + 192;
    for (int i = 0; i < 16; ++i) chunk[3072 + 128 * (r / 8) + 16 * (r % 8) + i] = scales[i] ^ 0x80;
    memcpy(chunk + 3328 + 4 * (r % 8) + 2 * (r / 8), row[r] + 208, 2);
    for (int b = 0; b < 8; ++b)
      for (int k = 0; k < 32; ++k) {
        const int part = b / 4, quarter = b % 4;      // 128 weights: nibbles of 64 bytes, pairs of 32 bytes
        put_nibble(chunk, r, b, k, low[64 * part + 32 * (quarter % 2) + k] >> (4 * (quarter / 2)));
        const int pair = (high[32 * part + k] >> (2 * quarter) & 3) ^ 2;
        chunk[2048 + 512 * (b / 4) + 16 * lane_of(r, k) + 4 * (b % 4) + k % 4] |= static_cast<uint8_t>(pair << (2 * register_of(r, k)));
      }
  }
}

constexpr Layout layouts[] = {
  {8, "q8_0", 4352, 32, 34, pack_q8_0},
  {12, "q4_k", 2304, 256, 144, pack_q45_k<false>},
  {14, "q6_k", 3360, 256, 210, pack_q6_k},
  {13, "q5_k", 2816, 256, 176, pack_q45_k<true>},
  {2, "q4_0", 2304, 32, 18, pack_q45_0<false>},
  {6, "q5_0", 2816, 32, 22, pack_q45_0<true>},
};

}  // namespace

const Layout* find_layout(int type_id) {
  for (const Layout& layout : layouts)
    if (layout.type_id == type_id) return &layout;
  return nullptr;
}

int64_t chunk_count(int64_t columns) { return (columns + chunk_columns - 1) / chunk_columns; }

int64_t tile_count(int64_t rows) { return 2 * ((rows + unit_rows - 1) / unit_rows); }
int64_t chunk_place(int64_t tile, int64_t chunk, int64_t chunks) { return (tile / 2 * chunks + chunk) * 2 + tile % 2; }

void pack(const Layout& layout, const uint8_t* weights, int64_t rows, int64_t columns, uint8_t* packed, int64_t first, int64_t last) {
  const int64_t chunks = chunk_count(columns), row_blocks = columns / layout.block, chunk_blocks = chunk_columns / layout.block;
  for (int64_t tile = first; tile < last; ++tile)
    for (int64_t c = 0; c < chunks; ++c) {
      uint8_t* chunk = packed + chunk_place(tile, c, chunks) * layout.chunk_bytes;
      memset(chunk, 0, static_cast<size_t>(layout.chunk_bytes));
      const uint8_t* row[16];
      for (int64_t r = 0; r < tile_rows; ++r) {
        const int64_t n = tile_rows * tile + r;
        row[r] = n < rows ? weights + (n * row_blocks + c * chunk_blocks) * layout.block_bytes : nullptr;
      }
      const int64_t left = row_blocks - c * chunk_blocks;
      layout.pack(row, left < chunk_blocks ? left : chunk_blocks, chunk);
    }
}

}  // namespace skipstone::gpu
