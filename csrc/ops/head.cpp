// head: [h (rows, H)] -> [], logits = softcap(h W^T) for the rows that the caller wants, or only the argmax of each (lowest id at ties): then nothing
// of the vocabulary's width is written.
#include <cmath>
#include <cstring>

#include "ops/matmul.h"

namespace skipstone {
namespace {

constexpr int64_t slab_ids = 256;            // their logits stay in the first cache level until their maximum is taken

class Head final : public Operation {
 public:
  Head(const Attributes& a, Setting& s)
      : Operation(a), weight_(a.weights.at("weight").at(0)), columns_(s.widths[inputs[0]]), cap_(a.number("softcap")), slices_({&weight_->for_matmul(cpu::kernels())}) {
    if (weight_->columns() != columns_) a.fail("the head has " + std::to_string(weight_->columns()) + " columns; expected " + std::to_string(columns_));
    if (!(cap_ >= 0)) a.fail("a soft cap cannot be negative");
    s.vocabulary = weight_->rows();
  }
  int steps() const override { return 1; }

  void begin(Pass& pass, int members) override {
    const int64_t rows = static_cast<int64_t>(pass.wanted.size());
    if (weight_->type().unpack) pass.quantized.reserve(rows, columns_);
    else if (static_cast<int64_t>(plain_.size()) < rows * columns_) plain_.resize(static_cast<size_t>(rows * columns_));
    best_.assign(static_cast<size_t>(members * rows), {-INFINITY, -INFINITY, -1});
    for (int m = 0; m < members; ++m) pass.member_scratch(m, rows * slab_ids);
  }
  void before(Pass& pass, int64_t first, int64_t last) override {
    if (!weight_->type().unpack) return;
    for (int64_t r = first; r < last; ++r)
      if (const int64_t to = pass.place[r]; to >= 0) pass.kernels.quantize(pass.row(inputs[0], r), columns_, pass.quantized.row(to, columns_));
  }
  void store(Pass& pass, int64_t first, int64_t last) override {
    if (weight_->type().unpack) return;
    for (int64_t r = first; r < last; ++r)
      if (const int64_t to = pass.place[r]; to >= 0) memcpy(plain_.data() + to * columns_, pass.row(inputs[0], r), static_cast<size_t>(columns_) * sizeof(float));
  }
  bool reads_stored() const override { return !weight_->type().unpack; }
  void step(Pass& pass, int, int member, int members) override {
    const int64_t rows = static_cast<int64_t>(pass.wanted.size());
    if (!rows) return;
    const cpu::Matrix& m = weight_->for_matmul(pass.kernels);
    const cpu::Rows x{rows, columns_, plain_.data(), pass.quantized.row(0, columns_)};
    slices_.share(member, members, [&](size_t, int64_t first, int64_t last) {
      if (pass.want == Want::logits) {
        pass.kernels.matmul({&m, x, first, last, pass.logits + first * m.group_rows, m.rows});
        const int64_t begin = first * m.group_rows, end = std::min(m.rows, last * m.group_rows);
        if (cap_ > 0)
          for (int64_t r = 0; r < rows; ++r) pass.kernels.softcap(pass.logits + r * m.rows + begin, pass.logits + r * m.rows + begin, end - begin, cap_);
        return;
      }
      float* z = pass.member_scratch(member, 0);
      const int64_t stride = slab_ids, slab_groups = slab_ids / m.group_rows;
      for (int64_t g = first; g < last; g += slab_groups) {
        const int64_t until = std::min(g + slab_groups, last);
        pass.kernels.matmul({&m, x, g, until, z, stride});
        for (int64_t r = 0; r < rows; ++r) scan(pass, best_[static_cast<size_t>(member * rows + r)], z + r * stride, g * m.group_rows, std::min(m.rows, until * m.group_rows));
      }
    });
  }
  void end(Pass& pass, int members) override {
    if (pass.want != Want::choice) return;
    const size_t rows = pass.wanted.size();
    for (size_t r = 0; r < rows; ++r) {
      Best best{-INFINITY, -INFINITY, -1};
      for (int m = 0; m < members; ++m) {                       // members hold ascending ids
        const Best& b = best_[static_cast<size_t>(m) * rows + r];
        if (b.id >= 0 && (best.id < 0 || b.capped > best.capped)) best = b;
      }
      pass.choices[r] = static_cast<int32_t>(best.id);
    }
  }

 private:
  struct Best {
    float plain, capped;      // before and after the soft cap
    int64_t id;
  };
  // The cap never turns an order around, but it may make two logits equal, and then the lower id wins: only a larger plain logit needs a look.
  void scan(Pass& pass, Best& best, const float* z, int64_t begin, int64_t end) {
    if (best.id >= 0 && !(pass.kernels.largest(z, end - begin) > best.plain)) return;
    for (int64_t i = begin; i < end; ++i) {
      const float plain = z[i - begin];
      if (!(plain > best.plain) && best.id >= 0) continue;
      float capped = plain;
      if (cap_ > 0) {
        float in[8] = {plain}, out[8];
        pass.kernels.softcap(in, out, 8, cap_);
        capped = out[0];
      }
      if (best.id < 0 || capped > best.capped) best = {plain, capped, i};
      else best.plain = plain;
    }
  }
  std::shared_ptr<Weight> weight_;
  int64_t columns_;
  float cap_;
  Slices slices_;
  std::vector<float> plain_;   // wanted rows, for unquantized heads
  std::vector<Best> best_;     // per member and wanted row
};

}  // namespace

std::unique_ptr<Operation> make_head(const Attributes& a, Setting& s) {
  if (!a.weights.count("weight") || a.weights.at("weight").size() != 1) a.fail("needs one weight");
  expect_counts(a, 1, 0);
  return std::make_unique<Head>(a, s);
}

}  // namespace skipstone
