// embed: [] -> [x (rows, H)], x = scale * table[token].   input: [] -> [h (rows, B)], rows that the caller hands in.
// hidden: [h (rows, H)] -> [], marks what the caller gets back.
#include <algorithm>
#include <cstring>

#include "ops/operation.h"

namespace skipstone {
namespace {

class Embed final : public Operation {
 public:
  Embed(const Attributes& a, Setting& s) : Operation(a), table_(a.weights.at("weight").at(0)), scale_(a.number("scale")), width_(s.widths[outputs[0]]) {
    if (table_->columns() != width_) a.fail("the table has " + std::to_string(table_->columns()) + " columns; expected " + std::to_string(width_));
    s.vocabulary = s.vocabulary ? std::min(s.vocabulary, table_->rows()) : table_->rows();
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) {
      float* x = pass.row(outputs[0], r);
      table_->row(pass.tokens[r], x);
      if (scale_ != 1.0f) pass.kernels.scale(x, x, width_, scale_);
    }
  }

 private:
  std::shared_ptr<Weight> table_;
  float scale_;
  int64_t width_;
};

class Input final : public Operation {
 public:
  Input(const Attributes& a, Setting& s) : Operation(a), width_(s.widths[outputs[0]]) { s.input_width = width_; }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    memcpy(pass.row(outputs[0], first), pass.hidden_in + first * width_, static_cast<size_t>((last - first) * width_) * sizeof(float));
  }

 private:
  int64_t width_;
};

class Hidden final : public Operation {
 public:
  Hidden(const Attributes& a, Setting& s) : Operation(a), width_(s.widths[inputs[0]]) { s.hidden_width = width_; }
  void store(Pass& pass, int64_t first, int64_t last) override {
    first = std::max(first, pass.tail);
    if (pass.hidden_out && first < last)
      memcpy(pass.hidden_out + (first - pass.tail) * width_, pass.row(inputs[0], first), static_cast<size_t>((last - first) * width_) * sizeof(float));
  }

 private:
  int64_t width_;
};

}  // namespace

std::unique_ptr<Operation> make_embed(const Attributes& a, Setting& s) {
  if (!a.weights.count("weight") || a.weights.at("weight").size() != 1 || a.outputs.size() != 1) a.fail("needs one weight and one output");
  return std::make_unique<Embed>(a, s);
}
std::unique_ptr<Operation> make_input(const Attributes& a, Setting& s) {
  if (a.outputs.size() != 1) a.fail("needs one output");
  return std::make_unique<Input>(a, s);
}
std::unique_ptr<Operation> make_hidden(const Attributes& a, Setting& s) {
  if (a.inputs.size() != 1) a.fail("needs one input");
  return std::make_unique<Hidden>(a, s);
}

}  // namespace skipstone
