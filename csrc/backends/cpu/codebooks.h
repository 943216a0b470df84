// The blocks of the codebook types and of TQ1_0 as layouts of coded types want them (layout.h: coded): eight codes at a time, one a byte, without a look at
// single weights, and scales as whole multiples of d * factor. Values are those of formats/, which tests hold them against.
#pragma once
#include <array>
#include <cstring>

#include "backends/cpu/layout.h"
#include "formats/iq1.h"
#include "formats/iq2.h"
#include "formats/iq3.h"
#include "formats/ternary.h"

namespace skipstone::cpu {

// Codes of the magnitudes of a grid's entries, LENGTH bytes an entry.
template <const Codes& CODES, class Word, size_t ENTRIES, size_t LENGTH> constexpr std::array<Word, ENTRIES> codes_of(const formats::Grid<uint8_t, ENTRIES, LENGTH>& grid) {
  static_assert(sizeof(Word) == LENGTH);
  std::array<Word, ENTRIES> all{};
  for (size_t e = 0; e < ENTRIES; ++e)
    for (size_t i = 0; i < LENGTH; ++i) {
      int code = 0;
      while (CODES.weight[code] != grid[e][i]) ++code;
      all[e] |= static_cast<Word>(code) << (8 * i);
    }
  return all;
}
inline constexpr auto iq2_xxs_grid_codes = codes_of<iq2_codes, uint64_t>(formats::iq2_xxs_grid);
inline constexpr auto iq2_xs_grid_codes = codes_of<iq2_codes, uint64_t>(formats::iq2_xs_grid);
inline constexpr auto iq2_s_grid_codes = codes_of<iq2_codes, uint64_t>(formats::iq2_s_grid);
inline constexpr auto iq3_xxs_grid_codes = codes_of<iq3_xxs_codes, uint32_t>(formats::iq3_xxs_grid);
inline constexpr auto iq3_s_grid_codes = codes_of<iq3_s_codes, uint32_t>(formats::iq3_s_grid);

// Twice each entry of the ternary grid plus two: the code of its weight moved down by an eighth; the one moved up is the next.
inline constexpr auto iq1_grid_codes = [] {
  std::array<uint64_t, 2048> all{};
  for (size_t e = 0; e < all.size(); ++e)
    for (size_t i = 0; i < 8; ++i) all[e] |= static_cast<uint64_t>(2 * (formats::iq1_grid[e][i] + 1)) << (8 * i);
  return all;
}();

constexpr uint64_t every_byte = 0x0101010101010101u;

// Eight signs as eight bytes of ones or zeros; the first 128 by seven signs, of which the eighth follows.
inline constexpr auto sign_masks = [] {
  std::array<uint64_t, 256> all{};
  for (uint32_t signs = 0; signs < 256; ++signs) all[signs] = formats::spread_bits(static_cast<uint8_t>(signs)) * 255;
  return all;
}();
inline constexpr auto completed_sign_masks = [] {
  std::array<uint64_t, 128> all{};
  for (uint32_t seven = 0; seven < 128; ++seven) all[seven] = sign_masks[formats::complete_signs(seven)];
  return all;
}();

// The codes of a type run from the most negative weight to the most positive, so that of -w is the mirror image of that of w.
template <const Codes& CODES> uint64_t mirrored(uint64_t codes, uint64_t sign_mask) {
  const uint64_t mirror = static_cast<uint64_t>(CODES.count - 1) * every_byte - codes;       // no byte borrows
  return codes ^ ((codes ^ mirror) & sign_mask);
}
inline uint64_t joined(uint32_t low, uint32_t high) { return low | static_cast<uint64_t>(high) << 32; }

// Of each type: the float16 d, codes of weights 32 * part + 8 * k ..., and the multiple of the scale of part's half `half`.
template <class Format> struct Coded;

template <> struct Coded<formats::IQ2_XXS> {
  using Block = formats::IQ2_XXS::Block;
  static uint16_t d(const Block& block) { return block.d; }
  static uint64_t codes(const Block& block, int part, int k) {
    const auto& group = block.groups[part];
    return mirrored<iq2_codes>(iq2_xxs_grid_codes[group.index[k]], completed_sign_masks[group.signs >> (7 * k) & 127]);
  }
  static int multiple(const Block& block, int part, int) { return static_cast<int>(2 * (block.groups[part].signs >> 28) + 1); }
};

template <> struct Coded<formats::IQ2_XS> {
  using Block = formats::IQ2_XS::Block;
  static uint16_t d(const Block& block) { return block.d; }
  static uint64_t codes(const Block& block, int part, int k) {
    const uint16_t q = block.qs[4 * part + k];
    return mirrored<iq2_codes>(iq2_xs_grid_codes[q & 511], completed_sign_masks[static_cast<size_t>(q >> 9)]);
  }
  static int multiple(const Block& block, int part, int half) { return 2 * (block.scales[part] >> (4 * half) & 15) + 1; }
};

template <> struct Coded<formats::IQ2_S> {
  using Block = formats::IQ2_S::Block;
  static uint16_t d(const Block& block) { return block.d; }
  static uint64_t codes(const Block& block, int part, int k) {
    const int index = block.qs[4 * part + k] | (block.qh[part] >> (2 * k) & 3) << 8;
    return mirrored<iq2_codes>(iq2_s_grid_codes[static_cast<size_t>(index)], sign_masks[block.signs[4 * part + k]]);
  }
  static int multiple(const Block& block, int part, int half) { return 2 * (block.scales[part] >> (4 * half) & 15) + 1; }
};

template <> struct Coded<formats::IQ3_XXS> {
  using Block = formats::IQ3_XXS::Block;
  static uint16_t d(const Block& block) { return block.d; }
  static uint64_t codes(const Block& block, int part, int k) {
    const uint8_t* qs = block.qs + 8 * part + 2 * k;
    return mirrored<iq3_xxs_codes>(joined(iq3_xxs_grid_codes[qs[0]], iq3_xxs_grid_codes[qs[1]]), completed_sign_masks[block.signs[part] >> (7 * k) & 127]);
  }
  static int multiple(const Block& block, int part, int) { return static_cast<int>(2 * (block.signs[part] >> 28) + 1); }
};

template <> struct Coded<formats::IQ3_S> {
  using Block = formats::IQ3_S::Block;
  static uint16_t d(const Block& block) { return block.d; }
  static uint64_t codes(const Block& block, int part, int k) {
    const uint8_t* qs = block.qs + 8 * part + 2 * k;
    const int high = block.qh[part] << 8 >> (2 * k);
    return mirrored<iq3_s_codes>(joined(iq3_s_grid_codes[static_cast<size_t>(qs[0] | (high & 256))], iq3_s_grid_codes[static_cast<size_t>(qs[1] | (high >> 1 & 256))]), sign_masks[block.signs[4 * part + k]]);
  }
  static int multiple(const Block& block, int part, int) { return 2 * (block.scales[part / 2] >> (4 * (part % 2)) & 15) + 1; }
};

template <> struct Coded<formats::IQ1_S> {
  using Block = formats::IQ1_S::Block;
  static uint16_t d(const Block& block) { return block.d; }
  static uint64_t codes(const Block& block, int part, int k) {
    const int high = block.qh[part];
    return iq1_grid_codes[static_cast<size_t>(block.qs[4 * part + k] | (high >> (3 * k) & 7) << 8)] + (high & 0x8000 ? 0 : every_byte);
  }
  static int multiple(const Block& block, int part, int) { return 2 * (block.qh[part] >> 12 & 7) + 1; }
};

template <> struct Coded<formats::IQ1_M> {
  using Block = formats::IQ1_M::Block;
  static uint16_t d(const Block& block) {
    int bits = 0;
    for (int i = 0; i < 4; ++i) bits |= (block.scales[i] >> 12) << (4 * i);
    return static_cast<uint16_t>(bits);
  }
  static uint64_t codes(const Block& block, int part, int k) {
    const int high = block.qh[2 * part + k / 2] >> (4 * (k % 2));
    return iq1_grid_codes[static_cast<size_t>(block.qs[4 * part + k] | (high & 7) << 8)] + (high & 8 ? 0 : every_byte);
  }
  static int multiple(const Block& block, int part, int half) { return 2 * (block.scales[part / 2] >> (6 * (part % 2) + 3 * half) & 7) + 1; }
};

template <> struct Coded<formats::TQ1_0> {
  using Block = formats::TQ1_0::Block;
  static uint16_t d(const Block& block) { return block.d; }
  static uint64_t codes(const Block& block, int part, int k) {
    if (part < 5) return trits(block.qs + 8 * k, part);
    const int n = 2 * (part - 5) + k / 2;
    if (n < 5) return trits(block.qs + 32 + 8 * (k % 2), n);
    const uint8_t* h = block.qh;                     // four trits of four bytes: two of them here
    uint8_t both[8] = {h[0], h[1], h[2], h[3]};
    const uint64_t first = trits(both, 2 * (k % 2)), second = trits(both, 2 * (k % 2) + 1);
    return (first & 0xffffffffu) | second << 32;
  }
  static int multiple(const Block&, int, int) { return 1; }

 private:
  // Trit n of eight bytes: see formats/ternary.h. Every second byte at a time, with room for its products.
  static uint64_t trits(const uint8_t* bytes, int n) {
    constexpr uint64_t low = 0x00ff00ff00ff00ffu;
    uint64_t v;
    std::memcpy(&v, bytes, 8);
    auto of = [&](uint64_t x) { return ((x * formats::TQ1_0::powers[n] & low) * 3) >> 8 & low; };
    return of(v & low) | of(v >> 8 & low) << 8;
  }
};

}  // namespace skipstone::cpu
