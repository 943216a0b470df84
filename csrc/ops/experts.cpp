// experts: [x (rows, H), z (rows, E)] -> [y (rows, H)], a mixture of E experts. A row takes the `used` experts of its largest router logits z, and
//   y = sum of s_e scale_e Down_e( activation(g_e Gate_e x) * u_e Up_e x ),   largest s_e first,
// where s_e is e's share of the softmax over all logits or, with `normalize`, over the chosen ones. Among equal logits the lower expert goes first.
// gate, up: weights of E matrices (F, H); down: of E matrices (H, F); g, u, scale: optional vectors of E factors (gate_scale, up_scale, scale).
//
// A chosen expert is read and unpacked once for all rows that want it, so the cost follows the number of distinct experts. A row's bits follow from
// the row alone: matmul's do, and the sum has the order of the row's own ranking, whatever the rows beside it chose.
// Two steps: gate, up and activation in pieces of 32 outputs, then down in groups of rows; the pieces of all experts are laid end to end and cut
// into shares of equal cost. Every member chooses the experts of every row for itself, which is cheaper than meeting the others.
#include "ops/rowwise.h"

namespace skipstone {
namespace {

constexpr int64_t piece = 32;                    // outputs of gate and up: a block of down's quantized input
constexpr int64_t values_at_once = 128 << 10;    // of gate and up that wait for their activation

class Experts final : public Operation {
 public:
  Experts(const Attributes& a, Setting& s)
      : Operation(a), hidden_(s.widths[inputs[0]]), experts_(s.widths[inputs[1]]), used_(positive(a, "used", experts_)), normalize_(a.integer("normalize") != 0), gate_(one_weight(a, "gate")),
        up_(one_weight(a, "up")), down_(one_weight(a, "down")), inner_(gate_->rows()) {
    expect_width(a, s, outputs[0], hidden_);
    check(a, "gate", *gate_, inner_, hidden_);
    check(a, "up", *up_, inner_, hidden_);
    check(a, "down", *down_, hidden_, inner_);
    for (auto [name, factors] : {std::pair{"gate_scale", &gate_scale_}, {"up_scale", &up_scale_}, {"scale", &scale_}})
      if (a.vectors.count(name)) *factors = a.vector(name, experts_);
    const auto word = a.words.find("activation");
    const std::string activation = word == a.words.end() ? "" : word->second;
    if (activation != "silu" && activation != "gelu_tanh") a.fail("parameter 'activation' must be silu or gelu_tanh");
    activate_ = activation == "silu" ? &cpu::Kernels::silu_gate : &cpu::Kernels::gelu_gate;
    quantizes_ = gate_->type().unpack || up_->type().unpack;
    plain_ = !gate_->type().unpack || !up_->type().unpack;
    for (const auto& w : {gate_, up_, down_}) w->for_matmul(cpu::kernels());
  }

  int steps() const override { return 2; }
  bool rows_after() const override { return true; }

  void begin(Pass& pass, int members) override {
    Mixture& m = pass.mixture;
    const int64_t pairs = pass.rows * used_;
    grow(share_, pairs);
    grow(pair_, pairs);
    grow(m.made, pairs * hidden_);
    if (quantizes_) pass.quantized.reserve(pass.rows, hidden_);
    if (down_->type().unpack) m.quantized.reserve(pairs, inner_);
    else grow(m.gated, pairs * inner_);
    if (m.members.size() < static_cast<size_t>(members)) m.members.resize(static_cast<size_t>(members));
    for (int i = 0; i < members; ++i) {
      Mixture::Member& own = m.members[static_cast<size_t>(i)];
      grow(own.chosen, pairs);
      grow(own.share, pairs);
      grow(own.first, experts_ + 1);
      grow(own.row, pairs);
      grow(own.pair, pairs);
      if (pass.rows > 1 && quantizes_) own.quantized.reserve(pass.rows, hidden_);
      if (pass.rows > 1 && plain_) grow(own.plain, pass.rows * hidden_);
      pass.member_scratch(i, std::min(2 * pass.rows * at_once(1), std::max(values_at_once, 2 * piece * pass.rows)));
    }
  }

  void before(Pass& pass, int64_t first, int64_t last) override {
    if (quantizes_)
      for (int64_t r = first; r < last; ++r) pass.kernels.quantize(pass.row(inputs[0], r), hidden_, pass.quantized.row(r, hidden_));
  }

  void step(Pass& pass, int step, int member, int members) override {
    Mixture::Member& own = pass.mixture.members[static_cast<size_t>(member)];
    if (step == 0) {
      choose(pass, own);
      if (member == 0) {
        std::copy_n(own.share.begin(), pass.rows * used_, share_.begin());
        std::copy_n(own.pair.begin(), pass.rows * used_, pair_.begin());
      }
      share(own, (inner_ + piece - 1) / piece, member, members, [&](int64_t expert, int64_t first, int64_t last) { enter(pass, own, member, expert, first, last); });
    } else {
      const int64_t groups = cpu::group_count(down_->for_matmul(pass.kernels));
      share(own, groups, member, members, [&](int64_t expert, int64_t first, int64_t last) { leave(pass, own, expert, first, last); });
    }
  }

  void after(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) {
      const float* made[most_used];
      for (int64_t i = 0; i < used_; ++i) made[i] = pass.mixture.made.data() + pair_[static_cast<size_t>(r * used_ + i)] * hidden_;
      pass.kernels.weighted_sum(made, share_.data() + r * used_, used_, pass.row(outputs[0], r), hidden_);
    }
  }

 private:
  static constexpr int64_t most_used = 256;

  template <class V> static void grow(V& v, int64_t size) {
    if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
  }
  static std::shared_ptr<Weight> one_weight(const Attributes& a, const char* name) {
    const auto it = a.weights.find(name);
    if (it == a.weights.end() || it->second.size() != 1) a.fail(std::string("needs one weight '") + name + "'");
    return it->second[0];
  }
  void check(const Attributes& a, const char* name, const Weight& w, int64_t rows, int64_t columns) const {
    auto shape = [](int64_t e, int64_t r, int64_t c) { return std::to_string(e) + " experts of " + std::to_string(r) + " x " + std::to_string(c); };
    if (w.experts() != experts_ || w.rows() != rows || w.columns() != columns)
      a.fail(std::string("weight '") + name + "' has " + shape(w.experts(), w.rows(), w.columns()) + "; expected " + shape(experts_, rows, columns));
    if (used_ > most_used) a.fail("a row takes " + std::to_string(used_) + " experts; expected at most " + std::to_string(most_used));
  }
  // Outputs of gate and up that are made before their activation, for an expert with that many rows.
  int64_t at_once(int64_t rows) const { return std::min((inner_ + piece - 1) / piece, std::max<int64_t>(1, values_at_once / (2 * piece * rows))) * piece; }

  // The experts of every row and their shares; then the pairs sorted by expert, an expert's by row.
  void choose(const Pass& pass, Mixture::Member& own) const {
    const int64_t from = first_row(pass);
    for (int64_t r = from; r < pass.rows; ++r) {
      int32_t* chosen = own.chosen.data() + r * used_;
      float* share = own.share.data() + r * used_;
      pass.kernels.choose_experts(pass.row(inputs[1], r), experts_, used_, normalize_, chosen, share);
      if (!scale_.empty())
        for (int64_t i = 0; i < used_; ++i) share[i] *= scale_[static_cast<size_t>(chosen[i])];
    }
    std::fill_n(own.first.begin(), experts_ + 1, 0);
    for (int64_t i = from * used_; i < pass.rows * used_; ++i) ++own.first[static_cast<size_t>(own.chosen[static_cast<size_t>(i)]) + 1];
    for (int64_t e = 0; e < experts_; ++e) own.first[static_cast<size_t>(e) + 1] += own.first[static_cast<size_t>(e)];
    for (int64_t i = from * used_; i < pass.rows * used_; ++i) {
      const int32_t at = own.first[static_cast<size_t>(own.chosen[static_cast<size_t>(i)])]++;
      own.pair[static_cast<size_t>(i)] = at;
      own.row[static_cast<size_t>(at)] = static_cast<int32_t>(i / used_);
    }
    for (int64_t e = experts_; e > 0; --e) own.first[static_cast<size_t>(e)] = own.first[static_cast<size_t>(e) - 1];
    own.first[0] = 0;
  }

  // Calls body(expert, first, last unit) for the member's share of the chosen experts' units. Reading a unit costs as much as eight rows' arithmetic.
  template <class Body> void share(const Mixture::Member& own, int64_t units, int member, int members, Body body) const {
    auto cost = [&](int64_t e) {
      const int64_t rows = own.first[static_cast<size_t>(e) + 1] - own.first[static_cast<size_t>(e)];
      return rows ? rows + 8 : 0;
    };
    int64_t total = 0, at = 0;
    for (int64_t e = 0; e < experts_; ++e) total += units * cost(e);
    const int64_t from = total * member / members, to = total * (member + 1) / members;
    for (int64_t e = 0; e < experts_ && at < to; ++e) {
      const int64_t each = cost(e);
      if (!each) continue;
      auto units_before = [&](int64_t edge) { return edge <= at ? int64_t{0} : std::min(units, (edge - at + each - 1) / each); };
      if (units_before(from) < units_before(to)) body(e, units_before(from), units_before(to));
      at += units * each;
    }
  }

  // The rows that an expert reads, next to each other.
  cpu::Rows gather(Pass& pass, Mixture::Member& own, int64_t first, int64_t count) const {
    if (count == 1) return {1, hidden_, pass.row(inputs[0], own.row[static_cast<size_t>(first)]), pass.quantized.row(own.row[static_cast<size_t>(first)], hidden_)};
    for (int64_t i = 0; i < count; ++i) {
      const int64_t r = own.row[static_cast<size_t>(first + i)];
      if (quantizes_) own.quantized.copy(i, pass.quantized.row(r, hidden_), hidden_);
      if (plain_) std::copy_n(pass.row(inputs[0], r), hidden_, own.plain.data() + i * hidden_);
    }
    return {count, hidden_, own.plain.data(), own.quantized.row(0, hidden_)};
  }

  // Gate, up and activation of pieces first .. last - 1.
  void enter(Pass& pass, Mixture::Member& own, int member, int64_t expert, int64_t first, int64_t last) const {
    const int64_t start = own.first[static_cast<size_t>(expert)], count = own.first[static_cast<size_t>(expert) + 1] - start;
    const cpu::Rows x = gather(pass, own, start, count);
    const int64_t width = at_once(count), until = std::min(last * piece, inner_);
    float* gate = pass.member_scratch(member, 0);
    float* up = gate + count * width;
    for (int64_t at = first * piece; at < until; at += width) {
      const int64_t end = std::min(at + width, until), n = end - at;
      project(pass, *gate_, gate_scale_, expert, x, at, end, gate, width);
      project(pass, *up_, up_scale_, expert, x, at, end, up, width);
      for (int64_t r = 0; r < count; ++r) {
        float* out = down_->type().unpack ? gate + r * width : pass.mixture.gated.data() + (start + r) * inner_ + at;
        (pass.kernels.*activate_)(gate + r * width, up + r * width, out, n);
        if (down_->type().unpack) pass.kernels.quantize(out, n, pass.mixture.quantized.row(start + r, inner_, at / piece));
      }
    }
  }

  void project(Pass& pass, Weight& w, const std::vector<float>& scale, int64_t expert, const cpu::Rows& x, int64_t at, int64_t end, float* y, int64_t stride) const {
    const cpu::Matrix m = w.for_matmul(pass.kernels, expert);
    pass.kernels.matmul({&m, x, at / m.group_rows, (end + m.group_rows - 1) / m.group_rows, y, stride});
    if (scale.empty()) return;
    for (int64_t r = 0; r < x.count; ++r) pass.kernels.scale(y + r * stride, y + r * stride, end - at, scale[static_cast<size_t>(expert)]);
  }

  void leave(Pass& pass, Mixture::Member& own, int64_t expert, int64_t first, int64_t last) const {
    Mixture& m = pass.mixture;
    const int64_t start = own.first[static_cast<size_t>(expert)], count = own.first[static_cast<size_t>(expert) + 1] - start;
    const cpu::Matrix down = down_->for_matmul(pass.kernels, expert);
    pass.kernels.matmul({&down, {count, inner_, m.gated.data() + start * inner_, m.quantized.row(start, inner_)}, first, last, m.made.data() + start * hidden_ + first * down.group_rows, hidden_});
  }

  int64_t hidden_, experts_, used_;
  bool normalize_, quantizes_ = false, plain_ = false;      // gate or up read quantized rows, or float32 ones
  std::shared_ptr<Weight> gate_, up_, down_;
  int64_t inner_;
  std::vector<float> gate_scale_, up_scale_, scale_;
  std::vector<float> share_;                     // of a pass, for `after`: rows x used
  std::vector<int32_t> pair_;
  void (*cpu::Kernels::*activate_)(const float*, const float*, float*, int64_t) = nullptr;
};

}  // namespace

std::unique_ptr<Operation> make_experts(const Attributes& a, Setting& s) {
  expect_counts(a, 2, 1);
  return std::make_unique<Experts>(a, s);
}

}  // namespace skipstone
