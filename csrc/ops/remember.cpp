// remember: [k, v (rows, kv_heads * head)] -> [], keys and values go to the sequence's cache. Nobody asks with them in this pass.
#include "ops/rowwise.h"

namespace skipstone {
namespace {

class Remember final : public Operation {
 public:
  Remember(const Attributes& a, Setting& s) : Operation(a), state_(a.integer("state")) {
    if (state_ < 0 || state_ >= static_cast<int64_t>(s.states.size()) || !s.states[static_cast<size_t>(state_)].kv) a.fail("state " + std::to_string(state_) + " is not a cache of keys and values");
    spec_ = *s.states[static_cast<size_t>(state_)].kv;
    for (int id : inputs) expect_width(a, s, id, spec_.kv_heads * spec_.head);
  }
  std::vector<int> remembered() const override { return inputs; }
  void store(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) {
      KvCache& kv = pass.parts[static_cast<size_t>(pass.part_of[static_cast<size_t>(r)])].sequence->kv(state_);
      const int64_t position = pass.positions[static_cast<size_t>(r)];
      for (int64_t h = 0; h < spec_.kv_heads; ++h) {
        pass.kernels.store_kv(pass.row(inputs[0], r) + h * spec_.head, kv.key(position, h), kv.type(), spec_.head);
        pass.kernels.store_kv(pass.row(inputs[1], r) + h * spec_.head, kv.value(position, h), kv.type(), spec_.head);
      }
    }
  }

 private:
  const int64_t state_;
  KvSpec spec_;
};

}  // namespace

std::unique_ptr<Operation> make_remember(const Attributes& a, Setting& s) {
  expect_counts(a, 2, 0);
  return std::make_unique<Remember>(a, s);
}

}  // namespace skipstone
