// delta_net: [qkv (rows, 2 * key_heads * head + value_heads * head), z (rows, value_heads * head), a, b (rows, value_heads)] -> [y (rows, value_heads * head)]
// Gated delta-net (Yang, Kautz, Hatamizadeh, "Gated Delta Networks", 2024) as in Qwen3-Next and Qwen3.5: a short causal convolution with silu over
// q, k and v; q and k normalized per head; per value head the recurrence of common/delta_rule.inl with gamma = exp(decay * softplus(a + dt_bias)) and
// beta = sigmoid(b); a gated rms norm with silu(z).
#include <cmath>

#include "ops/rowwise.h"

namespace skipstone {
namespace {

class DeltaNet final : public Operation {
 public:
  DeltaNet(const Attributes& a, Setting& s)
      : Operation(a), state_(a.integer("state")), head_(head_size(a)), key_heads_(positive(a, "key_heads", 4096)), value_heads_(positive(a, "value_heads", 4096)), kernel_(positive(a, "kernel", 32)),
        eps_(a.number("eps")), decay_(a.vector("decay", value_heads_)), dt_bias_(a.vector("dt_bias", value_heads_)), norm_(a.vector("norm", head_)) {
    const int64_t keys = key_heads_ * head_, values = value_heads_ * head_;
    channels_ = 2 * keys + values;
    expect_width(a, s, inputs[0], channels_);
    expect_width(a, s, inputs[1], values);
    expect_width(a, s, inputs[2], value_heads_);
    expect_width(a, s, inputs[3], value_heads_);
    expect_width(a, s, outputs[0], values);
    if (state_ < 0 || state_ >= static_cast<int64_t>(s.states.size()) || !s.states[state_].delta) a.fail("state " + std::to_string(state_) + " is not a delta-net's");
    const DeltaSpec& d = *s.states[state_].delta;
    if (d.key_heads != key_heads_ || d.value_heads != value_heads_ || d.head != head_ || d.channels != channels_ || d.kernel != kernel_) a.fail("state " + std::to_string(state_) + " has another shape");
    const auto& conv = a.vector("conv", channels_ * kernel_);
    taps_.resize(conv.size());
    for (int64_t c = 0; c < channels_; ++c)
      for (int64_t t = 0; t < kernel_; ++t) taps_[t * channels_ + c] = conv[c * kernel_ + t];
    const auto it = a.integers.find("key_of_value");
    if (it == a.integers.end() || static_cast<int64_t>(it->second.size()) != value_heads_) a.fail("parameter 'key_of_value' needs one key head a value head");
    key_of_value_ = it->second;
    for (int64_t h : key_of_value_)
      if (h < 0 || h >= key_heads_) a.fail("parameter 'key_of_value' names key head " + std::to_string(h) + " of " + std::to_string(key_heads_));
  }

  int steps() const override { return 1; }

  void begin(Pass& pass, int members) override {
    auto grow = [](std::vector<float>& v, int64_t n) { if (static_cast<int64_t>(v.size()) < n) v.resize(static_cast<size_t>(n)); };
    grow(mixed_, pass.rows * channels_);
    grow(gamma_, pass.rows * value_heads_);
    grow(beta_, pass.rows * value_heads_);
    grow(delta_, pass.rows * value_heads_ * head_);
    for (int m = 0; m < members; ++m) pass.member_scratch(m, head_ * head_);
  }

  void before(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) {
      const Part& part = pass.parts[pass.part_of[r]];
      const DeltaState& state = part.sequence->delta(state_);
      const float* taps[32];
      const float* weights[32];
      int64_t used = 0;                                         // history before the text is zero and adds nothing
      for (int64_t t = 0; t < kernel_; ++t) {
        const int64_t position = pass.positions[r] - (kernel_ - 1 - t);
        if (position < 0) continue;
        taps[used] = position >= part.start ? pass.row(inputs[0], part.first + position - part.start) : state.inputs.data() + position % DeltaState::ring * channels_;
        weights[used++] = taps_.data() + t * channels_;
      }
      float* mixed = mixed_.data() + r * channels_;
      pass.kernels.causal_conv(taps, weights, used, mixed, channels_);
      for (int64_t h = 0; h < 2 * key_heads_; ++h)
        pass.kernels.l2_norm(mixed + h * head_, mixed + h * head_, head_, 1e-6f, h < key_heads_ ? 1.0f / std::sqrt(static_cast<float>(head_)) : 1.0f);
      const float* a = pass.row(inputs[2], r);
      const float* b = pass.row(inputs[3], r);
      for (int64_t h = 0; h < value_heads_; ++h) {
        const float x = a[h] + dt_bias_[h], softplus = x > 20.0f ? x : std::log1p(std::exp(x));
        gamma_[h * pass.rows + r] = std::exp(decay_[h] * softplus);
        beta_[h * pass.rows + r] = 1.0f / (1.0f + std::exp(-b[h]));
      }
    }
  }

  void step(Pass& pass, int, int member, int members) override {
    int64_t unit = 0;
    for (const Part& part : pass.parts)
      for (int64_t h = 0; h < value_heads_; ++h, ++unit)
        if (unit % members == member) run_head(pass, part, h, pass.member_scratch(member, 0));
  }

  void after(Pass& pass, int64_t first, int64_t last) override {
    for (int64_t r = first; r < last; ++r) {
      float* y = pass.row(outputs[0], r);
      const float* z = pass.row(inputs[1], r);
      for (int64_t h = 0; h < value_heads_; ++h) pass.kernels.gated_norm(y + h * head_, z + h * head_, norm_.data(), y + h * head_, head_, eps_);
      const Part& part = pass.parts[pass.part_of[r]];
      DeltaState& state = part.sequence->delta(state_);
      if (r >= part.first + part.rows - DeltaState::ring)
        std::copy_n(pass.row(inputs[0], r), channels_, state.inputs.data() + pass.positions[r] % DeltaState::ring * channels_);
      if (r == part.first + part.rows - 1) {                    // the heads have moved on; the counts follow once
        state.pending = std::min(part.rows, step_back);
        state.base = part.start + part.rows - state.pending;
      }
    }
  }

 private:
  void run_head(Pass& pass, const Part& part, int64_t h, float* work) {
    DeltaState& state = part.sequence->delta(state_);
    const int64_t keys = key_heads_ * head_, values = value_heads_ * head_, keep = std::min(part.rows, step_back);
    const float* mixed = mixed_.data() + part.first * channels_;
    float* delta = delta_.data() + (h * pass.rows + part.first) * head_;
    float* pending_gamma = state.gamma.data() + h * step_back;
    float* pending_k = state.k.data() + h * step_back * head_;
    float* pending_delta = state.delta.data() + h * step_back * head_;
    pass.kernels.delta_rule({part.rows, head_, mixed + key_of_value_[h] * head_, mixed + keys + key_of_value_[h] * head_, mixed + 2 * keys + h * head_, channels_, channels_,
                             gamma_.data() + h * pass.rows + part.first, beta_.data() + h * pass.rows + part.first, state.matrix.data() + h * head_ * head_, keep, work, state.pending,
                             pending_gamma, pending_k, pending_delta, delta, pass.row(outputs[0], part.first) + h * head_, values});
    for (int64_t i = 0; i < keep; ++i) {
      const int64_t r = part.rows - keep + i;
      pending_gamma[i] = gamma_[h * pass.rows + part.first + r];
      std::copy_n(mixed + r * channels_ + keys + key_of_value_[h] * head_, head_, pending_k + i * head_);
      std::copy_n(delta + r * head_, head_, pending_delta + i * head_);
    }
  }

  const int64_t state_, head_, key_heads_, value_heads_, kernel_;
  int64_t channels_;
  const float eps_;
  std::vector<float> decay_, dt_bias_, norm_, taps_;             // taps_: [tap][channel]
  std::vector<int64_t> key_of_value_;
  std::vector<float> mixed_, gamma_, beta_, delta_;              // of the pass: rows x channels; [value head][row] and times head
};

}  // namespace

std::unique_ptr<Operation> make_delta_net(const Attributes& a, Setting& s) {
  expect_counts(a, 4, 1);
  return std::make_unique<DeltaNet>(a, s);
}

}  // namespace skipstone
