// Four weights an index into a grid of magnitudes, and signs.
#pragma once
#include "formats/block.h"
#include "formats/iq_grids.h"

namespace skipstone::formats {

inline void unpack_signed(const uint8_t* first, const uint8_t* second, uint8_t signs, int8_t* q) {
  uint64_t eight;
  std::memcpy(&eight, first, 4);
  std::memcpy(reinterpret_cast<char*>(&eight) + 4, second, 4);
  eight = apply_signs(eight, signs);
  std::memcpy(q, &eight, 8);
}

struct IQ3_XXS {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    uint8_t qs[64];  // index into 256 patterns
    U32 signs[8];    // four times seven signs, scale (4 bits)
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const uint8_t* qs = block.qs + 8 * part;
    const uint32_t signs = block.signs[part];
    for (int k = 0; k < 4; k++)
      unpack_signed(iq3_xxs_grid[qs[2 * k]], iq3_xxs_grid[qs[2 * k + 1]], complete_signs(signs >> (7 * k)), out.q + 8 * k);
    set_scale(out, block.d.value() * (0.5f + float(signs >> 28)) * 0.5f);
  }
};

struct IQ3_S {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    uint8_t qs[64];     // low bits of the index into 512 patterns
    uint8_t qh[8];      // the index's top bit
    uint8_t signs[32];
    uint8_t scales[4];  // a nibble for each 32 weights
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const uint8_t* qs = block.qs + 8 * part;
    const int high = block.qh[part] << 8;
    for (int k = 0; k < 4; k++)
      unpack_signed(iq3_s_grid[qs[2 * k] | ((high >> (2 * k)) & 256)], iq3_s_grid[qs[2 * k + 1] | ((high >> (2 * k + 1)) & 256)],
                    block.signs[4 * part + k], out.q + 8 * k);
    const int scale = (block.scales[part / 2] >> (4 * (part % 2))) & 15;
    set_scale(out, block.d.value() * float(1 + 2 * scale));
  }
};

}  // namespace skipstone::formats
