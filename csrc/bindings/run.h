// The methods run and chain of programs on every device: numpy arrays in and out, the interpreter lock released while a pass runs.
#pragma once
#include "bindings/spec.h"
#include "runtime/pass.h"

namespace skipstone {

// call(appends, hidden in, want, last rows alone, logits, choices, hidden out)
template <class Append, class Sequence, class Program, class Call>
py::tuple run_program(Program& program, const py::list& list, const py::object& hidden, const py::object& borrow, const std::string& want, const std::string& rows, Call call, bool last_hidden = false) {
  std::vector<TokenArray> tokens;                // kept while the pass reads them
  std::vector<Append> appends;
  int64_t total = 0;
  const py::list borrowed = borrow.is_none() ? py::list() : py::cast<py::list>(borrow);
  if (!borrow.is_none() && py::len(borrowed) != py::len(list)) throw ArgumentError("borrow has " + std::to_string(py::len(borrowed)) + " sequences for " + std::to_string(py::len(list)) + " parts");
  for (size_t i = 0; i < py::len(list); ++i) {
    const auto part = py::cast<py::tuple>(list[i]);
    tokens.push_back(tokens_of(part[1]));
    appends.push_back({part[0].is_none() ? nullptr : py::cast<Sequence*>(part[0]), borrow.is_none() || borrowed[i].is_none() ? nullptr : py::cast<Sequence*>(borrowed[i]),
                       {tokens.back().data(), static_cast<size_t>(tokens.back().size())}});
    total += tokens.back().size();
  }
  FloatArray kept;
  const float* in = hidden_of(hidden, kept, total, program.input_width());
  if (want != "none" && want != "logits" && want != "choice") throw ArgumentError("want is '" + want + "'; expected none, logits or choice");
  if (rows != "all" && rows != "last") throw ArgumentError("rows is '" + rows + "'; expected all or last");
  const Want what = want == "none" ? Want::none : want == "logits" ? Want::logits : Want::choice;
  const bool last = rows == "last";
  if (last_hidden && !(last && appends.size() == 1)) throw ArgumentError("hidden_rows 'last' needs one part and rows 'last'");
  const int64_t results = last ? static_cast<int64_t>(appends.size()) : total;
  py::object result = py::none(), out = py::none();
  float *logits = nullptr, *hidden_out = nullptr;
  int32_t* choices = nullptr;
  if (what == Want::logits) {
    py::array_t<float> a({results, program.vocabulary()});
    logits = a.mutable_data();
    result = a;
  } else if (what == Want::choice) {
    py::array_t<int32_t> a(results);
    choices = a.mutable_data();
    result = a;
  }
  if (program.hidden_width()) {
    py::array_t<float> a({last_hidden ? 1 : total, program.hidden_width()});
    hidden_out = a.mutable_data();
    out = a;
  }
  {
    py::gil_scoped_release unlocked;
    call(appends, in, what, last, logits, choices, hidden_out);
  }
  return py::make_tuple(result, out);
}

// call(start, hidden in) -> drafts
template <class Append, class Program, class Sequence, class Call>
std::vector<int32_t> run_chain(Program& program, Sequence* sequence, const py::object& tokens, const py::object& hidden, Sequence* borrow, Call call) {
  const TokenArray ids = tokens_of(tokens);
  FloatArray kept;
  const float* in = hidden_of(hidden, kept, ids.size(), program.input_width());
  const Append start{sequence, borrow, {ids.data(), static_cast<size_t>(ids.size())}};
  py::gil_scoped_release unlocked;
  return call(start, in);
}

}  // namespace skipstone
