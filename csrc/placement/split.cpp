#include "placement/split.h"

#include <algorithm>
#include <string>
#include <type_traits>

#include "program/chain.h"
#include "runtime/error.h"

namespace skipstone {
namespace {

// A program's sequence type and what it takes for a part of a pass.
template <class P> struct Of;
template <> struct Of<Program> {
  using Sequence = skipstone::Sequence;
  using Append = skipstone::Append;
};
template <> struct Of<gpu::GpuProgram> {
  using Sequence = gpu::GpuSequence;
  using Append = gpu::GpuAppend;
};

template <class S> S* as(SplitSequence::Part& part) {
  S* sequence = std::get_if<S>(&part);
  if (!sequence) throw ArgumentError("a sequence of this pass lies on another device than its section of the model");
  return sequence;
}

}  // namespace

int64_t SplitSequence::length() const {
  int64_t least = INT64_MAX;
  for (const Part& p : parts_) least = std::min(least, std::visit([](const auto& s) { return s.length(); }, p));
  return least;
}

// Sections may reach back differently far, and after an error some are ahead of others: all go to what every one of them holds.
bool SplitSequence::rollback(int64_t length) {
  if (length < 0 || length > this->length()) throw ArgumentError("cannot roll back to " + std::to_string(length) + " tokens: the sequence has " + std::to_string(this->length()));
  int64_t held = length;
  for (bool even = false; !even;) {
    for (Part& p : parts_) std::visit([&](auto& s) { if (s.length() > held) s.rollback(held); }, p);
    even = this->length() == held;
    held = this->length();
  }
  return held == length;
}

SplitSequence SplitSequence::copy() const {
  std::vector<Part> parts;
  parts.reserve(parts_.size());
  for (const Part& p : parts_) std::visit([&](const auto& s) { parts.emplace_back(s.copy()); }, p);
  return SplitSequence(std::move(parts));
}

int64_t SplitSequence::bytes() const {
  int64_t total = 0;
  for (const Part& p : parts_) total += std::visit([](const auto& s) { return s.bytes(); }, p);
  return total;
}

void SplitSequence::keep_marks(int64_t most) {
  for (Part& p : parts_)
    if (auto* s = std::get_if<Sequence>(&p)) s->keep_marks(most);
}

void SplitSequence::mark() {
  for (Part& p : parts_) std::visit([](auto& s) { s.mark(); }, p);
}

SplitProgram::SplitProgram(std::vector<Section> sections) : sections_(std::move(sections)) {
  if (sections_.empty()) throw ArgumentError("a split program without sections");
  int64_t before = 0;
  for (size_t i = 0; i < sections_.size(); ++i)
    std::visit([&](auto* p) {
      if (i && (p->input_width() != before || before < 1)) throw ArgumentError("section " + std::to_string(i) + " takes rows of width " + std::to_string(p->input_width()) + "; the one before it makes " + std::to_string(before));
      if (sections_.size() > 1 && p->states().empty()) throw ArgumentError("section " + std::to_string(i) + " remembers nothing of a text; cut the model elsewhere");
      if (sections_.size() > 1 && p->borrows()) throw ArgumentError("a program that borrows another's caches cannot be split");
      before = p->hidden_width();
    }, sections_[i]);
}

SplitSequence SplitProgram::sequence(cpu::KvType type) const {
  std::vector<SplitSequence::Part> parts;
  parts.reserve(sections_.size());
  for (const Section& s : sections_) std::visit([&](const auto* p) { parts.emplace_back(p->sequence(type)); }, s);
  return SplitSequence(std::move(parts));
}

int64_t SplitProgram::vocabulary() const {
  return std::visit([](const auto* p) { return p->vocabulary(); }, sections_.back());
}
int64_t SplitProgram::hidden_width() const {
  return std::visit([](const auto* p) { return p->hidden_width(); }, sections_.back());
}
int64_t SplitProgram::input_width() const {
  return std::visit([](const auto* p) { return p->input_width(); }, sections_.front());
}
bool SplitProgram::borrows() const {
  return std::visit([](const auto* p) { return p->borrows(); }, sections_.front());
}

void SplitProgram::run(std::span<const SplitAppend> parts, const float* hidden, Want want, bool last_only, int threads, float* logits, int32_t* choices, float* hidden_out) {
  std::lock_guard<std::mutex> lock(busy_);
  size_t rows = 0;
  for (const SplitAppend& p : parts) {
    rows += p.tokens.size();
    if (p.sequence && p.sequence->parts() != sections_.size()) throw ArgumentError("a sequence of " + std::to_string(p.sequence->parts()) + " sections; the program has " + std::to_string(sections_.size()));
  }
  const float* in = hidden;
  for (size_t i = 0; i < sections_.size(); ++i)
    std::visit([&](auto* program) {
      using P = std::remove_pointer_t<decltype(program)>;
      using S = typename Of<P>::Sequence;
      std::vector<typename Of<P>::Append> appends;
      for (const SplitAppend& p : parts)
        appends.push_back({p.sequence ? as<S>(p.sequence->part(i)) : nullptr, p.borrowed ? as<S>(p.borrowed->part(p.borrowed->parts() - 1)) : nullptr, p.tokens});
      const bool last = i + 1 == sections_.size();
      std::vector<float>& out = crossing_[i % 2];
      if (!last) out.resize(rows * static_cast<size_t>(program->hidden_width()));
      const Want wants = last ? want : Want::none;
      float* to = last ? hidden_out : out.data();
      if constexpr (std::is_same_v<P, Program>) {
        program->run(appends, in, wants, last_only, false, threads, last ? logits : nullptr, last ? choices : nullptr, to);
      } else {
        program->set_host_threads(threads);
        program->run(appends, in, wants, last_only, last ? logits : nullptr, last ? choices : nullptr, to);
      }
      in = out.data();
    }, sections_[i]);
}

std::vector<int32_t> SplitProgram::chain(const SplitAppend& start, const float* hidden, int steps, Sampler* sampler, int threads) {
  std::vector<float> rows;                       // hidden rows of the pass, of which the last goes on
  return draft_chain(*this, start, hidden, steps, sampler, [&](const SplitAppend& next, const float* in, Want want, float* logits, int32_t* token, float* out) {
    const size_t width = static_cast<size_t>(hidden_width());
    rows.resize(next.tokens.size() * width);
    run({&next, 1}, in, want, true, threads, logits, token, rows.data());
    std::copy(rows.end() - static_cast<std::ptrdiff_t>(width), rows.end(), out);
  });
}

}  // namespace skipstone
