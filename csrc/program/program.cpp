#include "program/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "runtime/error.h"
#include "runtime/sampler.h"

namespace skipstone {

Program::Program(std::vector<int64_t> widths, std::vector<StateSpec> states, const std::vector<Attributes>& operations) : widths_(std::move(widths)), states_(std::move(states)) {
  constexpr int64_t widest = int64_t{1} << 24;
  for (int64_t w : widths_)
    if (w < 1 || w > widest) throw ModelError("a buffer of width " + std::to_string(w) + "; expected 1 to " + std::to_string(widest));
  for (const StateSpec& s : states_) {
    auto bad = [](int64_t n, int64_t limit) { return n < 1 || n > limit; };
    if (s.kv && (bad(s.kv->kv_heads, 4096) || bad(s.kv->head, 512) || s.kv->head % 8 || s.kv->window < 0 || s.kv->window > (int64_t{1} << 31)))
      throw ModelError("a cache of " + std::to_string(s.kv->kv_heads) + " heads of " + std::to_string(s.kv->head) + " and window " + std::to_string(s.kv->window) + " cannot be run");
    if (s.delta && (bad(s.delta->value_heads, 4096) || bad(s.delta->key_heads, 4096) || bad(s.delta->head, 512) || s.delta->head % 8 || bad(s.delta->kernel, 32) || bad(s.delta->channels, widest)))
      throw ModelError("a delta-net of " + std::to_string(s.delta->value_heads) + " heads of " + std::to_string(s.delta->head) + " cannot be run");
  }
  std::vector<bool> written(widths_.size());
  Setting setting{widths_, states_, frequencies_, hidden_width_, input_width_, vocabulary_, borrows_};
  for (const Attributes& a : operations) {
    for (int id : a.inputs)
      if (id < 0 || id >= static_cast<int>(widths_.size()) || !written[static_cast<size_t>(id)]) a.fail("reads buffer " + std::to_string(id) + " before anything wrote it");
    for (int id : a.outputs) {
      if (id < 0 || id >= static_cast<int>(widths_.size()) || written[static_cast<size_t>(id)]) a.fail("writes buffer " + std::to_string(id) + ", which does not exist or was written before");
      written[static_cast<size_t>(id)] = true;
    }
    operations_.push_back(make_operation(a, setting));
  }
  if (!vocabulary_) throw ModelError("a program needs an embedding or a head");
  plan_stages();
  plan_buffers();
  pass_ = std::make_unique<Pass>(cpu::kernels());
  pass_->widths = &widths_;
}

void Program::plan_stages() {
  stages_.emplace_back();
  for (const auto& op : operations_) {
    if (!op->steps()) {
      stages_.back().pieces.push_back({op.get(), &Operation::rows});
      continue;
    }
    stages_.back().pieces.push_back({op.get(), &Operation::before});
    stages_.back().collective = op.get();
    stages_.emplace_back();
    stages_.back().pieces.push_back({op.get(), &Operation::after});
  }
}

// A buffer lives from the stage that writes it to the last that reads it; members of the team may be anywhere within a stage, so places are only
// handed on between stages. An operation's `after` belongs to the following stage and may still read its inputs and outputs.
void Program::plan_buffers() {
  const size_t count = widths_.size();
  std::vector<size_t> born(count, 0), dies(count, 0);
  for (size_t s = 0; s < stages_.size(); ++s)
    for (const Piece& piece : stages_[s].pieces)
      for (const auto* ids : {&piece.operation->inputs, &piece.operation->outputs})
        for (int id : *ids) dies[static_cast<size_t>(id)] = s;
  for (size_t s = stages_.size(); s-- > 0;)
    for (const Piece& piece : stages_[s].pieces)
      for (int id : piece.operation->outputs) born[static_cast<size_t>(id)] = s;
  struct Place {
    int64_t offset, width;
    size_t until;
  };
  std::vector<Place> places;
  slot_.assign(count, 0);
  for (size_t s = 0; s < stages_.size(); ++s)
    for (size_t id = 0; id < count; ++id) {
      if (born[id] != s) continue;
      const int64_t width = (widths_[id] + 15) / 16 * 16;
      auto fits = std::find_if(places.begin(), places.end(), [&](const Place& p) { return p.until < s && p.width >= width; });
      if (fits == places.end()) {
        places.push_back({floats_a_row_, width, 0});
        floats_a_row_ += width;
        fits = places.end() - 1;
      }
      fits->until = dies[id];
      slot_[id] = fits->offset;
    }
}

void Program::take_memory(int64_t rows) {
  if (rows > rows_) {
    memory_ = allocate(rows * floats_a_row_ * static_cast<int64_t>(sizeof(float)));
    rows_ = rows;
  }
  pass_->buffers.resize(widths_.size());
  for (size_t id = 0; id < widths_.size(); ++id) pass_->buffers[id] = reinterpret_cast<float*>(memory_.get()) + slot_[id] * rows_;
}

void Program::run_pass(Pass& pass, int most_threads) {
  const int threads = team_size_.choose(pass.rows, most_threads);
  const auto started = std::chrono::steady_clock::now();
  if (pass.scratch.size() < static_cast<size_t>(threads)) pass.scratch.resize(static_cast<size_t>(threads));
  pass.cosines.resize(frequencies_.size());
  pass.sines.resize(frequencies_.size());
  for (size_t t = 0; t < frequencies_.size(); ++t) {
    const auto& f = frequencies_[t];
    pass.cosines[t].resize(static_cast<size_t>(pass.rows) * f.size());
    pass.sines[t].resize(pass.cosines[t].size());
    for (int64_t r = 0; r < pass.rows; ++r)
      for (size_t j = 0; j < f.size(); ++j) {
        const float angle = static_cast<float>(pass.positions[static_cast<size_t>(r)]) * f[j];      // float32, as the reference has it
        pass.cosines[t][static_cast<size_t>(r) * f.size() + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
        pass.sines[t][static_cast<size_t>(r) * f.size() + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
  }
  for (const auto& op : operations_) op->begin(pass, threads);
  ThreadPool::shared().run(threads, [&](int member, Team& team) {
    const int64_t first = pass.rows * member / threads, last = pass.rows * (member + 1) / threads;
    for (const Stage& stage : stages_) {
      if (first < last)
        for (const Piece& piece : stage.pieces) (piece.operation->*piece.run)(pass, first, last);
      if (!stage.collective) continue;
      team.barrier();
      for (int s = 0; s < stage.collective->steps(); ++s) {
        stage.collective->step(pass, s, member, threads);
        team.barrier();
      }
    }
  });
  team_size_.report(pass.rows, most_threads, threads, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
}

void Program::run(std::span<const Append> parts, const float* hidden, Want want, bool last_only, int threads, float* logits, int32_t* choices, float* hidden_out) {
  std::lock_guard<std::mutex> lock(busy_);
  threads = std::clamp(threads, 1, 255);
  for (const Append& p : parts) {
    if (p.tokens.empty()) throw ArgumentError("a part of a pass has no tokens");
    if (!p.sequence && !states_.empty()) throw ArgumentError("a part of a pass has no sequence");
    if (borrows_ && !p.borrowed) throw ArgumentError("this program reads another sequence's cache, and none was given");
    for (const Append& other : parts)
      if (&other != &p && p.sequence && other.sequence == p.sequence) throw ArgumentError("one sequence stands twice in a pass");
    for (int32_t token : p.tokens)
      if (token < 0 || token >= vocabulary_) throw ArgumentError("token id " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocabulary_));
  }
  if (input_width_ && !hidden) throw ArgumentError("this program needs hidden rows of width " + std::to_string(input_width_));
  Pass& pass = *pass_;
  pass.want = want;
  std::vector<int32_t> tokens;
  size_t part = 0, at = 0;                      // the next token to take
  int64_t done = 0, done_wanted = 0;            // rows and results of passes before
  while (part < parts.size()) {
    pass.parts.clear();
    pass.part_of.clear();
    pass.positions.clear();
    pass.wanted.clear();
    pass.place.clear();
    tokens.clear();
    while (part < parts.size() && static_cast<int64_t>(tokens.size()) < max_pass_rows) {
      const Append& p = parts[part];
      const int64_t take = std::min(static_cast<int64_t>(p.tokens.size() - at), max_pass_rows - static_cast<int64_t>(tokens.size())), first = static_cast<int64_t>(tokens.size());
      const int64_t start = borrows_ ? p.borrowed->length() : (p.sequence ? p.sequence->length() : 0);
      pass.parts.push_back({states_.empty() ? nullptr : p.sequence, p.borrowed, first, take, start});
      for (int64_t i = 0; i < take; ++i) {
        tokens.push_back(p.tokens[at + static_cast<size_t>(i)]);
        pass.part_of.push_back(static_cast<int32_t>(pass.parts.size()) - 1);
        pass.positions.push_back(borrows_ ? start : start + i);
        const bool last = at + static_cast<size_t>(i) + 1 == p.tokens.size(), wanted = want != Want::none && (last || !last_only);
        pass.place.push_back(wanted ? static_cast<int64_t>(pass.wanted.size()) : -1);
        if (wanted) pass.wanted.push_back(first + i);
      }
      if (!states_.empty()) p.sequence->reserve(start + take);
      at += static_cast<size_t>(take);
      if (at == p.tokens.size()) ++part, at = 0;
    }
    pass.rows = static_cast<int64_t>(tokens.size());
    take_memory(pass.rows);
    pass.tokens = tokens.data();
    pass.hidden_in = hidden ? hidden + done * input_width_ : nullptr;
    pass.hidden_out = hidden_out ? hidden_out + done * hidden_width_ : nullptr;
    pass.logits = logits ? logits + done_wanted * vocabulary_ : nullptr;
    pass.choices = choices ? choices + done_wanted : nullptr;
    run_pass(pass, threads);
    for (const Part& p : pass.parts)
      if (p.sequence) {
        p.sequence->advance(p.rows);
        if (p.rows > step_back) p.sequence->mark();
      }
    done += pass.rows;
    done_wanted += static_cast<int64_t>(pass.wanted.size());
  }
}

std::vector<int32_t> Program::chain(const Append& start, const float* hidden, int steps, Sampler* sampler, int threads) {
  if (steps < 1 || steps > step_back) throw ArgumentError("a chain of " + std::to_string(steps) + " drafts; expected 1 to " + std::to_string(step_back));
  if (hidden_width_ != input_width_) throw ModelError("a program whose hidden rows have width " + std::to_string(hidden_width_) + " and whose input has " + std::to_string(input_width_) + " cannot be chained");
  const int64_t rows = static_cast<int64_t>(start.tokens.size()), kept = (start.sequence ? start.sequence->length() : 0) + rows;
  std::vector<float> out(static_cast<size_t>(std::max<int64_t>(rows, 1) * hidden_width_)), logits(sampler ? static_cast<size_t>(vocabulary_) : 0);
  std::vector<int32_t> drafts;
  std::vector<float> fed;
  Append next = start;
  int32_t token = 0;
  for (int i = 0; i < steps; ++i) {
    run({&next, 1}, hidden, sampler ? Want::logits : Want::choice, true, threads, logits.data(), &token, out.data());
    if (sampler) {
      token = sampler->choose(logits.data());
      sampler->push(token);
    }
    drafts.push_back(token);
    fed.assign(out.end() - hidden_width_, out.end());
    out.resize(static_cast<size_t>(hidden_width_));
    hidden = fed.data();
    next.tokens = {&drafts.back(), 1};
  }
  if (sampler) sampler->pop(steps);
  if (start.sequence) start.sequence->rollback(kept);
  return drafts;
}

}  // namespace skipstone
