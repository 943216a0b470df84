// Programs and sequences over numpy arrays. The interpreter lock is released while a pass runs.
#include "program/program.h"

#include "bindings/arrays.h"
#include "runtime/sampler.h"

namespace skipstone {
namespace {

Attributes attributes_of(const py::dict& op) {
  Attributes a;
  if (!op.contains("kind")) throw ModelError("an operation has no kind");
  a.kind = py::cast<std::string>(op["kind"]);
  for (auto [key, value] : op) {
    const std::string name = py::cast<std::string>(key);
    if (name == "kind" || value.is_none()) continue;
    if (name == "inputs") a.inputs = py::cast<std::vector<int>>(value);
    else if (name == "outputs") a.outputs = py::cast<std::vector<int>>(value);
    else if (py::isinstance<Weight>(value)) a.weights[name] = {py::cast<std::shared_ptr<Weight>>(value)};
    else if (py::isinstance<py::str>(value)) a.words[name] = py::cast<std::string>(value);
    else if (py::isinstance<py::array>(value)) {
      const FloatArray v = FloatArray::ensure(value);
      if (!v) throw ModelError("operation '" + a.kind + "': vector '" + name + "' is not of numbers");
      a.vectors[name].assign(v.data(), v.data() + v.size());
    } else if (py::isinstance<py::sequence>(value)) {
      const auto list = py::cast<py::sequence>(value);
      if (py::len(list) && py::isinstance<Weight>(list[0])) a.weights[name] = py::cast<std::vector<std::shared_ptr<Weight>>>(value);
      else a.integers[name] = py::cast<std::vector<int64_t>>(value);
    } else {
      a.numbers[name] = py::cast<double>(value);
    }
  }
  return a;
}

StateSpec state_of(const py::dict& s) {
  auto get = [&](const char* name) {
    if (!s.contains(name)) throw ModelError(std::string("a state has no '") + name + "'");
    return py::cast<int64_t>(s[name]);
  };
  const std::string kind = py::cast<std::string>(s["kind"]);
  if (kind == "kv") return {KvSpec{get("kv_heads"), get("head"), get("window")}, {}};
  if (kind == "delta") return {{}, DeltaSpec{get("key_heads"), get("value_heads"), get("head"), get("channels"), get("kernel")}};
  throw ModelError("a state of unknown kind '" + kind + "'");
}

std::unique_ptr<Program> make_program(const py::dict& spec) {
  std::vector<StateSpec> states;
  for (const py::handle s : py::cast<py::list>(spec["states"])) states.push_back(state_of(py::cast<py::dict>(s)));
  std::vector<Attributes> operations;
  for (const py::handle op : py::cast<py::list>(spec["ops"])) operations.push_back(attributes_of(py::cast<py::dict>(op)));
  auto widths = py::cast<std::vector<int64_t>>(spec["widths"]);
  py::gil_scoped_release unlocked;
  return std::make_unique<Program>(std::move(widths), std::move(states), operations);
}

cpu::KvType kv_type_of(const std::string& name) {
  if (name == "f16") return cpu::KvType::f16;
  if (name == "bf16") return cpu::KvType::bf16;
  if (name == "f32") return cpu::KvType::f32;
  throw ArgumentError("kv_type is '" + name + "'; expected f16, bf16 or f32");
}

// The parts of a pass with what keeps their tokens alive.
struct Parts {
  std::vector<TokenArray> tokens;
  std::vector<Append> appends;
  int64_t rows = 0;
};

TokenArray tokens_of(const py::handle& value) {
  TokenArray tokens = TokenArray::ensure(value);
  if (!tokens || tokens.ndim() != 1) throw ArgumentError("the tokens of a part must be a one-dimensional array of int32");
  return tokens;
}

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

const float* hidden_of(const py::object& hidden, FloatArray& kept, int64_t rows, int64_t width) {
  if (hidden.is_none()) return nullptr;
  kept = FloatArray::ensure(hidden);
  if (!kept || kept.ndim() != 2 || kept.shape(0) != rows || kept.shape(1) != width)
    throw ArgumentError("hidden has shape " + (kept ? shape_of(kept) : std::string("unknown")) + "; expected (" + std::to_string(rows) + ", " + std::to_string(width) + ")");
  return kept.data();
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
