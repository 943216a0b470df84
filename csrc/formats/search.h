// Searches for scales (and minimums) of small squared error, shared by the quantizers.
//
// The error as a function of the scale has many local minimums, one for each way of rounding. So a number of scales
// around the one that just spans the weights are tried, each rounding is fitted by least squares, the best is kept.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "formats/block.h"

namespace skipstone::formats {

// Weights beyond this saturate in every type with f16 scales, and below it sums of squares fit float32.
inline constexpr float largest_input = 0x1p30f;
// Peaks below this are zero in every such type, and above it quotients are finite.
inline constexpr float smallest_peak = 0x1p-40f;

inline float clamp(float value, float low, float high) { return value > low ? (value < high ? value : high) : low; }

template <int n>
void load_bounded(const float* in, float (&x)[n]) {
  for (int i = 0; i < n; i++) x[i] = clamp(in[i], -largest_input, largest_input);
}

// To the nearest integer, ties to even, for |value| < 2^22; unlike std::nearbyint never a call.
inline float round_even(float value) { return (value + 0x1.8p23f) - 0x1.8p23f; }

inline float inverse(float value) { return value == 0 ? 0 : 1 / value; }

// Stores a scale: saturates, and one that is too small becomes the smallest there is rather than zero.
inline float store(Half& half, float value) {
  if (value != 0) value = std::copysign(clamp(std::fabs(value), 0x1p-24f, 65504.f), value);
  half.set(value);
  return half.value();
}
// The same but never rounded towards zero, so that integers in units of the result reach what they have to.
inline float store_away(Half& half, float value) {
  const float stored = std::fabs(store(half, value));
  if (stored < std::fabs(value) && stored < 65504) half = uint16_t(half + 1);
  return half.value();
}
inline float store_min(Half& half, float value) {
  half.set(clamp(value, -65504.f, 65504.f));
  return half.value();
}

// Eight partial sums, so that the compiler can use vectors without reordering a sum.
struct Sum {
  float lanes[8] = {};
  float total() const {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
};

// The values that a quantized weight can have before its scale.
template <int low, int high>
struct Integers {
  static constexpr float lowest = low, highest = high;
  static float nearest(float value) { return round_even(clamp(value, lowest, highest)); }
};

struct Iq4Levels {
  static constexpr float lowest = -127, highest = 113;
  static float nearest(float value) {
    float level = iq4_values[0];
    for (int i = 0; i < 15; i++) level += value > float(iq4_values[i] + iq4_values[i + 1]) / 2 ? float(iq4_values[i + 1] - iq4_values[i]) : 0.f;
    return level;
  }
  static int index(float value) {
    int index = 0;
    for (int i = 0; i < 15; i++) index += value > float(iq4_values[i] + iq4_values[i + 1]) / 2;
    return index;
  }
};

struct Fp4Levels {
  static constexpr float lowest = -12, highest = 12;
  static int index(float value) {
    const float magnitude = std::fabs(value);
    int index = 0;
    for (int i = 0; i < 7; i++) index += magnitude > float(fp4_values[i] + fp4_values[i + 1]) / 2;
    return value < 0 && index ? index + 8 : index;
  }
  static float nearest(float value) {
    const float magnitude = std::fabs(value);
    float level = 0;
    for (int i = 0; i < 7; i++)
      level += magnitude > float(fp4_values[i] + fp4_values[i + 1]) / 2 ? float(fp4_values[i + 1] - fp4_values[i]) : 0.f;
    return value < 0 ? -level : level;
  }
};

// The weight of largest magnitude, with its sign.
inline float peak_of(const float* x, int n) {
  float peak = 0;
  for (int i = 0; i < n; i++) peak = std::fabs(x[i]) > std::fabs(peak) ? x[i] : peak;
  return peak;
}

// Squared error of x[i] by scale * level.
template <class Levels, int n>
float error_of(const float* x, float scale) {
  const float inv = inverse(scale);
  Sum error;
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; j++) {
      const float rest = x[i + j] - scale * Levels::nearest(x[i + j] * inv);
      error.lanes[j] += rest * rest;
    }
  return error.total();
}

// Stores the scale for x, or 0 where that is better: with the smallest scale a level other than 0 may be too much.
template <class Levels, int n>
float store_for(const float* x, Half& half, float scale) {
  scale = store(half, scale);
  Sum square;
  for (int i = 0; i < n; i += 8)
    for (int j = 0; j < 8; j++) square.lanes[j] += x[i + j] * x[i + j];
  return error_of<Levels, n>(x, scale) > square.total() ? store(half, 0) : scale;
}

// The scale, of either sign, for x[i] = scale * level.
template <class Levels, int n>
float best_scale(const float* x) {
  const float peak = peak_of(x, n);
  if (std::fabs(peak) < smallest_peak) return 0;
  float best = 0, best_scale = 0;
  auto consider = [&](float inv) {
    Sum qx, qq;
    for (int i = 0; i < n; i += 8)
      for (int j = 0; j < 8; j++) {
        const float q = Levels::nearest(x[i + j] * inv);
        qx.lanes[j] += q * x[i + j];
        qq.lanes[j] += q * q;
      }
    const float product = qx.total(), square = qq.total();
    if (square > 0 && product * product > best * square) {
      best = product * product / square;  // what the fit takes from the sum of squares
      best_scale = product / square;
      return true;
    }
    return false;
  };
  for (const float end : {Levels::lowest, Levels::highest})
    for (int step = -8; step <= 17; step++) consider(end * (1 + float(step) / 50) / peak);
  for (int round = 0; round < 4 && consider(inverse(best_scale)); round++) {}
  return best_scale;
}

struct Line {
  float scale = 0, min = 0;
};

// scale >= 0 and min for x[i] = scale * q + min, q = 0 ... top. With min_below_zero, min <= 0.
template <int top, int n, bool min_below_zero>
Line best_line(const float* x) {
  float low = x[0], high = x[0];
  for (int i = 1; i < n; i++) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  if (min_below_zero) low = std::min(low, 0.f);
  Line best{0, low};
  if (!(high - low > smallest_peak)) return best;
  // Distances from the lowest weight keep their precision where all weights lie far from zero.
  float y[n];
  const float base = min_below_zero ? 0 : low;
  float sum_y = 0;
  for (int i = 0; i < n; i++) {
    y[i] = x[i] - base;
    sum_y += y[i];
  }
  float best_error = INFINITY;
  auto refine = [&](float inv, float min) {
    Sum q1, qq, qy;
    for (int i = 0; i < n; i += 8)
      for (int j = 0; j < 8; j++) {
        const float q = Integers<0, top>::nearest((y[i + j] - min) * inv);
        q1.lanes[j] += q;
        qq.lanes[j] += q * q;
        qy.lanes[j] += q * y[i + j];
      }
    const double sum_q = q1.total(), sum_qq = qq.total(), sum_qy = qy.total();
    const double determinant = n * sum_qq - sum_q * sum_q;  // 0 where all q are equal
    Line line;
    if (determinant > 0) line = {float((n * sum_qy - sum_q * sum_y) / determinant), float((sum_qq * sum_y - sum_q * sum_qy) / determinant)};
    if (min_below_zero && sum_qq > 0 && !(determinant > 0 && line.min <= 0)) line = {float(sum_qy / sum_qq), 0};
    if (!(line.scale > 0)) return false;
    const float inv_scale = 1 / line.scale;
    Sum error;
    for (int i = 0; i < n; i += 8)
      for (int j = 0; j < 8; j++) {
        const float rest = y[i + j] - (line.scale * Integers<0, top>::nearest((y[i + j] - line.min) * inv_scale) + line.min);
        error.lanes[j] += rest * rest;
      }
    const float total = error.total();
    if (!(total < best_error)) return false;
    best_error = total;
    best = line;
    return true;
  };
  const float start = low - base, range = high - low;
  for (int step = -16; step <= 32; step++) refine(float(top) * (1 + float(step) / 80) / range, start);
  for (int round = 0; round < 4 && refine(1 / best.scale, best.min); round++) {}
  best.min += base;
  return best;
}

}  // namespace skipstone::formats
