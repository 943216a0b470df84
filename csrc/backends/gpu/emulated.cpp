// The GPU kernels for the CPU, and the pack functions, behind a plain C interface: what tests/gpu compiles. No part of the package.
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "backends/gpu/layout.h"
#include "backends/gpu/matmul.cu"

namespace skipstone::gpu {
namespace {

template <class T> void launch(const MatmulArgs& a, int columns, int warps, uint32_t seed) {
  emulate::run(a.blocks, 32 * warps, seed, [&] {
    if (warps == 4 && columns == 8) matmul<T, 4, 1>(a);
    else if (warps == 4) matmul<T, 4, 2>(a);
    else if (columns == 8) matmul<T, 8, 1>(a);
    else matmul<T, 8, 2>(a);
  });
}

}  // namespace

extern "C" int64_t emulated_chunk_bytes(int type_id) {
  const Layout* layout = find_layout(type_id);
  return layout ? layout->chunk_bytes : 0;
}
extern "C" void emulated_pack(int type_id, const uint8_t* weights, int64_t rows, int64_t columns, uint8_t* packed) {
  pack(*find_layout(type_id), weights, rows, columns, packed, 0, (rows + tile_rows - 1) / tile_rows);
}
extern "C" void emulated_quantize(const float* x, int rows, int columns, unsigned char* out, uint32_t seed) {
  const QuantizeArgs a{x, out, columns, rows, columns, static_cast<int>(chunk_count(columns))};
  emulate::run(rows * a.chunks * 2, 128, seed, [&] { quantize(a); });
}
// columns: 8 or 16 of the matrix instruction; warps: 4 or 8; blocks: of the grid. None may change a bit.
extern "C" void emulated_matmul(int type_id, const uint8_t* packed, const unsigned char* x, float* y, int64_t stride, int outputs, int k, int rows,
                                int columns, int warps, int blocks, uint32_t seed) {
  const MatmulArgs a{packed, x, y, stride, outputs, (outputs + tile_rows - 1) / tile_rows, static_cast<int>(chunk_count(k)), rows, blocks};
  switch (type_id) {
    case 8: return launch<Q8_0>(a, columns, warps, seed);
    case 12: return launch<Q4_K>(a, columns, warps, seed);
    case 14: return launch<Q6_K>(a, columns, warps, seed);
    case 13: return launch<Q5_K>(a, columns, warps, seed);
    case 2: return launch<Q4_0>(a, columns, warps, seed);
    case 6: return launch<Q5_0>(a, columns, warps, seed);
  }
}

}  // namespace skipstone::gpu
