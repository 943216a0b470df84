// The vocabulary of the CPU kernels in NEON with dot products of bytes (64-bit ARM, FEAT_DotProd).
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace skipstone::cpu::neon {

#include "backends/cpu/neon/vectors.inl"

static constexpr bool takes_two_rows = false;
static constexpr bool takes_tiles = false;

}  // namespace skipstone::cpu::neon
