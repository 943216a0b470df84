#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// Eight pairs of 6-bit scale and minimum in 12 bytes. Bytes 0..3 and 4..7: scales and minimums 0..3, with the top two
// bits of 4..7 above them; bytes 8..11: the low nibbles of scales and minimums 4..7.
struct ScalesAndMins {
  uint8_t bytes[12];
  int scale(int j) const { return j < 4 ? bytes[j] & 63 : (bytes[j + 4] & 15) | (bytes[j - 4] >> 6) << 4; }
  int min(int j) const { return j < 4 ? bytes[j + 4] & 63 : (bytes[j + 4] >> 4) | (bytes[j] >> 6) << 4; }
  void set(const uint8_t (&scales)[8], const uint8_t (&mins)[8]) {
    for (int j = 0; j < 4; j++) {
      bytes[j] = uint8_t(scales[j] | (scales[j + 4] >> 4) << 6);
      bytes[j + 4] = uint8_t(mins[j] | (mins[j + 4] >> 4) << 6);
      bytes[j + 8] = uint8_t((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
    }
  }
};

// weight = d * scale * q - dmin * min, scale and min for each 32 weights
struct Q4_K {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = true;
  struct Block {
    Half d, dmin;
    ScalesAndMins scales;
    uint8_t qs[128];  // byte 32h + l: weights 64h + l (low nibble) and 64h + 32 + l
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const uint8_t* qs = block.qs + 32 * (part / 2);
    const int shift = 4 * (part % 2);
    for (int i = 0; i < 32; i++) out.q[i] = int8_t((qs[i] >> shift) & 15);
    set_scale(out, block.d.value() * float(block.scales.scale(part)), -(block.dmin.value() * float(block.scales.min(part))));
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
