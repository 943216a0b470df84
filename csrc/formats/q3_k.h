#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = d * (scale - 32) * (q - 4), scale of 6 bits for each 16 weights
struct Q3_K {
  static constexpr int weights = 256;
  static constexpr bool half_scales = true, has_min = false;
  struct Block {
    uint8_t hmask[32];   // bit p of byte l: the third bit of weight 32p + l
    uint8_t qs[64];      // byte 32h + l: weights 128h + l + 0, 32, 64, 96 in bits 0, 2, 4, 6
    uint8_t scales[12];  // see scale()
    Half d;

    // Bytes 0..7 hold the low four bits of scales j and j + 8; bytes 8..11 the high two of j, j + 4, j + 8, j + 12.
    int scale(int j) const {
      const int low = (scales[j % 8] >> (4 * (j / 8))) & 15;
      const int high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
      return (low | high << 4) - 32;
    }
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const uint8_t* qs = block.qs + 32 * (part / 4);
    const int shift = 2 * (part % 4);
    for (int i = 0; i < 32; i++) out.q[i] = int8_t(((qs[i] >> shift) & 3) + 4 * ((block.hmask[i] >> part) & 1) - 4);
    const float d = block.d.value();
    set_scales(out, d * float(block.scale(2 * part)), d * float(block.scale(2 * part + 1)));
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
