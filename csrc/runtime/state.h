// What a sequence remembers between passes, one state a layer: a cache of keys and values, or the state of a gated delta-net.
// Both step back for free by a few tokens, so that rejected drafts cost nothing.
#pragma once
#include <algorithm>
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
  void reserve(int64_t start, int64_t end);                        // room for positions < end; those from start on may then be written
  void* key(int64_t position, int64_t kv_head) const { return at(position, kv_head, 0); }
  void* value(int64_t position, int64_t kv_head) const { return at(position, kv_head, 1); }
  bool can_roll_back(int64_t length) const;                        // does a sequence of `length` still find its window?
  void clear() { high_ = low_ = 0; }
  int64_t bytes() const;
  const KvSpec& spec() const { return spec_; }
  cpu::KvType type() const { return type_; }
  bool slides() const { return ring_ > 0; }

  // The positions that a text of `length` tokens needs, a few steps back included: [kept_from, length), as one block for a file. restore makes
  // them the cache's contents.
  int64_t kept_from(int64_t length) const;
  int64_t block_bytes(int64_t length) const;
  void write_block(int64_t length, uint8_t* out) const;
  void restore(int64_t length, const uint8_t* block);

 private:
  void* at(int64_t position, int64_t kv_head, int which) const;
  int64_t chunk_bytes() const { return 2 * spec_.kv_heads * chunk_positions * row_bytes_; }
  template <class F> void each_run(int64_t length, F run) const;   // run(first position, positions, kv head, which) over what block_bytes counts
  static constexpr int64_t chunk_positions = cpu::chunk_positions;
  KvSpec spec_;
  cpu::KvType type_;
  int64_t row_bytes_, ring_;                                       // ring_: chunks, or 0 where nothing is dropped
  int64_t high_ = 0;                                               // one past the highest position ever written
  int64_t low_ = 0;                                                // positions before it were never here
  std::vector<std::shared_ptr<uint8_t>> chunks_;                   // a chunk that several caches share is copied before it is written
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

  // What a text of `length` tokens with `base` needs, as one block for a file.
  static int64_t block_bytes(const DeltaSpec& spec, int64_t base, int64_t length);
  void write_block(int64_t length, uint8_t* out) const;
  void read_block(int64_t length, const uint8_t* in);
};

struct StateSpec {
  std::optional<KvSpec> kv;
  std::optional<DeltaSpec> delta;
};

// A text's length at which its state is kept, and how many of its last tokens are still apart (DeltaState::pending).
struct Point {
  int64_t length, pending;
};

class Sequence {
 public:
  Sequence(const std::vector<StateSpec>& specs, cpu::KvType type);
  int64_t length() const { return length_; }
  // Goes back to `length` tokens. False where the state does not reach that far: then it holds fewer tokens, see length(), and the text up to
  // `length` must be read again (the same text gives the same bits).
  bool rollback(int64_t length);
  Sequence copy() const { return *this; }   // shares what neither of the two writes any more
  int64_t bytes() const;

  KvCache& kv(int64_t state);
  DeltaState& delta(int64_t state);
  void reserve(int64_t end);
  void advance(int64_t rows);               // a pass has appended rows tokens

  // Places to go back to. mark() remembers the recurrent states and sliding windows here; at most `most` marks are kept, and no more memory in them
  // than the sequence itself or 256 MiB: the newest always, the others the closer together the nearer they are to the end.
  void keep_marks(int64_t most);
  void mark();

  // For files: the marks, oldest first, and the sequence itself as the last point. Blocks: of every point its recurrent states and sliding windows,
  // of the last one all caches. restore fills a new sequence: the points first, then its blocks one by one.
  std::vector<Point> points() const;
  int64_t blocks() const { return static_cast<int64_t>(all_blocks().size()); }
  int64_t block_bytes(int64_t index) const;
  static std::vector<int64_t> block_bytes(const std::vector<StateSpec>& specs, cpu::KvType type, const std::vector<Point>& points);
  void write_block(int64_t index, uint8_t* out) const;
  void set_points(const std::vector<Point>& points);
  void read_block(int64_t index, const uint8_t* in);

 private:
  struct Saved {
    std::vector<DeltaState> deltas;
    std::vector<KvCache> windows;           // of the sliding caches
    int64_t bytes() const;
  };
  struct Mark {
    int64_t length;                         // at most that of saved: the text may have gone back a few tokens since
    std::shared_ptr<Saved> saved;           // not written any more, other marks may share it
  };
  struct Block {
    DeltaState* delta;
    KvCache* kv;
    int64_t length;
  };
  std::vector<Block> all_blocks() const;
  bool reaches(const std::vector<DeltaState>& deltas, const std::vector<KvCache>& kvs, int64_t length) const;
  void trim_marks(int64_t length);
  void thin_marks();
  void clear();
  int64_t length_ = 0;
  std::vector<int64_t> index_;              // of a state within its kind
  std::vector<KvCache> kvs_;
  std::vector<DeltaState> deltas_;
  std::vector<Mark> marks_;                 // by length
  int64_t most_marks_ = 1;
};

}  // namespace skipstone
