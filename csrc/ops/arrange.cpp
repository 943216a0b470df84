// split_heads: [x (rows, heads * 2 * head)] -> [a, b (rows, heads * head)], each head's first half to a, second to b.
// concat: [a (rows, A), b (rows, B)] -> [y (rows, A + B)].   slice: [x (rows, W)] -> [y (rows, N)], x's values offset .. offset + N - 1.
#include <cstring>

#include "ops/rowwise.h"

namespace skipstone {
namespace {

class SplitHeads final : public Operation {
 public:
  SplitHeads(const Attributes& a, Setting& s) : Operation(a), head_(positive(a, "head")), heads_(s.widths[inputs[0]] / (2 * head_)) {
    expect_width(a, s, inputs[0], 2 * head_ * heads_);
    for (int output : outputs) expect_width(a, s, output, head_ * heads_);
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    const size_t size = static_cast<size_t>(head_) * sizeof(float);
    for (int64_t r = first; r < last; ++r)
      for (int64_t h = 0; h < heads_; ++h)
        for (int part = 0; part < 2; ++part) memcpy(pass.row(outputs[part], r) + h * head_, pass.row(inputs[0], r) + (2 * h + part) * head_, size);
  }

 private:
  int64_t head_, heads_;
};

class Concat final : public Operation {
 public:
  Concat(const Attributes& a, Setting& s) : Operation(a), a_(s.widths[inputs[0]]), b_(s.widths[inputs[1]]) { expect_width(a, s, outputs[0], a_ + b_); }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) {
      memcpy(pass.row(outputs[0], r), pass.row(inputs[0], r), static_cast<size_t>(a_) * sizeof(float));
      memcpy(pass.row(outputs[0], r) + a_, pass.row(inputs[1], r), static_cast<size_t>(b_) * sizeof(float));
    }
  }

 private:
  int64_t a_, b_;
};

class Slice final : public Operation {
 public:
  Slice(const Attributes& a, Setting& s) : Operation(a), offset_(a.integer("offset")), width_(s.widths[outputs[0]]) {
    if (offset_ < 0 || offset_ > s.widths[inputs[0]] - width_)
      a.fail("values " + std::to_string(offset_) + " to " + std::to_string(offset_ + width_) + " of a width of " + std::to_string(s.widths[inputs[0]]));
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) memcpy(pass.row(outputs[0], r), pass.row(inputs[0], r) + offset_, static_cast<size_t>(width_) * sizeof(float));
  }

 private:
  int64_t offset_, width_;
};

}  // namespace

std::unique_ptr<Operation> make_split_heads(const Attributes& a, Setting& s) {
  expect_counts(a, 1, 2);
  return std::make_unique<SplitHeads>(a, s);
}
std::unique_ptr<Operation> make_concat(const Attributes& a, Setting& s) {
  expect_counts(a, 2, 1);
  return std::make_unique<Concat>(a, s);
}
std::unique_ptr<Operation> make_slice(const Attributes& a, Setting& s) {
  expect_counts(a, 1, 1);
  return std::make_unique<Slice>(a, s);
}

}  // namespace skipstone
