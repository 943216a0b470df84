// Row-interleaved weight layouts: a group of 8 or 16 rows in which a register (32 or 64 bytes)
// holds four consecutive weights of each row (lane = row).
// Bits are only moved, so packing loses nothing. All 4-, 5- and 6-bit types end up in the same planes, a block of 32 columns at a time:
//   nibbles, 4 registers: byte (row, c) of register j has the low bits of column 4j + c below and of column 16 + 4j + c above
//   bits, 1 register: bit i of byte (row, c) is the fifth bit of column 4i + c
//   pairs, 2 registers: in register p, bits 2i and 2i + 1 of byte (row, c) are the fifth and sixth of column 16p + 4i + c
#include <cstring>
#include <type_traits>

#include "backends/cpu/layout.h"
#include "formats/float16.h"

namespace skipstone::cpu {
namespace {

// The unsigned values of 32 columns of one row go to their places in the planes.
template <int W> void put_nibbles(const uint8_t v[32], int row, uint8_t* plane) {
  for (int j = 0; j < 4; ++j)
    for (int c = 0; c < 4; ++c) plane[32 * W * j + 4 * row + c] = static_cast<uint8_t>((v[4 * j + c] & 15) | (v[16 + 4 * j + c] & 15) << 4);
}
template <int W> void put_bits(const uint8_t v[32], int row, uint8_t* plane) {
  for (int c = 0; c < 4; ++c) {
    uint8_t byte = 0;
    for (int i = 0; i < 8; ++i) byte = static_cast<uint8_t>(byte | ((v[4 * i + c] >> 4) & 1) << i);
    plane[4 * row + c] = byte;
  }
}
template <int W> void put_pairs(const uint8_t v[32], int row, uint8_t* plane) {
  for (int p = 0; p < 2; ++p)
    for (int c = 0; c < 4; ++c) {
      uint8_t byte = 0;
      for (int i = 0; i < 4; ++i) byte = static_cast<uint8_t>(byte | ((v[16 * p + 4 * i + c] >> 4) & 3) << (2 * i));
      plane[32 * W * p + 4 * row + c] = byte;
    }
}
// The same for types of two bits a weight: bits 2i and 2i + 1 of byte (row, c) of register p are column 16p + 4i + c.
template <int W> void put_low_pairs(const uint8_t v[32], int row, uint8_t* plane) {
  uint8_t raised[32];
  for (int i = 0; i < 32; ++i) raised[i] = static_cast<uint8_t>(v[i] << 4);
  put_pairs<W>(raised, row, plane);
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
      uint8_t v[32];
      for (int i = 0; i < 16; ++i) v[i] = in[2 + i] & 15, v[16 + i] = in[2 + i] >> 4;
      put_nibbles<W>(v, r, group + q4_0<W>::piece_at(b));
    }
}

template <int W> void pack_q5_0(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 22 * b;
      put_half(group + q5_0<W>::scale_at(b), r, in);
      uint32_t high;
      memcpy(&high, in + 2, 4);
      uint8_t v[32];
      for (int i = 0; i < 32; ++i) {
        uint8_t low = i < 16 ? in[6 + i] & 15 : in[6 + i - 16] >> 4;
        v[i] = static_cast<uint8_t>(low | ((high >> i) & 1) << 4);
      }
      put_nibbles<W>(v, r, group + q5_0<W>::piece_at(b));
      put_bits<W>(v, r, group + q5_0<W>::piece_at(b) + planes<W>::after_nibbles);
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
      uint32_t high = 0;
      if (FIVE) memcpy(&high, in + 4, 4);
      uint8_t v[32];
      for (int i = 0; i < 32; ++i) {
        uint8_t low = i < 16 ? in[low_at + i] & 15 : in[low_at + i - 16] >> 4;
        v[i] = static_cast<uint8_t>(low | ((high >> i) & 1) << 4);
      }
      put_nibbles<W>(v, r, group + L::piece_at(b));
      if (FIVE) put_bits<W>(v, r, group + L::piece_at(b) + planes<W>::after_nibbles);
    }
}

template <int W> void pack_mxfp4(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      const uint8_t* in = rows[r] + 17 * b;
      group[mxfp4<W>::scale_at(b) + r] = in[0];
      uint8_t v[32];
      for (int i = 0; i < 16; ++i) v[i] = in[1 + i] & 15, v[16 + i] = in[1 + i] >> 4;
      put_nibbles<W>(v, r, group + mxfp4<W>::piece_at(b));
    }
}

// Blocks of 64 with four scales; each scale is a float16 as well.
template <int W> void pack_nvfp4(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  const int64_t blocks = columns / 32;
  const formats::TypeInfo& type = *formats::find("NVFP4");
  for (int64_t b = 0; b < blocks; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      formats::Unpacked u;
      type.unpack(rows[r], b, u);
      uint8_t* scales = group + nvfp4<W>::scale_at(b);
      for (int half = 0; half < 2; ++half) {
        const uint16_t bits = formats::f32_to_f16(u.scale[half]);
        memcpy(scales + half * (nvfp4<W>::scale / 2) + 2 * r, &bits, 2);
      }
      const uint8_t* in = rows[r] + 36 * (b / 2) + 4 + 16 * (b % 2);
      uint8_t v[32];
      for (int i = 0; i < 32; ++i) v[i] = (in[8 * (i / 16) + i % 8] >> (i % 16 < 8 ? 0 : 4)) & 15;
      put_nibbles<W>(v, r, group + nvfp4<W>::piece_at(b));
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
        uint8_t v[32];
        for (int i = 0; i < 32; ++i) v[i] = (in[16 + 32 * (j / 4) + i] >> (2 * (j % 4))) & 3;
        put_low_pairs<W>(v, r, out + q2_k<W>::header + q2_k<W>::piece * j);
      }
    }
}

// The float16 d of a coded type's block.
uint16_t d_of(int type_id, const uint8_t* block) {
  uint16_t bits;
  switch (type_id) {
    case 11: memcpy(&bits, block + 108, 2); return bits;            // Q3_K
    case 34: memcpy(&bits, block + 52, 2); return bits;             // TQ1_0
    case 35: memcpy(&bits, block + 64, 2); return bits;             // TQ2_0
    case 29: {                                                      // IQ1_M: the top nibbles of its four words of scales
      bits = 0;
      for (int i = 0; i < 4; ++i) bits = static_cast<uint16_t>(bits | (block[48 + 2 * i + 1] >> 4) << (4 * i));
      return bits;
    }
    default: memcpy(&bits, block, 2); return bits;
  }
}

template <int ID, bool HALVES, const Codes& CODES, int W> void pack_coded(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  using L = coded<HALVES, W>;
  const formats::TypeInfo& type = *formats::find(ID);
  uint8_t code_of[256] = {};
  for (int c = CODES.count - 1; c >= 0; --c) code_of[static_cast<uint8_t>(CODES.weight[c])] = static_cast<uint8_t>(c);
  for (int64_t b = 0; b < columns / 256; ++b)
    for (int r = 0; r < 8 * W; ++r) {
      uint8_t* out = group + L::super * b;
      const uint16_t bits = d_of(ID, rows[r] + type.bytes * b);
      memcpy(out + 2 * r, &bits, 2);
      const float d = formats::f16_to_f32(bits);
      for (int j = 0; j < 8; ++j) {
        formats::Unpacked u;
        type.unpack(rows[r], 8 * b + j, u);
        for (int half = 0; half < (HALVES ? 2 : 1); ++half) {
          const float unit = d * CODES.factor, multiple = unit != 0 ? u.scale[half] / unit : 0.0f;
          out[L::scales + L::scale * ((HALVES ? 2 : 1) * j + half) + r] = static_cast<uint8_t>(static_cast<int8_t>(multiple >= -128 && multiple <= 127 ? multiple : 0));
        }
        uint8_t v[32];
        for (int i = 0; i < 32; ++i) v[i] = code_of[static_cast<uint8_t>(u.q[i])];
        put_nibbles<W>(v, r, out + L::header + L::piece * j);
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
        uint8_t v[32];
        for (int i = 0; i < 32; ++i) {
          v[i] = (in[low_at + 32 * (j / 2) + i] >> (4 * (j & 1))) & 15;
          if (FIVE) v[i] = static_cast<uint8_t>(v[i] | ((in[16 + i] >> j) & 1) << 4);
        }
        put_nibbles<W>(v, r, out + K::header + K::piece * j);
        if (FIVE) put_bits<W>(v, r, out + K::header + K::piece * j + planes<W>::after_nibbles);
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
        uint8_t v[32];
        const int half = j / 4, k = j % 4;
        for (int i = 0; i < 32; ++i) {
          uint8_t low = (in[64 * half + 32 * (k & 1) + i] >> (4 * (k >> 1))) & 15, high = (in[128 + 32 * half + i] >> (2 * k)) & 3;
          v[i] = static_cast<uint8_t>(low | high << 4);
        }
        put_nibbles<W>(v, r, out + q6_k<W>::header + q6_k<W>::piece * j);
        put_pairs<W>(v, r, out + q6_k<W>::header + q6_k<W>::piece * j + planes<W>::after_nibbles);
      }
    }
}

template <int BYTES, int W> void pack_values(const uint8_t* const rows[], int64_t columns, uint8_t* group) {
  for (int64_t k = 0; k < columns; ++k)
    for (int r = 0; r < 8 * W; ++r) memcpy(group + BYTES * (8 * W * k + r), rows[r] + BYTES * k, BYTES);
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
    {"Q3_K", false, super_bytes<coded<true, 1>>, BOTH(pack_coded<11, true, q3_k_codes)},
    {"IQ1_S", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<19, false, iq1_codes)},
    {"IQ1_M", false, super_bytes<coded<true, 1>>, BOTH(pack_coded<29, true, iq1_codes)},
    {"IQ2_XXS", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<16, false, iq2_codes)},
    {"IQ2_XS", false, super_bytes<coded<true, 1>>, BOTH(pack_coded<17, true, iq2_codes)},
    {"IQ2_S", false, super_bytes<coded<true, 1>>, BOTH(pack_coded<22, true, iq2_codes)},
    {"IQ3_XXS", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<18, false, iq3_xxs_codes)},
    {"IQ3_S", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<21, false, iq3_s_codes)},
    {"IQ4_XS", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<23, false, iq4_codes)},
    {"TQ1_0", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<34, false, ternary_codes)},
    {"TQ2_0", false, super_bytes<coded<false, 1>>, BOTH(pack_coded<35, false, ternary_codes)},
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
