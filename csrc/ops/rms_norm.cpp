// rms_norm: [x (rows, W)] -> [y (rows, W)]; per `group` values: x / sqrt(mean(x^2) + eps) * weight (length group, or none).
#include "ops/rowwise.h"

namespace skipstone {
namespace {

class RmsNorm final : public Operation {
 public:
  RmsNorm(const Attributes& a, Setting& s) : Operation(a), width_(s.widths[inputs[0]]), group_(positive(a, "group")), eps_(a.number("eps")) {
    expect_width(a, s, outputs[0], width_);
    if (width_ % group_) a.fail("groups of " + std::to_string(group_) + " do not divide a width of " + std::to_string(width_));
    if (a.vectors.count("weight")) weight_ = a.vector("weight", group_);
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    const float* weight = weight_.empty() ? nullptr : weight_.data();
    for (int64_t r = first; r < last; ++r) pass.kernels.rms_norm(pass.row(inputs[0], r), weight, pass.row(outputs[0], r), width_, group_, eps_);
  }

 private:
  int64_t width_, group_;
  float eps_;
  std::vector<float> weight_;
};

}  // namespace

std::unique_ptr<Operation> make_rms_norm(const Attributes& a, Setting& s) {
  expect_counts(a, 1, 1);
  return std::make_unique<RmsNorm>(a, s);
}

}  // namespace skipstone
