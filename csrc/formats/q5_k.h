#pragma once
#include "formats/block.h"
#include "formats/q4_k.h"

namespace skipstone::formats {

// weight = d * scale * q - dmin * min, scale and min for each 32 weights
struct Q5_K {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = true;
  struct Block {
    Half d, dmin;
    ScalesAndMins scales;
    uint8_t qh[32];   // bit p of byte l: the fifth bit of weight 32p + l
    uint8_t qs[128];  // byte 32h + l: weights 64h + l (low nibble) and 64h + 32 + l
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const uint8_t* qs = block.qs + 32 * (part / 2);
    const int shift = 4 * (part % 2);
    for (int i = 0; i < 32; i++) out.q[i] = int8_t(((qs[i] >> shift) & 15) | ((block.qh[i] >> part) & 1) << 4);
    set_scale(out, block.d.value() * float(block.scales.scale(part)), -(block.dmin.value() * float(block.scales.min(part))));
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
