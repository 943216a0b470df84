// A model cut at borders between layers into sections that run one after the other, each on a device of its own: cards, the processor. A section hands
// over rows of activations, once a border; what it remembers of a text stays with it. A row's bits come from the arithmetic of its layers' devices, which
// depends on the row's own text alone, so the promises of one program hold for the whole.
#pragma once
#include <mutex>
#include <span>
#include <variant>
#include <vector>

#include "backends/gpu/program.h"
#include "program/program.h"

namespace skipstone {

// What the sections remember of one text: a sequence a section, all of one length.
class SplitSequence {
 public:
  using Part = std::variant<Sequence, gpu::GpuSequence>;
  explicit SplitSequence(std::vector<Part> parts) : parts_(std::move(parts)) {}
  SplitSequence(SplitSequence&&) = default;
  int64_t length() const;
  bool rollback(int64_t length);                 // as Sequence::rollback
  SplitSequence copy() const;
  int64_t bytes() const;
  void keep_marks(int64_t most);
  void mark();
  Part& part(size_t section) { return parts_[section]; }
  size_t parts() const { return parts_.size(); }

 private:
  std::vector<Part> parts_;
};

struct SplitAppend {
  SplitSequence* sequence;
  SplitSequence* borrowed;                       // its last section's sequence is what a program that borrows reads
  std::span<const int32_t> tokens;
};

class SplitProgram {
 public:
  using Section = std::variant<Program*, gpu::GpuProgram*>;
  // The sections in order, kept alive by the caller. From the second on, each takes the hidden rows of the one before it as its input.
  explicit SplitProgram(std::vector<Section> sections);

  SplitSequence sequence(cpu::KvType type) const;
  int64_t vocabulary() const;
  int64_t hidden_width() const;
  int64_t input_width() const;
  bool borrows() const;
  size_t sections() const { return sections_.size(); }

  // As Program::run and Program::chain.
  void run(std::span<const SplitAppend> parts, const float* hidden, Want want, bool last_only, int threads, float* logits, int32_t* choices, float* hidden_out);
  std::vector<int32_t> chain(const SplitAppend& start, const float* hidden, int steps, Sampler* sampler, int threads);

 private:
  std::vector<Section> sections_;
  std::mutex busy_;
  std::vector<float> crossing_[2];               // rows between two sections
};

}  // namespace skipstone
