// A model's forward pass, recorded once: operations over planned buffers, run as one parallel region a pass.
#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "ops/operation.h"
#include "program/team_size.h"

namespace skipstone {

class Sampler;

// Tokens of one sequence to be appended. `borrowed`: for programs that read another program's caches.
struct Append {
  Sequence* sequence;
  Sequence* borrowed;
  std::span<const int32_t> tokens;
};

class Program {
 public:
  Program(std::vector<int64_t> widths, std::vector<StateSpec> states, const std::vector<Attributes>& operations);

  Sequence sequence(cpu::KvType type) const { return Sequence(states_, type); }
  const std::vector<StateSpec>& states() const { return states_; }
  int64_t vocabulary() const { return vocabulary_; }
  int64_t hidden_width() const { return hidden_width_; }
  int64_t input_width() const { return input_width_; }
  bool borrows() const { return borrows_; }

  // Appends every part's tokens to its sequence. hidden: (all rows, input_width()), for programs with an `input`.
  // last_only: logits or choices of each part's last row alone, otherwise of all rows.
  // last_hidden, of one part with last_only: hidden_out is the last row alone, and nothing is computed of the others but what later rows need.
  // logits: (wanted rows, vocabulary()), choices: (wanted rows), hidden_out: (all rows, hidden_width()) or null.
  void run(std::span<const Append> parts, const float* hidden, Want want, bool last_only, bool last_hidden, int threads, float* logits, int32_t* choices, float* hidden_out);

  // Works in the other's memory from now on; for programs that never run at the same time.
  void share_memory(const Program& other) { memory_ = other.memory_; }

  // A drafter's chain: one run over the given rows, a token chosen from the last of them, then steps - 1 more runs of one row each: the token just
  // drafted and the hidden row that came out before it. sampler null: argmax. The sequence keeps only the given rows; a borrowed one is not touched.
  std::vector<int32_t> chain(const Append& start, const float* hidden, int steps, Sampler* sampler, int threads);

 private:
  struct Piece {                       // of a row-wise stretch: which of an operation's row-wise functions, and whether `store` follows it
    Operation* operation;
    void (Operation::*run)(Pass&, int64_t, int64_t);
    bool stores;
  };
  struct Stage {                       // row-wise pieces, then the steps of one operation, each followed by a barrier
    std::vector<Piece> pieces;
    Operation* collective = nullptr;
  };
  // Memory of one member: the buffers that row-wise operations write (of member 0: all buffers) and quantized activations.
  struct Workspace {
    std::shared_ptr<uint8_t> memory;
    int64_t floats = 0;                // that memory holds
    int64_t rows = 0;                  // of this program in it
    std::vector<float*> buffers;
    QuantizedRows quantized;
  };
  // What passes work in: nothing of it lasts, so programs that take turns can have it together.
  struct Memory {
    std::mutex busy;                   // one pass at a time
    std::deque<Workspace> workspaces;  // by member
    QuantizedRows gated;
    Mixture mixture;
    std::vector<std::vector<float>> scratch;
  };
  // The rows of the pass that is being put together.
  struct Batch {
    std::vector<Part> parts;
    std::vector<int32_t> tokens, part_of;
    std::vector<int64_t> positions, wanted, place;
    std::vector<int64_t> turned;       // positions whose angles these are
    std::vector<std::vector<float>> cosines, sines;
  };
  void plan_stages();
  void plan_buffers();
  void find_state_feeders();
  void append(std::span<const Append> parts, const float* hidden, Want want, bool last_only, bool last_hidden, int threads, float* logits, int32_t* choices, float* hidden_out);
  void run_pass(Pass& pass, int threads);      // at most so many
  void run_member(Pass pass, bool every_row, int member, Team& team);
  bool every_row_pays(int64_t rows, int members) const;
  void take_memory(int64_t rows, int members, bool every_row);
  void find_angles();
  void check_files() const;            // throws FileError if weights were lost with their file

  std::vector<int64_t> widths_;
  std::vector<StateSpec> states_;
  std::vector<std::unique_ptr<Operation>> operations_;
  std::vector<const uint8_t*> weights_;        // bytes of files
  std::vector<Stage> stages_;
  std::vector<int64_t> slot_;          // of a buffer: offset a row, in floats; buffers whose lives do not meet share it
  std::vector<bool> by_row_;           // whether row-wise code writes it
  int64_t floats_a_row_ = 0, row_floats_a_stage_ = 0;
  std::vector<std::vector<float>> frequencies_;
  int64_t hidden_width_ = 0, input_width_ = 0, vocabulary_ = 0;
  bool borrows_ = false;
  bool whole_parts_ = false;           // a part is a block of rows that see each other

  std::shared_ptr<Memory> memory_ = std::make_shared<Memory>();
  Batch batch_;
  TeamSize team_size_;
};

}  // namespace skipstone
