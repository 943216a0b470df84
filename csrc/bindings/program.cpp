// Programs and sequences over numpy arrays. The interpreter lock is released while a pass runs.
#include "program/program.h"

#include "bindings/spec.h"
#include "runtime/sampler.h"

namespace skipstone {
namespace {

std::unique_ptr<Program> make_program(const py::dict& spec) {
  std::vector<StateSpec> states;
  for (const py::handle s : py::cast<py::list>(spec["states"])) states.push_back(state_of(py::cast<py::dict>(s)));
  std::vector<Attributes> operations;
  for (const py::handle op : py::cast<py::list>(spec["ops"])) operations.push_back(attributes_of(py::cast<py::dict>(op)));
  auto widths = py::cast<std::vector<int64_t>>(spec["widths"]);
  py::gil_scoped_release unlocked;
  return std::make_unique<Program>(std::move(widths), std::move(states), operations);
}

// The parts of a pass with what keeps their tokens alive.
struct Parts {
  std::vector<TokenArray> tokens;
  std::vector<Append> appends;
  int64_t rows = 0;
};

Parts parts_of(const py::list& list, const py::object& borrow) {
  Parts parts;
  py::list borrowed = borrow.is_none() ? py::list() : py::cast<py::list>(borrow);
  if (!borrow.is_none() && py::len(borrowed) != py::len(list)) throw ArgumentError("borrow has " + std::to_string(py::len(borrowed)) + " sequences for " + std::to_string(py::len(list)) + " parts");
  for (size_t i = 0; i < py::len(list); ++i) {
    const auto part = py::cast<py::tuple>(list[i]);
    parts.tokens.push_back(tokens_of(part[1]));
    const TokenArray& tokens = parts.tokens.back();
    parts.appends.push_back({part[0].is_none() ? nullptr : py::cast<Sequence*>(part[0]), borrow.is_none() || borrowed[i].is_none() ? nullptr : py::cast<Sequence*>(borrowed[i]),
                             {tokens.data(), static_cast<size_t>(tokens.size())}});
    parts.rows += tokens.size();
  }
  return parts;
}

py::tuple run(Program& program, const py::list& list, const py::object& hidden, const py::object& borrow, const std::string& want, const std::string& rows, int threads) {
  const Parts parts = parts_of(list, borrow);
  FloatArray kept;
  const float* in = hidden_of(hidden, kept, parts.rows, program.input_width());
  if (want != "none" && want != "logits" && want != "choice") throw ArgumentError("want is '" + want + "'; expected none, logits or choice");
  if (rows != "all" && rows != "last") throw ArgumentError("rows is '" + rows + "'; expected all or last");
  const Want what = want == "none" ? Want::none : want == "logits" ? Want::logits : Want::choice;
  const bool last = rows == "last";
  const int64_t results = last ? static_cast<int64_t>(parts.appends.size()) : parts.rows;
  py::object result = py::none(), out = py::none();
  float* logits = nullptr;
  int32_t* choices = nullptr;
  float* hidden_out = nullptr;
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
    py::array_t<float> a({parts.rows, program.hidden_width()});
    hidden_out = a.mutable_data();
    out = a;
  }
  {
    py::gil_scoped_release unlocked;
    program.run(parts.appends, in, what, last, threads > 0 ? threads : usable_cores(), logits, choices, hidden_out);
  }
  return py::make_tuple(result, out);
}

std::vector<int32_t> chain(Program& program, Sequence* sequence, const py::object& tokens, const py::object& hidden, int steps, Sequence* borrow, Sampler* sampler, int threads) {
  const TokenArray ids = tokens_of(tokens);
  FloatArray kept;
  const float* in = hidden_of(hidden, kept, ids.size(), program.input_width());
  const Append start{sequence, borrow, {ids.data(), static_cast<size_t>(ids.size())}};
  py::gil_scoped_release unlocked;
  return program.chain(start, in, steps, sampler, threads > 0 ? threads : usable_cores());
}

}  // namespace

void bind_program(py::module_& m) {
  py::class_<Sequence>(m, "Sequence", "What a program remembers of one text.")
      .def_property_readonly("length", &Sequence::length, "Tokens held.")
      .def("rollback", &Sequence::rollback, py::arg("length"),
           "Goes back to `length` tokens. False where the state does not reach: then it holds fewer (see length), and the text up to `length` must be read again.")
      .def("copy", &Sequence::copy, "An independent sequence with the same contents.")
      .def_property_readonly("bytes", &Sequence::bytes, "Memory held.");
  py::class_<Program>(m, "Program", "A forward pass recorded once (skipstone.models.builder) and run as one native call a pass.")
      .def(py::init(&make_program), py::arg("spec"))
      .def("sequence", [](const Program& p, const std::string& kv_type) { return p.sequence(kv_type_of(kv_type)); }, py::arg("kv_type") = "f16")
      .def_property_readonly("vocabulary", &Program::vocabulary)
      .def_property_readonly("hidden_width", &Program::hidden_width)
      .def_property_readonly("input_width", &Program::input_width)
      .def_property_readonly("borrows", &Program::borrows)
      .def("run", &run, py::arg("parts"), py::arg("hidden") = py::none(), py::arg("borrow") = py::none(), py::arg("want") = "logits", py::arg("rows") = "all", py::arg("threads") = 0,
           "One pass. parts: [(Sequence, int32 tokens)]; returns (logits float32 (rows, vocabulary) | choices int32 (rows,) | None, hidden float32 (all rows, width) | None).")
      .def("chain", &chain, py::arg("sequence"), py::arg("tokens"), py::arg("hidden"), py::arg("steps"), py::arg("borrow") = nullptr, py::arg("sampler") = nullptr, py::arg("threads") = 0,
           "A drafter's chain of `steps` tokens after the given rows.");
}

}  // namespace skipstone
