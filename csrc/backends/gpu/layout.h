// Weights laid out anew for the GPU's matmul, on the host, at load. No GPU is needed to pack.
#pragma once
#include <cstdint>

namespace skipstone::gpu {

// Units of two tiles of 16 rows; a unit's chunks (16 rows x 256 columns) one after the other, those of its two tiles side by side.
// Missing rows and columns are zeros.
struct Layout {
  int type_id;                   // as in GGUF files
  const char* kernel;            // matmul_<kernel>_columns<8, 16 or 32>
  int chunk_bytes;
  int block, block_bytes;        // of the file's layout
  // Blocks of columns 256c .. 256c + 255 of 16 rows to a chunk. row: null for a row that is missing. blocks: how many of the file's there are.
  void (*pack)(const uint8_t* const row[16], int64_t blocks, uint8_t* chunk);
};
const Layout* find_layout(int type_id);                                // null: no kernel for the type

int64_t chunk_count(int64_t columns);
int64_t tile_count(int64_t rows);                                     // even
int64_t chunk_place(int64_t tile, int64_t chunk, int64_t chunks);     // which chunk of a packed matrix it is
// Tiles first..last-1 of a matrix in the file's layout, row after row; `packed` points at tile 0.
void pack(const Layout& layout, const uint8_t* weights, int64_t rows, int64_t columns, uint8_t* packed, int64_t first, int64_t last);

}  // namespace skipstone::gpu
