// rope: [x (rows, heads * head)] -> [y]; per head the pairs (j, j + rotated/2) turn by float32(position) * frequencies[j], the rest passes through.
// The angles of a pass are computed once for all layers that share a table of frequencies.
#include <algorithm>

#include "ops/rowwise.h"

namespace skipstone {
namespace {

class Rope final : public Operation {
 public:
  Rope(const Attributes& a, Setting& s) : Operation(a), head_(head_size(a)), rotated_(a.integer("rotated")) {
    const int64_t width = s.widths[inputs[0]];
    expect_width(a, s, outputs[0], width);
    if (width % head_) a.fail("a head of " + std::to_string(head_) + " does not divide a width of " + std::to_string(width));
    if (rotated_ < 2 || rotated_ > head_ || rotated_ % 2) a.fail("cannot rotate " + std::to_string(rotated_) + " of " + std::to_string(head_) + " values");
    heads_ = width / head_;
    const auto& frequencies = a.vector("frequencies", rotated_ / 2);
    auto it = std::find(s.frequencies.begin(), s.frequencies.end(), frequencies);
    table_ = static_cast<size_t>(it - s.frequencies.begin());
    if (it == s.frequencies.end()) s.frequencies.push_back(frequencies);
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r)
      pass.kernels.rope(pass.row(inputs[0], r), pass.row(outputs[0], r), heads_, head_, rotated_, pass.cosines[table_].data() + r * (rotated_ / 2),
                        pass.sines[table_].data() + r * (rotated_ / 2));
  }

 private:
  int64_t heads_, head_, rotated_;
  size_t table_;
};

}  // namespace

std::unique_ptr<Operation> make_rope(const Attributes& a, Setting& s) {
  expect_counts(a, 1, 1);
  return std::make_unique<Rope>(a, s);
}

}  // namespace skipstone
