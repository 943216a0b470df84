// A recorded forward pass (csrc/program/program.h) on a card. Row-wise operations are strung together into one kernel between two matmuls.
#pragma once
#include <map>
#include <mutex>
#include <span>
#include <tuple>
#include <vector>

#include "backends/gpu/sequence.h"
#include "ops/operation.h"

namespace skipstone {
class Sampler;
}

namespace skipstone::gpu {

struct GpuAppend {
  GpuSequence* sequence;
  GpuSequence* borrowed;
  std::span<const int32_t> tokens;
};

class GpuProgram {
 public:
  GpuProgram(std::shared_ptr<Driver> driver, std::vector<int64_t> widths, std::vector<StateSpec> states, const std::vector<Attributes>& operations);
  ~GpuProgram();

  GpuSequence sequence(cpu::KvType type) const { return GpuSequence(driver_, states_, type); }
  int64_t vocabulary() const { return vocabulary_; }
  int64_t hidden_width() const { return hidden_width_; }
  int64_t input_width() const { return input_width_; }
  bool borrows() const { return borrows_; }

  // As Program::run and Program::chain.
  void run(std::span<const GpuAppend> parts, const float* hidden, Want want, bool last_only, float* logits, int32_t* choices, float* hidden_out);
  std::vector<int32_t> chain(const GpuAppend& start, const float* hidden, int steps, Sampler* sampler);

 private:
  enum class Kind { rows, matmul, attention, delta };
  struct Step {                          // one kernel
    Kind kind;
    std::vector<Piece> pieces;
    std::shared_ptr<const DeviceWeight> weight;
    int input = -1, output = -1;         // buffers
    AttentionArgs attention{};
    DeltaArgs delta{};
  };
  struct Shape {                         // of a pass: what its kernels' grids follow from
    int rows, parts, chunks, wanted, want, cache_type;
    auto operator<=>(const Shape&) const = default;
  };
  class Planner;
  void issue(const Shape& shape);
  void issue_rows(const std::vector<Piece>& pieces, int rows, const int* wanted);
  void issue_matmul(const DeviceWeight& w, const float* x, int x_width, float* y, int64_t y_width, int rows);
  void issue_head(int first, int rows, int want);
  void pass(std::vector<PartRecord>& records, const std::vector<int>& part_of, const std::vector<int>& positions, const std::vector<int>& wanted, const std::vector<int32_t>& tokens,
            const float* hidden, Want want, const std::vector<GpuSequence*>& sequences, float* logits, int32_t* choices, float* hidden_out);
  float* buffer(int id) const { return values_.as<float>(slot_[static_cast<size_t>(id)] * pass_rows); }
  const float* constant(const std::vector<float>& values);
  unsigned char* activations(int chunks, int first_row) const;
  bool grow(Memory& memory, int64_t bytes);

  std::shared_ptr<Driver> driver_;
  std::vector<int64_t> widths_;
  std::vector<StateSpec> states_;
  std::vector<Step> steps_;
  std::vector<int64_t> slot_;            // of a buffer: offset a row, in floats
  std::vector<std::vector<float>> frequencies_;
  std::vector<Memory> angles_;           // by table: cosines, then sines, a row
  std::vector<Memory> constants_;
  Memory values_, tables_, quantized_, partial_, mixed_, gates_, updates_, work_, head_input_, logits_, best_, ids_, choices_;
  PassTables pass_{};
  int64_t hidden_width_ = 0, input_width_ = 0, vocabulary_ = 0;
  int hidden_buffer_ = -1, input_buffer_ = -1, head_buffer_ = -1, embed_buffer_ = -1;
  std::shared_ptr<Weight> embedding_;
  float embedding_scale_ = 1.0f, softcap_ = 0.0f;
  std::shared_ptr<const DeviceWeight> head_;
  int64_t most_chunks_ = 1, head_chunks_ = 1;       // 256-column chunks of the widest quantized input
  int64_t attention_floats_ = 0;         // of partial results, per row and chunk
  int64_t delta_work_ = 0;
  bool borrows_ = false;
  std::map<Shape, std::pair<int, void*>> recordings_;      // how often a shape was seen, and its recording
};

}  // namespace skipstone::gpu
