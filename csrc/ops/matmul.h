// What the operations over weight matrices share: slices of their rows for the members of a team.
#pragma once
#include <algorithm>

#include "ops/rowwise.h"
#include "ops/shares.h"

namespace skipstone {

constexpr int64_t piece_bytes = 64 << 10;        // of weights, that a member takes at a time

// The groups of several matrices laid end to end, cut into slices of equal bytes.
class Slices {
 public:
  explicit Slices(std::vector<const cpu::Matrix*> matrices) : matrices_(std::move(matrices)) {
    for (const cpu::Matrix* m : matrices_) total_ += cpu::group_count(*m) * m->group_bytes;
  }
  // Calls body(index of the matrix, first group, last group) for the share of `member`: the groups that begin in its slice of the bytes.
  template <class Body> void share(int member, int members, Body body) const { cut(total_ * member / members, total_ * (member + 1) / members, body); }
  // The same in parts, so that members who are early help those who are late.
  template <class Body> void take(Shares& shares, int member, int members, Body body) const {
    shares.take(total_, piece_bytes, member, members, [&](int64_t from, int64_t to) { cut(from, to, body); });
  }

 private:
  template <class Body> void cut(int64_t from, int64_t to, Body body) const {
    int64_t at = 0;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const int64_t groups = cpu::group_count(*matrices_[i]), bytes = matrices_[i]->group_bytes;
      auto groups_before = [&](int64_t edge) { return edge <= at ? int64_t{0} : std::min(groups, (edge - at + bytes - 1) / bytes); };
      if (groups_before(from) < groups_before(to)) body(i, groups_before(from), groups_before(to));
      at += groups * bytes;
    }
  }
  std::vector<const cpu::Matrix*> matrices_;
  int64_t total_ = 0;
};

}  // namespace skipstone
