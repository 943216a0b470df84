// block_attention: [q (rows, heads * head), k, v (rows, kv_heads * head)] -> [o (rows, heads * head)], for block drafters. The rows of a part stand
// after the text of another program's sequence, whose cache is read and stays as it is; the rows' own keys and values live for this pass alone.
// Row j at position p = n + j sees the positions t < n of the text with p - t < window (all, where there is no window) and of its block
// the rows i with |j - i| < window; with `causal` only those with i <= j.
//
// A unit of work is a key/value head of a part: chunks of the text in order, then the block, joined as they come.
#include <algorithm>
#include <cstring>

#include "ops/rowwise.h"
#include "runtime/error.h"

namespace skipstone {
namespace {

class BlockAttention final : public Operation {
 public:
  BlockAttention(const Attributes& a, Setting& s)
      : Operation(a), state_(a.integer("borrowed_state")), heads_(positive(a, "heads", 4096)), kv_heads_(positive(a, "kv_heads", 4096)), head_(head_size(a)),
        window_(a.integer("window")), causal_(a.integer("causal") != 0), scale_(a.number("scale")) {
    if (heads_ % kv_heads_) a.fail(std::to_string(kv_heads_) + " key/value heads do not divide " + std::to_string(heads_) + " query heads");
    if (window_ < 0) a.fail("a window cannot be negative");
    if (state_ < 0) a.fail("parameter 'borrowed_state' cannot be negative");
    for (int id : {inputs[0], outputs[0]}) expect_width(a, s, id, heads_ * head_);
    for (int id : {inputs[1], inputs[2]}) expect_width(a, s, id, kv_heads_ * head_);
    s.borrows = true;
  }
  int steps() const override { return 1; }
  bool whole_parts() const override { return true; }

  void begin(Pass& pass, int members) override {
    int64_t most = 0;
    for (const Part& part : pass.parts) {
      const KvSpec& spec = part.borrowed->kv(state_).spec();
      if (spec.kv_heads != kv_heads_ || spec.head != head_) throw ModelError("the borrowed cache has another shape than the drafter expects");
      if (part.rows > cpu::chunk_positions) throw ArgumentError("a block of " + std::to_string(part.rows) + " rows; expected at most " + std::to_string(cpu::chunk_positions));
      most = std::max(most, part.rows);
    }
    const int64_t queries = most * (heads_ / kv_heads_);
    const int64_t floats = cpu::attention_scratch_floats(queries, head_) + 2 * padded(most) * head_ + 2 * queries * (head_ + 2) + 4 * queries + 4;
    for (int m = 0; m < members; ++m) pass.member_scratch(m, floats);
  }

  void step(Pass& pass, int, int member, int members) override {
    int64_t unit = 0;
    for (const Part& part : pass.parts)
      for (int64_t h = 0; h < kv_heads_; ++h)
        if (unit++ % members == member) attend(pass, part, h, member);
  }

 private:
  static int64_t padded(int64_t rows) { return (rows + 31) / 32 * 32; }          // kernels read 32 positions at a time

  void attend(Pass& pass, const Part& part, int64_t kv_head, int member) {
    const int64_t group = heads_ / kv_heads_, queries = part.rows * group, text = part.borrowed->length(), room = padded(part.rows);
    float* scratch = pass.member_scratch(member, 0);
    float* keys = scratch + cpu::attention_scratch_floats(queries, head_);
    float* values = keys + room * head_;
    float* value = values + room * head_;                       // of one chunk: value, largest, total
    float* largest = value + queries * head_;
    float* total = largest + queries;
    float* running = total + queries;                           // the same per query, together
    int32_t* first = reinterpret_cast<int32_t*>(running + queries * (head_ + 2));
    int32_t* last = first + queries;
    int64_t* offset = reinterpret_cast<int64_t*>((reinterpret_cast<uintptr_t>(last + queries) + 7) & ~uintptr_t{7});
    for (int64_t i = 0; i < queries; ++i) {
      offset[i] = (part.first + i / group) * heads_ * head_ + (kv_head * group + i % group) * head_;
      running[i * (head_ + 2) + head_ + 1] = 0.0f;
    }
    auto chunk = [&](cpu::KvType type, const void* k, const void* v) {
      pass.kernels.attention_chunk({pass.row(inputs[0], 0), offset, first, last, queries, head_, scale_, type, k, v, scratch, largest, total, value});
      for (int64_t i = 0; i < queries; ++i) {
        float* to = running + i * (head_ + 2);
        pass.kernels.attention_join(to + head_, to + head_ + 1, to, largest[i], total[i], value + i * head_, head_);
      }
    };
    KvCache& kv = part.borrowed->kv(state_);
    auto low = [&](int64_t j) { return window_ ? std::max<int64_t>(0, text + j - window_ + 1) : 0; };
    for (int64_t base = low(0) / cpu::chunk_positions * cpu::chunk_positions; base < text; base += cpu::chunk_positions) {
      for (int64_t i = 0; i < queries; ++i) {
        first[i] = static_cast<int32_t>(std::clamp<int64_t>(low(i / group) - base, 0, cpu::chunk_positions));
        last[i] = static_cast<int32_t>(std::clamp<int64_t>(text - base, 0, cpu::chunk_positions));
      }
      chunk(kv.type(), kv.key(base, kv_head), kv.value(base, kv_head));
    }
    memset(keys, 0, static_cast<size_t>(2 * room * head_) * sizeof(float));
    for (int64_t j = 0; j < part.rows; ++j) {
      std::copy_n(pass.row(inputs[1], part.first + j) + kv_head * head_, head_, keys + j * head_);
      std::copy_n(pass.row(inputs[2], part.first + j) + kv_head * head_, head_, values + j * head_);
    }
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t j = i / group;
      first[i] = static_cast<int32_t>(window_ ? std::max<int64_t>(0, j - window_ + 1) : 0);
      last[i] = static_cast<int32_t>(causal_ ? j + 1 : window_ ? std::min(part.rows, j + window_) : part.rows);
    }
    chunk(cpu::KvType::f32, keys, values);
    for (int64_t i = 0; i < queries; ++i) {
      const float* sum = running + i * (head_ + 2);
      pass.kernels.scale(sum, pass.row(outputs[0], part.first + i / group) + (kv_head * group + i % group) * head_, head_, 1.0f / sum[head_ + 1]);
    }
  }

  const int64_t state_, heads_, kv_heads_, head_, window_;
  const bool causal_;
  const float scale_;
};

}  // namespace

std::unique_ptr<Operation> make_block_attention(const Attributes& a, Setting& s) {
  expect_counts(a, 3, 1);
  return std::make_unique<BlockAttention>(a, s);
}

}  // namespace skipstone
