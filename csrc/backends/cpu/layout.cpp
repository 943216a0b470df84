// Row-interleaved weight layouts: a group of 8 or 16 rows in which a register (32 or 64 bytes)
// holds four consecutive weights of each row (lane = row).
// Bits are only moved, so packing loses nothing. All 4-, 5- and 6-bit types end up in the same planes, a block of 32 columns at a time:
//   nibbles, 4 registers: byte (row, c) of register j has the low bits of column 4j + c below and of column 16 + 4j + c above
//   bits, 1 register: bit i of byte (row, c) is the fifth bit of column 4i + c
//   pairs, 2 registers: in register p, bits 2i and 2i + 1 of byte (row, c) are the fifth and sixth of column 16p + 4i + c
#include <array>
#include <cstring>
#include <type_traits>

#include "backends/cpu/codebooks.h"
#include "backends/cpu/layout.h"
#include "formats/float16.h"
#include "formats/iq4.h"
#include "formats/q3_k.h"

namespace skipstone::cpu {
namespace {

// Eight bytes at a time, with shifts and masks: packing shall keep up with the memory, on every machine with the same code.
uint64_t eight(const uint8_t* p) {
  uint64_t v;
  memcpy(&v, p, 8);
  return v;
}
uint32_t four(const uint8_t* p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}
constexpr uint64_t low_nibbles = 0x0f0f0f0f0f0f0f0f;

// The 16 bytes of a row's nibbles, in order of their columns, go to its places in the four registers.
template <int W> void put_plane(uint64_t first, uint64_t second, int row, uint8_t* plane) {
  const uint32_t registers[4] = {static_cast<uint32_t>(first), static_cast<uint32_t>(first >> 32), static_cast<uint32_t>(second), static_cast<uint32_t>(second >> 32)};
  for (int j = 0; j < 4; ++j) memcpy(plane + 32 * W * j + 4 * row, &registers[j], 4);
}
// From 16 bytes that already hold columns 0..15 below and 16..31 above.
template <int W> void put_as_they_are(const uint8_t* in, int row, uint8_t* plane) { put_plane<W>(eight(in), eight(in + 8), row, plane); }
// From a byte a column: its low or its high nibble.
template <int W> void put_low(const uint8_t* in, int row, uint8_t* plane) {
  const uint64_t mask = low_nibbles;
  put_plane<W>((eight(in) & mask) | (eight(in + 16) & mask) << 4, (eight(in + 8) & mask) | (eight(in + 24) & mask) << 4, row, plane);
}
template <int W> void put_high(const uint8_t* in, int row, uint8_t* plane) {
  const uint64_t mask = low_nibbles;
  put_plane<W>((eight(in) >> 4 & mask) | (eight(in + 16) & ~mask), (eight(in + 8) >> 4 & mask) | (eight(in + 24) & ~mask), row, plane);
}
// Bit k of `bits` belongs to column k: bit i of byte c is that of column 4i + c.
template <int W> void put_bits(uint32_t bits, int row, uint8_t* plane) {
  uint32_t x = bits, t;                                  // a transposition of 8 x 4 bits, two bits of the place at a time
  t = (x ^ (x >> 3)) & 0x0a0a0a0a, x ^= t ^ (t << 3);
  t = (x ^ (x >> 6)) & 0x00cc00cc, x ^= t ^ (t << 6);
  t = (x ^ (x >> 12)) & 0x0000f0f0, x ^= t ^ (t << 12);
  t = (x ^ (x >> 8)) & 0x0000ff00, x ^= t ^ (t << 8);
  memcpy(plane + 4 * row, &x, 4);
}
// Bit `bit` of a byte a column.
template <int W> void put_bit_of(const uint8_t* in, int bit, int row, uint8_t* plane) {
  uint32_t out = 0;
  for (int i = 0; i < 8; ++i) out |= (four(in + 4 * i) >> bit & 0x01010101) << i;
  memcpy(plane + 4 * row, &out, 4);
}
// Bits `bit` and `bit` + 1 of a byte a column.
template <int W> void put_pairs(const uint8_t* in, int bit, int row, uint8_t* plane) {
  for (int p = 0; p < 2; ++p) {
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) out |= (four(in + 16 * p + 4 * i) >> bit & 0x03030303) << (2 * i);
    memcpy(plane + 32 * W * p + 4 * row, &out, 4);
  }
}
void put_half(uint8_t* scales, int row, const uint8_t* half) { memcpy(scales + 2 * row, half, 2); }

template <int W> void pack_q8_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 34 * b;
      put_half(group + q8_0<W>::scale_at(b), r, in);
      for (int j = 0; j < 8; ++j) memcpy(group + q8_0<W>::piece_at(b) + 32 * W * j + 4 * r, in + 2 + 4 * j, 4);
    }
}

template <int W> void pack_q4_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 18 * b;
      put_half(group + q4_0<W>::scale_at(b), r, in);
      put_as_they_are<W>(in + 2, r, group + q4_0<W>::piece_at(b));
    }
}

template <int W> void pack_q5_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 22 * b;
      put_half(group + q5_0<W>::scale_at(b), r, in);
      put_as_they_are<W>(in + 6, r, group + q5_0<W>::piece_at(b));
      put_bits<W>(four(in + 2), r, group + q5_0<W>::piece_at(b) + planes<W>::after_nibbles);
    }
}

template <bool FIVE, int W> void pack_q45_1(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using L = std::conditional_t<FIVE, q5_1<W>, q4_1<W>>;
  constexpr int block_bytes = FIVE ? 24 : 20, low_at = FIVE ? 8 : 4;
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + block_bytes * b;
      uint8_t* scales = group + L::scale_at(b);
      put_half(scales, r, in);
      put_half(scales + L::scale / 2, r, in + 2);
      put_as_they_are<W>(in + low_at, r, group + L::piece_at(b));
      if (FIVE) put_bits<W>(four(in + 4), r, group + L::piece_at(b) + planes<W>::after_nibbles);
    }
}

template <int W> void pack_mxfp4(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 17 * b;
      group[mxfp4<W>::scale_at(b) + r] = in[0];
      put_as_they_are<W>(in + 1, r, group + mxfp4<W>::piece_at(b));
    }
}

// Blocks of 64 with four scales; each scale is a float16 as well.
template <int W> void pack_nvfp4(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  static const std::array<uint16_t, 256> small_scales = [] {
    std::array<uint16_t, 256> all{};
    for (int i = 0; i < 256; ++i) all[static_cast<size_t>(i)] = formats::f32_to_f16(formats::ue4m3_half_to_f32(static_cast<uint8_t>(i)));
    return all;
  }();
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      uint8_t* scales = group + nvfp4<W>::scale_at(b);
      for (int half = 0; half < 2; ++half) {
        const uint16_t bits = small_scales[rows[r][36 * (b / 2) + 2 * (b % 2) + half]];
        memcpy(scales + half * (nvfp4<W>::scale / 2) + 2 * r, &bits, 2);
      }
      const uint8_t* in = rows[r] + 36 * (b / 2) + 4 + 16 * (b % 2);
      const uint64_t first = eight(in), second = eight(in + 8), mask = low_nibbles;       // of columns 0..15, of 16..31: each its first half below
      put_plane<W>((first & mask) | (second & mask) << 4, (first >> 4 & mask) | (second & ~mask), r, group + nvfp4<W>::piece_at(b));
    }
}

template <int W> void pack_q2_k(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 84 * b;
      uint8_t* out = group + q2_k<W>::super * b;
      put_half(out, r, in + 80);
      put_half(out + q2_k<W>::dmin, r, in + 82);
      for (int s = 0; s < 16; ++s) out[q2_k<W>::scales + q2_k<W>::scale * s + r] = in[s];
      for (int j = 0; j < 8; ++j) {
        put_pairs<W>(in + 16 + 32 * (j / 4), 2 * (j % 4), r, out + q2_k<W>::header + q2_k<W>::piece * j);
      }
    }
}

template <class Format, bool HALVES, int W> void pack_coded(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using L = coded<HALVES, W>;
  using C = Coded<Format>;
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const auto& in = *reinterpret_cast<const typename C::Block*>(rows[r] + sizeof(typename C::Block) * b);
      uint8_t* out = group + L::super * b;
      const uint16_t d = C::d(in);
      memcpy(out + 2 * r, &d, 2);
      for (int j = 0; j < 8; ++j) {
        constexpr int parts = HALVES ? 2 : 1;
        for (int half = 0; half < parts; ++half) out[L::scales + L::scale * (parts * j + half) + r] = static_cast<uint8_t>(C::multiple(in, j, half));
        const uint64_t first = C::codes(in, j, 0) | C::codes(in, j, 2) << 4, second = C::codes(in, j, 1) | C::codes(in, j, 3) << 4;
        put_plane<W>(first, second, r, out + L::header + L::piece * j);
      }
    }
}

// Those of the coded types whose bits already are the codes, by the same layout and without a look at the weights. Their scales are whole numbers.
template <int W> void pack_iq4_xs(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using L = coded<false, W>;
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const auto& in = *reinterpret_cast<const formats::IQ4_XS::Block*>(rows[r] + sizeof(formats::IQ4_XS::Block) * b);
      uint8_t* out = group + L::super * b;
      memcpy(out + 2 * r, &in.d, 2);
      for (int j = 0; j < 8; ++j) {
        out[L::scales + L::scale * j + r] = static_cast<uint8_t>(in.scale(j));
        put_as_they_are<W>(in.qs + 16 * j, r, out + L::header + L::piece * j);
      }
    }
}
template <int W> void pack_q3_k(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using L = coded<true, W>;
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const auto& in = *reinterpret_cast<const formats::Q3_K::Block*>(rows[r] + sizeof(formats::Q3_K::Block) * b);
      uint8_t* out = group + L::super * b;
      memcpy(out + 2 * r, &in.d, 2);
      for (int s = 0; s < 16; ++s) out[L::scales + L::scale * s + r] = static_cast<uint8_t>(in.scale(s));
      for (int j = 0; j < 8; ++j) {
        uint8_t v[32];
        for (int i = 0; i < 32; i += 8) {
          const uint64_t code = (eight(in.qs + 32 * (j / 4) + i) >> (2 * (j % 4)) & 0x0303030303030303) | (eight(in.hmask + i) >> j & 0x0101010101010101) << 2;
          memcpy(v + i, &code, 8);
        }
        put_low<W>(v, r, out + L::header + L::piece * j);
      }
    }
}
template <int W> void pack_tq2_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using L = coded<false, W>;
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 66 * b;
      uint8_t* out = group + L::super * b;
      put_half(out, r, in + 64);
      for (int j = 0; j < 8; ++j) {
        uint8_t v[32];
        for (int i = 0; i < 32; i += 8) {
          const uint64_t code = eight(in + 32 * (j / 4) + i) >> (2 * (j % 4)) & 0x0303030303030303;
          memcpy(v + i, &code, 8);
        }
        out[L::scales + L::scale * j + r] = 1;
        put_low<W>(v, r, out + L::header + L::piece * j);
      }
    }
}

// The 6-bit scale and minimum of block j, as Q4_K and Q5_K pack them into 12 bytes.
void scale_and_min(const uint8_t* s, int j, uint8_t& scale, uint8_t& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = static_cast<uint8_t>((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
    min = static_cast<uint8_t>((s[j + 4] >> 4) | (s[j] >> 6) << 4);
  }
}

template <bool FIVE, int W> void pack_q45_k(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using K = std::conditional_t<FIVE, q5_k<W>, q4_k<W>>;
  constexpr int block_bytes = FIVE ? 176 : 144, low_at = FIVE ? 48 : 16;
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + block_bytes * b;
      uint8_t* out = group + K::super * b;
      put_half(out, r, in);
      put_half(out + K::dmin, r, in + 2);
      for (int j = 0; j < 8; ++j) {
        scale_and_min(in + 4, j, out[K::blocks + K::block * j + r], out[K::blocks + K::block * j + K::min + r]);
        uint8_t* piece = out + K::header + K::piece * j;
        (j & 1 ? put_high<W> : put_low<W>)(in + low_at + 32 * (j / 2), r, piece);
        if (FIVE) put_bit_of<W>(in + 16, j, r, piece + planes<W>::after_nibbles);
      }
    }
}

template <int W> void pack_q6_k(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 210 * b;
      uint8_t* out = group + q6_k<W>::super * b;
      put_half(out, r, in + 208);
      for (int s = 0; s < 16; ++s) out[q6_k<W>::scales + q6_k<W>::scale * s + r] = in[192 + s];
      for (int j = 0; j < 8; ++j) {
        uint8_t* piece = out + q6_k<W>::header + q6_k<W>::piece * j;
        const int half = j / 4, k = j % 4;
        (k >> 1 ? put_high<W> : put_low<W>)(in + 64 * half + 32 * (k & 1), r, piece);
        put_pairs<W>(in + 128 + 32 * half, 2 * k, r, piece + planes<W>::after_nibbles);
      }
    }
}

// A square of the matrix at a time, so that whole lines of memory are read and written.
template <int BYTES, int W> void pack_values(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  constexpr int64_t side = 64 / BYTES;
  for (int64_t start = 0; start < columns; start += side)
    for (int r = 0; r < 8 * W; ++r)
      for (int64_t k = start; k < columns && k < start + side; ++k) memcpy(group + BYTES * (8 * W * k + r), rows[r] + BYTES * k, BYTES);
}

template <class L> int64_t simple_bytes(int64_t columns) { return (columns / 32 + 1) / 2 * L::pair; }
template <class L> int64_t super_bytes(int64_t columns) { return columns / 256 * L::super; }
template <int64_t BYTES> int64_t value_bytes(int64_t columns) { return 8 * BYTES * columns; }

// Type; whether it multiplies the float32 rows; bytes of eight rows; how groups of 8 and of 16 rows are packed.
#define BOTH(...) {__VA_ARGS__, 1>, __VA_ARGS__, 2>}
const MatmulLayout layouts[] = {
    {"F32", true, value_bytes<4>, BOTH(pack_values<4)},
    {"F16", true, value_bytes<2>, BOTH(pack_values<2)},
    {"BF16", true, value_bytes<2>, BOTH(pack_values<2)},
    {"Q8_0", false, simple_bytes<q8_0<1>>, {pack_q8_0<1>, pack_q8_0<2>}},
    {"Q4_0", false, simple_bytes<q4_0<1>>, {pack_q4_0<1>, pack_q4_0<2>}},
    {"Q4_1", false, simple_bytes<q4_1<1>>, {pack_q45_1<false, 1>, pack_q45_1<false, 2>}},
    {"Q5_0", false, simple_bytes<q5_0<1>>, {pack_q5_0<1>, pack_q5_0<2>}},
    {"Q5_1", false, simple_bytes<q5_1<1>>, {pack_q45_1<true, 1>, pack_q45_1<true, 2>}},
    {"IQ4_NL", false, simple_bytes<q4_0<1>>, {pack_q4_0<1>, pack_q4_0<2>}},
    {"MXFP4", false, simple_bytes<mxfp4<1>>, {pack_mxfp4<1>, pack_mxfp4<2>}},
    {"NVFP4", false, simple_bytes<nvfp4<1>>, {pack_nvfp4<1>, pack_nvfp4<2>}},
    {"Q2_K", false, super_bytes<q2_k<1>>, {pack_q2_k<1>, pack_q2_k<2>}},
    {"Q4_K", false, super_bytes<q4_k<1>>, {pack_q45_k<false, 1>, pack_q45_k<false, 2>}},
    {"Q5_K", false, super_bytes<q5_k<1>>, {pack_q45_k<true, 1>, pack_q45_k<true, 2>}},
    {"Q6_K", false, super_bytes<q6_k<1>>, {pack_q6_k<1>, pack_q6_k<2>}},
    {"Q3_K", false, super_bytes<coded<true, 1>>, {pack_q3_k<1>, pack_q3_k<2>}},
    {"IQ1_S", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<formats::IQ1_S, false)},
    {"IQ1_M", false, super_bytes<coded<true, 1>>, BOTH(pack_coded<formats::IQ1_M, true)},
    {"IQ2_XXS", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<formats::IQ2_XXS, false)},
    {"IQ2_XS", false, super_bytes<coded<true, 1>>, BOTH(pack_coded<formats::IQ2_XS, true)},
    {"IQ2_S", false, super_bytes<coded<true, 1>>, BOTH(pack_coded<formats::IQ2_S, true)},
    {"IQ3_XXS", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<formats::IQ3_XXS, false)},
    {"IQ3_S", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<formats::IQ3_S, false)},
    {"IQ4_XS", false, super_bytes<coded<false, 1>>, {pack_iq4_xs<1>, pack_iq4_xs<2>}},
    {"TQ1_0", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<formats::TQ1_0, false)},
    {"TQ2_0", false, super_bytes<coded<false, 1>>, {pack_tq2_0<1>, pack_tq2_0<2>}},
};
#undef BOTH

}  // namespace

const MatmulLayout* find_layout(int type_id) {
  const formats::TypeInfo* type = formats::find(type_id);
  for (const MatmulLayout& layout : layouts)
    if (type && std::string_view(layout.type) == type->name) return &layout;
  return nullptr;
}

}  // namespace skipstone::cpu
