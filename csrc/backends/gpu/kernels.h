// The plain data that kernels and host share: one struct by value a kernel, so that every driver marshals it alike.
#pragma once
#if defined(__CUDACC__)
#define SK_BOTH __host__ __device__
#else
#define SK_BOTH
#endif

namespace skipstone::gpu {

constexpr int tile_rows = 16;            // weight rows of the matrix instruction
constexpr int unit_rows = 32;            // two tiles: what a block computes at once, and one block of activations for whoever reads them
constexpr int chunk_columns = 256;       // positions a chunk covers; K is filled up with zeros to a multiple of it
constexpr int most_rows = 16;            // activation rows a launch

constexpr int slices = 8;                // that a sum is spread over: part of the result's definition, so the same for every form, row count and card

// Activations of up to 16 rows, quantized: for each pair of blocks of 32, for each group of 8 rows (columns of the matrix instruction) 640 bytes:
//   q: 512, 16 a lane; lane (g, t) has row g: positions 4t.. and 16 + 4t.. of the first block, then of the second
//   scale: 16 floats; for t = 0..3 rows 2t and 2t + 1 of the first block, then of the second
//   sum: the same of scale * (sum of q)
// Columns without a row may hold anything: a column of the product sees no other, and nothing of them is stored.
constexpr int group_bytes = 640, pair_bytes = 2 * group_bytes, scale_bytes = 512, sum_bytes = 576;

// Weights of one type that multiply the same activations.
struct MatmulPart {
  const unsigned char* weights;          // units x chunks x 2 tiles, as pack() lays them out
  float* y;                              // rows x outputs, `stride` floats apart
  int stride, outputs, first;            // first: its first unit among those of all parts
};
constexpr int most_parts = 4;

// What becomes of a result: stored; added to `residual` and stored; or the two parts are gate and up, and activation(gate) * up goes on.
enum MatmulEnd : int { store_end, add_end, silu_end, gelu_end };
struct MatmulArgs {
  MatmulPart parts[most_parts];
  const unsigned char* x;                // quantized
  long long x_more;                      // bytes to the next 16 rows
  int chunks, rows, units, blocks, depth;      // blocks: of the grid; depth: steps of a warp on their way
  int end;
  // Activations of a norm come without their factor: 1 / sqrt(sum of squares / columns + eps), for quantizing does not care.
  const float* squares;                  // rows x squares_count sums of 32 squares; null: there is none
  int squares_count, columns;
  float eps;
  const float* residual;                 // add_end: rows x outputs, as y
  float scale;                           // (residual + result) * scale
  const float* norm;                     // add_end: weights of the norm that follows, null: none
  unsigned char* to;                     // quantized results, or with add_end those times the norm's weights; null: not wanted
  long long to_more;
  float* squares_to;                     // rows x outputs / 32
  float* work;                           // prompts with gate and up: the gate's results, a block after the other
};

// Shared memory of a matmul: the rings, then sums of 8 slices x columns x 32 outputs and a factor a row; a team of one warp: three areas of sums.
constexpr int sum_stride = unit_rows + 4;
SK_BOTH constexpr int matmul_shared(int team, int depth, int chunk_bytes, int columns) {
  const int rings = team == 16 ? 16 : 8, areas = team == 16 ? 8 : team == 4 ? 4 : 12;      // rings: of one tile
  return rings * depth * chunk_bytes + areas * columns * sum_stride * 4 + most_rows * 4;
}

// Of prompt.cu, in blocks of `rows` (64 or 128) rows by as many outputs: two stages of weights and activations, sums, a factor a row.
SK_BOTH constexpr int prompt_threads(int rows) { return 2 * rows; }
SK_BOTH constexpr int prompt_shared(int rows, int chunk_bytes) { return 2 * (rows / tile_rows) * (chunk_bytes + 4 * pair_bytes) + rows * rows * 4 + rows * 4; }
constexpr int prompt_work_bytes = 128 * 128 * 4;      // of a processor, for gates

}  // namespace skipstone::gpu
