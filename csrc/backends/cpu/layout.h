// Sizes and offsets (bytes) of the row-interleaved layouts; layout.cpp packs them, common/unpack.inl reads them.
#pragma once
#include <cstdint>
#include <string_view>

#include "backends/cpu/kernels.h"

namespace skipstone::cpu {

// Types with one float16 scale a block: all blocks' pieces, then all blocks' eight scales.
template <int64_t PIECE> struct Simple {
  static constexpr int64_t piece = PIECE;
  static constexpr int64_t scales(int64_t blocks) { return PIECE * blocks; }
};
using q8_0 = Simple<256>;
using q4_0 = Simple<128>;          // nibbles
using q5_0 = Simple<160>;          // nibbles, bits

// Superblocks of 256: d[8], dmin[8] (float16), then per block scale[8] and min[8] (bytes); then the blocks' planes.
constexpr int64_t k_header = 32 + 8 * 16;
struct q4_k {
  static constexpr int64_t piece = 128, super = k_header + 8 * piece;
};
struct q5_k {
  static constexpr int64_t piece = 160, super = k_header + 8 * piece;
};
// d[8] (float16), scale[16][8] (int8), then nibbles and pairs of each block.
struct q6_k {
  static constexpr int64_t header = 16 + 128, piece = 192, super = header + 8 * piece;
};

}  // namespace skipstone::cpu
