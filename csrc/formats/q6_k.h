#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = d * scale * (q - 32), signed scale of 8 bits for each 16 weights
struct Q6_K {
  static constexpr int weights = 256;
  static constexpr bool half_scales = true, has_min = false;
  struct Block {
    uint8_t ql[128];  // byte 64h + l: weights 128h + l (low nibble) and 128h + 64 + l, l = 0..63
    uint8_t qh[64];   // byte 32h + l: the top two bits of weights 128h + l + 0, 32, 64, 96
    int8_t scales[16];
    Half d;
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const int half = part / 4, quarter = part % 4;
    const uint8_t* ql = block.ql + 64 * half + 32 * (quarter % 2);
    const uint8_t* qh = block.qh + 32 * half;
    const int low_shift = 4 * (quarter / 2), high_shift = 2 * quarter;
    for (int i = 0; i < 32; i++) out.q[i] = int8_t((((ql[i] >> low_shift) & 15) | ((qh[i] >> high_shift) & 3) << 4) - 32);
    const float d = block.d.value();
    set_scales(out, d * float(block.scales[2 * part]), d * float(block.scales[2 * part + 1]));
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
