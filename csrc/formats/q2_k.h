#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = d * scale * q - dmin * min, scale and min of 4 bits for each 16 weights
struct Q2_K {
  static constexpr int weights = 256;
  static constexpr bool half_scales = true, has_min = true;
  struct Block {
    uint8_t scales[16];  // low nibble scale, high nibble min
    uint8_t qs[64];      // byte 32h + l: weights 128h + l + 0, 32, 64, 96 in bits 0, 2, 4, 6
    Half d, dmin;
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const uint8_t* qs = block.qs + 32 * (part / 4);
    const int shift = 2 * (part % 4);
    for (int i = 0; i < 32; i++) out.q[i] = int8_t((qs[i] >> shift) & 3);
    const float d = block.d.value(), dmin = block.dmin.value();
    for (int half = 0; half < 2; half++) {
      const uint8_t scale = block.scales[2 * part + half];
      out.scale[half] = d * float(scale & 15);
      out.min[half] = -(dmin * float(scale >> 4));
    }
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
