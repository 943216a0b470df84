// What a sequence remembers between passes, on a card: csrc/runtime/state.h with device memory, and the same rules for going back.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "backends/gpu/memory.h"
#include "backends/gpu/pass.h"
#include "runtime/state.h"

namespace skipstone::gpu {

class GpuSequence {
 public:
  GpuSequence(std::shared_ptr<Driver> driver, const std::vector<StateSpec>& specs, cpu::KvType type);
  GpuSequence(GpuSequence&&) = default;
  int64_t length() const { return length_; }
  bool rollback(int64_t length);                           // as Sequence::rollback
  GpuSequence copy() const;
  int64_t bytes() const;

  void reserve(int64_t end);
  void advance(int64_t rows);                              // a pass has appended them
  void mark();                                             // remembers the recurrent states here; one mark is kept
  void describe(PartRecord& record) const;
  void describe_borrowed(PartRecord& record) const;
  Cache cache(int64_t state) const;
  int64_t delta_offset(int64_t state) const { return delta_offset_[static_cast<size_t>(state)]; }
  const std::vector<StateSpec>& specs() const { return specs_; }

 private:
  struct Mark {
    int64_t length, base, pending;
    Memory delta;
  };
  int cache_type() const;                                  // as Cache::type
  int64_t chunk_bytes(size_t state) const;
  int64_t ring(size_t state) const;
  int64_t slab_bytes(int64_t chunk) const;                 // all states' chunks of 256 positions
  bool windows_reach(int64_t length) const;
  void write_table();
  void clear();

  std::shared_ptr<Driver> driver_;
  std::vector<StateSpec> specs_;
  cpu::KvType type_;
  int64_t length_ = 0, high_ = 0;                          // high_: one past the highest position ever written
  std::vector<Memory> slabs_;
  Memory table_;
  int64_t capacity_ = 0;                                   // chunks a state that the table has room for
  std::vector<int64_t> delta_offset_;
  int64_t delta_floats_ = 0, base_ = 0, pending_ = 0;
  Memory delta_;
  std::shared_ptr<const Mark> mark_;
};

int64_t kv_ring(const KvSpec& spec);

}  // namespace skipstone::gpu
