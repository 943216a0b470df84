// gated_mlp: [x (rows, K)] -> [gate (rows, F), up (rows, F), gated (rows, F), y (rows, N)]:
//   gated = activation(x G^T) * (x U^T),  y = gated D^T
// Not recorded by anybody: program/fuse.h makes it of matmul, glu and matmul. A member computes a slice of the features through the activation and its
// quantization; so the team meets once before the second product, and what lies between stays in the first cache levels.
#include "ops/matmul.h"

namespace skipstone {
namespace {

constexpr int64_t unit_features = 32;            // a block of activations, a whole number of groups
constexpr int64_t few_rows = 16;                 // up to here the results of a slab of features stay in the first cache level:
constexpr int64_t slab_results = 2048;           // so many of each product
constexpr int64_t slab_bytes = 192 << 10;        // beyond, the slab's weights in the second level, while the tiles of rows pass over them
constexpr int64_t tile_slab_bytes = 2 << 20;     // tile registers: it is the rows that stay there, while the weights pass

class GatedMlp final : public Operation {
 public:
  GatedMlp(const Attributes& a, Setting& s)
      : Operation(a), gate_(a.weights.at("gate").at(0)), up_(a.weights.at("up").at(0)), down_(a.weights.at("down").at(0)), columns_(s.widths[inputs[0]]), features_(gate_->rows()),
        activation_(a.words.at("activation") == "silu" ? &cpu::Kernels::silu_gate : &cpu::Kernels::gelu_gate), down_slices_({&down_->for_matmul(cpu::kernels())}) {
    for (const auto& w : {gate_, up_}) {
      if (w->columns() != columns_) a.fail("a weight has " + std::to_string(w->columns()) + " columns; expected " + std::to_string(columns_));
      quantizes_ = quantizes_ || w->type().unpack;
      w->for_matmul(cpu::kernels());
    }
    if (down_->columns() != features_) a.fail("the second weight has " + std::to_string(down_->columns()) + " columns; expected " + std::to_string(features_));
    for (int i : {0, 1, 2}) expect_width(a, s, outputs[i], features_);
    if (up_->rows() != features_) a.fail("the weights have " + std::to_string(features_) + " and " + std::to_string(up_->rows()) + " rows; expected as many");
    expect_width(a, s, outputs[3], down_->rows());
  }
  int steps() const override { return 2; }

  void begin(Pass& pass, int) override {
    for (Shares& s : shares_) s.restart();
    if (quantizes_) pass.quantized.reserve(pass.rows, columns_, pass.kernels);
    if (down_->type().unpack) pass.gated.reserve(pass.rows, features_, pass.kernels);
  }
  void before(Pass& pass, int64_t first, int64_t last) override {
    if (quantizes_)
      for (int64_t r = first; r < last; ++r) pass.quantized.quantize(pass.kernels, pass.row(inputs[0], r), columns_, r, columns_);
  }
  void step(Pass& pass, int step, int member, int members) override {
    if (step == 0) features(pass, member, members);
    else down(pass, member, members);
  }

 private:
  void features(Pass& pass, int member, int members) {
    const int64_t from = first_row(pass), rows = pass.rows - from;
    const cpu::Rows x = pass.quantized.rows(from, pass.rows, columns_, pass.row(inputs[0], from));
    const cpu::Matrix* matrices[2] = {&gate_->for_matmul(pass.kernels), &up_->for_matmul(pass.kernels)};
    const int64_t units = (features_ + unit_features - 1) / unit_features, unit_bytes = (matrices[0]->group_bytes + matrices[1]->group_bytes) * (unit_features / matrices[0]->group_rows);
    const int64_t slab = std::max<int64_t>(1, rows <= few_rows ? slab_results / (rows * unit_features) : (x.tiles ? tile_slab_bytes : slab_bytes) / unit_bytes);
    shares_[0].take(units, std::max<int64_t>(1, piece_bytes / unit_bytes), member, members, [&](int64_t first, int64_t last) {
      for (int64_t unit = first; unit < last; unit += slab) slab_of_features(pass, x, matrices, unit * unit_features, std::min(features_, std::min(unit + slab, last) * unit_features));
    });
  }
  // Features begin..end-1 through the activation and its quantization.
  void slab_of_features(Pass& pass, const cpu::Rows& x, const cpu::Matrix* const matrices[2], int64_t begin, int64_t end) {
    const int64_t from = pass.rows - x.count;
    for (int i : {0, 1}) {
      const cpu::Matrix& m = *matrices[i];
      pass.kernels.matmul({&m, x, begin / m.group_rows, (end + m.group_rows - 1) / m.group_rows, pass.row(outputs[i], from) + begin, features_});
    }
    for (int64_t r = from; r < pass.rows; ++r) {
      float* gated = pass.row(outputs[2], r) + begin;
      (pass.kernels.*activation_)(pass.row(outputs[0], r) + begin, pass.row(outputs[1], r) + begin, gated, end - begin);
      if (down_->type().unpack) pass.gated.quantize(pass.kernels, gated, end - begin, r, features_, begin / unit_features);
    }
  }
  void down(Pass& pass, int member, int members) {
    const int64_t from = first_row(pass);
    const cpu::Matrix& m = down_->for_matmul(pass.kernels);
    const cpu::Rows x = pass.gated.rows(from, pass.rows, features_, pass.row(outputs[2], from));
    down_slices_.take(shares_[1], member, members, [&](size_t, int64_t first, int64_t last) { pass.kernels.matmul({&m, x, first, last, pass.row(outputs[3], from) + first * m.group_rows, m.rows}); });
  }

  std::shared_ptr<Weight> gate_, up_, down_;
  int64_t columns_, features_;
  bool quantizes_ = false;
  void (*cpu::Kernels::*activation_)(const float*, const float*, float*, int64_t);
  Slices down_slices_;
  Shares shares_[2];               // of the two steps
};

}  // namespace

std::unique_ptr<Operation> make_gated_mlp(const Attributes& a, Setting& s) {
  expect_counts(a, 1, 4);
  for (const char* name : {"gate", "up", "down"})
    if (!a.weights.count(name) || a.weights.at(name).size() != 1) a.fail(std::string("needs one weight '") + name + "'");
  const auto it = a.words.find("activation");
  if (it == a.words.end() || (it->second != "silu" && it->second != "gelu_tanh")) a.fail("parameter 'activation' must be silu or gelu_tanh");
  return std::make_unique<GatedMlp>(a, s);
}

}  // namespace skipstone
