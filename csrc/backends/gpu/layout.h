// Weights laid out anew for the GPU's matmul, on the host, at load. No GPU is needed to pack.
#pragma once
#include <cstdint>

namespace skipstone::gpu {

// Tiles of 16 rows, a tile's chunks (16 rows x 256 columns) one after the other. Missing rows and columns are zeros.
struct Layout {
  int type_id;                   // as in GGUF files
  const char* kernel;            // matmul_<kernel>_warps<4 or 8>_columns<8 or 16>
  int chunk_bytes;
  int block, block_bytes;        // of the file's layout
  // Blocks of columns 256c .. 256c + 255 of 16 rows to a chunk. row: null for a row that is missing. blocks: how many of the file's there are.
  void (*pack)(const uint8_t* const row[16], int64_t blocks, uint8_t* chunk);
};
const Layout* find_layout(int type_id);                                // null: no kernel for the type

int64_t chunk_count(int64_t columns);
int64_t packed_bytes(const Layout& layout, int64_t rows, int64_t columns);
// Tiles first..last-1 of a matrix in the file's layout, row after row; `packed` points at tile 0.
void pack(const Layout& layout, const uint8_t* weights, int64_t rows, int64_t columns, uint8_t* packed, int64_t first, int64_t last);

}  // namespace skipstone::gpu
