// One pass over rows of one or more sequences: what an operation sees while it runs.
#pragma once
#include <cstdint>
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
  void reserve(int64_t rows, int64_t columns) {
    auto grow = [](auto& v, int64_t size) { if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size)); };
    grow(q_, rows * columns);
    for (auto* v : {&scale_, &sum_}) grow(*v, rows * (columns / 32));
    grow(half_sum_, rows * (columns / 16));
    grow(minus_, rows * (columns / 32));
    grow(half_minus_, rows * (columns / 16));
  }
  cpu::QuantizedRow row(int64_t r, int64_t columns) {
    const int64_t blocks = r * (columns / 32);
    return {q_.data() + r * columns, scale_.data() + blocks, sum_.data() + blocks, half_sum_.data() + 2 * blocks, minus_.data() + blocks, half_minus_.data() + 2 * blocks};
  }

 private:
  std::vector<int8_t> q_;
  std::vector<float> scale_, sum_, half_sum_;
  std::vector<int32_t> minus_, half_minus_;
};

struct Pass {
  explicit Pass(const cpu::Kernels& k) : kernels(k) {}
  const cpu::Kernels& kernels;
  int64_t rows = 0;
  std::vector<Part> parts;
  std::vector<int32_t> part_of;              // row -> index of its part
  std::vector<int64_t> positions;            // row -> position in its sequence
  const int32_t* tokens = nullptr;           // rows
  const float* hidden_in = nullptr;          // rows x width of the `input` operation
  float* hidden_out = nullptr;               // rows x width of the `hidden` operation; may be null

  Want want = Want::none;
  std::vector<int64_t> wanted;               // rows whose logits or choices are wanted, ascending
  std::vector<int64_t> place;                // row -> its index in wanted, or -1
  float* logits = nullptr;                   // wanted x vocabulary
  int32_t* choices = nullptr;                // wanted

  std::vector<float*> buffers;               // by buffer id; rows x width
  const std::vector<int64_t>* widths = nullptr;
  std::vector<std::vector<float>> cosines, sines;       // by table of frequencies; rows x half
  QuantizedRows quantized;                   // the input of the next matmul
  std::vector<std::vector<float>> scratch;   // by member of the team

  float* row(int buffer, int64_t r) const { return buffers[static_cast<size_t>(buffer)] + r * (*widths)[static_cast<size_t>(buffer)]; }
  float* member_scratch(int member, int64_t floats) {
    auto& s = scratch[static_cast<size_t>(member)];
    if (static_cast<int64_t>(s.size()) < floats) s.resize(static_cast<size_t>(floats));
    return s.data();
  }
};

}  // namespace skipstone
