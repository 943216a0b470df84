// attention: [q (rows, heads * head), k, v (rows, kv_heads * head)] -> [o (rows, heads * head)]. k and v go to the sequence's cache, in its type,
// then every row attends to the positions t of its sequence with 0 <= p - t (< window, where there is one).
// shared_attention: [q] -> [o], the same over the cache that an earlier `attention` of the pass fills, with no keys and values of its own.
// attend: [q] -> [o], reads another program's cache at the positions 0 .. n-1 that it has processed (window: the last `window` of them).
//
// Positions are cut at multiples of 256 from 0. A unit of work is one key/value head, the rows of one sequence, and either one chunk (few rows:
// the results are joined afterwards, in order, row by row) or all chunks (many rows: joined as they come). Both do the same arithmetic.
#include <algorithm>

#include "ops/rowwise.h"
#include "runtime/error.h"

namespace skipstone {
namespace {

constexpr int64_t few_rows = 32, tile_rows = 8;

struct Unit {
  const Part* part;
  int64_t first, rows;           // of the pass
  int64_t kv_head, head_first, heads;   // query heads of this kv head
  int64_t chunk, chunks;         // first chunk and how many
};

enum class Cache { own, shared, borrowed };

class Attention final : public Operation {
 public:
  Attention(const Attributes& a, Setting& s, Cache cache)
      : Operation(a), stores_(cache == Cache::own), borrows_(cache == Cache::borrowed), state_(borrows_ ? a.integer("borrowed_state") : a.integer("state")), heads_(positive(a, "heads", 4096)), kv_heads_(positive(a, "kv_heads", 4096)),
        head_(head_size(a)), window_(a.integer("window")), scale_(a.number("scale")) {
    if (heads_ % kv_heads_) a.fail(std::to_string(kv_heads_) + " key/value heads do not divide " + std::to_string(heads_) + " query heads");
    if (window_ < 0) a.fail("a window cannot be negative");
    expect_width(a, s, inputs[0], heads_ * head_);
    expect_width(a, s, outputs[0], heads_ * head_);
    if (borrows_) {
      s.borrows = true;
      if (state_ < 0) a.fail("parameter 'borrowed_state' cannot be negative");
      return;
    }
    for (size_t i = 1; i < inputs.size(); ++i) expect_width(a, s, inputs[i], kv_heads_ * head_);
    if (state_ < 0 || state_ >= static_cast<int64_t>(s.states.size()) || !s.states[state_].kv) a.fail("state " + std::to_string(state_) + " is not a cache of keys and values");
    const KvSpec& kv = *s.states[state_].kv;
    if (kv.kv_heads != kv_heads_ || kv.head != head_ || kv.window != window_) a.fail("state " + std::to_string(state_) + " has another shape");
  }

  int steps() const override { return 1; }
  bool rows_after() const override { return true; }
  std::vector<int> remembered() const override { return stores_ ? std::vector<int>{inputs[1], inputs[2]} : std::vector<int>{}; }

  void store(Pass& pass, int64_t first, int64_t last) override {
    if (!stores_ || units_store_) return;
    for (int64_t r = first; r < last; ++r)
      for (int64_t h = 0; h < kv_heads_; ++h) remember(pass, r, h);
  }
  bool reads_stored() const override { return stores_ && !units_store_; }

  void begin(Pass& pass, int members) override {
    const int64_t group = heads_ / kv_heads_, tail = first_row(pass);
    split_ = pass.rows <= few_rows;
    units_.clear();
    partial_chunks_ = 0;
    int64_t large_units = 0;                                    // a key/value head and a chunk
    for (const Part& part : pass.parts) {
      if (borrows_) {
        KvCache& kv = cache(part);
        if (kv.spec().kv_heads != kv_heads_ || kv.spec().head != head_) throw ModelError("the borrowed cache has another shape than the drafter expects");
        if (part.borrowed->length() < 1) throw ArgumentError("the borrowed sequence is empty; a drafter that reads its cache needs at least one processed token");
      }
      large_units += kv_heads_ * (last_chunk(part) - first_chunk(part));
    }
    // With few units the query heads of a group go to different members as well; otherwise a unit alone reads its chunk's keys and writes new ones.
    const int64_t pieces = split_ && large_units < members ? group : 1;
    units_store_ = split_ && pieces == 1;
    for (const Part& part : pass.parts) {
      const int64_t from = std::clamp<int64_t>(tail - part.first, 0, part.rows);
      if (split_) {
        const int64_t start = first_chunk(part), chunks = last_chunk(part) - start;
        partial_chunks_ = std::max(partial_chunks_, chunks);
        for (int64_t h = 0; h < kv_heads_; ++h)
          for (int64_t p = 0; p < pieces; ++p)
            for (int64_t c = 0; c < chunks; ++c) units_.push_back({&part, part.first + from, part.rows - from, h, h * group + group * p / pieces, group / pieces, start + c, 1});
        continue;
      }
      for (int64_t r = from; r < part.rows; r += tile_rows) {
        const int64_t rows = std::min(tile_rows, part.rows - r);
        int64_t low, high, unused;
        visible(part, part.first + r, low, unused);
        visible(part, part.first + r + rows - 1, unused, high);
        const int64_t start = low / cpu::chunk_positions, chunks = (high + cpu::chunk_positions - 1) / cpu::chunk_positions - start;
        for (int64_t h = 0; h < kv_heads_; ++h) units_.push_back({&part, part.first + r, rows, h, h * group, group, start, chunks});
      }
    }
    if (split_) {
      const size_t results = static_cast<size_t>(pass.rows * heads_ * partial_chunks_);
      if (partial_.size() < results * static_cast<size_t>(head_ + 2)) partial_.resize(results * static_cast<size_t>(head_ + 2));
    }
    const int64_t queries = (split_ ? std::min(pass.rows, few_rows) : tile_rows) * group;
    const int64_t floats = cpu::attention_scratch_floats(queries, head_) + 2 * queries * (head_ + 2) + 4 * queries + 4;
    for (int m = 0; m < members; ++m) pass.member_scratch(m, floats);
  }

  void step(Pass& pass, int, int member, int members) override {
    for (size_t u = static_cast<size_t>(member); u < units_.size(); u += static_cast<size_t>(members)) attend(pass, units_[u], member);
  }

  void after(Pass& pass, int64_t first, int64_t last) override {
    if (!split_) return;
    for (int64_t r = std::max(first, first_row(pass)); r < last; ++r)
      for (int64_t h = 0; h < heads_; ++h) join(pass, r, h);
  }

 private:
  KvCache& cache(const Part& part) const { return (borrows_ ? part.borrowed : part.sequence)->kv(state_); }

  void remember(Pass& pass, int64_t row, int64_t kv_head) {
    KvCache& kv = cache(pass.parts[pass.part_of[row]]);
    pass.kernels.store_kv(pass.row(inputs[1], row) + kv_head * head_, kv.key(pass.positions[row], kv_head), kv.type(), head_);
    pass.kernels.store_kv(pass.row(inputs[2], row) + kv_head * head_, kv.value(pass.positions[row], kv_head), kv.type(), head_);
  }

  // Positions [low, high) that the row sees.
  void visible(const Part& part, int64_t row, int64_t& low, int64_t& high) const {
    high = borrows_ ? part.borrowed->length() : part.start + (row - part.first) + 1;
    low = window_ ? std::max<int64_t>(0, high - window_) : 0;
  }

  float* partial(int64_t row, int64_t head, int64_t chunk) { return partial_.data() + ((row * heads_ + head) * partial_chunks_ + chunk) * (head_ + 2); }

  void attend(Pass& pass, const Unit& u, int member) {
    const int64_t queries = u.rows * u.heads;
    float* scratch = pass.member_scratch(member, 0);
    float* chunk_value = scratch + cpu::attention_scratch_floats(queries, head_);
    float* largest = chunk_value + queries * head_;
    float* total = largest + queries;
    float* running = total + queries;                           // per query: value, largest, total
    int32_t* first = reinterpret_cast<int32_t*>(running + queries * (head_ + 2));
    int32_t* last = first + queries;
    int64_t* offset = reinterpret_cast<int64_t*>((reinterpret_cast<uintptr_t>(last + queries) + 7) & ~uintptr_t{7});
    const float* q = pass.row(inputs[0], 0);
    for (int64_t i = 0; i < queries; ++i) offset[i] = (u.first + i / u.heads) * heads_ * head_ + (u.head_first + i % u.heads) * head_;
    KvCache& kv = cache(*u.part);
    if (units_store_ && stores_)
      for (int64_t r = u.part->first; r < u.part->first + u.part->rows; ++r)
        if (pass.positions[r] / cpu::chunk_positions == u.chunk) remember(pass, r, u.kv_head);
    if (!queries) return;
    for (int64_t c = u.chunk; c < u.chunk + u.chunks; ++c) {
      const int64_t base = c * cpu::chunk_positions;
      for (int64_t i = 0; i < queries; ++i) {
        int64_t low, high;
        visible(*u.part, u.first + i / u.heads, low, high);
        first[i] = static_cast<int32_t>(std::clamp<int64_t>(low - base, 0, cpu::chunk_positions));
        last[i] = static_cast<int32_t>(std::clamp<int64_t>(high - base, 0, cpu::chunk_positions));
      }
      pass.kernels.attention_chunk({q, offset, first, last, queries, head_, scale_, kv.type(), kv.key(base, u.kv_head), kv.value(base, u.kv_head), scratch, largest, total, chunk_value});
      for (int64_t i = 0; i < queries; ++i) {
        float* to = split_ ? partial(u.first + i / u.heads, u.head_first + i % u.heads, c - first_chunk(*u.part)) : running + i * (head_ + 2);
        if (split_ || c == u.chunk) to[head_ + 1] = 0.0f;
        pass.kernels.attention_join(to + head_, to + head_ + 1, to, largest[i], total[i], chunk_value + i * head_, head_);
      }
    }
    if (!split_)
      for (int64_t i = 0; i < queries; ++i) finish(pass, running + i * (head_ + 2), u.first + i / u.heads, u.head_first + i % u.heads);
  }

  // Chunks that the rows of a part see.
  int64_t first_chunk(const Part& part) const {
    int64_t low, high;
    visible(part, part.first, low, high);
    return low / cpu::chunk_positions;
  }
  int64_t last_chunk(const Part& part) const {
    int64_t low, high;
    visible(part, part.first + part.rows - 1, low, high);
    return (high + cpu::chunk_positions - 1) / cpu::chunk_positions;
  }

  // The results of a row's chunks, in order. They stay as they are, since other members may join them too.
  void join(Pass& pass, int64_t row, int64_t head) {
    const Part& part = pass.parts[pass.part_of[row]];
    const int64_t chunks = last_chunk(part) - first_chunk(part);
    const float* first = partial(row, head, 0);
    float* out = pass.row(outputs[0], row) + head * head_;
    float largest = first[head_], total = first[head_ + 1];
    if (chunks > 1) {
      std::copy_n(first, head_, out);
      for (int64_t c = 1; c < chunks; ++c) {
        const float* next = partial(row, head, c);
        pass.kernels.attention_join(&largest, &total, out, next[head_], next[head_ + 1], next, head_);
      }
      first = out;
    }
    pass.kernels.scale(first, out, head_, total > 0.0f ? 1.0f / total : 0.0f);
  }

  void finish(Pass& pass, const float* sum, int64_t row, int64_t head) {
    const float total = sum[head_ + 1];
    pass.kernels.scale(sum, pass.row(outputs[0], row) + head * head_, head_, total > 0.0f ? 1.0f / total : 0.0f);
  }

  const bool stores_, borrows_;
  const int64_t state_, heads_, kv_heads_, head_, window_;
  const float scale_;
  bool split_ = false, units_store_ = false;
  std::vector<Unit> units_;
  int64_t partial_chunks_ = 0;
  std::vector<float> partial_;   // per row, head, chunk: value, largest, total
};

}  // namespace

std::unique_ptr<Operation> make_attention(const Attributes& a, Setting& s) {
  expect_counts(a, 3, 1);
  return std::make_unique<Attention>(a, s, Cache::own);
}
std::unique_ptr<Operation> make_attend(const Attributes& a, Setting& s) {
  expect_counts(a, 1, 1);
  return std::make_unique<Attention>(a, s, Cache::borrowed);
}
std::unique_ptr<Operation> make_shared_attention(const Attributes& a, Setting& s) {
  expect_counts(a, 1, 1);
  return std::make_unique<Attention>(a, s, Cache::shared);
}

}  // namespace skipstone
