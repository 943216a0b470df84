// skipstone._native.Sampler: choices over numpy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>

#include "runtime/error.h"
#include "runtime/sampler.h"

namespace py = pybind11;

namespace {

using skipstone::Sampler;
using Logits = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

std::span<const int32_t> span_of(const Tokens& tokens) {
  if (tokens.ndim() != 1) throw skipstone::ArgumentError("tokens: " + std::to_string(tokens.ndim()) + " dimensions; expected 1");
  return {tokens.data(), size_t(tokens.size())};
}

using Mask = py::array_t<uint32_t, py::array::c_style>;

const uint32_t* words_of(const Mask& mask, int32_t vocabulary) {
  if (mask.ndim() != 1 || mask.size() < (vocabulary + 31) / 32)
    throw skipstone::ArgumentError("mask: " + std::to_string(mask.size()) + " words; expected " + std::to_string((vocabulary + 31) / 32) + ", a bit for each token");
  return mask.data();
}

void set_judge(Sampler& sampler, const py::object& judge) {
  if (judge.is_none()) return sampler.set_judge(nullptr);
  sampler.set_judge([judge, mask = Mask(), vocabulary = sampler.vocabulary()](int32_t before, int32_t chosen) mutable -> const uint32_t* {
    py::gil_scoped_acquire locked;
    const py::object answer = judge(before, chosen);
    if (answer.is_none()) return nullptr;
    mask = py::cast<Mask>(answer);   // kept until it was used
    return words_of(mask, vocabulary);
  });
}

int32_t choose(Sampler& sampler, const Logits& logits, const py::object& mask) {
  if (logits.size() != sampler.vocabulary())
    throw skipstone::ArgumentError("logits: " + std::to_string(logits.size()) + " values; expected " + std::to_string(sampler.vocabulary()));
  const float* row = logits.data();
  const Mask kept = mask.is_none() ? Mask() : py::cast<Mask>(mask);
  const uint32_t* words = mask.is_none() ? nullptr : words_of(kept, sampler.vocabulary());
  py::gil_scoped_release unlocked;
  return sampler.choose(row, words);
}

std::vector<int32_t> verify(Sampler& sampler, const Logits& logits, const Tokens& drafts) {
  const auto draft = span_of(drafts);
  if (logits.ndim() != 2 || logits.shape(1) != sampler.vocabulary() || logits.shape(0) != py::ssize_t(draft.size()) + 1)
    throw skipstone::ArgumentError("logits: expected (" + std::to_string(draft.size() + 1) + ", " + std::to_string(sampler.vocabulary()) +
                                "), a row for the newest token and one for each of the drafts");
  const float* rows = logits.data();
  py::gil_scoped_release unlocked;
  return sampler.verify(rows, draft);
}

}  // namespace

void bind_sampler(py::module_& m) {
  m.def("philox4x32", [](std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) { return skipstone::philox4x32(counter, key); },
        py::arg("counter"), py::arg("key"), "Philox4x32-10: four 32-bit words of a counter and a key.");
  m.def("gumbel_noise",
        [](uint64_t seed, uint64_t sequence, int64_t position, uint32_t token) {
          return skipstone::gumbel(skipstone::NoiseKey{seed, sequence}.words(position, token / 4)[token % 4]);
        },
        py::arg("seed"), py::arg("sequence"), py::arg("position"), py::arg("token"), "The standard Gumbel noise of a token at a position.");

  py::class_<Sampler>(m, "Sampler", "Chooses tokens from logits by (seed, sequence, position); keeps the text for penalties and the position.")
      .def(py::init([](int32_t vocabulary, float temperature, int top_k, float top_p, float min_p, float repeat_penalty, float presence_penalty,
                       float frequency_penalty, std::vector<std::pair<int32_t, float>> logit_bias, int32_t limit, std::vector<int32_t> suppressed,
                       uint64_t seed, uint64_t sequence) {
             skipstone::SamplerOptions options;
             options.temperature = temperature;
             options.top_k = top_k;
             options.top_p = top_p;
             options.min_p = min_p;
             options.repeat_penalty = repeat_penalty;
             options.presence_penalty = presence_penalty;
             options.frequency_penalty = frequency_penalty;
             options.logit_bias = std::move(logit_bias);
             options.limit = limit;
             options.suppressed = std::move(suppressed);
             options.seed = seed;
             options.sequence = sequence;
             return Sampler(std::move(options), vocabulary);
           }),
           py::arg("vocabulary"), py::kw_only(), py::arg("temperature") = 0.0f, py::arg("top_k") = 0, py::arg("top_p") = 1.0f, py::arg("min_p") = 0.0f,
           py::arg("repeat_penalty") = 1.0f, py::arg("presence_penalty") = 0.0f, py::arg("frequency_penalty") = 0.0f,
           py::arg("logit_bias") = std::vector<std::pair<int32_t, float>>{}, py::arg("limit") = 0,
           py::arg("suppressed") = std::vector<int32_t>{}, py::arg("seed") = 0, py::arg("sequence") = 0)
      .def_property_readonly("vocabulary", &Sampler::vocabulary)
      .def_property_readonly("plain_greedy", &Sampler::plain_greedy, "The best id of the raw logits is the choice (if it is below the limit and not suppressed).")
      .def_property_readonly("limit", [](const Sampler& s) { return s.options().limit ? std::min(s.options().limit, s.vocabulary()) : s.vocabulary(); })
      .def_property_readonly("suppressed", [](const Sampler& s) { return s.options().suppressed; })
      .def_property_readonly("position", &Sampler::position, "Position of the token to be chosen next: how many were pushed.")
      .def("push_prompt", [](Sampler& s, const Tokens& tokens) { s.push_prompt(span_of(tokens)); }, py::arg("tokens"))
      .def("push", &Sampler::push, py::arg("token"))
      .def("pop", &Sampler::pop, py::arg("count"), "Takes back the last `count` generated tokens.")
      .def("choose", &choose, py::arg("logits"), py::arg("mask") = py::none(),
           "The token at `position`, from float32 (vocabulary,) logits; pushes nothing. mask: uint32 words, a bit for each token that may be chosen.")
      .def("set_judge", &set_judge, py::arg("judge"), "judge(token before, choice) sees choices made without a mask: None lets one stand, a mask has it made again.")
      .def("verify", &verify, py::arg("logits"), py::arg("drafts"),
           "From float32 (m + 1, vocabulary) logits and (m,) drafts: the tokens chosen row by row while the draft agrees; all are pushed.");
}
