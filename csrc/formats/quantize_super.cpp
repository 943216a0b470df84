// Quantizers of the types of 256 weights whose groups have small integer scales under one (or two) of the block.
//
// First each group gets the real scale that fits it best. Then two steps repeat: integers for the groups, chosen by
// error among the neighbours of the nearest, and the block's scale by least squares under those integers.
#include "formats/iq4.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_k.h"
#include "formats/q5_k.h"
#include "formats/q6_k.h"
#include "formats/search.h"

namespace skipstone::formats {
namespace {

constexpr int rounds = 3;

// weight = d * scale * level
template <class Levels, int groups, int lowest_scale>
struct Symmetric {
  static constexpr int length = 256 / groups;
  Half d{};
  int scales[groups] = {};
  float error = INFINITY;

  static float fit_group(const float* x, float d, float wanted, int& scale) {
    const int nearest = int(round_even(clamp(wanted * inverse(d), float(lowest_scale), float(-lowest_scale - 1))));
    float best = INFINITY;
    for (int s = std::max(nearest - 1, lowest_scale); s <= std::min(nearest + 1, -lowest_scale - 1); s++) {
      const float error = error_of<Levels, length>(x, d * float(s));
      if (error < best) {
        best = error;
        scale = s;
      }
    }
    return best;
  }

  static Symmetric of(const float* x) {
    float wanted[groups];
    for (int g = 0; g < groups; g++) wanted[g] = best_scale<Levels, length>(x + g * length);
    Symmetric best;
    float d = peak_of(wanted, groups) / float(lowest_scale);
    for (int round = 0; round < rounds; round++) {
      Symmetric now;
      const float stored = round ? store(now.d, d) : store_away(now.d, d);
      now.error = 0;
      double product = 0, square = 0;
      for (int g = 0; g < groups; g++) {
        now.error += fit_group(x + g * length, stored, wanted[g], now.scales[g]);
        const float inv = inverse(stored * float(now.scales[g]));
        Sum qx, qq;
        for (int i = 0; i < length; i += 8)
          for (int j = 0; j < 8; j++) {
            const float weight = x[g * length + i + j], q = Levels::nearest(weight * inv);
            qx.lanes[j] += q * weight;
            qq.lanes[j] += q * q;
          }
        product += double(now.scales[g]) * qx.total();
        square += double(now.scales[g]) * now.scales[g] * qq.total();
      }
      if (!(now.error < best.error)) break;
      best = now;
      if (square > 0) d = float(product / square);
    }
    return best;
  }

  float level_inverse(int weight) const { return inverse(d.value() * float(scales[weight / length])); }
};

// weight = d * scale * q - dmin * min, q = 0 ... top
template <int top, int groups, int top_scale, int reach>
struct Affine {
  using Levels = Integers<0, top>;
  static constexpr int length = 256 / groups;
  Half d{}, dmin{};
  int scales[groups] = {}, mins[groups] = {};
  float error = INFINITY;

  static int nearest_scale(float wanted, float unit) { return int(round_even(clamp(wanted * inverse(unit), 0, top_scale))); }

  static float fit_group(const float* x, float d, float dmin, Line wanted, int& scale, int& min) {
    const int nearest = nearest_scale(wanted.scale, d), nearest_min = nearest_scale(-wanted.min, dmin);
    float best = INFINITY;
    for (int m = std::max(nearest_min - reach, 0); m <= std::min(nearest_min + reach, top_scale); m++) {
      float y[length];
      for (int i = 0; i < length; i++) y[i] = x[i] + dmin * float(m);
      for (int s = std::max(nearest - reach, 0); s <= std::min(nearest + reach, top_scale); s++) {
        const float error = error_of<Levels, length>(y, d * float(s));
        if (error < best) {
          best = error;
          scale = s;
          min = m;
        }
      }
    }
    return best;
  }

  static Affine of(const float* x) {
    Line wanted[groups];
    float largest = 0, largest_min = 0;
    for (int g = 0; g < groups; g++) {
      wanted[g] = best_line<top, length, true>(x + g * length);
      largest = std::max(largest, wanted[g].scale);
      largest_min = std::max(largest_min, -wanted[g].min);
    }
    Affine best;
    float d = largest / top_scale, dmin = largest_min / top_scale;
    for (int round = 0; round < rounds; round++) {
      Affine now;
      const float stored = round ? store(now.d, d) : store_away(now.d, d);
      const float stored_min = round ? store(now.dmin, dmin) : store_away(now.dmin, dmin);
      now.error = 0;
      // Normal equations of d and dmin over the whole block.
      double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
      for (int g = 0; g < groups; g++) {
        now.error += fit_group(x + g * length, stored, stored_min, wanted[g], now.scales[g], now.mins[g]);
        const float inv = inverse(stored * float(now.scales[g])), min = stored_min * float(now.mins[g]);
        Sum q1, qq, qx, x1;
        for (int i = 0; i < length; i += 8)
          for (int j = 0; j < 8; j++) {
            const float weight = x[g * length + i + j], q = Levels::nearest((weight + min) * inv);
            q1.lanes[j] += q;
            qq.lanes[j] += q * q;
            qx.lanes[j] += q * weight;
            x1.lanes[j] += weight;
          }
        const double s = now.scales[g], m = now.mins[g];
        aa += s * s * qq.total();
        ab -= s * m * q1.total();
        bb += m * m * length;
        ax += s * qx.total();
        bx -= m * x1.total();
      }
      if (!(now.error < best.error)) break;
      best = now;
      const double determinant = aa * bb - ab * ab;
      if (determinant > 0) {
        d = float((bb * ax - ab * bx) / determinant);
        dmin = float((aa * bx - ab * ax) / determinant);
      } else if (aa > 0) {
        d = float(ax / aa);
      }
      if (!(d > 0 && dmin >= 0)) break;
    }
    return best;
  }

  int q(float weight, int i) const {
    const int g = i / length;
    return int(Levels::nearest((weight + dmin.value() * float(mins[g])) * inverse(d.value() * float(scales[g]))));
  }
};

}  // namespace

void Q2_K::quantize(const float* in, Block& block) {
  float x[256];
  load_bounded(in, x);
  const auto fit = Affine<3, 16, 15, 2>::of(x);
  block = {};
  block.d = fit.d;
  block.dmin = fit.dmin;
  for (int g = 0; g < 16; g++) block.scales[g] = uint8_t(fit.scales[g] | fit.mins[g] << 4);
  for (int i = 0; i < 256; i++) block.qs[32 * (i / 128) + i % 32] |= uint8_t(fit.q(x[i], i) << (2 * (i / 32 % 4)));
}

void Q3_K::quantize(const float* in, Block& block) {
  using Levels = Integers<-4, 3>;
  float x[256];
  load_bounded(in, x);
  const auto fit = Symmetric<Levels, 16, -32>::of(x);
  block = {};
  block.d = fit.d;
  for (int g = 0; g < 16; g++) {
    const int scale = fit.scales[g] + 32;
    block.scales[g % 8] |= uint8_t((scale & 15) << (4 * (g / 8)));
    block.scales[8 + g % 4] |= uint8_t((scale >> 4) << (2 * (g / 4)));
  }
  for (int i = 0; i < 256; i++) {
    const int q = int(Levels::nearest(x[i] * fit.level_inverse(i))) + 4;
    block.qs[32 * (i / 128) + i % 32] |= uint8_t((q & 3) << (2 * (i / 32 % 4)));
    block.hmask[i % 32] |= uint8_t((q >> 2) << (i / 32));
  }
}

namespace {

template <int top, class Block>
auto quantize_k(const float* x, Block& block) {
  const auto fit = Affine<top, 8, 63, 1>::of(x);
  block = {};
  block.d = fit.d;
  block.dmin = fit.dmin;
  uint8_t scales[8], mins[8];
  for (int g = 0; g < 8; g++) {
    scales[g] = uint8_t(fit.scales[g]);
    mins[g] = uint8_t(fit.mins[g]);
  }
  block.scales.set(scales, mins);
  return fit;
}

}  // namespace

void Q4_K::quantize(const float* in, Block& block) {
  float x[256];
  load_bounded(in, x);
  const auto fit = quantize_k<15>(x, block);
  for (int i = 0; i < 256; i++) block.qs[32 * (i / 64) + i % 32] |= uint8_t(fit.q(x[i], i) << (4 * (i / 32 % 2)));
}

void Q5_K::quantize(const float* in, Block& block) {
  float x[256];
  load_bounded(in, x);
  const auto fit = quantize_k<31>(x, block);
  for (int i = 0; i < 256; i++) {
    const int q = fit.q(x[i], i);
    block.qs[32 * (i / 64) + i % 32] |= uint8_t((q & 15) << (4 * (i / 32 % 2)));
    block.qh[i % 32] |= uint8_t((q >> 4) << (i / 32));
  }
}

void Q6_K::quantize(const float* in, Block& block) {
  using Levels = Integers<-32, 31>;
  float x[256];
  load_bounded(in, x);
  const auto fit = Symmetric<Levels, 16, -128>::of(x);
  block = {};
  block.d = fit.d;
  for (int g = 0; g < 16; g++) block.scales[g] = int8_t(fit.scales[g]);
  for (int i = 0; i < 256; i++) {
    const int q = int(Levels::nearest(x[i] * fit.level_inverse(i))) + 32, quarter = i / 32 % 4;
    block.ql[64 * (i / 128) + i % 64] |= uint8_t((q & 15) << (4 * (quarter / 2)));
    block.qh[32 * (i / 128) + i % 32] |= uint8_t((q >> 4) << (2 * quarter));
  }
}

void IQ4_XS::quantize(const float* in, Block& block) {
  float x[256];
  load_bounded(in, x);
  const auto fit = Symmetric<Iq4Levels, 8, -32>::of(x);
  block = {};
  block.d = fit.d;
  uint32_t high = 0;
  for (int g = 0; g < 8; g++) {
    const int scale = fit.scales[g] + 32;
    block.scales_l[g / 2] |= uint8_t((scale & 15) << (4 * (g % 2)));
    high |= uint32_t(scale >> 4) << (2 * g);
  }
  block.scales_h = uint16_t(high);
  for (int i = 0; i < 256; i++)
    block.qs[16 * (i / 32) + i % 16] |= uint8_t(Iq4Levels::index(x[i] * fit.level_inverse(i)) << (4 * (i / 16 % 2)));
}

}  // namespace skipstone::formats
