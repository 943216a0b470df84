// FP4 (e2m1) weights under small floating-point scales.
#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// weight = 2^(e - 127) * fp4
struct MXFP4 {
  static constexpr int weights = 32;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    uint8_t e;
    uint8_t qs[16];  // weights 0..15 low nibbles, 16..31 high
  };
  static void unpack(const Block& block, int, Unpacked& out) {
    look_up_nibbles(block.qs, 16, fp4_values, out.q);
    set_scale(out, e8m0_half_to_f32(block.e));
  }
  static void quantize(const float* x, Block& block);
};

// weight = ue4m3 * fp4, a scale for each 16 weights
struct NVFP4 {
  static constexpr int weights = 64;
  static constexpr bool half_scales = true, has_min = false;
  struct Block {
    uint8_t scales[4];
    uint8_t qs[32];  // 8 bytes for each 16 weights: 0..7 low nibbles, 8..15 high
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    look_up_nibbles(block.qs + 16 * part, 8, fp4_values, out.q);
    look_up_nibbles(block.qs + 16 * part + 8, 8, fp4_values, out.q + 16);
    set_scales(out, ue4m3_half_to_f32(block.scales[2 * part]), ue4m3_half_to_f32(block.scales[2 * part + 1]));
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
