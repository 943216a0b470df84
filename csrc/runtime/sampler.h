// The choice of a token from its logits: a deterministic function of the logits, the text so far and (seed, sequence, position).
//
// Order: suppressed and masked ids, logit bias, repetition penalty, frequency and presence penalty, temperature, top_k, top_p (of what top_k left), min_p,
// then the largest of logit / temperature + Gumbel noise, which is a draw from the softmax of what is left. Order of tokens
// everywhere: larger logit first, at ties the lower id. Temperature 0 takes the first token of that order after the penalties.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "runtime/philox.h"

namespace skipstone {

struct SamplerOptions {
  float temperature = 0;          // >= 0; 0 takes the best token
  float top_p = 1;                // (0, 1]; 1 keeps all
  float min_p = 0;                // [0, 1]; 0 keeps all
  int top_k = 0;                  // 0 keeps all
  float repeat_penalty = 1;       // > 0; tokens of the whole text: positive logits are divided by it, others multiplied
  float presence_penalty = 0;     // taken from the logits of generated tokens, once
  float frequency_penalty = 0;    // and once for each time that they were generated
  std::vector<std::pair<int32_t, float>> logit_bias;   // (token, added to its logit), -infinity forbids it
  int32_t limit = 0;              // ids from here on are never chosen (rows that pad the head); 0: no limit
  std::vector<int32_t> suppressed;   // other ids that are never chosen
  uint64_t seed = 0;
  uint64_t sequence = 0;          // whose text it is: other numbers, other noise
};

class [[gnu::visibility("default")]] Sampler {
 public:
  struct Candidate {
    float logit;
    int32_t id;
  };

  // vocabulary: logits a row. Throws ArgumentError for an option out of range, naming it.
  Sampler(SamplerOptions options, int32_t vocabulary);

  int32_t vocabulary() const { return vocabulary_; }
  const SamplerOptions& options() const { return options_; }

  // The best id of the raw logits is what choose() would return, as long as it is below the limit and not suppressed.
  bool plain_greedy() const { return options_.temperature == 0 && !adjusts_; }

  // A choice is the largest of logit / temperature + noise, among some of the tokens: no penalties, bias or judge.
  bool plain_draw() const { return options_.temperature > 0 && !adjusts_ && !judge_; }

  // The text so far. Tokens of the prompt count for repeat_penalty only. pop takes back generated tokens.
  void push_prompt(std::span<const int32_t> tokens);
  void push(int32_t token);
  void pop(int64_t count);
  int64_t position() const { return int64_t(text_.size()); }   // of the token to be chosen next

  // The token at position(), from `vocabulary` logits; the text stays as it is. NaN counts as -infinity; 0 where all are that.
  // mask: a bit for each id (bit id % 32 of word id / 32), unset where it may not be chosen, as if its logit were -infinity; null: all may.
  int32_t choose(const float* logits, const uint32_t* mask = nullptr);

  // A judge sees every choice made without a mask: (the token before it, the choice) -> null if it may stand, else the mask to choose again with.
  using Judge = std::function<const uint32_t*(int32_t before, int32_t chosen)>;
  void set_judge(Judge judge) { judge_ = std::move(judge); }

  // drafts.size() + 1 rows of logits, row i following draft i - 1: chooses row by row while the draft agrees, pushes every
  // chosen token and returns them (between one and all).
  std::vector<int32_t> verify(const float* logits, std::span<const int32_t> drafts);

 private:
  const float* adjusted(const float* logits, const uint32_t* mask);
  int32_t pick(const float* logits, const uint32_t* mask);
  void count(int32_t token, int by, bool generated);
  void keep_top_k(const float* logits);
  void keep_top_p(float best);
  int32_t draw_all(const float* logits, int32_t best) const;
  int32_t draw_kept(const float* logits, int32_t best) const;

  SamplerOptions options_;
  int32_t vocabulary_;
  int32_t limit_;
  NoiseKey key_;
  double scale_ = 1;              // 1 / temperature
  bool penalises_ = false;        // any of the three penalties
  bool adjusts_ = false;          // penalties or bias: choices depend on more than the logits' order

  Judge judge_;
  std::vector<int32_t> text_;
  int64_t prompt_ = 0;            // tokens of text_ that are the prompt
  // Counts per id and the ids with a count, in order of first occurrence: the last one is the first to go. Empty without penalties.
  std::vector<int32_t> in_text_, in_generated_, seen_;
  std::vector<float> adjusted_;   // a copy of the logits, where any of them change
  std::vector<Candidate> kept_;   // survivors of the filters
};

}  // namespace skipstone
