// The plain data of the kernels of mixtures of experts (route.cu, experts.cu, experts_plain.cu).
//
// A pass has pairs: pair = row * used + i is the expert that the row's ranking has at place i; pairs from rows * used on are the rows' shares in the
// expert that all rows pass. A job is one expert with up to `columns` pairs that want it, so that its weights are read once for all of them.
#pragma once
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

struct Job {
  int expert, first, count, unused;      // expert -1: the shared one; its pairs: order[first ..]
};
// What the router says, in device memory.
struct Routes {
  int* chosen;                           // by pair: its expert
  float* share;                          // by pair: the factor of its result
  int* counts;                           // jobs of chosen experts, jobs of the shared one
  Job* jobs;                             // those, then these
  int* order;                            // pairs, by expert
};

constexpr int route_threads = 256;
struct RouteArgs {
  PlainArgs products;                    // router, and the gate of the shared expert; outputs 0: logits are there already
  Routes to;
  const float* logits;                   // rows x experts
  const float* scale;                    // a factor an expert, or null
  int* arrived;
  int experts, used, normalize, rows, columns, shared, blocks;      // shared: there is such an expert; blocks: of the grid
};

constexpr int expert_threads = 256, expert_warps = 8;
struct ExpertWeights {
  const void *first, *second;            // gate and up, or down and null
  long long bytes;                       // from expert to expert
  int columns, chunks, outputs, units, type, stretch;      // units: of 32 outputs; type: of unquantized weights, as in PlainPart; -1: quantized
  const float *first_factors, *second_factors;             // PlainPart's factors
};
struct ExpertsArgs {
  ExpertWeights own, shared;             // shared.units 0: there is none
  Routes routes;
  int used, rows, slice_bits, depth, blocks;      // slice_bits: 2 to that power slices; blocks: of the grid
  int by_row;                            // down multiplies rows of the pass, not pairs
  // What is multiplied: rows of the pass (gate and up) or pairs (down); the shared expert's down has rows of its own.
  const unsigned char *x, *x_shared;
  long long x_more, x_shared_more;
  const float *plain, *plain_shared;     // for unquantized weights: rows, own.columns or shared.columns floats apart
  // gate and up
  const float *first_scale, *second_scale;      // a factor an expert, or null
  const float* squares;                  // as in MatmulArgs: of a norm without its factor
  int squares_count, norm_columns;
  float eps;
  int gelu;
  unsigned char *to, *to_shared;         // activation(gate) * up, quantized; null: as floats
  long long to_more, to_shared_more;
  int to_blocks, to_shared_blocks;       // blocks of 32 a row, those that fill up the last chunk included
  float *gated, *gated_shared;           // pairs (rows) x outputs
  // down
  float* made;                           // pairs x outputs
  int joins;                             // whoever ends a stretch of outputs adds up its pairs; otherwise join_experts does
  int* arrived;                          // a counter for each stretch of outputs that a block works on
  const float *extra, *opening;          // another share of a row, rows x outputs, or null; logits of a gate on it (or on the shared expert), or null
  int opening_stride;
  const float* residual;                 // rows x outputs, or null
  float residual_scale;                  // (residual + sum) * residual_scale
  const float* norm;                     // what follows, as in MatmulArgs
  float* y;                              // rows x outputs, or null
  unsigned char* y_to;
  long long y_to_more;
  float* squares_to;
};

// The head of ordered embeddings: pairs are a row's open clusters.
struct OrderedArgs {
  const float* made;                     // pairs x size
  const int *chosen, *order;             // by pair: its cluster; the tokens, cluster by cluster
  float* logits;                         // rows x vocabulary
  int top, size, vocabulary;             // open clusters of a row, tokens of a cluster
  float cap;
};

constexpr int expert_static = 16;        // bytes of shared memory that are always taken
// Shared memory: a ring of two tiles a warp, then a sum for each warp, half and column.
SK_BOTH constexpr int experts_shared(int depth, int chunk_bytes, int columns, int halves) {
  return expert_warps * (depth * 2 * chunk_bytes + halves * columns * sum_stride * 4);
}

}  // namespace skipstone::gpu
