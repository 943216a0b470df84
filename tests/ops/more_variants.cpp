// Matmul of variants that the machine of the tests may not run, as tables for variants.cpp: -DPLAIN and -DWIDE (with AVX-512) the tile registers of AMX in plain
// C++ under the vocabulary of the scalar and of the AVX-512 kernels, -DEVEX the AVX-VNNI kernels in the encoding of AVX-512 VNNI.
#include <vector>

#if defined(PLAIN)
#include "backends/cpu/baseline/isa.h"
#elif defined(WIDE)
#include "backends/cpu/avx512/isa.h"
#elif defined(EVEX)
#ifdef __AVXVNNI__
#error "this is the encoding that the avxvnni variant has already"
#endif
#include "backends/cpu/avxvnni/isa.h"
#endif
#include "backends/cpu/layout.h"

namespace skipstone::cpu::more {

#if defined(PLAIN)
using namespace baseline;
#define NAME plain_tiles
#elif defined(WIDE)
using namespace avx512;
#define NAME wide_tiles
#elif defined(EVEX)
using namespace avxvnni;
#define NAME evex
#endif

namespace {
#ifndef EVEX
#include "emulated_tiles.inl"
#include "backends/cpu/common/tiles.inl"
#endif
#include "backends/cpu/common/matmul.inl"
}  // namespace

// The rest is the scalar kernels'.
extern const Kernels* NAME() {
  static const Kernels table = [] {
    Kernels k = *find_kernels("generic");
#define TEXT(name) #name
#define NAME_OF(name) TEXT(name)
    k.name = NAME_OF(NAME), k.group_rows = group_rows, k.matmul = matmul;
    return k;
  }();
  return &table;
}

}  // namespace skipstone::cpu::more
