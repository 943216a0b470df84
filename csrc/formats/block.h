// Parts that blocks and their decoders are built from. Little-endian machines only, as GGUF files are.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

#include "formats/float16.h"
#include "formats/types.h"

namespace skipstone::formats {

static_assert(std::endian::native == std::endian::little);

// A number of a file's block, where nothing is aligned.
template <class T>
struct Unaligned {
  uint8_t bytes[sizeof(T)];
  operator T() const {
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  Unaligned& operator=(T value) {
    std::memcpy(bytes, &value, sizeof value);
    return *this;
  }
};
using U16 = Unaligned<uint16_t>;
using U32 = Unaligned<uint32_t>;

struct Half : U16 {
  float value() const { return f16_to_f32(*this); }
  void set(float value) { U16::operator=(f32_to_f16(value)); }
  using U16::operator=;
};

// FP4 (e2m1) values, doubled.
inline constexpr int8_t fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline constexpr int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

inline void set_scale(Unpacked& out, float scale, float min = 0) {
  out.scale[0] = out.scale[1] = scale;
  out.min[0] = out.min[1] = min;
}
inline void set_scales(Unpacked& out, float first, float second) {
  out.scale[0] = first;
  out.scale[1] = second;
  out.min[0] = out.min[1] = 0;
}

// Byte e of the result is bit e: the product copies the byte, the mask keeps one bit of each copy, the sum moves it to the top.
constexpr uint64_t spread_bits(uint8_t bits) {
  const uint64_t kept = (bits * 0x0101010101010101u) & 0x8040201008040201u;
  return ((kept + 0x7f7f7f7f7f7f7f7fu) >> 7) & 0x0101010101010101u;
}
inline void spread_bits(uint32_t bits, uint8_t (&out)[32]) {
  for (int i = 0; i < 4; i++) {
    const uint64_t spread = spread_bits(uint8_t(bits >> (8 * i)));
    std::memcpy(out + 8 * i, &spread, 8);
  }
}

// Negates byte e of eight magnitudes 1..127 where bit e is set: ~x + 1, which never carries into the next byte.
inline uint64_t apply_signs(uint64_t magnitudes, uint8_t bits) {
  const uint64_t ones = spread_bits(bits);
  return (magnitudes ^ (ones * 255)) + ones;
}
// Seven stored signs; the eighth makes their number even.
constexpr uint8_t complete_signs(uint32_t seven) {
  const uint32_t bits = seven & 127;
  return uint8_t(bits | uint32_t(std::popcount(bits) & 1) << 7);
}

// A block of 32 keeps weights 0..15 in the low nibbles and 16..31 in the high ones.
inline void unpack_nibbles(const uint8_t* bytes, int offset, int8_t* q) {
  for (int i = 0; i < 16; i++) {
    q[i] = int8_t((bytes[i] & 15) - offset);
    q[i + 16] = int8_t((bytes[i] >> 4) - offset);
  }
}
inline void look_up_nibbles(const uint8_t* bytes, int count, const int8_t* table, int8_t* q) {
  for (int i = 0; i < count; i++) {
    q[i] = table[bytes[i] & 15];
    q[i + count] = table[bytes[i] >> 4];
  }
}

}  // namespace skipstone::formats
