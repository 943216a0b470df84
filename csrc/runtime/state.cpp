#include "runtime/state.h"

#include <algorithm>
#include <cstring>

#include "runtime/error.h"
#include "runtime/weight.h"

namespace skipstone {

using cpu::chunk_positions;

KvCache::KvCache(const KvSpec& spec, cpu::KvType type)
    : spec_(spec),
      type_(type),
      value_bytes_(type == cpu::KvType::f32 ? 4 : 2),
      // The window (and one more, which Gemma's assistant reads), a whole pass, what may be rolled back, and the chunk being overwritten.
      ring_(spec.window ? (spec.window + 1 + max_pass_rows + 2 * step_back + chunk_positions - 1) / chunk_positions + 1 : 0) {}

void KvCache::reserve(int64_t end) {
  int64_t needed = (end + chunk_positions - 1) / chunk_positions;
  if (ring_) needed = std::min(needed, ring_);
  const int64_t size = 2 * spec_.kv_heads * chunk_positions * spec_.head * value_bytes_;
  while (static_cast<int64_t>(chunks_.size()) < needed) {
    chunks_.push_back(allocate(size));
    memset(chunks_.back().get(), 0, static_cast<size_t>(size));
  }
  high_ = std::max(high_, end);
}

void* KvCache::at(int64_t position, int64_t kv_head, int which) const {
  int64_t chunk = position / chunk_positions;
  if (ring_) chunk %= ring_;
  const int64_t row = (which * spec_.kv_heads + kv_head) * chunk_positions + position % chunk_positions;
  return chunks_[static_cast<size_t>(chunk)].get() + row * spec_.head * value_bytes_;
}

bool KvCache::can_roll_back(int64_t length) const {
  return !ring_ || std::max<int64_t>(0, length - spec_.window - 1) >= high_ - ring_ * chunk_positions;
}

int64_t KvCache::bytes() const { return static_cast<int64_t>(chunks_.size()) * 2 * spec_.kv_heads * chunk_positions * spec_.head * value_bytes_; }

KvCache KvCache::copy() const {
  KvCache other = *this;
  const int64_t size = 2 * spec_.kv_heads * chunk_positions * spec_.head * value_bytes_;
  for (auto& chunk : other.chunks_) {
    auto fresh = allocate(size);
    memcpy(fresh.get(), chunk.get(), static_cast<size_t>(size));
    chunk = fresh;
  }
  return other;
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
  for (KvCache& kv : kvs_) kv.reserve(end);
}

void Sequence::advance(int64_t rows) {
  length_ += rows;
  for (DeltaState& d : deltas_) {
    d.pending = std::min(rows, step_back);
    d.base = length_ - d.pending;
  }
}

void Sequence::mark() {
  if (!deltas_.empty()) mark_ = std::make_shared<const Mark>(Mark{length_, deltas_});
}

void Sequence::clear() {
  length_ = 0;
  for (KvCache& kv : kvs_) kv.clear();
  for (DeltaState& d : deltas_) d.clear();
}

bool Sequence::rollback(int64_t length) {
  if (length < 0 || length > length_) throw ArgumentError("cannot roll back to " + std::to_string(length) + " tokens: the sequence has " + std::to_string(length_));
  if (length == length_) return true;
  if (mark_ && length < mark_->length) mark_.reset();            // another text may follow
  if (length == 0) {
    clear();
    return true;
  }
  const bool windows = std::all_of(kvs_.begin(), kvs_.end(), [&](const KvCache& kv) { return kv.can_roll_back(length); });
  if (windows && std::all_of(deltas_.begin(), deltas_.end(), [&](const DeltaState& d) { return d.base <= length; })) {
    for (DeltaState& d : deltas_) d.pending = length - d.base;
    length_ = length;
    return true;
  }
  if (windows && mark_ && mark_->length <= length && mark_->length > 0) {
    deltas_ = mark_->deltas;
    length_ = mark_->length;
    // The marked state may itself go back a little, and its windows must still be there.
    if (std::all_of(kvs_.begin(), kvs_.end(), [&](const KvCache& kv) { return kv.can_roll_back(length_); })) return length_ == length;
  }
  clear();
  return false;
}

Sequence Sequence::copy() const {
  Sequence other = *this;
  for (KvCache& kv : other.kvs_) kv = kv.copy();
  return other;
}

int64_t Sequence::bytes() const {
  int64_t total = 0;
  for (const KvCache& kv : kvs_) total += kv.bytes();
  for (const DeltaState& d : deltas_) total += d.bytes();
  return total;
}

}  // namespace skipstone
