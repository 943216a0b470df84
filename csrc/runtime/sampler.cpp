// Cost, vocabulary 262144: greedy reads the logits once; without filters the noise of four ids costs one Philox call and the
// logarithms are taken only where a bound on the noise leaves a chance; top_k is one scan, top_p one exponential a token.
#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "runtime/error.h"

namespace skipstone {
namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

void require(bool holds, const char* name, double found, const char* expected) {
  if (holds) return;
  char number[32];
  std::snprintf(number, sizeof number, "%g", found);
  throw ArgumentError(std::string(name) + " is " + number + "; expected " + expected);
}

using Candidate = Sampler::Candidate;

// First id of the largest logit; 0 if there is none above -infinity. Comparisons are written so that NaN always loses.
int32_t best_of(const float* logits, int32_t n) {
  constexpr int32_t block = 256;   // the inner loop is one vector maximum; ids are looked at only where a block improves
  float best = minus_infinity;
  int32_t at = 0;
  for (int32_t start = 0; start < n; start += block) {
    const int32_t end = std::min(n, start + block);
    float lanes[16];
    std::fill(lanes, lanes + 16, minus_infinity);
    int32_t i = start;
    for (; i + 16 <= end; i += 16)
      for (int lane = 0; lane < 16; ++lane) lanes[lane] = logits[i + lane] > lanes[lane] ? logits[i + lane] : lanes[lane];
    float most = minus_infinity;
    for (float lane : lanes) most = std::max(most, lane);
    for (; i < end; ++i) most = logits[i] > most ? logits[i] : most;
    if (most > best) {
      best = most;
      for (at = start; !(logits[at] == most); ++at) {}
    }
  }
  return at;
}

bool goes_first(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

}  // namespace

Sampler::Sampler(SamplerOptions options, int32_t vocabulary) : options_(std::move(options)), vocabulary_(vocabulary) {
  const SamplerOptions& o = options_;
  require(vocabulary > 0, "vocabulary", vocabulary, "a positive number");
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature, "0 (take the best) or more");
  require(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "more than 0, at most 1");
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "0 to 1");
  require(o.top_k >= 0, "top_k", o.top_k, "0 (all) or more");
  require(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty), "repeat_penalty", o.repeat_penalty, "more than 0");
  require(std::isfinite(o.presence_penalty), "presence_penalty", o.presence_penalty, "a finite number");
  require(std::isfinite(o.frequency_penalty), "frequency_penalty", o.frequency_penalty, "a finite number");
  require(o.limit >= 0, "limit", o.limit, "0 (none) or more");
  for (const auto& [token, bias] : o.logit_bias) {
    require(token >= 0 && token < vocabulary, "logit_bias: token", token, "an id of the vocabulary");
    require(!std::isnan(bias), "logit_bias", bias, "a number");
  }
  for (int32_t token : o.suppressed) require(token >= 0 && token < vocabulary, "suppressed: token", token, "an id of the vocabulary");
  limit_ = o.limit > 0 ? std::min(o.limit, vocabulary) : vocabulary;
  key_ = {o.seed, o.sequence};
  penalises_ = o.repeat_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
  adjusts_ = penalises_ || !o.logit_bias.empty();
  if (o.temperature > 0) scale_ = 1.0 / double(o.temperature);
  if (penalises_) {
    in_text_.assign(size_t(vocabulary), 0);
    in_generated_.assign(size_t(vocabulary), 0);
  }
}

void Sampler::count(int32_t token, int by, bool generated) {
  if (by > 0 && in_text_[size_t(token)] == 0) seen_.push_back(token);
  in_text_[size_t(token)] += by;
  if (generated) in_generated_[size_t(token)] += by;
  if (in_text_[size_t(token)] == 0) seen_.pop_back();   // tokens go in the reverse of the order in which they came
}

void Sampler::push_prompt(std::span<const int32_t> tokens) {
  if (int64_t(text_.size()) != prompt_) throw ArgumentError("push_prompt: after generated tokens; expected before them");
  for (int32_t token : tokens) require(token >= 0 && token < vocabulary_, "token", token, "an id of the vocabulary");
  text_.insert(text_.end(), tokens.begin(), tokens.end());
  prompt_ = int64_t(text_.size());
  if (penalises_)
    for (int32_t token : tokens) count(token, 1, false);
}

void Sampler::push(int32_t token) {
  require(token >= 0 && token < vocabulary_, "token", token, "an id of the vocabulary");
  text_.push_back(token);
  if (penalises_) count(token, 1, true);
}

void Sampler::pop(int64_t count_of) {
  require(count_of >= 0 && count_of <= int64_t(text_.size()) - prompt_, "pop", double(count_of), "at most the generated tokens");
  for (; count_of > 0; --count_of) {
    if (penalises_) count(text_.back(), -1, true);
    text_.pop_back();
  }
}

const float* Sampler::adjusted(const float* logits, const uint32_t* mask) {
  if (!adjusts_ && options_.suppressed.empty() && !mask) return logits;
  adjusted_.assign(logits, logits + limit_);
  for (int32_t first = 0; mask && first < limit_; first += 32) {
    const uint32_t word = mask[first / 32];
    const int32_t end = std::min(limit_, first + 32);
    if (word == 0) std::fill(adjusted_.begin() + first, adjusted_.begin() + end, minus_infinity);
    else if (word != ~uint32_t{0})
      for (int32_t id = first; id < end; ++id) adjusted_[size_t(id)] = word >> (id - first) & 1 ? adjusted_[size_t(id)] : minus_infinity;
  }
  for (int32_t token : options_.suppressed)
    if (token < limit_) adjusted_[size_t(token)] = minus_infinity;
  for (const auto& [token, bias] : options_.logit_bias)
    if (token < limit_) adjusted_[size_t(token)] += bias;
  for (int32_t token : seen_) {
    if (token >= limit_) continue;
    float& z = adjusted_[size_t(token)];
    z = z > 0 ? z / options_.repeat_penalty : z * options_.repeat_penalty;
    if (const int32_t times = in_generated_[size_t(token)]; times > 0)
      z -= float(times) * options_.frequency_penalty + options_.presence_penalty;
  }
  return adjusted_.data();
}

// The top_k first tokens into kept_, in no order. The buffer is cut back whenever it has doubled; what is not above the last one
// kept cannot come back, as equal logits with higher ids come later.
void Sampler::keep_top_k(const float* logits) {
  const size_t want = size_t(options_.top_k), room = std::max<size_t>(2 * want, 1024);
  float floor = minus_infinity;
  kept_.clear();
  const auto cut = [&] {
    if (kept_.size() <= want) return;
    std::nth_element(kept_.begin(), kept_.begin() + ptrdiff_t(want) - 1, kept_.end(), goes_first);
    kept_.resize(want);
    floor = kept_.back().logit;
  };
  for (int32_t id = 0; id < limit_; ++id) {
    if (!(logits[id] > floor)) continue;
    kept_.push_back({logits[id], id});
    if (kept_.size() == room) cut();
  }
  cut();
}

// Cuts kept_ to the shortest run of first tokens that holds top_p of its weight. Weights are summed in bins of nearly equal
// logits; only the bin in which the sum passes top_p is put in order.
void Sampler::keep_top_p(float best) {
  constexpr int bins = 1024, bins_a_unit = 24;   // weights below exp(-42) of the largest cannot move a float32 top_p
  const auto bin_of = [&](float logit) {
    const double below = (double(best) - double(logit)) * scale_ * bins_a_unit;
    return below < bins - 1 ? int(below) : bins - 1;
  };
  const auto weight = [&](float logit) { return std::exp(float((double(logit) - double(best)) * scale_)); };
  double sums[bins] = {};
  for (Candidate c : kept_) sums[bin_of(c.logit)] += double(weight(c.logit));
  double total = 0, before = 0;
  for (double s : sums) total += s;
  const double target = total * double(options_.top_p);
  int last = 0;
  while (last < bins - 1 && before + sums[last] < target) before += sums[last++];

  std::vector<Candidate> edge;
  for (Candidate c : kept_)
    if (bin_of(c.logit) == last) edge.push_back(c);
  // Halves until few are left: the better half goes in whole, or the cut lies in it.
  auto from = edge.begin(), until = edge.end();
  while (until - from > 64) {
    const auto middle = from + (until - from) / 2;
    std::nth_element(from, middle, until, goes_first);
    double half = 0;
    for (auto c = from; c != middle; ++c) half += double(weight(c->logit));
    if (before + half < target) before += half, from = middle;
    else until = middle;
  }
  std::sort(from, until, goes_first);
  Candidate end = *from;   // the last one that stays
  for (auto c = from; c != until; ++c) {
    end = *c;
    before += double(weight(c->logit));
    if (before >= target) break;
  }
  std::erase_if(kept_, [&](Candidate c) { return c.logit < end.logit || (c.logit == end.logit && c.id > end.id); });
}

// The id with the largest score among all; a score beats another if it is larger, or equal with a lower id. Scores are counted from
// the best logit, so that at very low temperatures the noise still decides between equal logits.
int32_t Sampler::draw_all(const float* logits, int32_t best) const {
  const int64_t at = position();
  const double top = double(logits[best]);
  double most = gumbel(key_.words(at, uint32_t(best) / 4)[size_t(best) % 4]);
  int32_t chosen = best;
  // The least logit that the largest noise could bring to the top, rounded down.
  const auto least = [&] { return std::nextafter(float(top + (most - gumbel_most) / scale_), minus_infinity); };
  float chance = least();
  for (int32_t group = 0; group * 4 < limit_; ++group) {
    const int32_t first = group * 4, end = std::min(limit_, first + 4);
    bool any = false;
    for (int32_t id = first; id < end; ++id) any |= logits[id] >= chance;
    if (!any) continue;
    const auto words = key_.words(at, uint32_t(group));
    for (int32_t id = first; id < end; ++id) {
      const double z = (double(logits[id]) - top) * scale_;
      const uint32_t word = words[size_t(id - first)];
      if (!(z + gumbel_bound(word) >= most)) continue;
      const double score = z + gumbel(word);
      if (score > most || (score == most && id < chosen)) most = score, chosen = id, chance = least();
    }
  }
  return chosen;
}

int32_t Sampler::draw_kept(const float* logits, int32_t best) const {
  const int64_t at = position();
  const double top = double(logits[best]);
  double most = gumbel(key_.words(at, uint32_t(best) / 4)[size_t(best) % 4]);
  int32_t chosen = best;
  int32_t group = -1;
  std::array<uint32_t, 4> words{};
  for (Candidate c : kept_) {
    const double z = (double(c.logit) - top) * scale_;
    if (!(z + gumbel_most >= most)) continue;
    if (c.id / 4 != group) words = key_.words(at, uint32_t(group = c.id / 4));
    const uint32_t word = words[size_t(c.id) % 4];
    if (!(z + gumbel_bound(word) >= most)) continue;
    const double score = z + gumbel(word);
    if (score > most || (score == most && c.id < chosen)) most = score, chosen = c.id;
  }
  return chosen;
}

int32_t Sampler::choose(const float* logits, const uint32_t* mask) {
  const int32_t chosen = pick(logits, mask);
  if (mask || !judge_) return chosen;
  const uint32_t* allowed = judge_(text_.empty() ? -1 : text_.back(), chosen);
  return allowed ? pick(logits, allowed) : chosen;
}

int32_t Sampler::pick(const float* raw, const uint32_t* mask) {
  const float* logits = adjusted(raw, mask);
  const int32_t best = best_of(logits, limit_);
  const float top = logits[best];
  if (options_.temperature == 0 || !std::isfinite(top)) return best;

  const bool by_count = options_.top_k > 0 && options_.top_k < limit_, by_mass = options_.top_p < 1, by_ratio = options_.min_p > 0;
  if (!by_count && !by_mass && !by_ratio) return draw_all(logits, best);

  const double floor = by_ratio ? double(top) + std::log(double(options_.min_p)) / scale_ : -std::numeric_limits<double>::infinity();
  if (by_count) {
    keep_top_k(logits);
  } else {
    // min_p may go first where no sum over the rest follows.
    const double from = by_mass ? -std::numeric_limits<double>::infinity() : floor;
    kept_.clear();
    for (int32_t id = 0; id < limit_; ++id)
      if (double(logits[id]) >= from && logits[id] > minus_infinity) kept_.push_back({logits[id], id});
  }
  if (by_mass) keep_top_p(top);
  if (by_ratio) std::erase_if(kept_, [&](Candidate c) { return double(c.logit) < floor; });
  return draw_kept(logits, best);
}

std::vector<int32_t> Sampler::verify(const float* logits, std::span<const int32_t> drafts) {
  std::vector<int32_t> chosen;
  for (size_t row = 0; row <= drafts.size(); ++row) {
    chosen.push_back(choose(logits + row * size_t(vocabulary_)));
    push(chosen.back());
    if (row < drafts.size() && chosen.back() != drafts[row]) break;
  }
  return chosen;
}

}  // namespace skipstone
