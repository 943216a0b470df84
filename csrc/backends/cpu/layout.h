// Sizes and offsets (bytes) of the row-interleaved layouts; layout.cpp packs them, common/matmul.inl reads them.
// W is the width of a group in eights of rows: 1 for groups of 8, 2 for groups of 16. Everything in a group grows with it.
#pragma once
#include <cstdint>
#include <string_view>

#include "backends/cpu/kernels.h"

namespace skipstone::cpu {

// Types whose blocks of 32 stand alone, in pairs: the scales (and minima) of two blocks, then their pieces. Scales in a place of their own would be
// a second stream of memory, which halves what one core reads.
template <int64_t PIECE, int64_t SCALE, int64_t W> struct Simple {
  static constexpr int64_t piece = PIECE * W, scale = SCALE * W, pair = 2 * (piece + scale);
  static constexpr int64_t scale_at(int64_t block) { return block / 2 * pair + block % 2 * scale; }
  static constexpr int64_t piece_at(int64_t block) { return block / 2 * pair + 2 * scale + block % 2 * piece; }
};
template <int64_t W> using q8_0 = Simple<256, 16, W>;
template <int64_t W> using q4_0 = Simple<128, 16, W>;      // nibbles; also IQ4_NL, whose nibbles choose from a table
template <int64_t W> using q5_0 = Simple<160, 16, W>;      // nibbles, bits
template <int64_t W> using q4_1 = Simple<128, 32, W>;      // nibbles; scales, then minima
template <int64_t W> using q5_1 = Simple<160, 32, W>;      // nibbles, bits; scales, then minima
template <int64_t W> using mxfp4 = Simple<128, 8, W>;      // nibbles that choose from a table; a byte of exponent
template <int64_t W> using nvfp4 = Simple<128, 32, W>;     // the same; float16 scales of the first halves, then of the second

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
// d and dmin (float16), 16 bytes of scale (low nibble) and minimum (high) of every row, then the pairs of each block in the low bits.
template <int64_t W> struct q2_k {
  static constexpr int64_t dmin = 16 * W, scales = 32 * W, scale = 8 * W, header = (32 + 128) * W, piece = 64 * W, super = header + 8 * piece;
};
// Types of at most 16 different weights (Q3_K, IQ1 to IQ4_XS, TQ): d (float16) and, per 16 columns or per 32, a whole multiple of it (int8) of every
// row; then nibbles that choose from the type's table. Larger than the file for the smallest types, and nothing is looked up in a codebook again.
template <bool HALVES, int64_t W> struct coded {
  static constexpr int64_t scales = 16 * W, scale = 8 * W, header = (16 + (HALVES ? 128 : 64)) * W, piece = 128 * W, super = header + 8 * piece;
};

// The weights that a coded type chooses from, and the power of two that its scales leave out: scale = d * factor * multiple.
struct Codes {
  int8_t weight[16];
  int count;
  float factor;
};
constexpr int smallest_weight(const Codes& codes) {
  int smallest = 0;
  for (int i = 0; i < codes.count; ++i) smallest = codes.weight[i] < smallest ? codes.weight[i] : smallest;
  return smallest;
}
constexpr int largest_weight(const Codes& codes) {
  int largest = 0;
  for (int i = 0; i < codes.count; ++i) largest = codes.weight[i] > largest ? codes.weight[i] : largest;
  return largest;
}
// The same weights counted from -offset, as bytes.
constexpr Codes codes_plus(const Codes& codes, int offset) {
  Codes moved = codes;
  for (int i = 0; i < codes.count; ++i) moved.weight[i] = static_cast<int8_t>(codes.weight[i] + offset);
  return moved;
}
// Pairs of products of weights up to this and activations fit 16 bits, signed.
constexpr int most_counted = 127;

constexpr Codes iq4_codes = {{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, 16, 1.0f};
constexpr Codes fp4_codes = {{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}, 16, 1.0f};
constexpr Codes q3_k_codes = {{-4, -3, -2, -1, 0, 1, 2, 3}, 8, 1.0f};
constexpr Codes ternary_codes = {{-1, 0, 1, 2}, 4, 1.0f};
constexpr Codes iq1_codes = {{-9, -7, -1, 1, 7, 9}, 6, 0.125f};
constexpr Codes iq2_codes = {{-43, -25, -8, 8, 25, 43}, 6, 0.125f};
constexpr Codes iq3_xxs_codes = {{-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62}, 16, 0.25f};
constexpr Codes iq3_s_codes = {{-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15}, 16, 1.0f};

// Planes of a block of 32 columns.
template <int64_t W> struct planes {
  static constexpr int64_t register_bytes = 32 * W, after_nibbles = 128 * W;
};

}  // namespace skipstone::cpu
