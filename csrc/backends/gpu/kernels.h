// The plain data that kernels and host share: one struct by value a kernel, so that every driver marshals it alike.
#pragma once

namespace skipstone::gpu {

constexpr int tile_rows = 16;            // weight rows a warp multiplies at once
constexpr int chunk_columns = 256;       // positions a chunk covers; K is filled up with zeros to a multiple of it
constexpr int most_rows = 16;            // activation rows a pass

constexpr int slices = 8;                // that a sum is spread over: part of the result's definition, so the same for every form, row count and card

// Warps a block; changes no bit. Many tiles a block: four warps with two slices each meet half as often. Few: eight bring more loads on their way.
constexpr int warps_for(int tiles, int processors) { return tiles >= 32 * processors ? 4 : 8; }

// Activations of up to 16 rows, quantized: for each pair of blocks of 32, for each group of 8 rows (columns of the matrix instruction) 640 bytes:
//   q: 512, 16 a lane; lane (g, t) has row g: positions 4t.. and 16 + 4t.. of the first block, then of the second
//   scale: 16 floats; for t = 0..3 rows 2t and 2t + 1 of the first block, then of the second
//   sum: the same of scale * (sum of q)
// Columns without a row may hold anything: a column of the product sees no other, and nothing of them is stored.
constexpr int group_bytes = 640, pair_bytes = 2 * group_bytes, scale_bytes = 512, sum_bytes = 576;

struct QuantizeArgs {
  const float* x;                        // rows x columns, `stride` floats apart
  unsigned char* out;                    // 4 x chunks pairs
  long long stride;
  int rows, columns, chunks;
};

struct MatmulArgs {
  const unsigned char* weights;          // tiles x chunks, as pack() lays them out
  const unsigned char* x;                // quantized
  float* y;                              // rows x outputs, `stride` floats apart
  long long stride;
  int outputs, tiles, chunks, rows, blocks;      // blocks: of the grid
};

}  // namespace skipstone::gpu
