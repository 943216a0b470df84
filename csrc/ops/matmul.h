// What the operations over weight matrices share: the quantized or plain rows that a kernel reads, and slices of groups for the members of a team.
#pragma once
#include <algorithm>

#include "ops/rowwise.h"

namespace skipstone {

// Row r of the scratch for quantized activations. All matmuls of a program share it, so its stride follows from the columns at hand.
inline cpu::QuantizedRow quantized_row(QuantizedRows& q, int64_t r, int64_t columns) {
  return {q.q.data() + r * columns, q.scale.data() + r * (columns / 32), q.sum.data() + r * (columns / 16), q.whole_sum.data() + r * (columns / 16)};
}
inline cpu::Rows kernel_rows(const QuantizedRows& q, int64_t count, const float* x, int64_t columns) {
  return {count, x, columns, q.q.data(), q.scale.data(), q.sum.data(), q.whole_sum.data(), columns};
}

// The groups of several matrices laid end to end, cut into slices of equal bytes.
class Slices {
 public:
  explicit Slices(std::vector<const cpu::Matrix*> matrices) : matrices_(std::move(matrices)) {
    for (const cpu::Matrix* m : matrices_) total_ += cpu::group_count(*m) * m->group_bytes;
  }
  // Calls body(index of the matrix, first group, last group) for the share of `member`: the groups that begin in its slice of the bytes.
  template <class Body> void share(int member, int members, Body body) const {
    const int64_t from = total_ * member / members, to = total_ * (member + 1) / members;
    int64_t at = 0;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const int64_t groups = cpu::group_count(*matrices_[i]), bytes = matrices_[i]->group_bytes;
      auto groups_before = [&](int64_t edge) { return edge <= at ? int64_t{0} : std::min(groups, (edge - at + bytes - 1) / bytes); };
      if (groups_before(from) < groups_before(to)) body(i, groups_before(from), groups_before(to));
      at += groups * bytes;
    }
  }

 private:
  std::vector<const cpu::Matrix*> matrices_;
  int64_t total_ = 0;
};

}  // namespace skipstone
