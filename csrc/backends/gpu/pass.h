// The plain data of the kernels beside matmul.cu: one struct by value a kernel.
#pragma once
#include "backends/gpu/kernels.h"

namespace skipstone::gpu {

constexpr int pass_rows = 512;           // rows a pass; longer runs are cut, which changes no bit

// Rows of one sequence in a pass.
struct PartRecord {
  const unsigned long long* chunks;      // device addresses of cache chunks: [state][capacity]
  const unsigned long long* borrowed;    // the same of the sequence that `attend` reads
  float* delta;                          // the recurrent states, one after the other
  int capacity, borrowed_capacity, borrowed_length;
  int first, rows, start, pending;       // rows first .. of the pass; position of the first; updates that wait (delta.cu)
};

// What changes from pass to pass lies in device memory at these places, so that a recorded pass can be replayed.
struct PassTables {
  const PartRecord* parts;
  const int* part_of;                    // by row
  const int* position;
  const int* wanted;                     // rows whose logits are wanted
};

// Unquantized matrices (0: f32, 1: f16, 2: bf16) that multiply the same rows, a warp an output.
struct PlainPart {
  const void* weights;
  const float* factors;                  // scales of the weights, [output][stretch]; null: none
  float* y;
  int stride, outputs, type, stretch;    // stride: floats from row to row of y; stretch: columns that share a factor
};
constexpr int most_plain_parts = 4, plain_rows = 8;      // rows at once
struct PlainArgs {
  PlainPart parts[most_plain_parts];
  int count, outputs;                    // of all parts
  int columns, rows;
  const float* x;
  long long x_stride;
  // Where a norm stands in front whose factor is left to whoever multiplies: its weights (null: ones), and sums of squares as in MatmulArgs.
  const float* norm;
  const float* squares;                  // null: no norm
  int squares_count;
  float eps;
};

constexpr int chunk_positions = 256;
// Cache of one layer: chunk = [keys, values][kv head][256][head], value types 0: f32, 1: f16, 2: bf16; 3: q8_0, 4: q4_0, blocks of 32 as GGUF has them, but
// [keys, values][kv head] then [256][head] whole numbers (q4_0: two a byte, plus 8) and [256][head / 32] half scales.
struct Cache {
  int state, type, kv_heads, head, window, ring;      // ring: chunks until the oldest is overwritten, 0: never
};

// What happens to a head of q, k or v between its matmul and attention.
struct HeadArgs {
  const float* x;                        // rows x heads * step; null: there is none (attend has no k and v)
  const float* norm;                     // weights of its rms norm, or null
  const float* angles;                   // cosines, then sines, a position; null: it is not turned
  int stride, step;                      // floats from row to row, from head to head
  int normed, rotated;
  float eps;
};
struct AttentionArgs {
  HeadArgs q, k, v;
  float* partial;                        // per row, head and split (counted from the row's first): head values, largest, total
  int* arrived;                          // per tile of queries and kv head
  PassTables pass;
  Cache cache;
  float scale;
  int heads, borrows, rows;
  int parts, tiles, splits, pieces;      // of the grid: parts of the pass, tiles of queries a part, splits a tile; pieces of the cache on their way
  int preparers;                         // warps of a block that prepare keys, values and queries: 8, fewer where memory is short
  int joins;                             // the block that finishes a tile's last split joins them; else attention_join does
  int stored;                            // k and v of the pass are in the cache already (store_heads)
  int gated;                             // a head's gate follows its q: results are times sigmoid(gate)
  float* y;                              // rows x heads * head; null: not wanted
  unsigned char* to;                     // quantized; null: not wanted
  long long to_more;
};
// Where a cache is split: by position alone, so that a row's bits depend on nothing else. The first split suffices for short texts, then they are short
// enough for many blocks to share a text of some thousand positions, and long where there are many anyhow. Windows see few positions of any text.
SK_BOTH constexpr int split_of(int position, int window) {
  if (position < 512) return window ? position / 256 : 0;
  if (window || position < 4096) return position / 256 - (window ? 0 : 1);
  return position < 16384 ? 15 + (position - 4096) / 512 : 39 + (position - 16384) / 1024;
}
SK_BOTH constexpr int split_start(int split, int window) {
  if (window) return 256 * split;
  return split == 0 ? 0 : split < 15 ? 256 * (split + 1) : split < 39 ? 4096 + 512 * (split - 15) : 16384 + 1024 * (split - 39);
}
// A block multiplies so many positions by up to 8 * columns queries at once; keys and values of them are a piece each in shared memory.
SK_BOTH constexpr int step_positions(int head) { return head <= 128 ? 128 : head <= 256 ? 64 : 32; }
SK_BOTH constexpr int cache_bytes(int type) { return type == 0 ? 4 : 2; }      // of a value in shared memory, where blocks become f16
SK_BOTH constexpr bool in_blocks(int type) { return type > 2; }
SK_BOTH constexpr int quants_bytes(int head, int type) { return type == 3 ? head : head / 2; }
SK_BOTH constexpr long long plane_bytes(int head, int type) {      // of 256 keys or values of a head
  return 256 * (in_blocks(type) ? quants_bytes(head, type) + head / 16 : head * cache_bytes(type));
}
SK_BOTH constexpr int whole_head(int head) { return (head + 15) / 16 * 16; }
SK_BOTH constexpr int row_bytes(int head, int type) { return whole_head(head) * cache_bytes(type) + 16; }      // in shared memory, without bank conflicts
SK_BOTH constexpr int piece_bytes(int head, int type) { return step_positions(head) * row_bytes(head, type); }
SK_BOTH constexpr int fragment_bytes(int type) { return type == 1 || in_blocks(type) ? 512 : 768; }
SK_BOTH constexpr int query_bytes(int head, int type, int columns) { return columns * whole_head(head) / 16 * fragment_bytes(type); }
// Weights of the values, and before that what else a step needs: sums of parts of a head, a head a warp in preparation.
SK_BOTH constexpr int work_bytes(int head, int type, int columns, int preparers) {
  const int weights = columns * step_positions(head) / 16 * fragment_bytes(type), sums = head > 128 ? 4096 * columns : 0, scratch = 4 * preparers * whole_head(head);
  const int most = weights > sums ? weights : sums;
  return most > scratch ? most : scratch;
}
constexpr int query_stride = 12;     // floats a query of what warps tell each other
SK_BOTH constexpr int attention_shared(int head, int type, int columns, int pieces, int preparers = 8) {
  const int results = 8 * columns * (whole_head(head) + 4) * 4, ring = pieces * piece_bytes(head, type) + query_bytes(head, type, columns) + work_bytes(head, type, columns, preparers);
  return (ring > results ? ring : results) + 8 * columns * (query_stride + 4) * 4;
}

// One value head of a gated delta-net. State of a layer, in floats from `offset` on:
//   matrix [value head][head][head];  gamma [value head][32];  k, delta [value head][32][head];  inputs [64][channels]
constexpr int step_back_rows = 32, input_ring = 64;
struct DeltaArgs {
  PassTables pass;
  const float* mixed;                    // rows x channels: q, k, v after convolution and norms
  const float* gates;                    // rows x 2 * value heads: gamma, beta
  float* delta;                          // rows x value heads * head
  float* work;                           // per part and value head: head x head
  float* y;                              // rows x value heads * head
  const int* key_of_value;
  long long offset;
  int key_heads, value_heads, head, channels;
};
constexpr long long delta_floats(long long value_heads, long long head, long long channels) {
  return value_heads * (head * head + step_back_rows + 2 * step_back_rows * head) + input_ring * channels;
}

// A stretch of operations that each compute a row from that row alone: a block a row runs one after the other.
enum PieceKind : int { norm_piece, rope_piece, silu_piece, gelu_piece, sigmoid_piece, split_piece, concat_piece, add_piece, quantize_piece, slice_piece, mix_piece, gated_piece, gather_piece, open_norm_piece };
struct Piece {
  int kind;
  int n, m, k, l;                        // see rows.cu
  float f;
  int a_stride, b_stride, y_stride;
  const float *a, *b, *c, *d;
  float *y, *z;
  unsigned char* to;
  long long offset;
};
constexpr int most_pieces = 12;
struct RowsArgs {
  PassTables pass;
  int count, stretches;                  // stretches: blocks a row, of 1024 columns each; more than one where every piece allows it
  Piece pieces[most_pieces];
};
constexpr int rows_threads = 1024;

struct ChoiceArgs {
  const float* logits;                   // rows x vocabulary
  float* best;                           // rows x choice_blocks
  int* id;                               // rows x choice_blocks
  int* arrived;                          // rows
  int* choices;                          // rows
  int vocabulary;
  const struct NoiseRecord* noise;       // choose_noisy, of one row
  int step;                              // drafts before it
};
constexpr int choice_blocks = 32;

// What a choice with noise needs of the sampler; in device memory, as it changes from chain to chain.
struct NoiseRecord {
  unsigned long long seed, sequence;
  long long position;                    // of the chain's first draft
  float inverse_temperature, floor;      // floor: how far below the best logit one may be
  int limit;                             // ids from here on are not chosen
};
enum TableKind : int { f32_table, f16_table, bf16_table, q8_0_table, q4_0_table, q5_0_table, q4_k_table, q5_k_table, q6_k_table, canonical_table };
struct Table {                           // an embedding table on the card
  const void* weights;
  int kind, rows, columns, chunks, chunk_bytes;
};
struct EmbedArgs {
  Table table;
  const int* tokens;                     // by row
  float* y;                              // rows x columns of the table
  float scale;
  int stretches;                         // blocks a row, of 1024 columns each
};
struct DraftArgs {
  PartRecord* part;                      // the only one, with part_of, position and wanted of the next pass
  int *part_of, *position, *wanted;
  const int* choice;
  int* draft;
  const float* hidden;                   // the row that the choice follows
  float *input, *embed;
  Table table;
  float scale;
  int hidden_width, stays;               // stays: all drafts stand at one position (attend)
};

struct ReadArgs {
  const void* from;
  long long count;                       // of 16 bytes
  unsigned* seen;
  int blocks;
};

struct CapArgs {
  float* x;
  long long count;
  float cap;
  int blocks;
};

}  // namespace skipstone::gpu
