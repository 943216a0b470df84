// glu: [gate (rows, F), up (rows, F)] -> [y], activation(gate) * up with activation silu or gelu_tanh.
// sigmoid_gate: [x (rows, W), g (rows, W or 1)] -> [y], x * sigmoid(g).   add: [a, b] -> [y], (a + b) * scale.
#include "ops/rowwise.h"

namespace skipstone {
namespace {

using Binary = void (*)(const float*, const float*, float*, int64_t);

class Gate final : public Operation {
 public:
  Gate(const Attributes& a, Setting& s, Binary cpu::Kernels::*kernel) : Operation(a), width_(s.widths[outputs[0]]), kernel_(kernel) {
    for (int input : inputs) expect_width(a, s, input, width_);
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) (pass.kernels.*kernel_)(pass.row(inputs[0], r), pass.row(inputs[1], r), pass.row(outputs[0], r), width_);
  }

 private:
  int64_t width_;
  Binary cpu::Kernels::*kernel_;
};

class OneGate final : public Operation {
 public:
  OneGate(const Attributes& a, Setting& s) : Operation(a), width_(s.widths[outputs[0]]) {
    expect_width(a, s, inputs[0], width_);
    expect_width(a, s, inputs[1], 1);
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) {
      const float one = 1;
      float factor;
      pass.kernels.sigmoid_gate(&one, pass.row(inputs[1], r), &factor, 1);
      pass.kernels.scale(pass.row(inputs[0], r), pass.row(outputs[0], r), width_, factor);
    }
  }

 private:
  int64_t width_;
};

class Add final : public Operation {
 public:
  Add(const Attributes& a, Setting& s) : Operation(a), width_(s.widths[outputs[0]]), scale_(a.number("scale")) {
    for (int input : inputs) expect_width(a, s, input, width_);
  }
  void rows(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) pass.kernels.add(pass.row(inputs[0], r), pass.row(inputs[1], r), pass.row(outputs[0], r), width_, scale_);
  }

 private:
  int64_t width_;
  float scale_;
};

}  // namespace

std::unique_ptr<Operation> make_glu(const Attributes& a, Setting& s) {
  expect_counts(a, 2, 1);
  const auto it = a.words.find("activation");
  if (it != a.words.end() && it->second == "silu") return std::make_unique<Gate>(a, s, &cpu::Kernels::silu_gate);
  if (it != a.words.end() && it->second == "gelu_tanh") return std::make_unique<Gate>(a, s, &cpu::Kernels::gelu_gate);
  a.fail("parameter 'activation' must be silu or gelu_tanh");
}
std::unique_ptr<Operation> make_sigmoid_gate(const Attributes& a, Setting& s) {
  expect_counts(a, 2, 1);
  if (s.widths[a.inputs[1]] == 1) return std::make_unique<OneGate>(a, s);
  return std::make_unique<Gate>(a, s, &cpu::Kernels::sigmoid_gate);
}
std::unique_ptr<Operation> make_add(const Attributes& a, Setting& s) {
  expect_counts(a, 2, 1);
  return std::make_unique<Add>(a, s);
}

}  // namespace skipstone
