#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = d * q
struct Q8_0 {
  static constexpr int weights = 32;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    Half d;
    int8_t q[32];
  };
  static void unpack(const Block& block, int, Unpacked& out) {
    std::memcpy(out.q, block.q, 32);
    set_scale(out, block.d.value());
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
