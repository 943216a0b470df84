#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = d * (q - 8)
struct Q4_0 {
  static constexpr int weights = 32;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    uint8_t qs[16];  // weights 0..15 low nibbles, 16..31 high
  };
  static void unpack(const Block& block, int, Unpacked& out) {
    unpack_nibbles(block.qs, 8, out.q);
    set_scale(out, block.d.value());
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
