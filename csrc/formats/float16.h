// Narrow floating-point formats to and from float32. Subnormals are exact even where the CPU flushes float32 ones.
#pragma once
#include <bit>
#include <cstdint>

namespace skipstone::formats {

inline float f16_to_f32(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t sign = uint32_t(half & 0x8000u) << 16;
  const uint32_t subnormal = std::bit_cast<uint32_t>(float(int32_t(magnitude)) * 0x1p-24f);
  const uint32_t normal = (magnitude << 13) + (magnitude < 0x7c00u ? 112u << 23 : 224u << 23);  // infinity and NaN move to exponent 255
  return std::bit_cast<float>(sign | (magnitude < 0x0400u ? subnormal : normal));
}

// To nearest, ties to even; from 65520 on infinity. A NaN stays one and keeps the payload bits that fit.
inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  if (magnitude >= 0x477ff000u) {  // 65520 and above
    if (magnitude <= 0x7f800000u) return uint16_t(sign | 0x7c00u);
    const uint32_t payload = (magnitude >> 13) & 0x3ffu;
    return uint16_t(sign | 0x7c00u | (payload ? payload : 1u));
  }
  if (magnitude < 0x38800000u) {  // below 2^-14: a multiple of 2^-24, which the sum with 0.5 (units of 2^-24) rounds to
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return uint16_t(sign | ((magnitude - (112u << 23) + 0xfffu + odd) >> 13));
}

inline float bf16_to_f32(uint16_t half) { return std::bit_cast<float>(uint32_t(half) << 16); }

// To nearest, ties to even; a NaN becomes a quiet one.
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Half of 2^(e-127): FP4 values are kept doubled, as integers.
inline float e8m0_half_to_f32(uint8_t e) {
  return std::bit_cast<float>(e < 2 ? 0x00200000u << e : uint32_t(e - 1) << 23);
}

// Half of an unsigned e4m3 value; 0x7f (NaN there) counts as 0, and bit 7 is ignored otherwise.
inline float ue4m3_half_to_f32(uint8_t x) {
  const int exponent = (x >> 3) & 15, mantissa = x & 7;
  if (x == 0x7f) return 0;
  if (exponent == 0) return float(mantissa) * 0x1p-10f;
  return float(8 + mantissa) * std::bit_cast<float>(uint32_t(exponent - 11 + 127) << 23);
}

}  // namespace skipstone::formats
