// block_conv: [x (rows, W), dynamic (rows, kernel * W / group)] -> [y (rows, W)], DFlash2's grouped causal convolution along a block of drafts:
// y[t][c] = sum over d < kernel, in this order, of (base[d][c] + dynamic[t][d][c / group]) * x[t - d][c], nothing before the block's first row.
#include "ops/rowwise.h"

namespace skipstone {
namespace {

class BlockConv final : public Operation {
 public:
  BlockConv(const Attributes& a, Setting& s)
      : Operation(a), width_(s.widths[static_cast<size_t>(inputs[0])]), kernel_(positive(a, "kernel", 32)), group_(positive(a, "group")), base_(a.vector("base", kernel_ * width_)) {
    if (width_ % group_) a.fail("groups of " + std::to_string(group_) + " do not divide a width of " + std::to_string(width_));
    expect_width(a, s, inputs[1], kernel_ * (width_ / group_));
    expect_width(a, s, outputs[0], width_);
  }
  int steps() const override { return 1; }
  bool whole_parts() const override { return true; }

  void step(Pass& pass, int, int member, int members) override {
    const int64_t groups = width_ / group_;
    for (int64_t r = pass.rows * member / members; r < pass.rows * (member + 1) / members; ++r) {
      const int64_t before = r - pass.parts[static_cast<size_t>(pass.part_of[static_cast<size_t>(r)])].first;
      const float* dynamic = pass.row(inputs[1], r);
      float* y = pass.row(outputs[0], r);
      for (int64_t c = 0; c < width_; ++c) y[c] = (base_[static_cast<size_t>(c)] + dynamic[c / group_]) * pass.row(inputs[0], r)[c];
      for (int64_t d = 1; d < kernel_ && d <= before; ++d) {
        const float *x = pass.row(inputs[0], r - d), *base = base_.data() + d * width_;
        for (int64_t c = 0; c < width_; ++c) y[c] += (base[c] + dynamic[d * groups + c / group_]) * x[c];
      }
    }
  }

 private:
  const int64_t width_, kernel_, group_;
  const std::vector<float> base_;
};

}  // namespace

std::unique_ptr<Operation> make_block_conv(const Attributes& a, Setting& s) {
  expect_counts(a, 2, 1);
  return std::make_unique<BlockConv>(a, s);
}

}  // namespace skipstone
