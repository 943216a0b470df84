#include "backends/gpu/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/gpu/planner.h"
#include "program/chain.h"

namespace skipstone::gpu {
namespace {

// What a pass reads: by row its part, position and whether its logits are wanted, then the parts.
constexpr int64_t part_of_at = 0, position_at = 4 * pass_rows, wanted_at = 8 * pass_rows, records_at = 12 * pass_rows, tables_bytes = records_at + pass_rows * sizeof(PartRecord);
constexpr size_t most_recordings = 64;

// 1, 2, 3, 4, 6, 8, 12 and so on, so that a growing text asks for few shapes.
int bucket(int64_t n) {
  int b = 1;
  while (b < n) b = b == 1 ? 2 : (b & (b - 1)) ? b / 3 * 4 : b / 2 * 3;
  return b;
}

}  // namespace

GpuProgram::GpuProgram(std::shared_ptr<Driver> driver, std::vector<int64_t> widths, std::vector<StateSpec> states, const std::vector<Attributes>& operations)
    : driver_(std::move(driver)), widths_(std::move(widths)), states_(std::move(states)) {
  for (int64_t w : widths_)
    if (w < 1 || w > (int64_t{1} << 24)) throw ModelError("a buffer of width " + std::to_string(w) + "; expected 1 to 16777216");
  const Planner plan(*this, operations);
  tables_ = Memory(driver_, tables_bytes);
  pass_ = {reinterpret_cast<const PartRecord*>(tables_.address() + records_at), reinterpret_cast<const int*>(tables_.address() + part_of_at),
           reinterpret_cast<const int*>(tables_.address() + position_at), reinterpret_cast<const int*>(tables_.address() + wanted_at)};
  arrived_ = Memory(driver_, pass_rows * most_kv_heads_ * 4);
  driver_->zero(arrived_.address(), arrived_.bytes());
  for (size_t s = 0; s < steps_.size(); ++s)
    for (size_t i = 0; i < steps_[s].pieces.size(); ++i) {
      Piece& piece = steps_[s].pieces[i];
      const Planner::Ids& id = plan.ids[s][i];
      if (id.a >= 0) piece.a = buffer(id.a);
      if (id.b >= 0) piece.b = buffer(id.b);
      if (id.d >= 0) piece.d = buffer(id.d);
      if (id.y >= 0) piece.y = buffer(id.y);
      if (id.z >= 0) piece.z = buffer(id.z);
      if (id.to >= 0) piece.to = activations(id.to);
      if (piece.kind == mix_piece) {
        piece.a_stride = piece.b_stride = 0;             // it finds rows by itself
        piece.c = buffer(static_cast<int>(reinterpret_cast<intptr_t>(piece.c)));
        piece.y = mixed_.as<float>();
        piece.z = gates_.as<float>();
      }
    }
  if (head_) {
    head_input_ = Memory(driver_, most_rows * static_cast<int64_t>(head_->columns) * 4);
    head_activations_ = Memory(driver_, int64_t{4} * pair_bytes * std::max(1, head_->chunks));
    logits_ = Memory(driver_, most_rows * vocabulary_ * 4);
    best_ = Memory(driver_, most_rows * choice_blocks * 4);
    ids_ = Memory(driver_, most_rows * choice_blocks * 4);
    choices_ = Memory(driver_, pass_rows * 4);
  }
}

GpuProgram::~GpuProgram() { forget_recordings(); }

// Recordings hold addresses, so they are dropped with the memory that grows.
void GpuProgram::forget_recordings() {
  for (auto& [shape, recording] : recordings_)
    if (recording.second) driver_->forget(recording.second);
  recordings_.clear();
}

const float* GpuProgram::constant(const std::vector<float>& values) {
  constants_.emplace_back(driver_, static_cast<int64_t>(values.size()) * 4);
  driver_->write(constants_.back().address(), values.data(), static_cast<int64_t>(values.size()) * 4);
  driver_->wait();
  return constants_.back().as<const float>();
}

int GpuProgram::angles(const std::vector<float>& frequencies) {
  const auto it = std::find(frequencies_.begin(), frequencies_.end(), frequencies);
  if (it != frequencies_.end()) return static_cast<int>(it - frequencies_.begin());
  frequencies_.push_back(frequencies);
  angles_.emplace_back();
  return static_cast<int>(angles_.size()) - 1;
}

// Cosines and sines of the positions before `positions`.
void GpuProgram::cover_angles(int64_t positions) {
  if (positions <= angle_positions_ || frequencies_.empty()) return;
  const int64_t covered = std::max<int64_t>({2 * angle_positions_, (positions + 1023) / 1024 * 1024, 2048});
  for (size_t t = 0; t < frequencies_.size(); ++t) {
    const auto& f = frequencies_[t];
    std::vector<float> table(static_cast<size_t>(covered) * 2 * f.size());
    for (int64_t p = 0; p < covered; ++p)
      for (size_t j = 0; j < f.size(); ++j) {
        const float angle = static_cast<float>(p) * f[j];      // float32, as the reference has it
        table[static_cast<size_t>(2 * p) * f.size() + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
        table[static_cast<size_t>(2 * p + 1) * f.size() + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    angles_[t] = Memory();
    angles_[t] = Memory(driver_, static_cast<int64_t>(table.size()) * 4);
    driver_->write(angles_[t].address(), table.data(), static_cast<int64_t>(table.size()) * 4);
    driver_->wait();
  }
  angle_positions_ = covered;
  forget_recordings();
}

float* GpuProgram::squares(int id) const {
  const Activations& x = activations_[static_cast<size_t>(id)];
  return x.deferred ? reinterpret_cast<float*>(activations(id) + int64_t{4} * pair_bytes * chunk_count(x.columns) * (pass_rows / most_rows)) : nullptr;
}

bool GpuProgram::grow(Memory& memory, int64_t bytes) {
  if (memory.bytes() >= bytes) return false;
  memory = Memory();
  memory = Memory(driver_, bytes);
  forget_recordings();
  return true;
}

void GpuProgram::issue_rows(const std::vector<Piece>& pieces, int rows, const int* wanted) {
  RowsArgs args{};
  args.pass = pass_;
  args.pass.wanted = wanted;
  args.count = static_cast<int>(pieces.size());
  std::copy(pieces.begin(), pieces.end(), args.pieces);
  for (int i = 0; i < args.count; ++i)
    if (args.pieces[i].kind == rope_piece) args.pieces[i].c = angles_[static_cast<size_t>(args.pieces[i].l)].as<float>();
  // Rows of many columns are cut where every piece works on each column, or block of 32, by itself.
  const int columns = pieces[0].n;
  const bool cut = std::all_of(pieces.begin(), pieces.end(), [&](const Piece& p) {
    return p.n == columns && (p.kind == silu_piece || p.kind == gelu_piece || p.kind == sigmoid_piece || p.kind == add_piece || p.kind == quantize_piece);
  });
  args.stretches = cut ? (columns + 1023) / 1024 : 1;
  driver_->launch("rows_in_order", rows * args.stretches, rows_threads, &args);
}

void GpuProgram::issue_plain(const DeviceWeight& w, const float* x, int64_t x_stride, float* y, int64_t y_stride, int rows) {
  const PlainArgs args{w.memory.as<const void*>(), x, y, x_stride, y_stride, w.plain, w.rows, w.columns, rows};
  driver_->launch("matmul_plain", (w.rows + 3) / 4, 128, &args);
}

// The form that suits the rows and the card; which one changes no bit. args: all but the grid.
void GpuProgram::issue_matmul(const DeviceWeight& w, MatmulArgs args, int units, int rows) {
  const DeviceInfo& card = driver_->info();
  args.chunks = w.chunks;
  args.units = units;
  args.rows = rows;
  args.columns = w.columns;
  args.squares_count = w.columns / unit_rows;
  const auto bytes = [&](int team, int depth, int columns) { return matmul_shared(team, depth, w.chunk_bytes, columns); };
  const bool small = !card.large_teams || bytes(16, 1, 16) > card.shared_a_block, many = !small && rows > 4 * most_rows && bytes(1, 1, 32) <= card.shared_a_block;
  const int team = small ? 4 : many ? 1 : 16, columns = many ? 32 : rows <= 8 ? 8 : 16, items = units * ((rows + columns - 1) / columns), teams = many ? 4 : 1;
  if (bytes(team, 1, columns) > card.shared_a_block)
    throw DeviceError(card.name + " (" + card.description + ") has " + std::to_string(card.shared_a_block) + " bytes of shared memory a block; this model's weights need " + std::to_string(bytes(team, 1, columns)) + "; use device='cpu'");
  int blocks = team == 16 ? 1 : many ? 2 : 4;
  while (blocks > 1 && blocks * (bytes(team, 1, columns) + 1024) > card.shared_a_processor) --blocks;
  // Twice as much on its way, where two blocks of it have room, so that the next kernel's can come early.
  const int twice = bytes(team, 2, columns);
  args.depth = card.rings && twice <= card.shared_a_block && std::max(2, blocks) * (twice + 1024) <= card.shared_a_processor ? 2 : 1;
  args.blocks = std::min((items + teams - 1) / teams, card.processors * blocks);
  driver_->launch((w.kernel + "_team" + std::to_string(team) + "_columns" + std::to_string(columns)).c_str(), args.blocks, team == 16 ? 512 : 128, &args, bytes(team, args.depth, columns));
}

void GpuProgram::issue_step(const Step& s, int rows) {
  const DeviceWeight& w = *s.weights[0];
  if (w.plain >= 0) {
    const int64_t stride = widths_[static_cast<size_t>(s.outputs[0])];
    return issue_plain(w, buffer(s.input), widths_[static_cast<size_t>(s.input)], buffer(s.outputs[0]), stride, rows);
  }
  MatmulArgs args{};
  int units = 0;
  for (size_t i = 0; i < static_cast<size_t>(most_parts); ++i) {
    args.parts[i].first = 1 << 30;
    if (i >= s.weights.size()) continue;
    const DeviceWeight& part = *s.weights[i];
    args.parts[i] = {part.memory.as<const unsigned char>(), s.outputs[i] >= 0 ? buffer(s.outputs[i]) : nullptr, part.rows, part.rows, units};
    units += part.tiles / 2;
  }
  if (s.end >= silu_end) units /= 2;
  args.x = activations(s.x);
  args.x_more = int64_t{4} * pair_bytes * w.chunks;
  args.end = s.end;
  args.squares = squares(s.x);
  args.eps = activations_[static_cast<size_t>(s.x)].eps;
  args.scale = s.scale;
  if (s.residual >= 0) args.residual = buffer(s.residual);
  if (s.to >= 0) {
    args.norm = s.norm;
    args.to = activations(s.to);
    args.to_more = int64_t{4} * pair_bytes * chunk_count(activations_[static_cast<size_t>(s.to)].columns);
    args.squares_to = squares(s.to);
  }
  issue_matmul(w, args, units, rows);
}

void GpuProgram::issue_attention(Step& s, const Shape& shape) {
  AttentionArgs& a = s.attention;
  a.pass = pass_;
  a.cache.type = shape.cache_type;
  a.rows = shape.rows;
  a.splits = shape.splits;
  a.partial = partial_.as<float>();
  a.arrived = arrived_.as<int>();
  a.q.x = buffer(s.q);
  if (s.k >= 0) a.k.x = buffer(s.k);
  if (s.v >= 0) a.v.x = buffer(s.v);
  if (s.q_angles >= 0) a.q.angles = angles_[static_cast<size_t>(s.q_angles)].as<float>();
  if (s.k_angles >= 0) a.k.angles = angles_[static_cast<size_t>(s.k_angles)].as<float>();
  a.y = s.outputs[0] >= 0 ? buffer(s.outputs[0]) : nullptr;
  if (s.to >= 0) {
    a.to = activations(s.to);
    a.to_more = int64_t{4} * pair_bytes * chunk_count(activations_[static_cast<size_t>(s.to)].columns);
  }
  a.stored = !a.borrows && shape.rows > most_rows;
  if (a.stored) driver_->launch("store_heads", (shape.rows * 2 * a.cache.kv_heads + 7) / 8, 256, &a);
  const int head = a.cache.head;
  const char* name = a.cache.type == 1 && head == 128 ? "attention_128_f16" : a.cache.type == 1 && head == 256 ? "attention_256_f16" : head <= 128 ? "attention_to_128" : head <= 256 ? "attention_to_256" : "attention_to_512";
  driver_->launch(name, shape.rows * a.cache.kv_heads * shape.splits, 256, &a, attention_shared(a.cache.head, a.cache.type));
}

// Up to 16 wanted rows from the first-th on.
void GpuProgram::issue_head(int first, int rows, int want) {
  const int columns = head_->columns, vocabulary = static_cast<int>(vocabulary_);
  std::vector<Piece> pieces(1);
  pieces[0].kind = gather_piece;
  pieces[0].n = pieces[0].a_stride = pieces[0].y_stride = columns;
  pieces[0].a = buffer(head_buffer_);
  pieces[0].y = head_input_.as<float>();
  if (head_->plain < 0) {
    Piece q{};
    q.kind = quantize_piece;
    q.n = q.a_stride = columns;
    q.m = head_->chunks;
    q.a = head_input_.as<float>();
    q.to = head_activations_.as<unsigned char>();
    pieces.push_back(q);
  }
  issue_rows(pieces, rows, pass_.wanted + first);
  if (head_->plain >= 0) {
    issue_plain(*head_, head_input_.as<float>(), columns, logits_.as<float>(), vocabulary, rows);
  } else {
    MatmulArgs args{};
    for (MatmulPart& p : args.parts) p.first = 1 << 30;
    args.parts[0] = {head_->memory.as<const unsigned char>(), logits_.as<float>(), vocabulary, vocabulary, 0};
    args.x = head_activations_.as<unsigned char>();
    issue_matmul(*head_, args, head_->tiles / 2, rows);
  }
  if (softcap_ > 0) {
    const CapArgs cap{logits_.as<float>(), static_cast<long long>(rows) * vocabulary, softcap_, 4 * driver_->info().processors};
    driver_->launch("softcap", cap.blocks, 256, &cap);
  }
  if (want != static_cast<int>(Want::choice)) return;
  const ChoiceArgs choice{logits_.as<float>(), best_.as<float>(), ids_.as<int>(), arrived_.as<int>(), choices_.as<int>(first), vocabulary};
  driver_->launch("choose", rows * choice_blocks, 256, &choice);
}

void GpuProgram::issue(const Shape& shape) {
  for (Step& s : steps_) {
    if (s.kind == Kind::rows) {
      issue_rows(s.pieces, shape.rows, pass_.wanted);
    } else if (s.kind == Kind::matmul) {
      issue_step(s, shape.rows);
    } else if (s.kind == Kind::attention) {
      issue_attention(s, shape);
    } else {
      DeltaArgs& d = s.delta;
      d.pass = pass_;
      d.mixed = mixed_.as<float>();
      d.gates = gates_.as<float>();
      d.delta = updates_.as<float>();
      d.work = work_.as<float>();
      d.y = buffer(s.outputs[0]);
      driver_->launch("delta_rule", shape.parts * d.value_heads, 512, &d);
    }
  }
  if (shape.wanted && shape.wanted <= most_rows) issue_head(0, shape.wanted, shape.want);
}

// Of the attention step that needs most.
int GpuProgram::most_splits(const std::vector<PartRecord>& records, const std::vector<int>& part_of, const std::vector<int>& positions) const {
  int64_t most = 1;
  for (const Step& s : steps_) {
    if (s.kind != Kind::attention) continue;
    const Cache& c = s.attention.cache;
    const int64_t span = split_positions(c.head);
    for (size_t r = 0; r < positions.size(); ++r) {
      const PartRecord& part = records[static_cast<size_t>(part_of[r])];
      const int64_t high = s.attention.borrows ? part.borrowed_length : positions[r] + 1, low = c.window ? std::max<int64_t>(0, high - c.window) : 0;
      most = std::max(most, (high + span - 1) / span - low / span);
    }
  }
  return bucket(most);
}

// Rows of a pass, where partial results of attention take a share of the memory.
int64_t GpuProgram::rows_that_fit(int64_t longest) const {
  constexpr int64_t most_bytes = int64_t{512} << 20;
  int64_t splits = 1;
  for (const Step& s : steps_)
    if (s.kind == Kind::attention) {
      const int64_t window = s.attention.cache.window, span = split_positions(s.attention.cache.head);
      splits = std::max(splits, (window && window < longest ? window : longest) / span + 2);
    }
  return std::clamp<int64_t>(most_bytes / std::max<int64_t>(1, 4 * splits * attention_floats_) / most_rows * most_rows, most_rows, pass_rows);
}

void GpuProgram::pass(std::vector<PartRecord>& records, const std::vector<int>& part_of, const std::vector<int>& positions, const std::vector<int>& wanted, const std::vector<int32_t>& tokens,
                      const float* hidden, Want want, const std::vector<GpuSequence*>& sequences, float* logits, int32_t* choices, float* hidden_out) {
  const int rows = static_cast<int>(tokens.size()), asked = static_cast<int>(wanted.size());
  cover_angles(*std::max_element(positions.begin(), positions.end()) + 1);
  // What the pass reads.
  const int64_t used = records_at + static_cast<int64_t>(records.size() * sizeof(PartRecord));
  std::vector<uint8_t> table(static_cast<size_t>(used));
  memcpy(table.data() + part_of_at, part_of.data(), part_of.size() * 4);
  memcpy(table.data() + position_at, positions.data(), positions.size() * 4);
  if (asked) memcpy(table.data() + wanted_at, wanted.data(), wanted.size() * 4);
  memcpy(table.data() + records_at, records.data(), records.size() * sizeof(PartRecord));
  driver_->write(tables_.address(), table.data(), used);
  if (embedding_) {
    const int64_t width = embedding_->columns();
    std::vector<float> staged(static_cast<size_t>(rows * width));
    for (int r = 0; r < rows; ++r) embedding_->row(tokens[static_cast<size_t>(r)], staged.data() + r * width);
    if (embedding_scale_ != 1.0f)
      for (float& v : staged) v *= embedding_scale_;
    driver_->write(reinterpret_cast<Address>(buffer(embed_buffer_)), staged.data(), rows * width * 4);
  }
  if (input_buffer_ >= 0) driver_->write(reinterpret_cast<Address>(buffer(input_buffer_)), hidden, rows * input_width_ * 4);

  // Its shape, and the memory that follows from it.
  Shape shape{rows, static_cast<int>(records.size()), most_splits(records, part_of, positions), asked <= most_rows ? asked : 0, static_cast<int>(want), 0};
  for (Step& s : steps_) {
    if (s.kind != Kind::attention) continue;
    Cache& c = s.attention.cache;
    for (GpuSequence* sequence : sequences) {
      const Cache real = sequence->cache(c.state);
      if (real.kv_heads != c.kv_heads || real.head != c.head) throw ModelError("the borrowed cache has another shape than the drafter expects");
      if (sequence != sequences[0] && real.type != shape.cache_type) throw ArgumentError("the sequences of one pass must have one kv_type");
      shape.cache_type = real.type;
      if (!s.attention.borrows || c.ring == real.ring) continue;
      c.ring = real.ring;
      forget_recordings();
    }
    if (attention_shared(c.head, shape.cache_type) + 28 * 1024 > driver_->info().shared_a_block)
      throw DeviceError(driver_->info().name + " (" + driver_->info().description + ") has too little shared memory for heads of " + std::to_string(c.head) + " in a cache of this kv_type; use kv_type='f16'");
  }
  grow(partial_, int64_t{bucket(rows)} * shape.splits * attention_floats_ * 4);
  grow(work_, int64_t{bucket(shape.parts)} * delta_work_ * 4);

  if (recordings_.size() >= most_recordings && !recordings_.count(shape)) forget_recordings();
  auto& [seen, recording] = recordings_[shape];
  if (++seen == 2) {                                       // a shape that comes again is recorded
    driver_->begin_recording();
    issue(shape);
    recording = driver_->end_recording();
  }
  if (recording) driver_->replay(recording);
  else issue(shape);

  if (asked > most_rows)
    for (int first = 0; first < asked; first += most_rows) {
      const int count = std::min(most_rows, asked - first);
      issue_head(first, count, static_cast<int>(want));
      if (want == Want::logits) driver_->read(logits + first * vocabulary_, logits_.address(), count * vocabulary_ * 4);
    }
  else if (asked && want == Want::logits) driver_->read(logits, logits_.address(), asked * vocabulary_ * 4);
  if (asked && want == Want::choice) driver_->read(choices, choices_.address(), asked * 4);
  if (hidden_out && hidden_buffer_ >= 0) driver_->read(hidden_out, reinterpret_cast<Address>(buffer(hidden_buffer_)), rows * hidden_width_ * 4);
  driver_->wait();
}

void GpuProgram::run(std::span<const GpuAppend> parts, const float* hidden, Want want, bool last_only, float* logits, int32_t* choices, float* hidden_out) {
  std::lock_guard<std::mutex> lock(driver_->busy);
  for (const GpuAppend& p : parts) {
    if (p.tokens.empty()) throw ArgumentError("a part of a pass has no tokens");
    if (!p.sequence && !states_.empty()) throw ArgumentError("a part of a pass has no sequence");
    if (borrows_ && !p.borrowed) throw ArgumentError("this program reads another sequence's cache, and none was given");
    if (borrows_ && p.borrowed->length() < 1) throw ArgumentError("the borrowed sequence is empty; a drafter that reads its cache needs at least one processed token");
    for (const GpuAppend& other : parts)
      if (&other != &p && p.sequence && other.sequence == p.sequence) throw ArgumentError("one sequence stands twice in a pass");
    for (int32_t token : p.tokens)
      if (token < 0 || token >= vocabulary_) throw ArgumentError("token id " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocabulary_));
  }
  if (input_width_ && !hidden) throw ArgumentError("this program needs hidden rows of width " + std::to_string(input_width_));
  if (want != Want::none && !head_) throw ArgumentError("this program has no head: ask for none");
  int64_t longest = 0;
  for (const GpuAppend& p : parts) longest = std::max(longest, borrows_ ? p.borrowed->length() : (p.sequence ? p.sequence->length() : 0) + static_cast<int64_t>(p.tokens.size()));
  const int64_t most = rows_that_fit(longest);
  size_t part = 0, at = 0;                       // the next token to take
  int64_t done = 0, done_wanted = 0;
  while (part < parts.size()) {
    std::vector<PartRecord> records;
    std::vector<int> part_of, positions, wanted;
    std::vector<int32_t> tokens;
    std::vector<GpuSequence*> sequences, advanced;
    while (part < parts.size() && static_cast<int64_t>(tokens.size()) < most) {
      const GpuAppend& p = parts[part];
      const int64_t first = static_cast<int64_t>(tokens.size()), take = std::min(static_cast<int64_t>(p.tokens.size() - at), most - first);
      const int64_t start = borrows_ ? p.borrowed->length() : (p.sequence ? p.sequence->length() : 0);
      PartRecord record{};
      if (!states_.empty()) {
        p.sequence->reserve(start + take);
        p.sequence->describe(record);
      }
      if (p.borrowed) p.borrowed->describe_borrowed(record);
      record.first = static_cast<int>(first);
      record.rows = static_cast<int>(take);
      record.start = static_cast<int>(start);
      if (borrows_ || !states_.empty()) sequences.push_back(borrows_ ? p.borrowed : p.sequence);
      advanced.push_back(p.sequence);
      for (int64_t i = 0; i < take; ++i) {
        tokens.push_back(p.tokens[at + static_cast<size_t>(i)]);
        part_of.push_back(static_cast<int>(records.size()));
        positions.push_back(static_cast<int>(borrows_ ? start : start + i));
        const bool last = at + static_cast<size_t>(i) + 1 == p.tokens.size();
        if (want != Want::none && (last || !last_only)) wanted.push_back(static_cast<int>(first + i));
      }
      records.push_back(record);
      at += static_cast<size_t>(take);
      if (at == p.tokens.size()) ++part, at = 0;
    }
    pass(records, part_of, positions, wanted, tokens, hidden ? hidden + done * input_width_ : nullptr, want, sequences, logits ? logits + done_wanted * vocabulary_ : nullptr,
         choices ? choices + done_wanted : nullptr, hidden_out ? hidden_out + done * hidden_width_ : nullptr);
    for (size_t i = 0; i < advanced.size(); ++i)
      if (advanced[i] && !states_.empty()) advanced[i]->advance(records[i].rows);
    done += static_cast<int64_t>(tokens.size());
    done_wanted += static_cast<int64_t>(wanted.size());
  }
}

std::vector<int32_t> GpuProgram::chain(const GpuAppend& start, const float* hidden, int steps, Sampler* sampler) {
  std::vector<float> rows;                       // hidden rows of the pass, of which the last goes on
  return draft_chain(*this, start, hidden, steps, sampler, [&](const GpuAppend& next, const float* in, Want want, float* logits, int32_t* token, float* out) {
    rows.resize(next.tokens.size() * static_cast<size_t>(hidden_width_));
    run({&next, 1}, in, want, true, logits, token, rows.data());
    std::copy(rows.end() - hidden_width_, rows.end(), out);
  });
}

// Of a pass of one row.
std::vector<std::string> GpuProgram::kernels() const {
  std::vector<std::string> names;
  for (const Step& s : steps_)
    names.push_back(s.kind == Kind::rows ? "rows_in_order" : s.kind == Kind::attention ? "attention" : s.kind == Kind::delta ? "delta_rule" : s.weights[0]->plain >= 0 ? "matmul_plain" : s.weights[0]->kernel);
  return names;
}

}  // namespace skipstone::gpu
