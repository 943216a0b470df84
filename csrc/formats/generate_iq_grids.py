"""Writes iq_grids.h, the codebooks of the IQ types, from the tables of the gguf package (MIT): python generate_iq_grids.py > iq_grids.h"""

from __future__ import annotations

import gguf.quants as source
import numpy as np

HEADER = """\
// Codebooks of the IQ types. Written by generate_iq_grids.py; the values are data of the GGUF format, taken from the
// gguf Python package (MIT licence, the ggml authors). Packed here, expanded by the compiler.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace skipstone::formats {

template <class T, size_t entries, size_t length>
struct Grid {
  T values[entries][length];
  constexpr const T* operator[](size_t i) const { return values[i]; }
};

// Each value is an index of `bits` bits into the alphabet, lowest bits first.
template <class T, size_t entries, size_t length, size_t bits, size_t letters, size_t words>
constexpr Grid<T, entries, length> expand_grid(const std::array<T, letters>& alphabet, const std::array<uint64_t, words>& packed) {
  static_assert(entries * length * bits == words * 64 && 64 % bits == 0);
  Grid<T, entries, length> grid{};
  for (size_t i = 0; i < entries * length; i++)
    grid.values[i / length][i % length] = alphabet[(packed[i * bits / 64] >> (i * bits % 64)) & ((1u << bits) - 1)];
  return grid;
}
"""
GRIDS = {
    "iq1": source.IQ1_S,
    "iq2_xxs": source.IQ2_XXS,
    "iq2_xs": source.IQ2_XS,
    "iq2_s": source.IQ2_S,
    "iq3_xxs": source.IQ3_XXS,
    "iq3_s": source.IQ3_S,
}
WORDS_A_LINE = 7


def packed_words(indices: np.ndarray, bits: int) -> np.ndarray:
    columns = indices.astype(np.uint64).reshape(-1, 64 // bits) << (np.arange(64 // bits, dtype=np.uint64) * np.uint64(bits))
    return np.bitwise_or.reduce(columns, axis=1)


def main() -> None:
    print(HEADER)
    for name, table in GRIDS.items():
        table.init_grid()
        grid = table.grid.reshape(table.grid_shape).astype(int)
        alphabet = sorted(set(table.grid_map))
        bits = 4 if len(alphabet) > 4 else 2
        words = packed_words(np.searchsorted(alphabet, grid).reshape(-1), bits)
        kind = "int8_t" if min(alphabet) < 0 else "uint8_t"
        entries, length = grid.shape
        print(f"inline constexpr auto {name}_grid = expand_grid<{kind}, {entries}, {length}, {bits}>(")
        print(f"    std::array<{kind}, {len(alphabet)}>{{{', '.join(map(str, alphabet))}}}, std::array<uint64_t, {len(words)}>{{")
        for at in range(0, len(words), WORDS_A_LINE):
            print("        " + " ".join(f"{word:#018x}," for word in words[at : at + WORDS_A_LINE]))
        print("    });\n")
    print("}  // namespace skipstone::formats")


main()
