// A drafter's chain, on every device: a token chosen from the last of the given rows, then one row after the other: the token just drafted and the hidden
// row that came out before it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/error.h"
#include "runtime/pass.h"
#include "runtime/sampler.h"
#include "runtime/state.h"

namespace skipstone {

// Throws where a program cannot be chained so often.
template <class Program> void check_chain(const Program& program, int steps) {
  if (steps < 1 || steps > step_back) throw ArgumentError("a chain of " + std::to_string(steps) + " drafts; expected 1 to " + std::to_string(step_back));
  if (program.hidden_width() != program.input_width())
    throw ModelError("a program whose hidden rows have width " + std::to_string(program.hidden_width()) + " and whose input has " + std::to_string(program.input_width()) + " cannot be chained");
}

// run(append, hidden in, want, logits, &token, hidden out): one pass, of which the last row's results are kept. The sequence keeps only the given rows.
template <class Program, class Append, class Run>
std::vector<int32_t> draft_chain(const Program& program, const Append& start, const float* hidden, int steps, Sampler* sampler, Run run) {
  check_chain(program, steps);
  const int64_t kept = (start.sequence ? start.sequence->length() : 0) + static_cast<int64_t>(start.tokens.size());
  std::vector<float> out(static_cast<size_t>(program.hidden_width())), fed(out.size()), logits(sampler ? static_cast<size_t>(program.vocabulary()) : 0);
  std::vector<int32_t> drafts;
  Append next = start;
  int32_t token = 0;
  for (int i = 0; i < steps; ++i) {
    run(next, hidden, sampler ? Want::logits : Want::choice, logits.data(), &token, out.data());
    if (sampler) {
      token = sampler->choose(logits.data());
      sampler->push(token);
    }
    drafts.push_back(token);
    fed.swap(out);
    hidden = fed.data();
    next.tokens = {&drafts.back(), 1};
  }
  if (sampler) sampler->pop(steps);
  if (start.sequence) start.sequence->rollback(kept);
  return drafts;
}

}  // namespace skipstone
