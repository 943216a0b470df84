#include "backends/gpu/sequence.h"

#include <algorithm>

#include "runtime/error.h"

namespace skipstone::gpu {

int64_t kv_ring(const KvSpec& spec) {
  return spec.window ? (spec.window + 1 + max_pass_rows + 2 * step_back + chunk_positions - 1) / chunk_positions + 1 : 0;
}

GpuSequence::GpuSequence(std::shared_ptr<Driver> driver, const std::vector<StateSpec>& specs, cpu::KvType type) : driver_(std::move(driver)), specs_(specs), type_(type) {
  for (const StateSpec& s : specs_)
    if (s.kv && cpu::in_blocks(type) && s.kv->head % 32) throw ArgumentError("kv_type: caches in q8_0 and q4_0 need heads that are a multiple of 32; this model has heads of " + std::to_string(s.kv->head) + ". Use f16");
  for (const StateSpec& s : specs_) {
    delta_offset_.push_back(delta_floats_);
    if (s.delta) delta_floats_ += delta_floats(s.delta->value_heads, s.delta->head, s.delta->channels);
  }
  if (!delta_floats_) return;
  delta_ = Memory(driver_, 4 * delta_floats_);
  driver_->zero(delta_.address(), delta_.bytes());
}

int GpuSequence::cache_type() const {
  switch (type_) {
    case cpu::KvType::f32: return 0;
    case cpu::KvType::f16: return 1;
    case cpu::KvType::bf16: return 2;
    case cpu::KvType::q8_0: return 3;
    case cpu::KvType::q4_0: return 4;
  }
  return 1;
}

int64_t GpuSequence::chunk_bytes(size_t state) const {
  const KvSpec& kv = *specs_[state].kv;
  return 2 * kv.kv_heads * plane_bytes(static_cast<int>(kv.head), cache_type());
}
int64_t GpuSequence::ring(size_t state) const { return kv_ring(*specs_[state].kv); }
int64_t GpuSequence::slab_bytes(int64_t chunk) const {
  int64_t total = 0;
  for (size_t s = 0; s < specs_.size(); ++s)
    if (specs_[s].kv && (!ring(s) || chunk < ring(s))) total += chunk_bytes(s);
  return total;
}

void GpuSequence::write_table() {
  std::vector<Address> table(specs_.size() * static_cast<size_t>(capacity_));
  for (size_t c = 0; c < slabs_.size(); ++c) {
    Address at = slabs_[c].address();
    for (size_t s = 0; s < specs_.size(); ++s) {
      if (!specs_[s].kv || (ring(s) && static_cast<int64_t>(c) >= ring(s))) continue;
      table[s * static_cast<size_t>(capacity_) + c] = at;
      at += static_cast<Address>(chunk_bytes(s));
    }
  }
  driver_->write(table_.address(), table.data(), static_cast<int64_t>(table.size() * sizeof(Address)));
}

void GpuSequence::reserve(int64_t end) {
  high_ = std::max(high_, end);
  const int64_t needed = (end + chunk_positions - 1) / chunk_positions;
  if (static_cast<int64_t>(slabs_.size()) >= needed || std::none_of(specs_.begin(), specs_.end(), [](const StateSpec& s) { return s.kv.has_value(); })) return;
  while (static_cast<int64_t>(slabs_.size()) < needed) {
    const int64_t bytes = slab_bytes(static_cast<int64_t>(slabs_.size()));
    slabs_.emplace_back(bytes ? Memory(driver_, bytes) : Memory());
    if (bytes) driver_->zero(slabs_.back().address(), bytes);
  }
  if (needed > capacity_) {
    capacity_ = std::max<int64_t>(2 * capacity_, std::max<int64_t>(needed, 16));
    table_ = Memory(driver_, static_cast<int64_t>(specs_.size()) * capacity_ * 8);
  }
  write_table();
}

void GpuSequence::advance(int64_t rows) {
  pending_ = std::min(rows, step_back);
  base_ = length_ + rows - pending_;
  length_ += rows;
  if (rows > step_back) mark();
}

void GpuSequence::mark() {
  if (!delta_floats_ || !length_ || (mark_ && mark_->length == length_)) return;
  auto mark = std::make_shared<Mark>(Mark{length_, base_, pending_, Memory(driver_, delta_.bytes())});
  driver_->copy(mark->delta.address(), delta_.address(), delta_.bytes());
  mark_ = mark;
}

void GpuSequence::describe(PartRecord& r) const {
  r.chunks = table_.as<const unsigned long long>();
  r.capacity = static_cast<int>(capacity_);
  r.delta = delta_.as<float>();
  r.pending = static_cast<int>(pending_);
}
void GpuSequence::describe_borrowed(PartRecord& r) const {
  r.borrowed = table_.as<const unsigned long long>();
  r.borrowed_capacity = static_cast<int>(capacity_);
  r.borrowed_length = static_cast<int>(length_);
}
Cache GpuSequence::cache(int64_t state) const {
  const size_t s = static_cast<size_t>(state);
  if (s >= specs_.size() || !specs_[s].kv) throw ModelError("the borrowed sequence has no cache " + std::to_string(state));
  const KvSpec& kv = *specs_[s].kv;
  return {static_cast<int>(state), cache_type(), static_cast<int>(kv.kv_heads), static_cast<int>(kv.head), static_cast<int>(kv.window), static_cast<int>(ring(s))};
}

bool GpuSequence::windows_reach(int64_t length) const {
  for (size_t s = 0; s < specs_.size(); ++s)
    if (specs_[s].kv && ring(s) && std::max<int64_t>(0, length - specs_[s].kv->window - 1) < high_ - ring(s) * chunk_positions) return false;
  return true;
}

void GpuSequence::clear() {
  length_ = high_ = base_ = pending_ = 0;
  if (delta_floats_) driver_->zero(delta_.address(), delta_.bytes());
}

bool GpuSequence::rollback(int64_t length) {
  if (length < 0 || length > length_) throw ArgumentError("cannot roll back to " + std::to_string(length) + " tokens: the sequence has " + std::to_string(length_));
  if (length == length_) return true;
  if (mark_ && length < mark_->length) mark_.reset();      // another text may follow
  if (length == 0) {
    clear();
    return true;
  }
  if (windows_reach(length)) {
    if (!delta_floats_ || base_ <= length) {
      pending_ = length - base_;
      length_ = length;
      return true;
    }
    if (mark_ && mark_->length <= length && mark_->length > 0) {
      driver_->copy(delta_.address(), mark_->delta.address(), delta_.bytes());
      base_ = mark_->base;
      pending_ = mark_->pending;
      length_ = mark_->length;
      if (windows_reach(length_)) return length_ == length;
    }
  }
  clear();
  return false;
}

GpuSequence GpuSequence::copy() const {
  GpuSequence other(driver_, specs_, type_);
  other.length_ = length_;
  other.high_ = high_;
  other.base_ = base_;
  other.pending_ = pending_;
  other.mark_ = mark_;
  if (delta_floats_) driver_->copy(other.delta_.address(), delta_.address(), delta_.bytes());
  other.capacity_ = capacity_;
  if (!capacity_) return other;
  for (const Memory& slab : slabs_) {
    other.slabs_.emplace_back(slab.bytes() ? Memory(driver_, slab.bytes()) : Memory());
    if (slab.bytes()) driver_->copy(other.slabs_.back().address(), slab.address(), slab.bytes());
  }
  other.table_ = Memory(driver_, table_.bytes());
  other.write_table();
  return other;
}

int64_t GpuSequence::bytes() const {
  int64_t total = delta_.bytes();
  for (const Memory& slab : slabs_) total += slab.bytes();
  return total;
}

}  // namespace skipstone::gpu
