// Weights of -d, 0, d.
#pragma once
#include "formats/block.h"

namespace skipstone::formats {

// Five trits a byte, as the fraction t0/3 + t1/9 + ... in 256ths: times 3^n drops the first n, and the next is the carry of times 3.
struct TQ1_0 {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    uint8_t qs[48];  // trit n of bytes 0..31: weights 32n + l; of bytes 32..47: 160 + 16n + l
    uint8_t qh[4];   // trit n (four of them): weights 240 + 4n + l
    Half d;
  };
  static constexpr uint8_t powers[5] = {1, 3, 9, 27, 81};
  static int8_t trit(uint8_t byte, int n) { return int8_t(((uint8_t(byte * powers[n]) * 3) >> 8) - 1); }

  static void unpack(const Block& block, int part, Unpacked& out) {
    if (part < 5) {
      for (int i = 0; i < 32; i++) out.q[i] = trit(block.qs[i], part);
    } else {
      const int n = 2 * (part - 5);
      for (int i = 0; i < 16; i++) out.q[i] = trit(block.qs[32 + i], n);
      if (part < 7)
        for (int i = 0; i < 16; i++) out.q[16 + i] = trit(block.qs[32 + i], n + 1);
      else
        for (int i = 0; i < 16; i++) out.q[16 + i] = trit(block.qh[i % 4], i / 4);
    }
    set_scale(out, block.d.value());
  }
  static void quantize(const float* x, Block& block);
};

struct TQ2_0 {
  static constexpr int weights = 256;
  static constexpr bool half_scales = false, has_min = false;
  struct Block {
    uint8_t qs[64];  // byte 32h + l: weights 128h + l + 0, 32, 64, 96 in bits 0, 2, 4, 6
    Half d;
  };
  static void unpack(const Block& block, int part, Unpacked& out) {
    const uint8_t* qs = block.qs + 32 * (part / 4);
    const int shift = 2 * (part % 4);
    for (int i = 0; i < 32; i++) out.q[i] = int8_t(((qs[i] >> shift) & 3) - 1);
    set_scale(out, block.d.value());
  }
  static void quantize(const float* x, Block& block);
};

}  // namespace skipstone::formats
