// Eight weights an index into a grid of magnitudes (8, 25, 43), and signs.
#pragma once
#include "formats/block.h"
#include "formats/iq_grids.h"

namespace skipstone::formats {

inline void unpack_signed(const uint8_t* magnitudes, uint8_t signs, int8_t* q) {
  uint64_t eight;
  std::memcpy(&eight, magnitudes, 8);
  eight = apply_signs(eight, signs);
  std::memcpy(q, &eight, 8);
}
inline float iq2_scale(float d, uint32_t scale) { return d * (0.5f + float(scale)) * 0.25f; }

struct IQ2_XXS {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    struct {
      uint8_t index[4];  // into 256 patterns
      U32 signs;         // four times seven signs, scale (4 bits)
    } groups[8];
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const auto& group = block.groups[part];
    const uint32_t signs = group.signs;
    for (int k = 0; k < 4; k++) unpack_signed(iq2_xxs_grid[group.index[k]], complete_signs(signs >> (7 * k)), out.q + 8 * k);
    set_scale(out, iq2_scale(block.d.value(), signs >> 28));
  }
};

struct IQ2_XS {
  static constexpr int weights = 256;
  static constexpr bool half_scales = true, has_min = false;
  struct Block {
    Half d;
    U16 qs[32];         // index into 512 patterns (9 bits), seven signs
    uint8_t scales[8];  // a nibble for each 16 weights
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    for (int k = 0; k < 4; k++) {
      const uint16_t q = block.qs[4 * part + k];
      unpack_signed(iq2_xs_grid[q & 511], complete_signs(q >> 9), out.q + 8 * k);
    }
    const float d = block.d.value();
    set_scales(out, iq2_scale(d, block.scales[part] & 15), iq2_scale(d, block.scales[part] >> 4));
  }
};

struct IQ2_S {
  static constexpr int weights = 256;
  static constexpr bool half_scales = true, has_min = false;
  struct Block {
    Half d;
    uint8_t qs[32];     // low bits of the index into 1024 patterns
    uint8_t signs[32];
    uint8_t qh[8];      // four times the index's top two bits
    uint8_t scales[8];  // a nibble for each 16 weights
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    for (int k = 0; k < 4; k++) {
      const int index = block.qs[4 * part + k] | ((block.qh[part] >> (2 * k)) & 3) << 8;
      unpack_signed(iq2_s_grid[index], block.signs[4 * part + k], out.q + 8 * k);
    }
    const float d = block.d.value();
    set_scales(out, iq2_scale(d, block.scales[part] & 15), iq2_scale(d, block.scales[part] >> 4));
  }
};

}  // namespace skipstone::formats
