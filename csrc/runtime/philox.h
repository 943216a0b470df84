// Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror, Shaw 2011), and Gumbel noise keyed by place.
//
// The noise of a token is a pure function of (seed, sequence, position, token id), so whoever asks, a plain pass, a verified
// draft or the drafter itself, sees the same value; nothing is drawn "next".
#pragma once
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace skipstone {

inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ counter[3] ^ key[1], uint32_t(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Whose noise it is. One call of words() serves the four token ids 4*group .. 4*group + 3.
struct NoiseKey {
  uint64_t seed = 0;
  uint64_t sequence = 0;

  std::array<uint32_t, 4> words(int64_t position, uint32_t group) const {
    return philox4x32({group, uint32_t(position), uint32_t(sequence), uint32_t(sequence >> 32)},
                      {uint32_t(seed), uint32_t(seed >> 32)});
  }
};

// Standard Gumbel noise from 32 random bits: u = (word + 0.5) / 2^32 is exact in a double and never 0 or 1; -3.2 < noise < 22.9.
inline double gumbel(uint32_t word) { return -std::log(-std::log((double(word) + 0.5) * 0x1p-32)); }

// An upper bound of gumbel(word) without a logarithm: with e = 1 - u, gumbel <= -log(e) and e >= 2^-(leading zeros of ~word + 1).
inline double gumbel_bound(uint32_t word) { return 0.6931471805599454 * (std::countl_zero(~word) + 1); }
inline constexpr double gumbel_most = 22.88;   // above gumbel_bound(0xFFFFFFFF) = 33 log 2

}  // namespace skipstone
