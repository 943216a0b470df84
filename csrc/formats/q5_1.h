#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = d * q + m
struct Q5_1 {
  static constexpr int weights = 32;
  static constexpr bool half_scales = false, has_min = true;
  struct Block {
    Half d, m;
    U32 qh;          // bit i: the fifth bit of weight i
    uint8_t qs[16];  // weights 0..15 low nibbles, 16..31 high
  };
  static void unpack(const Block& block, int, Unpacked& out) {
    uint8_t high[32];
    spread_bits(block.qh, high);
    unpack_nibbles(block.qs, 0, out.q);
    for (int i = 0; i < 32; i++) out.q[i] = int8_t(out.q[i] + 16 * high[i]);
    set_scale(out, block.d.value(), block.m.value());
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
