// matmul: [x (rows, K)] -> [y1 (rows, N1), y2 (rows, N2), ...], y_i = x W_i^T for weights W_i (N_i, K), as one dispatch over all of them.
// Quantized weights see x as blocks of 32 int8 (quantized once, whatever the number of weights), unquantized ones the float32 rows.
// Bytes: every weight once. Multiplications: rows * K * sum of N_i.
#include "ops/matmul.h"

namespace skipstone {
namespace {

class Matmul final : public Operation {
 public:
  Matmul(const Attributes& a, Setting& s) : Operation(a), weights_(a.weights.at("weights")), columns_(s.widths[inputs[0]]), slices_(prepare(a, s)) {}
  int steps() const override { return 1; }
  void begin(Pass& pass, int) override {
    shares_.restart();
    if (quantizes_) pass.quantized.reserve(pass.rows, columns_, pass.kernels);
  }
  void before(Pass& pass, int64_t first, int64_t last) override {
    if (quantizes_)
      for (int64_t r = first; r < last; ++r) pass.quantized.quantize(pass.kernels, pass.row(inputs[0], r), columns_, r, columns_);
  }
  void step(Pass& pass, int, int member, int members) override {
    const int64_t from = first_row(pass);
    const cpu::Rows rows = pass.quantized.rows(from, pass.rows, columns_, pass.row(inputs[0], from));
    slices_.take(shares_, member, members, [&](size_t i, int64_t first, int64_t last) {
      const cpu::Matrix& m = weights_[i]->for_matmul(pass.kernels);
      pass.kernels.matmul({&m, rows, first, last, pass.row(outputs[i], from) + first * m.group_rows, m.rows});
    });
  }

 private:
  std::vector<const cpu::Matrix*> prepare(const Attributes& a, Setting& s) {
    std::vector<const cpu::Matrix*> matrices;
    for (size_t i = 0; i < weights_.size(); ++i) {
      if (weights_[i]->experts() != 1) a.fail("weight " + std::to_string(i) + " holds " + std::to_string(weights_[i]->experts()) + " experts; expected one matrix");
      if (weights_[i]->columns() != columns_) a.fail("weight " + std::to_string(i) + " has " + std::to_string(weights_[i]->columns()) + " columns; expected " + std::to_string(columns_));
      expect_width(a, s, outputs[i], weights_[i]->rows());
      matrices.push_back(&weights_[i]->for_matmul(cpu::kernels()));
      quantizes_ = quantizes_ || weights_[i]->type().unpack;
    }
    return matrices;
  }
  std::vector<std::shared_ptr<Weight>> weights_;
  int64_t columns_;
  bool quantizes_ = false;
  Slices slices_;
  Shares shares_;
};

}  // namespace

std::unique_ptr<Operation> make_matmul(const Attributes& a, Setting& s) {
  if (!a.weights.count("weights") || a.weights.at("weights").empty()) a.fail("needs weights");
  expect_counts(a, 1, a.weights.at("weights").size());
  return std::make_unique<Matmul>(a, s);
}

}  // namespace skipstone
