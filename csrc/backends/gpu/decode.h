// A chunk of each weight type (16 rows x 256 positions, layout.cpp) in a warp's registers, and its product with the activations.
// While a piece is used, the same piece of the warp's next chunk is already asked for: about one chunk a warp is always on its way.
//
// The sum of one block, the same expression in every form of the kernel:
//   t = fma(1.5 * 2^23 + s, w, -1.5 * 2^23 * w) = w * s, rounded once      s: exact integer sum of 32 (16) products, w: the block's weight scale
//   acc = fma(t, scale of the activations' block, acc)
// The integer sum starts at the bits of 1.5 * 2^23, so that it *is* that float plus s (|s| < 2^22) and costs no conversion; -1.5 * 2^23 * w is exact,
// for w has at most 22 significant bits. A minimum follows its block: acc = fma(-dmin * m, scale * (sum of q), acc).
#pragma once
#include "backends/gpu/kernels.h"
#include "backends/gpu/port.h"

namespace skipstone::gpu {

constexpr i32 start_bits = 0x4B400000;           // 12582912.0f
constexpr float minus_start = -12582912.0f;

SK_DEVICE u32 word(const U4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
SK_DEVICE float part(const F4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
SK_DEVICE float half_of(u32 pair, int i) { return from_half(i ? pair >> 16 : pair & 0xffffu); }
template <class F> SK_DEVICE U4 each(const U4& v, F f) { return {f(v.x), f(v.y), f(v.z), f(v.w)}; }

// 2^23 plus byte i of v: under that exponent a byte needs no conversion. `exponent` are the bits of 2^23.
SK_DEVICE float byte_float(u32 v, int i, u32 exponent) { return bits<float>(bytes_of(v, exponent, 0x7440u | static_cast<u32>(i))); }

// What a lane reads of the activations: its own column's bytes, and the scales and sums of the two columns whose results it holds.
struct Lane {
  const u8 *q, *scale;                           // of group 0 and the chunk's first pair
  u32 exponent;                                  // bits of 2^23, hidden from the compiler, which else spends a move a byte on a selector
};
template <int NT> struct Pair {
  U4 q[NT];
  F4 scale[NT];
  SK_DEVICE void load(const Lane& x, int pair) {
    SK_UNROLL for (int n = 0; n < NT; ++n) {
      q[n] = *reinterpret_cast<const U4*>(x.q + pair_bytes * pair + group_bytes * n);
      scale[n] = *reinterpret_cast<const F4*>(x.scale + pair_bytes * pair + group_bytes * n);
    }
  }
};
template <int NT> struct Sums { float of[NT][4]; };      // 0, 1: row g, columns 2t, 2t + 1; 2, 3: row g + 8

// acc += w[row of the output] * (sum - start) * scale[column]
SK_DEVICE void add_scaled(float acc[4], const Product& p, const float w[2], const float less[2], float scale0, float scale1) {
  SK_UNROLL for (int i = 0; i < 4; ++i) acc[i] = fma(fma(bits<float>(p.c[i]), w[i >> 1], less[i >> 1]), i & 1 ? scale1 : scale0, acc[i]);
}
template <bool SIGNED, int NT> SK_DEVICE void add_block(Sums<NT>& acc, const U4& weights, const float w[2], const Pair<NT>& x, int second) {
  const float less[2] = {mul(w[0], minus_start), mul(w[1], minus_start)};
  SK_UNROLL for (int n = 0; n < NT; ++n) {
    const Product p = multiply<SIGNED>(weights, second ? x.q[n].z : x.q[n].x, second ? x.q[n].w : x.q[n].y, start_bits);
    add_scaled(acc.of[n], p, w, less, part(x.scale[n], 2 * second), part(x.scale[n], 2 * second + 1));
  }
}

// Quants as they are: Q8_0.
struct Q8_0 {
  static constexpr int bytes = 4352;
  U4 q[8], d[2];
  SK_DEVICE void load(const u8* chunk, bool wanted) {
    const int lane = thread() & 31;
    SK_UNROLL for (int i = 0; i < 2; ++i) load_once(d[i], chunk + 4096 + 128 * i + 16 * (lane >> 2), wanted);
    SK_UNROLL for (int i = 0; i < 8; ++i) load_once(q[i], chunk + 512 * i + 16 * lane, wanted);
  }
  template <int NT> SK_DEVICE void use(const u8* next, bool wanted, const Lane& x, Sums<NT>& acc) {
    const int lane = thread() & 31;
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        const int b = 2 * i + j;
        const u32 both = word(d[b >> 2], b & 3);
        const float w[2] = {half_of(both, 0), half_of(both, 1)};
        add_block<true>(acc, q[b], w, a, j);
        load_once(q[b], next + 512 * b + 16 * lane, wanted);
      }
      if (i & 1) load_once(d[i >> 1], next + 4096 + 128 * (i >> 1) + 16 * (lane >> 2), wanted);
    }
  }
};

// Nibbles of two blocks in one piece: Q4_0 and, with a piece of fifth bits, Q5_0. A byte times 16 (times 8), its top bit flipped, is the signed
// weight times the same power of two, which the scale takes back.
template <bool FIVE> struct Q45_0 {
  static constexpr int bytes = FIVE ? 2816 : 2304, scales = FIVE ? 2560 : 2048;
  U4 q[4], high, d[2];
  SK_DEVICE void load_scales(const u8* chunk, int i, bool wanted) { load_once(d[i], chunk + scales + 128 * i + 16 * ((thread() & 31) >> 2), wanted); }
  SK_DEVICE void load(const u8* chunk, bool wanted) {
    const int lane = thread() & 31;
    SK_UNROLL for (int i = 0; i < 2; ++i) load_scales(chunk, i, wanted);
    if constexpr (FIVE) load_once(high, chunk + 2048 + 16 * lane, wanted);
    SK_UNROLL for (int i = 0; i < 4; ++i) load_once(q[i], chunk + 512 * i + 16 * lane, wanted);
  }
  template <int NT> SK_DEVICE void use(const u8* next, bool wanted, const Lane& x, Sums<NT>& acc) {
    const int lane = thread() & 31;
    const U4 fifth = high;
    if constexpr (FIVE) load_once(high, next + 2048 + 16 * lane, wanted);
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      U4 m[2];                                   // both blocks before the next load takes the registers: no copies
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        if constexpr (FIVE) {
          m[j] = each(q[i], [&](u32 r) { return ((j ? r >> 1 : r << 3) & 0x78787878u) ^ 0x80808080u; });
          const u32 h = word(fifth, i);
          // Bit c + 4j of a byte of `high` belongs to register c of block j, and is wanted at bit 7.
          m[j].x ^= (h << (7 - 4 * j)) & 0x80808080u;
          m[j].y ^= (h << (6 - 4 * j)) & 0x80808080u;
          m[j].z ^= (h << (5 - 4 * j)) & 0x80808080u;
          m[j].w ^= (h << (4 - 4 * j)) & 0x80808080u;
        } else {
          m[j] = each(q[i], [&](u32 r) { return ((j ? r : r << 4) & 0xF0F0F0F0u) ^ 0x80808080u; });
        }
      }
      load_once(q[i], next + 512 * i + 16 * lane, wanted);
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        const u32 both = word(d[i >> 1], 2 * (i & 1) + j);
        constexpr float unit = FIVE ? 1.0f / 8 : 1.0f / 16;
        const float w[2] = {mul(half_of(both, 0), unit), mul(half_of(both, 1), unit)};
        add_block<true>(acc, m[j], w, a, j);
      }
      if (i & 1) load_scales(next, i >> 1, wanted);
    }
  }
};
using Q4_0 = Q45_0<false>;
using Q5_0 = Q45_0<true>;

// Q4_K and, with a piece of fifth bits, Q5_K. The header of a row stays as the file has it: d, dmin, twelve bytes of 6-bit scales and minima.
template <bool FIVE> struct Q45_K {
  static constexpr int bytes = FIVE ? 2816 : 2304, header = FIVE ? 2560 : 2048;
  U4 q[4], high, head[2];
  SK_DEVICE void load(const u8* chunk, bool wanted) {
    const int lane = thread() & 31;
    SK_UNROLL for (int i = 0; i < 2; ++i) load_once(head[i], chunk + header + 128 * i + 16 * (lane >> 2), wanted);
    if constexpr (FIVE) load_once(high, chunk + 2048 + 16 * lane, wanted);
    SK_UNROLL for (int i = 0; i < 4; ++i) load_once(q[i], chunk + 512 * i + 16 * lane, wanted);
  }
  template <int NT> SK_DEVICE void use(const u8* next, bool wanted, const Lane& x, Sums<NT>& acc) {
    const int lane = thread() & 31;
    const U4 fifth = high;
    if constexpr (FIVE) load_once(high, next + 2048 + 16 * lane, wanted);
    float d[2][2], less_d[2][2], dmin[2], less_dmin[2];      // d: of blocks in low and in high nibbles, [..][row]
    u32 scale[2][2], min[2][2];                  // a byte a block
    SK_UNROLL for (int r = 0; r < 2; ++r) {
      const U4 h = head[r];
      d[0][r] = half_of(h.x, 0);
      d[1][r] = FIVE ? d[0][r] : mul(d[0][r], 1.0f / 16);
      dmin[r] = mul(half_of(h.x, 1), -1.0f);
      SK_UNROLL for (int j = 0; j < 2; ++j) less_d[j][r] = mul(d[j][r], -8388608.0f);
      less_dmin[r] = mul(dmin[r], -8388608.0f);
      scale[r][0] = h.y & 0x3F3F3F3Fu;
      min[r][0] = h.z & 0x3F3F3F3Fu;
      scale[r][1] = (h.w & 0x0F0F0F0Fu) | ((h.y >> 2) & 0x30303030u);
      min[r][1] = ((h.w >> 4) & 0x0F0F0F0Fu) | ((h.z >> 2) & 0x30303030u);
      load_once(head[r], next + header + 128 * r + 16 * (lane >> 2), wanted);
    }
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      F4 sum[NT];
      const u8* sums = x.scale + pair_bytes * i + (sum_bytes - scale_bytes);
      SK_UNROLL for (int n = 0; n < NT; ++n) sum[n] = *reinterpret_cast<const F4*>(sums + group_bytes * n);
      U4 m[2];
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        if constexpr (FIVE) {
          m[j] = each(q[i], [&](u32 r) { return (j ? r >> 4 : r) & 0x0F0F0F0Fu; });
          const u32 h = word(fifth, i);          // bit c + 4j of a byte belongs to register c of block j, and is wanted at bit 4
          m[j].x |= (j ? h : h << 4) & 0x10101010u;
          m[j].y |= (j ? h >> 1 : h << 3) & 0x10101010u;
          m[j].z |= (j ? h >> 2 : h << 2) & 0x10101010u;
          m[j].w |= (j ? h >> 3 : h << 1) & 0x10101010u;
        } else {
          m[j] = each(q[i], [&](u32 r) { return r & (j ? 0xF0F0F0F0u : 0x0F0F0F0Fu); });      // the upper ones in place: 16 times the weight
        }
      }
      load_once(q[i], next + 512 * i + 16 * lane, wanted);
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        const int b = 2 * i + j;
        float w[2], low[2];
        SK_UNROLL for (int r = 0; r < 2; ++r) {
          // fma(d, 2^23 + s, -2^23 * d) is d * s, exact.
          w[r] = fma(d[j][r], byte_float(scale[r][b >> 2], b & 3, x.exponent), less_d[j][r]);
          low[r] = fma(dmin[r], byte_float(min[r][b >> 2], b & 3, x.exponent), less_dmin[r]);
        }
        add_block<false>(acc, m[j], w, a, j);
        SK_UNROLL for (int n = 0; n < NT; ++n)
          SK_UNROLL for (int k = 0; k < 4; ++k) acc.of[n][k] = fma(low[k >> 1], part(sum[n], 2 * j + (k & 1)), acc.of[n][k]);
      }
    }
  }
};
using Q4_K = Q45_K<false>;
using Q5_K = Q45_K<true>;

// Q6_K: scales of 16 positions, so a block is two products. The chunk is summed with whole scales and its own accumulators, then times d.
// A weight plus 32, times 4, top bit flipped, is a signed byte: 4 times the weight. layout.cpp flips that bit in the plane of upper pairs.
struct Q6_K {
  static constexpr int bytes = 3360;
  U4 q[4], high[2], s[2];
  u32 d;
  SK_DEVICE void load(const u8* chunk, bool wanted) {
    const int lane = thread() & 31;
    SK_UNROLL for (int i = 0; i < 2; ++i) load_once(s[i], chunk + 3072 + 128 * i + 16 * (lane >> 2), wanted);
    load_once(d, chunk + 3328 + 4 * (lane >> 2), wanted);
    SK_UNROLL for (int i = 0; i < 2; ++i) load_once(high[i], chunk + 2048 + 512 * i + 16 * lane, wanted);
    SK_UNROLL for (int i = 0; i < 4; ++i) load_once(q[i], chunk + 512 * i + 16 * lane, wanted);
  }
  template <int NT> SK_DEVICE void use(const u8* next, bool wanted, const Lane& x, Sums<NT>& acc) {
    const int lane = thread() & 31;
    // What the whole chunk needs is copied, so that its successor is asked for at once.
    const U4 scales[2] = {s[0], s[1]}, upper[2] = {high[0], high[1]};
    const float unit[2] = {mul(half_of(d, 0), 0.25f), mul(half_of(d, 1), 0.25f)};
    SK_UNROLL for (int r = 0; r < 2; ++r) load_once(s[r], next + 3072 + 128 * r + 16 * (lane >> 2), wanted);
    load_once(d, next + 3328 + 4 * (lane >> 2), wanted);
    SK_UNROLL for (int i = 0; i < 2; ++i) load_once(high[i], next + 2048 + 512 * i + 16 * lane, wanted);
    Sums<NT> own = {};
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      U4 m[2];
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        const u32 h = word(upper[i >> 1], 2 * (i & 1) + j);      // bits 2c, 2c + 1 of a byte belong to register c
        m[j] = each(q[i], [&](u32 r) { return (j ? r >> 2 : r << 2) & 0x3C3C3C3Cu; });
        m[j].x |= (h << 6) & 0xC0C0C0C0u;
        m[j].y |= (h << 4) & 0xC0C0C0C0u;
        m[j].z |= (h << 2) & 0xC0C0C0C0u;
        m[j].w |= h & 0xC0C0C0C0u;
      }
      load_once(q[i], next + 512 * i + 16 * lane, wanted);
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        SK_UNROLL for (int half = 0; half < 2; ++half) {
          float w[2], less[2];
          SK_UNROLL for (int r = 0; r < 2; ++r) {
            w[r] = add(byte_float(word(scales[r], i), 2 * j + half, x.exponent), -8388736.0f);      // stored plus 128
            less[r] = mul(w[r], minus_start);
          }
          SK_UNROLL for (int n = 0; n < NT; ++n) {
            const u32 b = half ? (j ? a.q[n].w : a.q[n].y) : (j ? a.q[n].z : a.q[n].x);
            const Product p = multiply_half(half ? m[j].z : m[j].x, half ? m[j].w : m[j].y, b, start_bits);
            add_scaled(own.of[n], p, w, less, part(a.scale[n], 2 * j), part(a.scale[n], 2 * j + 1));
          }
        }
      }
    }
    SK_UNROLL for (int n = 0; n < NT; ++n)
      SK_UNROLL for (int k = 0; k < 4; ++k) acc.of[n][k] = fma(unit[k >> 1], own.of[n][k], acc.of[n][k]);
  }
};

}  // namespace skipstone::gpu
