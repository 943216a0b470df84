#include "program/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "program/fuse.h"
#include "runtime/error.h"
#include "program/chain.h"
#include "runtime/mapped_file.h"

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
  for (const Attributes& a : fuse(operations)) {
    for (int id : a.inputs)
      if (id < 0 || id >= static_cast<int>(widths_.size()) || !written[static_cast<size_t>(id)]) a.fail("reads buffer " + std::to_string(id) + " before anything wrote it");
    for (int id : a.outputs) {
      if (id < 0 || id >= static_cast<int>(widths_.size()) || written[static_cast<size_t>(id)]) a.fail("writes buffer " + std::to_string(id) + ", which does not exist or was written before");
      written[static_cast<size_t>(id)] = true;
    }
    operations_.push_back(make_operation(a, setting));
    whole_parts_ = whole_parts_ || operations_.back()->whole_parts();
    for (const auto& [name, list] : a.weights)
      for (const auto& weight : list) weights_.push_back(weight->data());
  }
  if (!vocabulary_ && !input_width_) throw ModelError("a program needs an embedding, an input or a head");
  plan_stages();
  plan_buffers();
  find_state_feeders();
}

void Program::plan_stages() {
  stages_.emplace_back();
  by_row_.assign(widths_.size(), false);
  int64_t floats = 0;
  for (const auto& op : operations_) {
    const bool collective = op->steps() > 0;
    stages_.back().pieces.push_back({op.get(), collective ? &Operation::before : &Operation::rows, true});
    for (int id : op->outputs) {
      by_row_[static_cast<size_t>(id)] = !collective || op->rows_after();
      if (by_row_[static_cast<size_t>(id)]) floats += widths_[static_cast<size_t>(id)];
    }
    if (!collective) continue;
    for (int id : op->inputs) floats += widths_[static_cast<size_t>(id)];      // quantization
    stages_.back().collective = op.get();
    stages_.emplace_back();
    if (op->rows_after()) stages_.back().pieces.push_back({op.get(), &Operation::after, false});
  }
  if (stages_.back().pieces.empty()) stages_.pop_back();
  row_floats_a_stage_ = floats / static_cast<int64_t>(stages_.size());
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

// What a row computes matters for later rows only where an operation remembers it; the rest is left out for rows of which nobody wants more.
void Program::find_state_feeders() {
  std::vector<bool> feeds(widths_.size(), false);
  for (size_t i = operations_.size(); i-- > 0;) {
    Operation& op = *operations_[i];
    op.feeds_state = std::any_of(op.outputs.begin(), op.outputs.end(), [&](int id) { return feeds[static_cast<size_t>(id)]; });
    for (int id : op.feeds_state ? op.inputs : op.remembered()) feeds[static_cast<size_t>(id)] = true;
    for (int id : op.remembered()) feeds[static_cast<size_t>(id)] = true;
  }
}

// Whether a team does better where every member takes every row through the row-wise pieces, instead of its own rows and a meeting after them.
// A meeting costs about as much as some thousand floats of row-wise work, and the more the more come to it.
bool Program::every_row_pays(int64_t rows, int members) const {
  const int64_t own = (rows + members - 1) / members;
  return members > 1 && rows <= 16 && (rows - own) * row_floats_a_stage_ <= 2048 * std::min(members, 8);
}

void Program::take_memory(int64_t rows, int members, bool every_row) {
  const size_t spaces = every_row ? static_cast<size_t>(members) : 1;
  while (memory_->workspaces.size() < spaces) memory_->workspaces.emplace_back();
  for (size_t m = 0; m < spaces; ++m) {
    Workspace& own = memory_->workspaces[m];
    if (rows * floats_a_row_ > own.floats) {
      own.floats = rows * floats_a_row_;
      own.memory = allocate(own.floats * static_cast<int64_t>(sizeof(float)));
    }
    own.rows = own.floats / std::max<int64_t>(1, floats_a_row_);
    own.buffers.resize(widths_.size());
    const Workspace& common = memory_->workspaces[0];
    for (size_t id = 0; id < widths_.size(); ++id) {
      const Workspace& space = by_row_[id] ? own : common;
      own.buffers[id] = reinterpret_cast<float*>(space.memory.get()) + slot_[id] * space.rows;
    }
  }
}

void Program::find_angles() {
  if (batch_.positions == batch_.turned) return;               // a chain whose steps stand at one position
  batch_.turned = batch_.positions;
  const size_t rows = batch_.positions.size();
  batch_.cosines.resize(frequencies_.size());
  batch_.sines.resize(frequencies_.size());
  for (size_t t = 0; t < frequencies_.size(); ++t) {
    const auto& f = frequencies_[t];
    auto &cosines = batch_.cosines[t], &sines = batch_.sines[t];
    cosines.resize(rows * f.size());
    sines.resize(cosines.size());
    for (size_t r = 0; r < rows; ++r)
      for (size_t j = 0; j < f.size(); ++j) {
        const float angle = static_cast<float>(batch_.positions[r]) * f[j];      // float32, as the reference has it
        cosines[r * f.size() + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
        sines[r * f.size() + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
  }
}

void Program::run_pass(Pass& pass, int most_threads) {
  const int threads = team_size_.choose(pass.rows, most_threads);
  const bool every_row = every_row_pays(pass.rows, threads);
  const auto started = std::chrono::steady_clock::now();
  if (memory_->scratch.size() < static_cast<size_t>(threads)) memory_->scratch.resize(static_cast<size_t>(threads));
  take_memory(pass.rows, threads, every_row);
  pass.buffers = memory_->workspaces[0].buffers;
  for (const auto& op : operations_) op->begin(pass, threads);
  if (every_row)
    for (int m = 1; m < threads; ++m) memory_->workspaces[static_cast<size_t>(m)].quantized.match(memory_->workspaces[0].quantized);
  ThreadPool::shared().run(threads, [&](int member, Team& team) {
    Workspace& own = memory_->workspaces[every_row ? static_cast<size_t>(member) : 0];
    run_member(pass.with(own.buffers, own.quantized), every_row, member, team);
  });
  for (const auto& op : operations_) op->end(pass, threads);
  team_size_.report(pass.rows, most_threads, threads, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
}

void Program::run_member(Pass pass, bool every_row, int member, Team& team) {
  const int members = team.size();
  const int64_t own_first = pass.rows * member / members, own_last = pass.rows * (member + 1) / members;
  const int64_t first = every_row ? 0 : own_first, last = every_row ? pass.rows : own_last;
  for (const Stage& stage : stages_) {
    for (const Piece& piece : stage.pieces) {
      Operation& op = *piece.operation;
      const int64_t from = std::max(first, op.first_row(pass));
      if (from < last) (op.*piece.run)(pass, from, last);
      if (piece.stores && own_first < own_last) op.store(pass, own_first, own_last);
    }
    if (!stage.collective) continue;
    if (!every_row || stage.collective->reads_stored()) team.barrier();
    const int steps = stage.collective->steps();
    for (int s = 0; s < steps; ++s) {
      stage.collective->step(pass, s, member, members);
      if (s + 1 < steps || &stage != &stages_.back()) team.barrier();          // the end of the region is a barrier too
    }
  }
}

void Program::check_files() const {
  for (const uint8_t* w : weights_) check_mapped(w);
}

void Program::run(std::span<const Append> parts, const float* hidden, Want want, bool last_only, bool last_hidden, int threads, float* logits, int32_t* choices, float* hidden_out) {
  append(parts, hidden, want, last_only, last_hidden && last_only && parts.size() == 1, threads, logits, choices, hidden_out);
}

void Program::append(std::span<const Append> parts, const float* hidden, Want want, bool last_only, bool last_hidden, int threads, float* logits, int32_t* choices, float* hidden_out) {
  std::lock_guard<std::mutex> lock(memory_->busy);
  threads = std::clamp(threads, 1, 255);
  for (const Append& p : parts) {
    if (p.tokens.empty()) throw ArgumentError("a part of a pass has no tokens");
    if (!p.sequence && !states_.empty()) throw ArgumentError("a part of a pass has no sequence");
    if (borrows_ && !p.borrowed) throw ArgumentError("this program reads another sequence's cache, and none was given");
    for (const Append& other : parts)
      if (&other != &p && p.sequence && other.sequence == p.sequence) throw ArgumentError("one sequence stands twice in a pass");
    if (whole_parts_ && static_cast<int64_t>(p.tokens.size()) > max_pass_rows) throw ArgumentError("a block of " + std::to_string(p.tokens.size()) + " rows; expected at most " + std::to_string(max_pass_rows));
    if (vocabulary_)
      for (int32_t token : p.tokens)
        if (token < 0 || token >= vocabulary_) throw ArgumentError("token id " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocabulary_));
  }
  if (input_width_ && !hidden) throw ArgumentError("this program needs hidden rows of width " + std::to_string(input_width_));
  Batch& b = batch_;
  size_t part = 0, at = 0;                      // the next token to take
  int64_t done = 0, done_wanted = 0;            // rows and results of passes before
  while (part < parts.size()) {
    for (auto* v : {&b.positions, &b.wanted, &b.place}) v->clear();
    b.parts.clear();
    b.part_of.clear();
    b.tokens.clear();
    while (part < parts.size() && static_cast<int64_t>(b.tokens.size()) < max_pass_rows) {
      const Append& p = parts[part];
      const int64_t first = static_cast<int64_t>(b.tokens.size());
      if (whole_parts_ && first + static_cast<int64_t>(p.tokens.size()) > max_pass_rows) break;
      const int64_t take = std::min(static_cast<int64_t>(p.tokens.size() - at), max_pass_rows - first);
      const int64_t start = borrows_ ? p.borrowed->length() : (p.sequence ? p.sequence->length() : 0);
      b.parts.push_back({states_.empty() ? nullptr : p.sequence, p.borrowed, first, take, start});
      for (int64_t i = 0; i < take; ++i) {
        b.tokens.push_back(p.tokens[at + static_cast<size_t>(i)]);
        b.part_of.push_back(static_cast<int32_t>(b.parts.size()) - 1);
        b.positions.push_back(borrows_ && !whole_parts_ ? start : start + i);
        const bool last = at + static_cast<size_t>(i) + 1 == p.tokens.size(), wanted = want != Want::none && (last || !last_only);
        b.place.push_back(wanted ? static_cast<int64_t>(b.wanted.size()) : -1);
        if (wanted) b.wanted.push_back(first + i);
      }
      if (!states_.empty()) p.sequence->reserve(start + take);
      at += static_cast<size_t>(take);
      if (at == p.tokens.size()) ++part, at = 0;
    }
    find_angles();
    const int64_t rows = static_cast<int64_t>(b.tokens.size());
    if (memory_->workspaces.empty()) memory_->workspaces.emplace_back();
    Pass pass{.kernels = cpu::kernels(),
              .rows = rows,
              .parts = b.parts,
              .part_of = b.part_of,
              .positions = b.positions,
              .tokens = b.tokens.data(),
              .hidden_in = hidden ? hidden + done * input_width_ : nullptr,
              .hidden_out = hidden_out ? hidden_out + (last_hidden ? 0 : done * hidden_width_) : nullptr,
              .tail = last_hidden ? rows - 1 : 0,
              .want = want,
              .wanted = b.wanted,
              .place = b.place,
              .logits = logits ? logits + done_wanted * vocabulary_ : nullptr,
              .choices = choices ? choices + done_wanted : nullptr,
              .cosines = b.cosines,
              .sines = b.sines,
              .buffers = {},
              .widths = widths_,
              .quantized = memory_->workspaces[0].quantized,
              .gated = memory_->gated,
              .mixture = memory_->mixture,
              .scratch = memory_->scratch};
    run_pass(pass, threads);
    check_files();
    for (const Part& p : b.parts)
      if (p.sequence) {
        p.sequence->advance(p.rows);
        if (p.rows > step_back) p.sequence->mark();
      }
    done += rows;
    done_wanted += static_cast<int64_t>(b.wanted.size());
  }
}

std::vector<int32_t> Program::chain(const Append& start, const float* hidden, int steps, Sampler* sampler, int threads) {
  return draft_chain(*this, start, hidden, steps, sampler, [&](const Append& next, const float* in, Want want, float* logits, int32_t* token, float* out) {
    append({&next, 1}, in, want, true, true, threads, logits, token, out);
  });
}

}  // namespace skipstone
