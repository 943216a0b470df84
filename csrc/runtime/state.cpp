#include "runtime/state.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "runtime/error.h"
#include "runtime/weight.h"

namespace skipstone {

using cpu::chunk_positions;

KvCache::KvCache(const KvSpec& spec, cpu::KvType type)
    : spec_(spec),
      type_(type),
      row_bytes_(cpu::kv_row_bytes(type, spec.head)),
      // The window (and one more, which Gemma's assistant reads), a whole pass, what may be rolled back, and the chunk being overwritten.
      ring_(spec.window ? (spec.window + 1 + max_pass_rows + 2 * step_back + chunk_positions - 1) / chunk_positions + 1 : 0) {
  if (cpu::in_blocks(type) && spec.head % cpu::kv_block_values)
    throw ArgumentError("kv_type: q8_0 and q4_0 keep blocks of " + std::to_string(cpu::kv_block_values) + " values, and heads of " + std::to_string(spec.head) + " are no multiple of that; expected f16, bf16 or f32");
}

void KvCache::reserve(int64_t start, int64_t end) {
  for (int64_t c = start / chunk_positions; c * chunk_positions < end; ++c) {
    const size_t slot = static_cast<size_t>(ring_ ? c % ring_ : c);
    while (chunks_.size() <= slot) {
      chunks_.push_back(allocate(chunk_bytes()));
      memset(chunks_.back().get(), 0, static_cast<size_t>(chunk_bytes()));
    }
    if (chunks_[slot].use_count() == 1) continue;
    auto own = allocate(chunk_bytes());
    memcpy(own.get(), chunks_[slot].get(), static_cast<size_t>(chunk_bytes()));
    chunks_[slot] = own;
  }
  std::atomic_thread_fence(std::memory_order_acquire);           // what another thread's copy read, it has read before it let go
  high_ = std::max(high_, end);
}

void* KvCache::at(int64_t position, int64_t kv_head, int which) const {
  int64_t chunk = position / chunk_positions;
  if (ring_) chunk %= ring_;
  const int64_t row = (which * spec_.kv_heads + kv_head) * chunk_positions + position % chunk_positions;
  return chunks_[static_cast<size_t>(chunk)].get() + row * row_bytes_;
}

bool KvCache::can_roll_back(int64_t length) const {
  return !ring_ || std::max<int64_t>(0, length - spec_.window - 1) >= std::max(low_, high_ - ring_ * chunk_positions);
}

int64_t KvCache::bytes() const { return static_cast<int64_t>(chunks_.size()) * chunk_bytes(); }

int64_t KvCache::kept_from(int64_t length) const { return ring_ ? std::max<int64_t>(0, length - spec_.window - 1 - step_back) : 0; }

int64_t KvCache::block_bytes(int64_t length) const { return 2 * spec_.kv_heads * (length - kept_from(length)) * row_bytes_; }

template <class F>
void KvCache::each_run(int64_t length, F run) const {
  for (int which = 0; which < 2; ++which)
    for (int64_t h = 0; h < spec_.kv_heads; ++h)
      for (int64_t p = kept_from(length), n; p < length; p += n) {
        n = std::min(length, (p / chunk_positions + 1) * chunk_positions) - p;
        run(p, n * row_bytes_, h, which);
      }
}

void KvCache::write_block(int64_t length, uint8_t* out) const {
  each_run(length, [&](int64_t position, int64_t bytes, int64_t h, int which) {
    memcpy(out, at(position, h, which), static_cast<size_t>(bytes));
    out += bytes;
  });
}

void KvCache::restore(int64_t length, const uint8_t* block) {
  low_ = kept_from(length);
  reserve(low_, length);
  each_run(length, [&](int64_t position, int64_t bytes, int64_t h, int which) {
    memcpy(at(position, h, which), block, static_cast<size_t>(bytes));
    block += bytes;
  });
}

DeltaState::DeltaState(const DeltaSpec& s)
    : spec(s),
      matrix(static_cast<size_t>(s.value_heads * s.head * s.head)),
      gamma(static_cast<size_t>(s.value_heads * step_back)),
      k(static_cast<size_t>(s.value_heads * step_back * s.head)),
      delta(k.size()),
      inputs(static_cast<size_t>(ring * s.channels)) {}

void DeltaState::clear() {
  base = pending = 0;
  std::fill(matrix.begin(), matrix.end(), 0.0f);
}

int64_t DeltaState::bytes() const { return static_cast<int64_t>((matrix.size() + gamma.size() + k.size() + delta.size() + inputs.size()) * sizeof(float)); }

// array(first float, floats) over what a block holds.
template <class State, class F>
static void each_array(State& s, int64_t length, F array) {
  const int64_t head = s.spec.head, pending = length - s.base;
  array(s.matrix.data(), static_cast<int64_t>(s.matrix.size()));
  for (int64_t h = 0; h < s.spec.value_heads; ++h) {
    array(s.gamma.data() + h * step_back, pending);
    array(s.k.data() + h * step_back * head, pending * head);
    array(s.delta.data() + h * step_back * head, pending * head);
  }
  for (int64_t p = std::max<int64_t>(0, s.base - (s.spec.kernel - 1)); p < length; ++p) array(s.inputs.data() + p % DeltaState::ring * s.spec.channels, s.spec.channels);
}

int64_t DeltaState::block_bytes(const DeltaSpec& s, int64_t base, int64_t length) {
  const int64_t inputs = length - std::max<int64_t>(0, base - (s.kernel - 1));
  return static_cast<int64_t>(sizeof(float)) * (s.value_heads * (s.head * s.head + (length - base) * (1 + 2 * s.head)) + inputs * s.channels);
}

void DeltaState::write_block(int64_t length, uint8_t* out) const {
  each_array(*this, length, [&](const float* data, int64_t floats) {
    memcpy(out, data, static_cast<size_t>(floats) * sizeof(float));
    out += static_cast<size_t>(floats) * sizeof(float);
  });
}

void DeltaState::read_block(int64_t length, const uint8_t* in) {
  each_array(*this, length, [&](float* data, int64_t floats) {
    memcpy(data, in, static_cast<size_t>(floats) * sizeof(float));
    in += static_cast<size_t>(floats) * sizeof(float);
  });
}

Sequence::Sequence(const std::vector<StateSpec>& specs, cpu::KvType type) {
  for (const StateSpec& spec : specs) {
    if (spec.kv) {
      index_.push_back(static_cast<int64_t>(kvs_.size()));
      kvs_.emplace_back(*spec.kv, type);
    } else {
      index_.push_back(static_cast<int64_t>(deltas_.size()));
      deltas_.emplace_back(*spec.delta);
    }
  }
}

KvCache& Sequence::kv(int64_t state) { return kvs_[static_cast<size_t>(index_[static_cast<size_t>(state)])]; }
DeltaState& Sequence::delta(int64_t state) { return deltas_[static_cast<size_t>(index_[static_cast<size_t>(state)])]; }

void Sequence::reserve(int64_t end) {
  for (KvCache& kv : kvs_) kv.reserve(length_, end);
}

void Sequence::advance(int64_t rows) {
  length_ += rows;
  for (DeltaState& d : deltas_) {
    d.pending = std::min(rows, step_back);
    d.base = length_ - d.pending;
  }
}

int64_t Sequence::Saved::bytes() const {
  int64_t total = 0;
  for (const DeltaState& d : deltas) total += d.bytes();
  for (const KvCache& kv : windows) total += kv.bytes();
  return total;
}

void Sequence::keep_marks(int64_t most) {
  most_marks_ = std::max<int64_t>(1, most);
  thin_marks();
}

void Sequence::mark() {
  const bool slides = most_marks_ > 1 && std::any_of(kvs_.begin(), kvs_.end(), [](const KvCache& kv) { return kv.slides(); });
  if ((deltas_.empty() && !slides) || !length_ || (!marks_.empty() && marks_.back().length == length_)) return;
  auto saved = std::make_shared<Saved>();
  saved->deltas = deltas_;
  for (const KvCache& kv : kvs_)
    if (kv.slides()) saved->windows.push_back(kv);
  marks_.push_back({length_, saved});
  thin_marks();
}

void Sequence::thin_marks() {
  int64_t held = 0;
  for (const Mark& m : marks_) held += m.saved->bytes();
  while (static_cast<int64_t>(marks_.size()) > most_marks_ || (marks_.size() > 1 && held > std::max(bytes(), int64_t{256} << 20))) {
    size_t least = 0;                                              // whose absence leaves the smallest gap for its distance from the end
    double smallest = 0;
    for (size_t i = 0; i + 1 < marks_.size(); ++i) {
      const double gap = static_cast<double>(marks_[i + 1].length - (i ? marks_[i - 1].length : 0)) / static_cast<double>(length_ - marks_[i].length + step_back);
      if (i == 0 || gap < smallest) least = i, smallest = gap;
    }
    held -= marks_[least].saved->bytes();
    marks_.erase(marks_.begin() + static_cast<ptrdiff_t>(least));
  }
}

// After going back to `length` another text may follow: what a mark remembers of more than that is cut off, or the mark goes.
void Sequence::trim_marks(int64_t length) {
  while (!marks_.empty() && marks_.back().length > length) {
    Mark last = marks_.back();
    marks_.pop_back();
    if (length && (marks_.empty() || marks_.back().length < length) && reaches(last.saved->deltas, last.saved->windows, length)) {
      marks_.push_back({length, last.saved});
      return;
    }
  }
}

bool Sequence::reaches(const std::vector<DeltaState>& deltas, const std::vector<KvCache>& kvs, int64_t length) const {
  return std::all_of(deltas.begin(), deltas.end(), [&](const DeltaState& d) { return d.base <= length; }) &&
         std::all_of(kvs.begin(), kvs.end(), [&](const KvCache& kv) { return kv.can_roll_back(length); });
}

void Sequence::clear() {
  length_ = 0;
  for (KvCache& kv : kvs_) kv.clear();
  for (DeltaState& d : deltas_) d.clear();
}

bool Sequence::rollback(int64_t length) {
  if (length < 0 || length > length_) throw ArgumentError("cannot roll back to " + std::to_string(length) + " tokens: the sequence has " + std::to_string(length_));
  if (length == length_) return true;
  trim_marks(length);
  if (length == 0) {
    clear();
    return true;
  }
  if (reaches(deltas_, kvs_, length)) {
    length_ = length;
  } else if (!marks_.empty()) {
    const Mark& last = marks_.back();
    length_ = last.length;
    deltas_ = last.saved->deltas;
    size_t window = 0;
    for (KvCache& kv : kvs_)
      if (kv.slides() && window < last.saved->windows.size()) kv = last.saved->windows[window++];
  } else {
    clear();
    return false;
  }
  for (DeltaState& d : deltas_) d.pending = length_ - d.base;
  return length_ == length;
}

int64_t Sequence::bytes() const {
  int64_t total = 0;
  for (const KvCache& kv : kvs_) total += kv.bytes();
  for (const DeltaState& d : deltas_) total += d.bytes();
  return total;
}

std::vector<Point> Sequence::points() const {
  std::vector<Point> all;
  for (const Mark& m : marks_) all.push_back({m.length, m.saved->deltas.empty() ? 0 : m.length - m.saved->deltas[0].base});
  all.push_back({length_, deltas_.empty() ? 0 : deltas_[0].pending});
  return all;
}

std::vector<Sequence::Block> Sequence::all_blocks() const {
  std::vector<Block> all;
  for (const Mark& m : marks_) {
    for (DeltaState& d : m.saved->deltas) all.push_back({&d, nullptr, m.length});
    for (KvCache& kv : m.saved->windows) all.push_back({nullptr, &kv, m.length});
  }
  for (const DeltaState& d : deltas_) all.push_back({const_cast<DeltaState*>(&d), nullptr, length_});
  for (const KvCache& kv : kvs_) all.push_back({nullptr, const_cast<KvCache*>(&kv), length_});
  return all;
}

std::vector<int64_t> Sequence::block_bytes(const std::vector<StateSpec>& specs, cpu::KvType type, const std::vector<Point>& points) {
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < points.size(); ++i) {
    const auto [length, pending] = points[i];
    for (const StateSpec& s : specs)
      if (s.delta) sizes.push_back(DeltaState::block_bytes(*s.delta, length - pending, length));
    for (const StateSpec& s : specs)
      if (s.kv && (s.kv->window || i + 1 == points.size())) sizes.push_back(KvCache(*s.kv, type).block_bytes(length));
  }
  return sizes;
}

int64_t Sequence::block_bytes(int64_t index) const {
  const Block b = all_blocks().at(static_cast<size_t>(index));
  return b.delta ? DeltaState::block_bytes(b.delta->spec, b.delta->base, b.length) : b.kv->block_bytes(b.length);
}

void Sequence::write_block(int64_t index, uint8_t* out) const {
  const Block b = all_blocks().at(static_cast<size_t>(index));
  b.delta ? b.delta->write_block(b.length, out) : b.kv->write_block(b.length, out);
}

void Sequence::read_block(int64_t index, const uint8_t* in) {
  const Block b = all_blocks().at(static_cast<size_t>(index));
  b.delta ? b.delta->read_block(b.length, in) : b.kv->restore(b.length, in);
}

void Sequence::set_points(const std::vector<Point>& points) {
  auto fail = [](const std::string& what) { throw ArgumentError("a sequence's points: " + what); };
  if (length_ || !marks_.empty()) fail("the sequence is not empty");
  if (points.empty() || points.size() > 64) fail(std::to_string(points.size()) + "; expected 1 to 64");
  const bool slides = std::any_of(kvs_.begin(), kvs_.end(), [](const KvCache& kv) { return kv.slides(); });
  if (points.size() > 1 && deltas_.empty() && !slides) fail("marks of a model that needs none");
  int64_t before = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    const auto [length, pending] = points[i];
    const bool last = i + 1 == points.size();
    if (length < (last ? before : before + 1) || length > (int64_t{1} << 31)) fail("length " + std::to_string(length) + " after " + std::to_string(before));
    if (pending < 0 || pending > std::min(length, deltas_.empty() ? 0 : step_back)) fail(std::to_string(pending) + " pending of " + std::to_string(length));
    before = length;
    if (last) {
      length_ = length;
      for (DeltaState& d : deltas_) d.base = length - pending, d.pending = pending;
      continue;
    }
    auto saved = std::make_shared<Saved>();
    saved->deltas = deltas_;                                       // empty ones, of the right shapes
    for (DeltaState& d : saved->deltas) d.base = length - pending, d.pending = pending;
    for (const KvCache& kv : kvs_)
      if (kv.slides()) saved->windows.push_back(kv);
    marks_.push_back({length, saved});
  }
  most_marks_ = std::max<int64_t>(most_marks_, static_cast<int64_t>(marks_.size()));
}

}  // namespace skipstone
