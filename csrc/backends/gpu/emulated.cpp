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

template <class T> void launch(MatmulArgs a, int columns, int team, uint32_t seed) {
  const size_t shared = static_cast<size_t>(matmul_shared(team, a.depth, T::bytes, columns));
  emulate::run(a.blocks, team == 16 ? 512 : 128, seed, [&] {
    if (team == 16 && columns == 8) matmul<T, 8, 1, 1>(a);
    else if (team == 16) matmul<T, 8, 1, 2>(a);
    else if (team == 1) matmul<T, 1, 2, 4>(a);
    else if (columns == 8) matmul<T, 4, 2, 1>(a);
    else matmul<T, 4, 2, 2>(a);
  }, shared);
}

}  // namespace

extern "C" int64_t emulated_chunk_bytes(int type_id) {
  const Layout* layout = find_layout(type_id);
  return layout ? layout->chunk_bytes : 0;
}
extern "C" void emulated_pack(int type_id, const uint8_t* weights, int64_t rows, int64_t columns, uint8_t* packed) {
  pack(*find_layout(type_id), weights, rows, columns, packed, 0, tile_count(rows));
}
extern "C" void emulated_quantize(const float* x, int rows, int columns, unsigned char* out, uint32_t seed) {
  const int blocks = 8 * static_cast<int>(chunk_count(columns));
  emulate::run(rows * blocks, 32, seed, [&] {
    const int row = block() / blocks, b = block() % blocks, at = 32 * b + thread();
    quantize_block(at < columns ? x[i64(row) * columns + at] : 0.0f, out, row, b);
  });
}
// columns: 8, 16 or 32; team: 16, 4 or, with 32 columns, 1; blocks: of the grid; depth: steps ahead. None may change a bit.
extern "C" void emulated_matmul(int type_id, const uint8_t* packed, const unsigned char* x, float* y, int64_t stride, int outputs, int k, int rows,
                                int columns, int team, int blocks, int depth, uint32_t seed) {
  MatmulArgs a{};
  for (MatmulPart& p : a.parts) p.first = 1 << 30;
  a.parts[0] = {packed, y, static_cast<int>(stride), outputs, 0};
  a.x = x;
  a.chunks = static_cast<int>(chunk_count(k));
  a.x_more = i64(4 * pair_bytes) * a.chunks;
  a.rows = rows;
  a.units = (outputs + unit_rows - 1) / unit_rows;
  a.blocks = blocks;
  a.depth = depth;
  switch (type_id) {
    case 8: return launch<Q8_0>(a, columns, team, seed);
    case 12: return launch<Q4_K>(a, columns, team, seed);
    case 14: return launch<Q6_K>(a, columns, team, seed);
    case 13: return launch<Q5_K>(a, columns, team, seed);
    case 2: return launch<Q4_0>(a, columns, team, seed);
    case 6: return launch<Q5_0>(a, columns, team, seed);
  }
}

}  // namespace skipstone::gpu
