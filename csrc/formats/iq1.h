// Eight weights an index into 2048 ternary patterns, all moved up or down by an eighth.
#pragma once
#include "formats/block.h"
#include "formats/iq_grids.h"

namespace skipstone::formats {

// Eighths: 8 * pattern +- 1 is an integer, so the scale is an eighth of the format's.
inline void unpack_ternary(int index, bool down, int8_t* q) {
  const int8_t* pattern = iq1_grid[index];
  const int shift = down ? -1 : 1;
  for (int i = 0; i < 8; i++) q[i] = int8_t(8 * pattern[i] + shift);
}

// weight = d * (2 * scale + 1) * (pattern +- 1/8), scale and shift for each 32 weights
struct IQ1_S {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    uint8_t qs[32];  // low bits of the index of weights 8k ... 8k + 7
    U16 qh[8];       // for each 32: four times the index's top three bits, scale (3), sign of the shift
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const int high = block.qh[part];
    for (int k = 0; k < 4; k++) unpack_ternary(block.qs[4 * part + k] | ((high >> (3 * k)) & 7) << 8, high & 0x8000, out.q + 8 * k);
    set_scale(out, block.d.value() * float(2 * ((high >> 12) & 7) + 1) * 0.125f);
  }
};

// The same with a scale for each 16 weights and a shift for each 8; d is spread over the top nibbles of the scales.
struct IQ1_M {
  static constexpr int weights = 256;
  static constexpr bool half_scales = true, has_min = false;
  struct Block {
    uint8_t qs[32];  // low bits of the index of weights 8k ... 8k + 7
    uint8_t qh[16];  // a nibble for each 8: the index's top three bits, sign of the shift
    U16 scales[4];   // four scales of 3 bits, then a nibble of d, lowest first
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    for (int k = 0; k < 4; k++) {
      const int high = block.qh[2 * part + k / 2] >> (4 * (k % 2));
      unpack_ternary(block.qs[4 * part + k] | (high & 7) << 8, high & 8, out.q + 8 * k);
    }
    int bits = 0;
    for (int i = 0; i < 4; i++) bits |= (block.scales[i] >> 12) << (4 * i);
    const float d = f16_to_f32(uint16_t(bits));
    const int scales = block.scales[part / 2] >> (6 * (part % 2));
    set_scales(out, d * float(2 * (scales & 7) + 1) * 0.125f, d * float(2 * ((scales >> 3) & 7) + 1) * 0.125f);
  }
};

}  // namespace skipstone::formats
