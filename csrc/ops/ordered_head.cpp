// ordered_head: [h (rows, H)] -> [], logits = softcap(h W^T) of the tokens in the `top` clusters whose centroids (C, H) score best, -infinity of all
// others. `order` lists the tokens cluster by cluster, vocabulary / C each. Where only the argmax is wanted, nothing of the vocabulary's width is written.
//
// The table is laid out cluster by cluster once, so that an open cluster is one stretch of memory. Bytes a row: the centroids and `top` clusters.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/matmul.h"
#include "runtime/error.h"

namespace skipstone {
namespace {

class OrderedHead final : public Operation {
 public:
  OrderedHead(const Attributes& a, Setting& s)
      : Operation(a), table_(a.weights.at("weight").at(0)), centroids_(a.weights.at("centroids").at(0)), columns_(s.widths[inputs[0]]), cap_(a.number("softcap")),
        clusters_(centroids_->rows()), top_(positive(a, "top", clusters_)), slices_({&centroids_->for_matmul(cpu::kernels())}) {
    for (const auto& w : {table_, centroids_})
      if (w->columns() != columns_) a.fail("a weight has " + std::to_string(w->columns()) + " columns; expected " + std::to_string(columns_));
    if (table_->rows() % clusters_) a.fail(std::to_string(clusters_) + " centroids do not divide a vocabulary of " + std::to_string(table_->rows()));
    if (!(cap_ >= 0)) a.fail("a soft cap cannot be negative");
    const auto order = a.integers.find("order");
    if (order == a.integers.end() || static_cast<int64_t>(order->second.size()) != table_->rows()) a.fail("parameter 'order' must list every token of the vocabulary");
    std::vector<bool> listed(order->second.size());
    for (int64_t id : order->second) {
      if (id < 0 || id >= table_->rows() || listed[static_cast<size_t>(id)]) a.fail("parameter 'order' has token " + std::to_string(id) + " twice or beyond the vocabulary");
      listed[static_cast<size_t>(id)] = true;
      order_.push_back(static_cast<int32_t>(id));
    }
    s.vocabulary = table_->rows();
    lay_out(cpu::kernels());
  }
  int steps() const override { return 3; }

  void begin(Pass& pass, int members) override {
    const int64_t rows = static_cast<int64_t>(pass.wanted.size());
    auto grow = [](auto& v, int64_t size) { if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size)); };
    pass.quantized.reserve(rows, columns_);
    if (reads_stored()) grow(plain_, rows * columns_);
    grow(scores_, rows * clusters_);
    grow(ranking_, rows * clusters_);
    best_.assign(static_cast<size_t>(members * rows), {-INFINITY, -1});
    for (int m = 0; m < members; ++m) pass.member_scratch(m, clustered_.group_rows * groups_);
  }
  void before(Pass& pass, int64_t first, int64_t last) override {
    if (!table_->type().unpack && !centroids_->type().unpack) return;
    for (int64_t r = first; r < last; ++r)
      if (const int64_t to = pass.place[r]; to >= 0) pass.kernels.quantize(pass.row(inputs[0], r), columns_, pass.quantized.row(to, columns_));
  }
  void store(Pass& pass, int64_t first, int64_t last) override {
    if (!reads_stored()) return;
    for (int64_t r = first; r < last; ++r)
      if (const int64_t to = pass.place[r]; to >= 0) memcpy(plain_.data() + to * columns_, pass.row(inputs[0], r), static_cast<size_t>(columns_) * sizeof(float));
  }
  bool reads_stored() const override { return !table_->type().unpack || !centroids_->type().unpack; }
  void step(Pass& pass, int step, int member, int members) override {
    const int64_t rows = static_cast<int64_t>(pass.wanted.size());
    if (!rows) return;
    if (step == 0) score(pass, rows, member, members);
    if (step == 1)
      for (int64_t r = member; r < rows; r += members) rank(r);
    if (step == 2)
      for (int64_t i = rows * top_ * member / members; i < rows * top_ * (member + 1) / members; ++i) open(pass, i / top_, i % top_, member);
  }
  void end(Pass& pass, int members) override {
    if (pass.want != Want::choice) return;
    const size_t rows = pass.wanted.size();
    for (size_t r = 0; r < rows; ++r) {
      Best best{-INFINITY, -1};
      for (int m = 0; m < members; ++m) better(best, best_[static_cast<size_t>(m) * rows + r]);
      pass.choices[r] = best.id;
    }
  }

 private:
  struct Best {
    float logit;
    int32_t id;
  };
  int64_t cluster_size() const { return table_->rows() / clusters_; }

  // Every cluster begins with a group of its own; what is left of its last one is zeros.
  void lay_out(const cpu::Kernels& kernels) {
    if (table_->scaled()) throw ModelError("operation 'ordered_head': a table with scales beside it cannot be laid out by clusters");
    const cpu::MatmulLayout* layout = cpu::find_layout(table_->type().id);
    const int64_t row_bytes = table_->bytes() / table_->rows();
    groups_ = (cluster_size() + kernels.group_rows - 1) / kernels.group_rows;
    clustered_ = {&table_->type(), clusters_ * groups_ * kernels.group_rows, columns_, nullptr, row_bytes, kernels.group_rows, nullptr, kernels.group_rows / 8 * layout->eight_rows_bytes(columns_)};
    memory_ = allocate(clusters_ * groups_ * clustered_.group_bytes + 8192);     // kernels prefetch a little beyond the end
    const std::vector<uint8_t> zeros(static_cast<size_t>(row_bytes));
    ThreadPool::shared().run(usable_cores(), [&](int member, Team& team) {
      for (int64_t g = clusters_ * groups_ * member / team.size(); g < clusters_ * groups_ * (member + 1) / team.size(); ++g) {
        const uint8_t* rows[16];
        for (int64_t r = 0; r < kernels.group_rows; ++r) {
          const int64_t i = g % groups_ * kernels.group_rows + r;
          rows[r] = i < cluster_size() ? table_->data() + order_[static_cast<size_t>(g / groups_ * cluster_size() + i)] * row_bytes : zeros.data();
        }
        layout->pack[kernels.group_rows / 8 - 1](rows, columns_, memory_.get() + g * clustered_.group_bytes);
      }
    });
    clustered_.packed = memory_.get();
  }

  void score(Pass& pass, int64_t rows, int member, int members) {
    const cpu::Matrix& m = centroids_->for_matmul(pass.kernels);
    const cpu::Rows x{rows, columns_, plain_.data(), pass.quantized.row(0, columns_)};
    slices_.share(member, members, [&](size_t, int64_t first, int64_t last) { pass.kernels.matmul({&m, x, first, last, scores_.data() + first * m.group_rows, clusters_}); });
    if (pass.want == Want::logits) std::fill(pass.logits + rows * table_->rows() * member / members, pass.logits + rows * table_->rows() * (member + 1) / members, -INFINITY);
  }

  // The best clusters of a row come first in its ranking; equal scores go by the lower number, and what is no number comes last.
  void rank(int64_t row) {
    float* score = scores_.data() + row * clusters_;
    int32_t* ranking = ranking_.data() + row * clusters_;
    for (int64_t c = 0; c < clusters_; ++c) {
      ranking[c] = static_cast<int32_t>(c);
      if (!(score[c] > -INFINITY)) score[c] = -INFINITY;
    }
    std::partial_sort(ranking, ranking + top_, ranking + clusters_, [&](int32_t a, int32_t b) { return score[a] > score[b] || (score[a] == score[b] && a < b); });
  }

  void open(Pass& pass, int64_t row, int64_t place, int member) {
    const int64_t cluster = ranking_[static_cast<size_t>(row * clusters_ + place)];
    float* z = pass.member_scratch(member, 0);
    const cpu::Rows x{1, columns_, plain_.data() + row * columns_, pass.quantized.row(row, columns_)};
    pass.kernels.matmul({&clustered_, x, cluster * groups_, (cluster + 1) * groups_, z, groups_ * clustered_.group_rows});
    if (cap_ > 0) pass.kernels.softcap(z, z, cluster_size(), cap_);
    const int32_t* ids = order_.data() + cluster * cluster_size();
    Best& best = best_[static_cast<size_t>(member) * pass.wanted.size() + static_cast<size_t>(row)];
    for (int64_t i = 0; i < cluster_size(); ++i) {
      if (pass.want == Want::logits) pass.logits[row * table_->rows() + ids[i]] = z[i];
      else better(best, {z[i], ids[i]});
    }
  }
  static void better(Best& best, Best other) {
    if (other.id >= 0 && (best.id < 0 || other.logit > best.logit || (other.logit == best.logit && other.id < best.id))) best = other;
  }

  std::shared_ptr<Weight> table_, centroids_;
  int64_t columns_;
  float cap_;
  int64_t clusters_, top_, groups_ = 0;      // groups_: of rows, a cluster
  Slices slices_;
  std::vector<int32_t> order_;
  cpu::Matrix clustered_{};
  std::shared_ptr<uint8_t> memory_;
  std::vector<float> plain_, scores_;        // wanted rows; their centroids' scores
  std::vector<int32_t> ranking_;             // clusters a wanted row, the best first
  std::vector<Best> best_;                   // per member and wanted row
};

}  // namespace

std::unique_ptr<Operation> make_ordered_head(const Attributes& a, Setting& s) {
  for (const char* name : {"weight", "centroids"})
    if (!a.weights.count(name) || a.weights.at(name).size() != 1) a.fail(std::string("needs one weight '") + name + "'");
  expect_counts(a, 1, 0);
  return std::make_unique<OrderedHead>(a, s);
}

}  // namespace skipstone
