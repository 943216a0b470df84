// A recorded forward pass (csrc/program/program.h) on a card. planner.cpp turns its operations into few kernels: what stands between two matmuls becomes
// the end of the first, part of attention, or one kernel that strings row-wise operations together.
#pragma once
#include <map>
#include <mutex>
#include <span>
#include <tuple>
#include <vector>

#include "backends/gpu/experts.h"
#include "backends/gpu/sequence.h"
#include "ops/operation.h"

namespace skipstone {
class Program;
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
  bool ends_in_sum() const { return ends_in_sum_; }   // the hidden rows come out of a matmul's end (planner.cpp)
  const std::vector<StateSpec>& states() const { return states_; }
  static std::vector<std::string> operations();      // kinds that a card runs
  // Kernels of a pass of one row, in order, for tests and whoever wants to know.
  std::vector<std::string> kernels() const;
  void set_host_threads(int threads) { host_threads_ = threads; }      // of operations that the processor does

  // As Program::run and Program::chain.
  void run(std::span<const GpuAppend> parts, const float* hidden, Want want, bool last_only, float* logits, int32_t* choices, float* hidden_out);
  std::vector<int32_t> chain(const GpuAppend& start, const float* hidden, int steps, Sampler* sampler);

 private:
  enum class Kind { rows, matmul, attention, delta, route, experts, fetch, host };      // fetch, host: see host.cpp
  using Shared = std::shared_ptr<const DeviceWeight>;
  // What unquantized weights multiply: a buffer; or the sum that a norm follows whose factor is left to them, with the norm's weights and squares.
  struct Operand {
    int buffer = -1, squares = -1;       // squares: activations that have them
    const float* norm = nullptr;
  };
  struct Step {                          // one kernel, or one for each weight type
    Kind kind = Kind::rows;
    std::vector<Piece> pieces;
    // Of a matmul: weights that share their type; buffers by number.
    std::vector<std::shared_ptr<const DeviceWeight>> weights;
    std::vector<int> outputs;            // -1: not wanted as floats
    Operand input;                       // for unquantized weights
    int x = -1;                          // activations
    int residual = -1, to = -1;          // buffer, activations
    MatmulEnd end = store_end;
    float scale = 1.0f;
    const float* norm = nullptr;
    AttentionArgs attention{};
    int q = -1, k = -1, v = -1;
    int q_angles = -1, k_angles = -1;    // tables
    DeltaArgs delta{};
    // Of a mixture: router and gate of the shared expert (weights, outputs), then the experts.
    RouteArgs route{};
    ExpertsArgs experts{};
    Shared gate, up, down, shared_gate, shared_up, shared_down;
    int logits = -1, opening = -1, extra = -1;
    bool has_shared = false, shares = false;      // shares: attention to the cache that an earlier one of the pass fills
    int meeting = -1;                    // of a fetch and its host step
  };
  // An operation that the processor does in the middle of a pass: what it reads comes over, what it makes goes back.
  struct Meeting {
    std::vector<int> inputs;
    int output = -1;
    std::shared_ptr<Program> program;    // of its one operation; inputs side by side
  };
  // Quantized activations of all rows of a pass; deferred: of a norm without its factor, with their sums of squares.
  struct Activations {
    int64_t columns;
    bool deferred = false;
    float eps = 0.0f;
    int born = 0, dies = 0;
    int64_t offset = 0;
    int source = -1;                     // deferred: the buffer that the norm is of
    const float* norm = nullptr;         // and its weights
  };
  struct Shape {                         // of a pass: what its kernels' grids follow from
    int rows, parts, longest, splits, wanted, want, cache_type;      // longest: rows of the part with the most
    int steps = 0, noisy = 0;            // of a drafter's chain that begins with it
    auto operator<=>(const Shape&) const = default;
  };
  struct Chain {                         // that follows a pass: how many drafts, with whose noise (null: the best token)
    int steps;
    const Sampler* sampler;
    int32_t* drafts;
  };
  class Planner;
  void issue(const Shape& shape, size_t first, size_t last);
  void go(const Shape& shape);
  void fetch(const Meeting& m, int rows);
  void meet(const Meeting& m, int rows);
  void issue_rows(const std::vector<Piece>& pieces, int rows, const int* wanted);
  PlainArgs plain_args(const Operand& x, int rows) const;
  static void add_plain(PlainArgs& args, const DeviceWeight& w, float* y, int64_t stride);
  void issue_plain(const PlainArgs& args);
  void issue_route(const Step& s, int rows);
  void issue_experts(const Step& s, int rows);
  void launch_experts(const char* name, const DeviceWeight& w, ExpertsArgs& args, int halves);
  void issue_matmul(const DeviceWeight& w, MatmulArgs args, int units, int rows);
  void issue_step(const Step& s, int rows);
  void issue_attention(Step& s, const Shape& shape);
  void issue_head(int first, int rows, int want);
  void issue_chain(const Shape& shape);
  void issue_choice(const Shape& shape, int step);
  bool chains_alone(const GpuAppend& start, const Sampler* sampler);
  void check(std::span<const GpuAppend> parts, const float* hidden, Want want) const;
  void pass(std::vector<PartRecord>& records, const std::vector<int>& part_of, const std::vector<int>& positions, const std::vector<int>& wanted, const std::vector<int32_t>& tokens,
            const float* hidden, Want want, const std::vector<GpuSequence*>& sequences, float* logits, int32_t* choices, float* hidden_out, const Chain* chain = nullptr);
  int64_t rows_that_fit(int64_t longest) const;
  int most_splits(const std::vector<PartRecord>& records) const;
  void choose_expert_columns();
  int expert_columns(int rows) const { return rows <= 8 ? 8 : expert_columns_; }
  void forget_recordings();
  void cover_angles(int64_t positions);
  float* buffer(int id) const { return values_.as<float>(slot_[static_cast<size_t>(id)] * pass_rows); }
  const float* constant(const std::vector<float>& values);
  int angles(const std::vector<float>& frequencies);
  unsigned char* activations(int id) const { return activation_memory_.as<unsigned char>(activations_[static_cast<size_t>(id)].offset); }
  float* squares(int id) const;
  bool grow(Memory& memory, int64_t bytes);

  std::shared_ptr<Driver> driver_;
  std::vector<int64_t> widths_;
  std::vector<StateSpec> states_;
  std::vector<Step> steps_;
  std::vector<Activations> activations_;
  std::vector<int64_t> slot_;            // of a buffer: offset a row, in floats
  std::vector<std::vector<float>> frequencies_;
  std::vector<Memory> angles_;           // by table: cosines, then sines, a position
  int64_t angle_positions_ = 0;
  std::vector<Memory> constants_;
  Memory values_, activation_memory_, tables_, partial_, arrived_, mixed_, gates_, updates_, work_, gate_work_, head_input_, head_activations_, logits_, best_, ids_, choices_;
  PassTables pass_{};
  int64_t hidden_width_ = 0, input_width_ = 0, vocabulary_ = 0;
  int hidden_buffer_ = -1, input_buffer_ = -1, head_buffer_ = -1;
  // Tables stay in the host's memory (per-layer ones are large), but for one that is the head's too; their rows go to the card with the pass.
  struct Embedding {
    std::shared_ptr<Weight> table;
    float scale;
    int buffer;
  };
  std::vector<Embedding> embeddings_;
  void embed(const Embedding& e, const std::vector<int32_t>& tokens);
  std::shared_ptr<const DeviceWeight> table_;      // the first on the card, once a chain wants it
  bool no_table_ = false;                // there was no room for it
  Memory drafts_;
  float softcap_ = 0.0f;
  std::shared_ptr<const DeviceWeight> head_;      // with ordered_.top > 0 its table, a cluster an expert
  struct {
    Shared centroids;
    int top = 0;
    Memory order, scores, routes, made;
  } ordered_;
  void issue_ordered(int rows);
  int64_t attention_floats_ = 0;         // of partial results, per row and split
  int64_t most_heads_ = 1;
  int64_t delta_work_ = 0;
  // Of mixtures: the most that a row's experts need.
  struct { int64_t used = 0, made_floats = 0, gated_bytes = 0, shared_bytes = 0, counters = 0; } mixture_;
  int expert_columns_ = 16;              // pairs that a job has at most
  Memory routes_, made_, gated_, gated_shared_, counters_;
  bool borrows_ = false, ends_in_sum_ = false;
  std::vector<Meeting> meetings_;
  std::vector<float> fetched_, brought_;           // rows of a meeting, on the host
  int host_threads_ = 1;
  std::map<Shape, std::pair<int, std::vector<void*>>> recordings_;      // how often a shape was seen, and its recordings, one a stretch between meetings
};

}  // namespace skipstone::gpu
