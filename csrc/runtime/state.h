// What a sequence remembers between passes, one state a layer: a cache of keys and values, or the state of a gated delta-net.
// Both step back for free by a few tokens, so that rejected drafts cost nothing.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "backends/cpu/kernels.h"

namespace skipstone {

constexpr int64_t max_pass_rows = 512;      // longer runs are cut; no bit depends on where
constexpr int64_t step_back = 32;           // tokens that every state can always go back

struct KvSpec {
  int64_t kv_heads, head, window;           // window 0: all positions are kept
};
struct DeltaSpec {
  int64_t key_heads, value_heads, head, channels, kernel;
};

// Keys and values in chunks of 256 positions; position p lies in chunk (p / 256) % ring, so a sliding window reuses its oldest chunk.
class KvCache {
 public:
  KvCache(const KvSpec& spec, cpu::KvType type);
  void reserve(int64_t end);                                       // room for positions < end
  void* key(int64_t position, int64_t kv_head) const { return at(position, kv_head, 0); }
  void* value(int64_t position, int64_t kv_head) const { return at(position, kv_head, 1); }
  bool can_roll_back(int64_t length) const;                        // does a sequence of `length` still find its window?
  void clear() { high_ = 0; }
  int64_t bytes() const;
  KvCache copy() const;
  const KvSpec& spec() const { return spec_; }
  cpu::KvType type() const { return type_; }

 private:
  void* at(int64_t position, int64_t kv_head, int which) const;
  KvSpec spec_;
  cpu::KvType type_;
  int64_t value_bytes_, ring_;                                     // ring_: chunks, or 0 where nothing is dropped
  int64_t high_ = 0;                                               // one past the highest position ever written
  std::vector<std::shared_ptr<uint8_t>> chunks_;
};

// The delta-net's matrices at position base, and what the tokens from there on did to them: (gamma, k, delta) of up to 32 tokens.
struct DeltaState {
  explicit DeltaState(const DeltaSpec& spec);
  DeltaSpec spec;
  int64_t base = 0, pending = 0;            // the sequence is base + pending tokens long
  std::vector<float> matrix;                // [value head][key][value]
  std::vector<float> gamma, k, delta;       // [value head][32], [value head][32][head] twice
  std::vector<float> inputs;                // the convolution's inputs, position p at [p % ring][channels]
  static constexpr int64_t ring = 64;
  void clear();
  int64_t bytes() const;
};

struct StateSpec {
  std::optional<KvSpec> kv;
  std::optional<DeltaSpec> delta;
};

class Sequence {
 public:
  Sequence(const std::vector<StateSpec>& specs, cpu::KvType type);
  int64_t length() const { return length_; }
  // Goes back to `length` tokens. False where the state does not reach that far: then it holds fewer tokens, see length(), and the text up to
  // `length` must be read again (the same text gives the same bits).
  bool rollback(int64_t length);
  Sequence copy() const;
  int64_t bytes() const;

  KvCache& kv(int64_t state);
  DeltaState& delta(int64_t state);
  void reserve(int64_t end);
  void advance(int64_t rows);               // a pass has appended rows tokens
  void mark();                              // remembers the recurrent states here, as a place to go back to

 private:
  struct Mark {
    int64_t length;
    std::vector<DeltaState> deltas;
  };
  void clear();
  int64_t length_ = 0;
  std::vector<int64_t> index_;              // of a state within its kind
  std::vector<KvCache> kvs_;
  std::vector<DeltaState> deltas_;
  std::shared_ptr<const Mark> mark_;
};

}  // namespace skipstone
