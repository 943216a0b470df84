// Four bits that index sixteen values, denser near zero.
#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = d * value
struct IQ4_NL {
  static constexpr int weights = 32;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    uint8_t qs[16];  // weights 0..15 low nibbles, 16..31 high
  };
  static void unpack(const Block& block, int, Unpacked& out) {
    look_up_nibbles(block.qs, 16, iq4_values, out.q);
    set_scale(out, block.d.value());
  }
  static void quantize(const float* x, Block& block);
};

// weight = d * (scale - 32) * value, scale of 6 bits for each 32 weights
struct IQ4_XS {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    U16 scales_h;         // bits 2j, 2j + 1: the top of scale j
    uint8_t scales_l[4];  // a nibble a scale
    uint8_t qs[128];      // 16 bytes for each 32 weights, as in IQ4_NL
    int scale(int j) const { return (((scales_l[j / 2] >> (4 * (j % 2))) & 15) | ((scales_h >> (2 * j)) & 3) << 4) - 32; }
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    look_up_nibbles(block.qs + 16 * part, 16, iq4_values, out.q);
    set_scale(out, block.d.value() * float(block.scale(part)));
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
