// A chunk of each weight type (16 rows x 256 positions, layout.cpp) in shared memory, and its product with the activations, for several tiles at once:
// the activations are read once for all of them.
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
SK_DEVICE const U4& four_words(const u8* p) { return *reinterpret_cast<const U4*>(p); }

// 2^23 plus byte i of v: under that exponent a byte needs no conversion. `exponent` are the bits of 2^23.
SK_DEVICE float byte_float(u32 v, int i, u32 exponent) { return bits<float>(bytes_of(v, exponent, 0x7440u | static_cast<u32>(i))); }

// What a lane reads of the activations: its own column's bytes, and the scales and sums of the two columns whose results it holds.
struct Lane {
  const u8 *q, *scale;                           // of group 0 and the chunk's first pair
  i64 more;                                      // bytes to the next 16 rows
  u32 exponent;                                  // bits of 2^23, hidden from the compiler, which else spends a move a byte on a selector
  SK_DEVICE i64 at(int pair, int n) const { return pair_bytes * pair + group_bytes * (n & 1) + (n >> 1) * more; }
  SK_DEVICE Columns quants(int pair, int n) const {
    Columns c;
    c.load(q + at(pair, n));
    return c;
  }
  SK_DEVICE F4 scales(int pair, int n) const { return *reinterpret_cast<const F4*>(scale + at(pair, n)); }
  SK_DEVICE F4 sums(int pair, int n) const { return *reinterpret_cast<const F4*>(scale + (sum_bytes - scale_bytes) + at(pair, n)); }
};
template <int NT> struct Pair {
  Columns q[NT];
  F4 scale[NT];
  template <class X> SK_DEVICE void load(const X& x, int pair) {
    stay_in_order();
    SK_UNROLL for (int n = 0; n < NT; ++n) {
      q[n] = x.quants(pair, n);
      scale[n] = x.scales(pair, n);
    }
  }
};
template <int NT> struct Sums {
  float of[NT][4];                               // 0, 1: row g, columns 2t, 2t + 1; 2, 3: row g + 8
  SK_DEVICE void settle() {
    SK_UNROLL for (int n = 0; n < NT; ++n)
      SK_UNROLL for (int i = 0; i < 4; ++i) gpu::settle(of[n][i]);
  }
};

// acc += w[row of the output] * (sum - start) * scale[column]
SK_DEVICE void add_scaled(float acc[4], const Product& p, const float w[2], const float less[2], float scale0, float scale1) {
  SK_UNROLL for (int i = 0; i < 4; ++i) acc[i] = fma(fma(bits<float>(p.c[i]), w[i >> 1], less[i >> 1]), i & 1 ? scale1 : scale0, acc[i]);
}
template <bool SIGNED, int NT> SK_DEVICE void add_block(Sums<NT>& acc, const U4& weights, const float w[2], const Pair<NT>& x, int second) {
  const float less[2] = {mul(w[0], minus_start), mul(w[1], minus_start)};
  SK_UNROLL for (int n = 0; n < NT; ++n) {
    const Product p = multiply<SIGNED>(weights, x.q[n], second, start_bits);
    add_scaled(acc.of[n], p, w, less, part(x.scale[n], 2 * second), part(x.scale[n], 2 * second + 1));
  }
}

// Two blocks of a tile as the matrix instruction takes them: quants, what a lane's two rows multiply by, and minima.
struct Blocks {
  U4 m[2];
  float w[2][2], low[2][2];              // [block][row]
};
// Prompts: the weights of two blocks are decoded once, then meet group after group of activation rows. The same sums as use() makes.
template <class T, int TILES, int NT, class X> SK_DEVICE void use_blocks(const u8* tiles, const X& x, Sums<NT>* acc) {
  typename T::Header head[TILES];
  SK_UNROLL for (int of = 0; of < TILES; ++of) head[of].load(tiles + T::bytes * of);
  SK_UNROLL for (int i = 0; i < 4; ++i) {
    Blocks b[TILES];
    SK_UNROLL for (int of = 0; of < TILES; ++of) b[of] = head[of].blocks(tiles + T::bytes * of, i, x.exponent);
    SK_UNROLL for (int n = 0; n < NT; ++n) {
      const Columns q = x.quants(i, n);
      const F4 scale = x.scales(i, n);
      F4 sum{};
      if constexpr (T::minima) sum = x.sums(i, n);
      SK_UNROLL for (int j = 0; j < 2; ++j)
        SK_UNROLL for (int of = 0; of < TILES; ++of) {
          const float less[2] = {mul(b[of].w[j][0], minus_start), mul(b[of].w[j][1], minus_start)};
          const Product p = multiply<T::is_signed>(b[of].m[j], q, j, start_bits);
          add_scaled(acc[of].of[n], p, b[of].w[j], less, part(scale, 2 * j), part(scale, 2 * j + 1));
          if constexpr (T::minima)
            SK_UNROLL for (int k = 0; k < 4; ++k) acc[of].of[n][k] = fma(b[of].low[j][k >> 1], part(sum, 2 * j + (k & 1)), acc[of].of[n][k]);
        }
    }
  }
}

// Quants as they are: Q8_0.
struct Q8_0 {
  template <int TILES, int NT, class X> static SK_DEVICE void use_many(const u8* tiles, const X& x, Sums<NT>* acc) { use_blocks<Q8_0, TILES, NT>(tiles, x, acc); }
  static constexpr bool minima = false, is_signed = true;
  struct Header {
    U4 d[2];
    SK_DEVICE void load(const u8* chunk) {
      SK_UNROLL for (int h = 0; h < 2; ++h) d[h] = four_words(chunk + 4096 + 128 * h + 16 * ((thread() & 31) >> 2));
    }
    SK_DEVICE Blocks blocks(const u8* chunk, int i, u32) const {
      Blocks b;
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        const u32 both = word(d[i >> 1], 2 * (i & 1) + j);
        b.w[j][0] = half_of(both, 0), b.w[j][1] = half_of(both, 1);
        b.m[j] = four_words(chunk + 512 * (2 * i + j) + 16 * (thread() & 31));
      }
      return b;
    }
  };
  static constexpr int bytes = 4352;
  template <int TILES, int NT, class X> static SK_DEVICE void use(const u8* tiles, const X& x, Sums<NT>* acc) {
    const int lane = thread() & 31;
    U4 d[TILES];
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      SK_UNROLL for (int of = 0; of < TILES; ++of) {
        const u8* chunk = tiles + bytes * of;
        if (!(i & 1)) d[of] = four_words(chunk + 4096 + 64 * i + 16 * (lane >> 2));
        SK_UNROLL for (int j = 0; j < 2; ++j) {
          const u32 both = word(d[of], 2 * (i & 1) + j);
          const float w[2] = {half_of(both, 0), half_of(both, 1)};
          add_block<true>(acc[of], four_words(chunk + 512 * (2 * i + j) + 16 * lane), w, a, j);
        }
      }
    }
  }
};

// Nibbles of two blocks in one piece: Q4_0 and, with a piece of fifth bits, Q5_0. A byte times 16 (times 8), its top bit flipped, is the signed
// weight times the same power of two, which the scale takes back.
template <bool FIVE> struct Q45_0 {
  static constexpr int bytes = FIVE ? 2816 : 2304, scales = FIVE ? 2560 : 2048;
  template <int TILES, int NT, class X> static SK_DEVICE void use_many(const u8* tiles, const X& x, Sums<NT>* acc) { use_blocks<Q45_0<FIVE>, TILES, NT>(tiles, x, acc); }
  static constexpr bool minima = false, is_signed = true;
  struct Header {
    U4 d[2], fifth;
    SK_DEVICE void load(const u8* chunk) {
      SK_UNROLL for (int h = 0; h < 2; ++h) d[h] = four_words(chunk + scales + 128 * h + 16 * ((thread() & 31) >> 2));
      if (FIVE) fifth = four_words(chunk + 2048 + 16 * (thread() & 31));
    }
    SK_DEVICE Blocks blocks(const u8* chunk, int i, u32) const {
      Blocks o;
      const U4 q = four_words(chunk + 512 * i + 16 * (thread() & 31));
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        U4& m = o.m[j];
        if constexpr (FIVE) {
          m = each(q, [&](u32 r) { return ((j ? r >> 1 : r << 3) & 0x78787878u) ^ 0x80808080u; });
          const u32 h = word(fifth, i);
          // Bit c + 4j of a byte of the fifth bits belongs to register c of block j, and is wanted at bit 7.
          m.x ^= (h << (7 - 4 * j)) & 0x80808080u;
          m.y ^= (h << (6 - 4 * j)) & 0x80808080u;
          m.z ^= (h << (5 - 4 * j)) & 0x80808080u;
          m.w ^= (h << (4 - 4 * j)) & 0x80808080u;
        } else {
          m = each(q, [&](u32 r) { return ((j ? r : r << 4) & 0xF0F0F0F0u) ^ 0x80808080u; });
        }
        const u32 both = word(d[i >> 1], 2 * (i & 1) + j);
        constexpr float unit = FIVE ? 1.0f / 8 : 1.0f / 16;
        o.w[j][0] = mul(half_of(both, 0), unit), o.w[j][1] = mul(half_of(both, 1), unit);
      }
      return o;
    }
  };
  template <int TILES, int NT, class X> static SK_DEVICE void use(const u8* tiles, const X& x, Sums<NT>* acc) {
    const int lane = thread() & 31;
    U4 d[TILES], fifth[TILES];
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      SK_UNROLL for (int of = 0; of < TILES; ++of) {
        const u8* chunk = tiles + bytes * of;
        if (FIVE && i == 0) fifth[of] = four_words(chunk + 2048 + 16 * lane);
        if (!(i & 1)) d[of] = four_words(chunk + scales + 64 * i + 16 * (lane >> 2));
        const U4 q = four_words(chunk + 512 * i + 16 * lane);
        SK_UNROLL for (int j = 0; j < 2; ++j) {
          U4 m;
          if constexpr (FIVE) {
            m = each(q, [&](u32 r) { return ((j ? r >> 1 : r << 3) & 0x78787878u) ^ 0x80808080u; });
            const u32 h = word(fifth[of], i);
            // Bit c + 4j of a byte of the fifth bits belongs to register c of block j, and is wanted at bit 7.
            m.x ^= (h << (7 - 4 * j)) & 0x80808080u;
            m.y ^= (h << (6 - 4 * j)) & 0x80808080u;
            m.z ^= (h << (5 - 4 * j)) & 0x80808080u;
            m.w ^= (h << (4 - 4 * j)) & 0x80808080u;
          } else {
            m = each(q, [&](u32 r) { return ((j ? r : r << 4) & 0xF0F0F0F0u) ^ 0x80808080u; });
          }
          const u32 both = word(d[of], 2 * (i & 1) + j);
          constexpr float unit = FIVE ? 1.0f / 8 : 1.0f / 16;
          const float w[2] = {mul(half_of(both, 0), unit), mul(half_of(both, 1), unit)};
          add_block<true>(acc[of], m, w, a, j);
        }
      }
    }
  }
};
using Q4_0 = Q45_0<false>;
using Q5_0 = Q45_0<true>;

// Q4_K and, with a piece of fifth bits, Q5_K. The header of a row stays as the file has it: d, dmin, twelve bytes of 6-bit scales and minima.
template <bool FIVE> struct Q45_K {
  static constexpr int bytes = FIVE ? 2816 : 2304, header = FIVE ? 2560 : 2048;
  static constexpr bool in_place = !FIVE && bytes_above_127;      // upper nibbles as 16 times the weight, which their scale takes back
  struct Head {
    float d[2][2], less_d[2][2], dmin[2], less_dmin[2];      // d: of blocks in low and in high nibbles, [..][row]
    u32 scale[2][2], min[2][2];                  // a byte a block
    SK_DEVICE void load(const u8* chunk) {
      SK_UNROLL for (int r = 0; r < 2; ++r) {
        const U4 h = four_words(chunk + header + 128 * r + 16 * ((thread() & 31) >> 2));
        d[0][r] = half_of(h.x, 0);
        d[1][r] = in_place ? mul(d[0][r], 1.0f / 16) : d[0][r];
        dmin[r] = mul(half_of(h.x, 1), -1.0f);
        SK_UNROLL for (int j = 0; j < 2; ++j) less_d[j][r] = mul(d[j][r], -8388608.0f);
        less_dmin[r] = mul(dmin[r], -8388608.0f);
        scale[r][0] = h.y & 0x3F3F3F3Fu;
        min[r][0] = h.z & 0x3F3F3F3Fu;
        scale[r][1] = (h.w & 0x0F0F0F0Fu) | ((h.y >> 2) & 0x30303030u);
        min[r][1] = ((h.w >> 4) & 0x0F0F0F0Fu) | ((h.z >> 2) & 0x30303030u);
      }
    }
  };
  template <int TILES, int NT, class X> static SK_DEVICE void use_many(const u8* tiles, const X& x, Sums<NT>* acc) { use_blocks<Q45_K<FIVE>, TILES, NT>(tiles, x, acc); }
  static constexpr bool minima = true, is_signed = false;
  struct Header {
    Head own;
    U4 fifth;
    SK_DEVICE void load(const u8* chunk) {
      own.load(chunk);
      if (FIVE) fifth = four_words(chunk + 2048 + 16 * (thread() & 31));
    }
    SK_DEVICE Blocks blocks(const u8* chunk, int i, u32 exponent) const {
      Blocks o;
      const U4 q = four_words(chunk + 512 * i + 16 * (thread() & 31));
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        U4& m = o.m[j];
        if constexpr (FIVE) {
          m = each(q, [&](u32 r) { return (j ? r >> 4 : r) & 0x0F0F0F0Fu; });
          const u32 h = word(fifth, i);      // bit c + 4j of a byte belongs to register c of block j, and is wanted at bit 4
          m.x |= (j ? h : h << 4) & 0x10101010u;
          m.y |= (j ? h >> 1 : h << 3) & 0x10101010u;
          m.z |= (j ? h >> 2 : h << 2) & 0x10101010u;
          m.w |= (j ? h >> 3 : h << 1) & 0x10101010u;
        } else {
          m = each(q, [&](u32 r) { return j && in_place ? r & 0xF0F0F0F0u : (j ? r >> 4 : r) & 0x0F0F0F0Fu; });
        }
        const int b = 2 * i + j;
        SK_UNROLL for (int r = 0; r < 2; ++r) {
          // fma(d, 2^23 + s, -2^23 * d) is d * s, exact.
          o.w[j][r] = fma(own.d[j][r], byte_float(own.scale[r][b >> 2], b & 3, exponent), own.less_d[j][r]);
          o.low[j][r] = fma(own.dmin[r], byte_float(own.min[r][b >> 2], b & 3, exponent), own.less_dmin[r]);
        }
      }
      return o;
    }
  };
  template <int TILES, int NT, class X> static SK_DEVICE void use(const u8* tiles, const X& x, Sums<NT>* acc) {
    const int lane = thread() & 31;
    Head head[TILES];
    U4 fifth[TILES];
    SK_UNROLL for (int of = 0; of < TILES; ++of) {
      head[of].load(tiles + bytes * of);
      if (FIVE) fifth[of] = four_words(tiles + bytes * of + 2048 + 16 * lane);
    }
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      F4 sum[NT];
      SK_UNROLL for (int n = 0; n < NT; ++n) sum[n] = x.sums(i, n);
      SK_UNROLL for (int of = 0; of < TILES; ++of) {
        const U4 q = four_words(tiles + bytes * of + 512 * i + 16 * lane);
        const Head& own = head[of];
        SK_UNROLL for (int j = 0; j < 2; ++j) {
          U4 m;
          if constexpr (FIVE) {
            m = each(q, [&](u32 r) { return (j ? r >> 4 : r) & 0x0F0F0F0Fu; });
            const u32 h = word(fifth[of], i);      // bit c + 4j of a byte belongs to register c of block j, and is wanted at bit 4
            m.x |= (j ? h : h << 4) & 0x10101010u;
            m.y |= (j ? h >> 1 : h << 3) & 0x10101010u;
            m.z |= (j ? h >> 2 : h << 2) & 0x10101010u;
            m.w |= (j ? h >> 3 : h << 1) & 0x10101010u;
          } else {
            m = each(q, [&](u32 r) { return j && in_place ? r & 0xF0F0F0F0u : (j ? r >> 4 : r) & 0x0F0F0F0Fu; });
          }
          const int b = 2 * i + j;
          float w[2], low[2];
          SK_UNROLL for (int r = 0; r < 2; ++r) {
            // fma(d, 2^23 + s, -2^23 * d) is d * s, exact.
            w[r] = fma(own.d[j][r], byte_float(own.scale[r][b >> 2], b & 3, x.exponent), own.less_d[j][r]);
            low[r] = fma(own.dmin[r], byte_float(own.min[r][b >> 2], b & 3, x.exponent), own.less_dmin[r]);
          }
          add_block<false>(acc[of], m, w, a, j);
          SK_UNROLL for (int n = 0; n < NT; ++n)
            SK_UNROLL for (int k = 0; k < 4; ++k) acc[of].of[n][k] = fma(low[k >> 1], part(sum[n], 2 * j + (k & 1)), acc[of].of[n][k]);
        }
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
  // As use(), but the weights of two blocks are decoded once, then meet group after group of activation rows.
  template <int TILES, int NT, class X> static SK_DEVICE void use_many(const u8* tiles, const X& x, Sums<NT>* acc) {
    const int lane = thread() & 31;
    Sums<NT> own[TILES] = {};
    SK_UNROLL_NOT for (int i = 0; i < 4; ++i) {
      U4 m[TILES][2];
      float w[TILES][2][2][2];
      SK_UNROLL for (int of = 0; of < TILES; ++of) {
        const u8* chunk = tiles + bytes * of;
        const U4 q = four_words(chunk + 512 * i + 16 * lane);
        const u32* upper = reinterpret_cast<const u32*>(chunk + 2048 + 512 * (i >> 1) + 16 * lane) + 2 * (i & 1);
        const u32 scales[2] = {*reinterpret_cast<const u32*>(chunk + 3072 + 16 * (lane >> 2) + 4 * i), *reinterpret_cast<const u32*>(chunk + 3200 + 16 * (lane >> 2) + 4 * i)};
        SK_UNROLL for (int j = 0; j < 2; ++j) {
          const u32 h = upper[j];
          U4& v = m[of][j];
          v = each(q, [&](u32 r) { return (j ? r >> 2 : r << 2) & 0x3C3C3C3Cu; });
          v.x |= (h << 6) & 0xC0C0C0C0u;
          v.y |= (h << 4) & 0xC0C0C0C0u;
          v.z |= (h << 2) & 0xC0C0C0C0u;
          v.w |= h & 0xC0C0C0C0u;
          SK_UNROLL for (int half = 0; half < 2; ++half)
            SK_UNROLL for (int r = 0; r < 2; ++r) w[of][j][half][r] = add(byte_float(scales[r], 2 * j + half, x.exponent), -8388736.0f);      // stored plus 128
        }
      }
      SK_UNROLL for (int n = 0; n < NT; ++n) {
        const Columns q = x.quants(i, n);
        const F4 scale = x.scales(i, n);
        SK_UNROLL for (int j = 0; j < 2; ++j)
          SK_UNROLL for (int half = 0; half < 2; ++half)
            SK_UNROLL for (int of = 0; of < TILES; ++of) {
              const float* s = w[of][j][half];
              const float less[2] = {mul(s[0], minus_start), mul(s[1], minus_start)};
              const U4& v = m[of][j];
              add_scaled(own[of].of[n], multiply_half(half ? v.z : v.x, half ? v.w : v.y, q, j, half, start_bits), s, less, part(scale, 2 * j), part(scale, 2 * j + 1));
            }
      }
    }
    SK_UNROLL for (int of = 0; of < TILES; ++of) {
      const u32 d = *reinterpret_cast<const u32*>(tiles + bytes * of + 3328 + 4 * (lane >> 2));
      const float unit[2] = {mul(half_of(d, 0), 0.25f), mul(half_of(d, 1), 0.25f)};
      SK_UNROLL for (int n = 0; n < NT; ++n)
        SK_UNROLL for (int k = 0; k < 4; ++k) acc[of].of[n][k] = fma(unit[k >> 1], own[of].of[n][k], acc[of].of[n][k]);
    }
  }
  template <int TILES, int NT, class X> static SK_DEVICE void use(const u8* tiles, const X& x, Sums<NT>* acc) {
    const int lane = thread() & 31;
    Sums<NT> own[TILES] = {};
    U4 upper[TILES];
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      SK_UNROLL for (int of = 0; of < TILES; ++of) {
        const u8* chunk = tiles + bytes * of;
        if (!(i & 1)) upper[of] = four_words(chunk + 2048 + 256 * i + 16 * lane);
        const U4 q = four_words(chunk + 512 * i + 16 * lane);
        const u32 scales[2] = {*reinterpret_cast<const u32*>(chunk + 3072 + 16 * (lane >> 2) + 4 * i), *reinterpret_cast<const u32*>(chunk + 3200 + 16 * (lane >> 2) + 4 * i)};
        SK_UNROLL for (int j = 0; j < 2; ++j) {
          const u32 h = word(upper[of], 2 * (i & 1) + j);      // bits 2c, 2c + 1 of a byte belong to register c
          U4 m = each(q, [&](u32 r) { return (j ? r >> 2 : r << 2) & 0x3C3C3C3Cu; });
          m.x |= (h << 6) & 0xC0C0C0C0u;
          m.y |= (h << 4) & 0xC0C0C0C0u;
          m.z |= (h << 2) & 0xC0C0C0C0u;
          m.w |= h & 0xC0C0C0C0u;
          SK_UNROLL for (int half = 0; half < 2; ++half) {
            float w[2], less[2];
            SK_UNROLL for (int r = 0; r < 2; ++r) {
              w[r] = add(byte_float(scales[r], 2 * j + half, x.exponent), -8388736.0f);      // stored plus 128
              less[r] = mul(w[r], minus_start);
            }
            SK_UNROLL for (int n = 0; n < NT; ++n) {
              const Product p = multiply_half(half ? m.z : m.x, half ? m.w : m.y, a.q[n], j, half, start_bits);
              add_scaled(own[of].of[n], p, w, less, part(a.scale[n], 2 * j), part(a.scale[n], 2 * j + 1));
            }
          }
        }
        own[of].settle();
      }
    }
    SK_UNROLL for (int of = 0; of < TILES; ++of) {
      const u32 d = *reinterpret_cast<const u32*>(tiles + bytes * of + 3328 + 4 * (lane >> 2));
      const float unit[2] = {mul(half_of(d, 0), 0.25f), mul(half_of(d, 1), 0.25f)};
      SK_UNROLL for (int n = 0; n < NT; ++n)
        SK_UNROLL for (int k = 0; k < 4; ++k) acc[of].of[n][k] = fma(unit[k >> 1], own[of].of[n][k], acc[of].of[n][k]);
    }
  }
};

// Every other quantized type: int8 as Q8_0 has them, then float32 scales and minima of 16 positions, [row][half] twice.
// The sum of a half's activations, which a minimum needs, is its product with ones.
struct Canonical {
  static constexpr int bytes = 6144;
  template <int TILES, int NT, class X> static SK_DEVICE void use_many(const u8* tiles, const X& x, Sums<NT>* acc) { use<TILES, NT>(tiles, x, acc); }
  template <int TILES, int NT, class X> static SK_DEVICE void use(const u8* tiles, const X& x, Sums<NT>* acc) {
    const int lane = thread() & 31, g = lane >> 2;
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      SK_UNROLL for (int of = 0; of < TILES; ++of) {
        const u8* chunk = tiles + bytes * of;
        const float* scales = reinterpret_cast<const float*>(chunk + 4096);
        SK_UNROLL for (int j = 0; j < 2; ++j) {
          const int b = 2 * i + j;
          const U4 q = four_words(chunk + 512 * b + 16 * lane);
          SK_UNROLL for (int half = 0; half < 2; ++half)
            SK_UNROLL for (int n = 0; n < NT; ++n) {
              const Product p = multiply_half(half ? q.z : q.x, half ? q.w : q.y, a.q[n], j, half, 0);
              const Product ones = multiply_half(0x01010101u, 0x01010101u, a.q[n], j, half, 0);
              SK_UNROLL for (int k = 0; k < 4; ++k) {
                const int at = 16 * (g + 8 * (k >> 1)) + b * 2 + half;
                const float xs = part(a.scale[n], 2 * j + (k & 1));
                acc[of].of[n][k] = fma(mul(static_cast<float>(p.c[k]), scales[at]), xs, acc[of].of[n][k]);
                acc[of].of[n][k] = fma(mul(static_cast<float>(ones.c[k]), scales[256 + at]), xs, acc[of].of[n][k]);
              }
            }
        }
        acc[of].settle();
      }
    }
  }
};

}  // namespace skipstone::gpu
