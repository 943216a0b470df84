// The table of kernels that an instruction set fills, and the plain data that the kernels work on.
// Every entry computes a row from that row's inputs in one fixed order, so its bits do not depend on the other rows, the threads or the table chosen.
#pragma once
#include <cstdint>

#include "formats/types.h"

namespace skipstone::cpu {

// A row of activations as matmul reads it: blocks of 32 int8 with a float32 scale, value = scale * q, and what weight types with offsets or minima
// need of a block (32) or half block (16): the sum of its q, negated, and scale times that sum.
struct QuantizedRow {
  int8_t* q;            // columns, each in -127..127
  float* scale;         // columns / 32
  float* sum;           // columns / 32
  float* half_sum;      // columns / 16
  int32_t* minus;       // columns / 32
  int32_t* half_minus;  // columns / 16
};

// k rows of activations in both forms, row after row.
struct Rows {
  int64_t count, columns;
  const float* x;
  QuantizedRow quantized;     // of row 0
  const uint8_t* tiles = nullptr;      // the quantized rows once more, as Kernels::lay_out_row lays them out; or null
};

// Quantized rows in the order of tile registers: sixteen rows, block after block, a block's values of every row and then the scales, sums and sums of both
// halves of every row. Rows beyond the last of sixteen hold anything.
constexpr int64_t tile_height = 16, tile_block_bytes = tile_height * (32 + 4 * 4);
inline int64_t tile_bytes(int64_t rows, int64_t columns) { return (rows + tile_height - 1) / tile_height * (columns / 32) * tile_block_bytes; }

// How the rows of one weight type are laid out in memory for matmul: groups of 8 or 16 rows, each group one piece of memory.
struct MatmulLayout {
  const char* type;
  bool float_input;                                 // unquantized weights multiply the float32 rows themselves
  int64_t (*eight_rows_bytes)(int64_t columns);
  void (*pack[2])(const uint8_t* const rows[], int64_t columns, uint8_t* group);      // of 8 and of 16 rows; lossless
};
const MatmulLayout* find_layout(int type_id);       // null: the type cannot be multiplied

struct Matrix {
  const formats::TypeInfo* type;
  int64_t rows, columns;
  const uint8_t* source;                            // file layout, row after row
  int64_t row_bytes;
  int64_t group_rows;                               // 8 or 16, as the kernels want it
  const uint8_t* packed;                            // the groups, laid out anew
  int64_t group_bytes;
  const float* scales = nullptr;                    // factors of the weights [group][stretch][row of the group], null: none
  int64_t scale_columns = 0;                        // columns of a stretch; one stretch where the weights are quantized
};
inline int64_t scale_stretches(const Matrix& w) { return w.scales ? (w.columns + w.scale_columns - 1) / w.scale_columns : 0; }
inline int64_t group_count(const Matrix& w) { return (w.rows + w.group_rows - 1) / w.group_rows; }

// y[r][n] for the rows n of groups first..last-1; y points at the value of row 0, n = group_rows * first.
struct MatmulCall {
  const Matrix* weight;
  Rows rows;
  int64_t first, last;
  float* y;
  int64_t y_stride;
};

// One sequence's cache of one layer: chunks of 256 positions, position p in chunk (p / 256) % ring.
constexpr int chunk_positions = 256;
// How a head's row of a cache is kept. q8_0 and q4_0 are GGUF's blocks of 32, quantized as they are written: a row's bits depend on that row alone.
enum class KvType { f16, bf16, f32, q8_0, q4_0 };
constexpr int64_t kv_block_values = 32;
inline bool in_blocks(KvType type) { return type == KvType::q8_0 || type == KvType::q4_0; }
inline int64_t kv_row_bytes(KvType type, int64_t head) {
  switch (type) {
    case KvType::f32: return 4 * head;
    case KvType::q8_0: return head / kv_block_values * 34;
    case KvType::q4_0: return head / kv_block_values * 18;
    default: return 2 * head;
  }
}

// Scores, weights and weighted values of `queries` queries over one chunk: [first, last) are positions within the chunk, per query.
struct AttentionCall {
  const float* q;              // query i at q + offset[i]
  const int64_t* offset;
  const int32_t* first;        // visible positions of query i in this chunk: first[i] <= j < last[i]
  const int32_t* last;
  int64_t queries;
  int64_t head;                // multiple of 8
  float scale;
  KvType type;
  const void* keys;            // [256][head], in the cache's type
  const void* values;          // [256][head]
  float* scratch;              // attention_scratch_floats(queries, head)
  float* largest;              // out, per query: largest score
  float* total;                // out, per query: sum of exp(score - largest)
  float* value;                // out, per query: head floats, sum of exp(score - largest) * value
};
inline int64_t attention_scratch_floats(int64_t queries, int64_t head) { return queries * chunk_positions + 32 * head; }

// One value head of a gated delta-net over `rows` consecutive tokens of one sequence.
struct DeltaCall {
  int64_t rows, head;          // head: multiple of 8
  const float* q; const float* k; const float* v;   // rows x head, normalized; stride qk_stride, v_stride
  int64_t qk_stride, v_stride;
  const float* gamma; const float* beta;            // rows
  float* state;                // head x head, [key][value]; on return the state before the last `keep` rows' updates
  int64_t keep;                // how many of the rows stay out of `state`
  float* work;                 // head x head: room for the state beyond `state`
  int64_t pending;             // updates to apply to `state` first
  const float* pending_gamma; const float* pending_k; const float* pending_delta;     // pending, pending x head
  float* delta;                // out, rows x head: the updates' value sides
  float* out;                  // out, rows x head
  int64_t out_stride;
};

struct Kernels {
  const char* name;
  int64_t group_rows;                               // of the layouts that matmul reads
  void (*rms_norm)(const float* x, const float* weight, float* y, int64_t width, int64_t group, float eps);
  void (*rope)(const float* x, float* y, int64_t heads, int64_t head, int64_t rotated, const float* cosine, const float* sine);
  void (*silu_gate)(const float* gate, const float* up, float* y, int64_t n);
  void (*gelu_gate)(const float* gate, const float* up, float* y, int64_t n);
  void (*sigmoid_gate)(const float* x, const float* gate, float* y, int64_t n);
  void (*add)(const float* a, const float* b, float* y, int64_t n, float scale);
  void (*scale)(const float* x, float* y, int64_t n, float scale);
  void (*softcap)(const float* x, float* y, int64_t n, float cap);
  float (*largest)(const float* x, int64_t n);      // -infinity where there is no number
  void (*quantize)(const float* x, int64_t n, QuantizedRow out);
  void (*store_kv)(const float* x, void* out, KvType type, int64_t n);
  int64_t fewest_tile_rows;                         // from which matmul wants Rows::tiles; 0: never
  void (*lay_out_row)(QuantizedRow x, int64_t columns, int64_t first, int64_t last, int64_t row, uint8_t* tiles);      // blocks first..last-1 of a row, x from `first` on
  void (*matmul)(const MatmulCall& call);
  void (*attention_chunk)(const AttentionCall& call);
  // Running state (a) joined with the next chunk's (b), in chunk order; `a` is overwritten.
  void (*attention_join)(float* a_largest, float* a_total, float* a_value, float b_largest, float b_total, const float* b_value, int64_t head);
  void (*causal_conv)(const float* const taps[], const float* const weights[], int64_t kernel, float* y, int64_t channels);   // channels: multiple of 8
  void (*l2_norm)(const float* x, float* y, int64_t n, float eps, float scale);
  void (*delta_rule)(const DeltaCall& call);
  void (*gated_norm)(const float* x, const float* gate, const float* weight, float* y, int64_t n, float eps);
  // The `used` largest of n logits, largest first, the lower index first among equals, and their shares of the softmax over all n or, where
  // `normalize`, over themselves.
  void (*choose_experts)(const float* logits, int64_t n, int64_t used, bool normalize, int32_t* chosen, float* share);
  void (*weighted_sum)(const float* const x[], const float* factors, int64_t count, float* y, int64_t n);    // in the order given
};

const Kernels& kernels();                           // chosen at the first call: SKIPSTONE_ISA, or the best that runs here
const Kernels* find_kernels(const char* name);      // null: unknown, or cannot run here
const char* runnable_names();                       // "avx2 generic"

}  // namespace skipstone::cpu
