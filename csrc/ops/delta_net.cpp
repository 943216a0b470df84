// delta_net: [qkv (rows, 2 * key_heads * head + value_heads * head), z (rows, value_heads * head), a, b (rows, value_heads)] -> [y (rows, value_heads * head)]
// Gated delta-net (Yang, Kautz, Hatamizadeh, "Gated Delta Networks", 2024) as in Qwen3-Next and Qwen3.5: a short causal convolution with silu over
// q, k and v; q and k normalized per head; per value head the recurrence of common/delta_rule.inl with gamma = exp(decay * softplus(a + dt_bias)) and
// beta = sigmoid(b); a gated rms norm with silu(z).
#include <algorithm>
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
  std::vector<int> remembered() const override { return inputs; }

  void begin(Pass& pass, int members) override {
    auto grow = [](std::vector<float>& v, int64_t n) { if (static_cast<int64_t>(v.size()) < n) v.resize(static_cast<size_t>(n)); };
    grow(mixed_, pass.rows * channels_);
    grow(gamma_, pass.rows * value_heads_);
    grow(beta_, pass.rows * value_heads_);
    grow(delta_, pass.rows * value_heads_ * head_);
    for (int m = 0; m < members; ++m) pass.member_scratch(m, head_ * head_);
  }

  // A unit of work is a key head of one sequence with its value heads: nothing of it meets another unit, from the convolution to the norm.
  void step(Pass& pass, int, int member, int members) override {
    int64_t unit = 0;
    for (const Part& part : pass.parts)
      for (int64_t key_head = 0; key_head < key_heads_; ++key_head, ++unit) {
        if (unit % members != member) continue;
        mix(pass, part, key_head * head_);
        mix(pass, part, (key_heads_ + key_head) * head_);
        for (int64_t r = part.first; r < part.first + part.rows; ++r)
          for (int64_t h : {key_head, key_heads_ + key_head})
            pass.kernels.l2_norm(mixed(r) + h * head_, mixed(r) + h * head_, head_, 1e-6f, h < key_heads_ ? 1.0f / std::sqrt(static_cast<float>(head_)) : 1.0f);
        for (int64_t h = 0; h < value_heads_; ++h)
          if (key_of_value_[h] == key_head) run_head(pass, part, h, pass.member_scratch(member, 0));
      }
  }

 private:
  float* mixed(int64_t row) { return mixed_.data() + row * channels_; }

  // The convolution over one head's channels, and what the next pass needs of its inputs.
  void mix(Pass& pass, const Part& part, int64_t channel) {
    DeltaState& state = part.sequence->delta(state_);
    auto remembered = [&](int64_t position) { return state.inputs.data() + position % DeltaState::ring * channels_ + channel; };
    auto input = [&](int64_t position) { return pass.row(inputs[0], part.first + position - part.start) + channel; };
    for (int64_t r = 0; r < part.rows; ++r) {
      const float* taps[32];
      const float* weights[32];
      int64_t used = 0;                                         // history before the text is zero and adds nothing
      for (int64_t t = 0; t < kernel_; ++t) {
        const int64_t position = part.start + r - (kernel_ - 1 - t);
        if (position < 0) continue;
        taps[used] = position >= part.start ? input(position) : remembered(position);
        weights[used++] = taps_.data() + t * channels_ + channel;
      }
      pass.kernels.causal_conv(taps, weights, used, mixed(part.first + r) + channel, head_);
    }
    for (int64_t r = std::max<int64_t>(0, part.rows - DeltaState::ring); r < part.rows; ++r) std::copy_n(input(part.start + r), head_, remembered(part.start + r));
  }

  void run_head(Pass& pass, const Part& part, int64_t h, float* work) {
    DeltaState& state = part.sequence->delta(state_);
    const int64_t keys = key_heads_ * head_, values = value_heads_ * head_, keep = std::min(part.rows, step_back);
    float* gamma = gamma_.data() + h * pass.rows + part.first;
    float* beta = beta_.data() + h * pass.rows + part.first;
    float* delta = delta_.data() + (h * pass.rows + part.first) * head_;
    const float* q = mixed(part.first) + key_of_value_[h] * head_;
    const float* k = q + keys;
    mix(pass, part, 2 * keys + h * head_);
    for (int64_t r = 0; r < part.rows; ++r) {
      const float x = pass.row(inputs[2], part.first + r)[h] + dt_bias_[h], softplus = x > 20.0f ? x : std::log1p(std::exp(x));
      gamma[r] = std::exp(decay_[h] * softplus);
      beta[r] = 1.0f / (1.0f + std::exp(-pass.row(inputs[3], part.first + r)[h]));
    }
    float* pending_gamma = state.gamma.data() + h * step_back;
    float* pending_k = state.k.data() + h * step_back * head_;
    float* pending_delta = state.delta.data() + h * step_back * head_;
    float* out = pass.row(outputs[0], part.first) + h * head_;
    pass.kernels.delta_rule({part.rows, head_, q, k, mixed(part.first) + 2 * keys + h * head_, channels_, channels_, gamma, beta, state.matrix.data() + h * head_ * head_, keep, work,
                             state.pending, pending_gamma, pending_k, pending_delta, delta, out, values});
    for (int64_t i = 0; i < keep; ++i) {
      const int64_t r = part.rows - keep + i;
      pending_gamma[i] = gamma[r];
      std::copy_n(k + r * channels_, head_, pending_k + i * head_);
      std::copy_n(delta + r * head_, head_, pending_delta + i * head_);
    }
    for (int64_t r = 0; r < part.rows; ++r)
      pass.kernels.gated_norm(out + r * values, pass.row(inputs[1], part.first + r) + h * head_, norm_.data(), out + r * values, head_, eps_);
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
