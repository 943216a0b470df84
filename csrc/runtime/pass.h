// One pass over rows of one or more sequences: what an operation sees while it runs.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "backends/cpu/kernels.h"
#include "runtime/state.h"
#include "runtime/thread_pool.h"

namespace skipstone {

enum class Want { none, logits, choice };

// Consecutive rows of one sequence.
struct Part {
  Sequence* sequence;        // its states are read and extended; null for programs without states
  Sequence* borrowed;        // another program's sequence that `attend` reads; null elsewhere
  int64_t first, rows;       // rows first .. first + rows - 1 of the pass
  int64_t start;             // position of its first row
};

// Memory for rows of quantized activations, shared by all matmuls of a program, so its strides follow from the columns at hand.
class QuantizedRows {
 public:
  void reserve(int64_t rows, int64_t columns) { grow(rows * columns); }
  // And for the same rows laid out for tile registers, where the kernels want that of so many.
  void reserve(int64_t rows, int64_t columns, const cpu::Kernels& kernels) {
    reserve(rows, columns);
    tiled_ = kernels.fewest_tile_rows && rows >= kernels.fewest_tile_rows;
    if (tiled_ && static_cast<int64_t>(tiles_.size()) < cpu::tile_bytes(rows, columns)) tiles_.resize(static_cast<size_t>(cpu::tile_bytes(rows, columns)));
  }
  void match(const QuantizedRows& other) {                     // as large as the other
    grow(static_cast<int64_t>(other.q_.size()));
    tiled_ = other.tiled_;
    if (tiles_.size() < other.tiles_.size()) tiles_.resize(other.tiles_.size());
  }
  // Row r of `columns`: x, which are its columns from first_block on.
  void quantize(const cpu::Kernels& kernels, const float* x, int64_t n, int64_t r, int64_t columns, int64_t first_block = 0) {
    const cpu::QuantizedRow to = row(r, columns, first_block);
    kernels.quantize(x, n, to);
    if (tiled_) kernels.lay_out_row(to, columns, first_block, first_block + n / 32, r, tiles_.data());
  }
  // Rows `from` to `rows` - 1, as matmul reads them.
  cpu::Rows rows(int64_t from, int64_t rows, int64_t columns, const float* x) {
    return {rows - from, columns, x, row(from, columns), tiled_ && !from ? tiles_.data() : nullptr};
  }
  cpu::QuantizedRow row(int64_t r, int64_t columns, int64_t first_block = 0) {
    const int64_t block = r * (columns / 32) + first_block;
    return {q_.data() + r * columns + 32 * first_block, scale_.data() + block, sum_.data() + block, half_sum_.data() + 2 * block, minus_.data() + block, half_minus_.data() + 2 * block};
  }
  void copy(int64_t r, const cpu::QuantizedRow& from, int64_t columns) {
    const cpu::QuantizedRow to = row(r, columns);
    const int64_t blocks = columns / 32;
    std::copy_n(from.q, columns, to.q);
    std::copy_n(from.scale, blocks, to.scale);
    std::copy_n(from.sum, blocks, to.sum);
    std::copy_n(from.half_sum, 2 * blocks, to.half_sum);
    std::copy_n(from.minus, blocks, to.minus);
    std::copy_n(from.half_minus, 2 * blocks, to.half_minus);
  }

 private:
  void grow(int64_t values) {
    auto to = [](auto& v, int64_t size) { if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size)); };
    to(q_, values);
    for (auto* v : {&scale_, &sum_}) to(*v, values / 32);
    to(half_sum_, values / 16);
    to(minus_, values / 32);
    to(half_minus_, values / 16);
  }
  std::vector<int8_t> q_;
  std::vector<float> scale_, sum_, half_sum_;
  std::vector<int32_t> minus_, half_minus_;
  bool tiled_ = false;
  std::vector<uint8_t> tiles_;
};

// What the experts of one layer work with, shared by the layers. A pair is a row and one of its experts; pairs are numbered expert by expert.
struct Mixture {
  QuantizedRows quantized;                   // pairs x F, what the second matmul of an expert reads
  std::vector<float> gated, made;            // pairs x F, the same for unquantized weights; pairs x H, what it writes
  struct Member {                            // each member of the team works this out for itself
    std::vector<int32_t> chosen;             // rows x used: each row's experts, best first
    std::vector<float> share;                // rows x used
    std::vector<int32_t> first;              // by expert, and one more: the first of its pairs
    std::vector<int32_t> row, pair;          // by pair: its row; by row x used: its pair
    QuantizedRows quantized;                 // the rows that one expert reads, together
    std::vector<float> plain;
  };
  std::vector<Member> members;
};

// A pass as one member of the team sees it: the buffers that row-wise operations write may be the member's own.
struct Pass {
  const cpu::Kernels& kernels;
  int64_t rows;
  std::span<const Part> parts;
  std::span<const int32_t> part_of;          // row -> index of its part
  std::span<const int64_t> positions;        // row -> position in its sequence
  const int32_t* tokens;                     // rows
  const float* hidden_in;                    // rows x width of the `input` operation
  float* hidden_out;                         // rows x width of the `hidden` operation, from row `tail` on; may be null
  int64_t tail;                              // rows before it only leave their trace in the states: nothing else of them is wanted

  Want want;
  std::span<const int64_t> wanted;           // rows whose logits or choices are wanted, ascending
  std::span<const int64_t> place;            // row -> its index in wanted, or -1
  float* logits;                             // wanted x vocabulary
  int32_t* choices;                          // wanted

  std::span<const std::vector<float>> cosines, sines;   // by table of frequencies; rows x half
  std::span<float* const> buffers;           // by buffer id; rows x width
  std::span<const int64_t> widths;
  QuantizedRows& quantized;                  // the input of the next matmul
  QuantizedRows& gated;                      // the gated values of a feed-forward block, of all members
  Mixture& mixture;
  std::vector<std::vector<float>>& scratch;  // by member of the team

  // The same pass with another member's memory.
  Pass with(std::span<float* const> own_buffers, QuantizedRows& own_quantized) const {
    return {kernels, rows, parts, part_of, positions, tokens, hidden_in, hidden_out, tail, want, wanted, place, logits, choices, cosines, sines, own_buffers, widths, own_quantized, gated, mixture, scratch};
  }
  float* row(int buffer, int64_t r) const { return buffers[static_cast<size_t>(buffer)] + r * widths[static_cast<size_t>(buffer)]; }
  float* member_scratch(int member, int64_t floats) {
    auto& s = scratch[static_cast<size_t>(member)];
    if (static_cast<int64_t>(s.size()) < floats) s.resize(static_cast<size_t>(floats));
    return s.data();
  }
};

}  // namespace skipstone
