// Sizes and offsets (bytes) of the row-interleaved layouts; layout.cpp packs them, common/matmul.inl reads them.
// W is the width of a group in eights of rows: 1 for groups of 8, 2 for groups of 16. Everything in a group grows with it.
#pragma once
#include <cstdint>
#include <string_view>

#include "backends/cpu/kernels.h"

namespace skipstone::cpu {

// Types with one float16 scale a block: all blocks' pieces, then all blocks' scales.
template <int64_t PIECE, int64_t W> struct Simple {
  static constexpr int64_t piece = PIECE * W, scale = 16 * W;
  static constexpr int64_t scales(int64_t blocks) { return piece * blocks; }
};
template <int64_t W> using q8_0 = Simple<256, W>;
template <int64_t W> using q4_0 = Simple<128, W>;          // nibbles
template <int64_t W> using q5_0 = Simple<160, W>;          // nibbles, bits

// Superblocks of 256: d and dmin (float16) of every row, then per block scale and min (bytes) of every row; then the blocks' planes.
template <int64_t PIECE, int64_t W> struct Super {
  static constexpr int64_t dmin = 16 * W, blocks = 32 * W, block = 16 * W, min = 8 * W, header = (32 + 8 * 16) * W, piece = PIECE * W, super = header + 8 * piece;
};
template <int64_t W> using q4_k = Super<128, W>;
template <int64_t W> using q5_k = Super<160, W>;
// d (float16) of every row, 16 scales (int8) of every row, then nibbles and pairs of each block.
template <int64_t W> struct q6_k {
  static constexpr int64_t scales = 16 * W, scale = 8 * W, header = (16 + 128) * W, piece = 192 * W, super = header + 8 * piece;
};
// Planes of a block of 32 columns.
template <int64_t W> struct planes {
  static constexpr int64_t register_bytes = 32 * W, after_nibbles = 128 * W;
};

}  // namespace skipstone::cpu
