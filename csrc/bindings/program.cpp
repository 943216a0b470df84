// Programs and sequences over numpy arrays. The interpreter lock is released while a pass runs.
#include "program/program.h"

#include "bindings/run.h"
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

// Saving and loading: points are pairs (length, pending), a block is bytes.
std::vector<Point> points_of(const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  std::vector<Point> points;
  for (const auto& [length, pending] : pairs) {
    if (length < 0 || length > (int64_t{1} << 31) || pending < 0 || pending > std::min(length, step_back)) throw ArgumentError("a point of " + std::to_string(length) + " tokens with " + std::to_string(pending) + " pending");
    points.push_back({length, pending});
  }
  return points;
}

std::vector<std::pair<int64_t, int64_t>> pairs_of(const std::vector<Point>& points) {
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (const Point& p : points) pairs.emplace_back(p.length, p.pending);
  return pairs;
}

std::vector<int64_t> block_bytes(const Program& program, const std::string& kv_type, const std::vector<std::pair<int64_t, int64_t>>& points) {
  return Sequence::block_bytes(program.states(), kv_type_of(kv_type), points_of(points));
}

void write_block(const Sequence& sequence, int64_t index, py::array_t<uint8_t, py::array::c_style>& out) {
  if (index < 0 || index >= sequence.blocks() || out.size() != sequence.block_bytes(index)) throw ArgumentError("block " + std::to_string(index) + " does not fit");
  uint8_t* to = out.mutable_data();
  py::gil_scoped_release unlocked;
  sequence.write_block(index, to);
}

void read_block(Sequence& sequence, int64_t index, const ByteArray& in) {
  if (index < 0 || index >= sequence.blocks() || in.size() != sequence.block_bytes(index)) throw ArgumentError("block " + std::to_string(index) + " does not fit");
  const uint8_t* from = in.data();
  py::gil_scoped_release unlocked;
  sequence.read_block(index, from);
}

}  // namespace

void bind_program(py::module_& m) {
  py::class_<Sequence>(m, "Sequence", "What a program remembers of one text.")
      .def_property_readonly("length", &Sequence::length, "Tokens held.")
      .def("rollback", &Sequence::rollback, py::arg("length"),
           "Goes back to `length` tokens. False where the state does not reach: then it holds fewer (see length), and the text up to `length` must be read again.")
      .def("copy", &Sequence::copy, "An independent sequence with the same contents.")
      .def_property_readonly("bytes", &Sequence::bytes, "Memory held.")
      .def("keep_marks", &Sequence::keep_marks, py::arg("most"), "How many places to go back to are kept at most.")
      .def("mark", &Sequence::mark, "Makes this length a place to go back to.")
      .def_property_readonly("points", [](const Sequence& s) { return pairs_of(s.points()); }, "(length, pending) of the marks, oldest first, and of the sequence itself.")
      .def("set_points", [](Sequence& s, const std::vector<std::pair<int64_t, int64_t>>& points) { s.set_points(points_of(points)); }, py::arg("points"),
           "Prepares an empty sequence for reading saved blocks.")
      .def("write_block", &write_block, py::arg("index"), py::arg("out"), "Writes a block of the state to uint8 `out`, sized as Program.block_bytes says.")
      .def("read_block", &read_block, py::arg("index"), py::arg("data"), "Reads what write_block wrote.");
  py::class_<Program>(m, "Program", "A forward pass recorded once (skipstone.models.builder) and run as one native call a pass.")
      .def(py::init(&make_program), py::arg("spec"))
      .def("sequence", [](const Program& p, const std::string& kv_type) { return p.sequence(kv_type_of(kv_type)); }, py::arg("kv_type") = "f16")
      .def("block_bytes", &block_bytes, py::arg("kv_type"), py::arg("points"), "Sizes of the blocks in which a sequence with these points is saved.")
      .def_property_readonly("vocabulary", &Program::vocabulary)
      .def_property_readonly("hidden_width", &Program::hidden_width)
      .def_property_readonly("input_width", &Program::input_width)
      .def_property_readonly("borrows", &Program::borrows)
      .def("run", [](Program& p, const py::list& parts, const py::object& hidden, const py::object& borrow, const std::string& want, const std::string& rows, int threads, const std::string& hidden_rows) {
             if (hidden_rows != "all" && hidden_rows != "last") throw ArgumentError("hidden_rows is '" + hidden_rows + "'; expected all or last");
             const bool last_hidden = hidden_rows == "last";
             return run_program<Append, Sequence>(p, parts, hidden, borrow, want, rows, [&](const auto& appends, const float* in, Want what, bool last, float* logits, int32_t* choices, float* out) {
               p.run(appends, in, what, last, last_hidden, threads > 0 ? threads : usable_cores(), logits, choices, out);
             }, last_hidden);
           }, py::arg("parts"), py::arg("hidden") = py::none(), py::arg("borrow") = py::none(), py::arg("want") = "logits", py::arg("rows") = "all", py::arg("threads") = 0, py::arg("hidden_rows") = "all",
           "One pass. parts: [(Sequence, int32 tokens)]; returns (logits float32 (rows, vocabulary) | choices int32 (rows,) | None, hidden float32 (all rows, width) | None).\n\n"
           "hidden_rows 'last', of one part with rows 'last': hidden has one row, and nothing is computed of the others but what later rows need.")
      .def("chain", [](Program& p, Sequence* sequence, const py::object& tokens, const py::object& hidden, int steps, Sequence* borrow, Sampler* sampler, int threads) {
             return run_chain<Append>(p, sequence, tokens, hidden, borrow, [&](const Append& start, const float* in) { return p.chain(start, in, steps, sampler, threads > 0 ? threads : usable_cores()); });
           }, py::arg("sequence"), py::arg("tokens"), py::arg("hidden"), py::arg("steps"), py::arg("borrow") = nullptr, py::arg("sampler") = nullptr, py::arg("threads") = 0,
           "A drafter's chain of `steps` tokens after the given rows.");
}

}  // namespace skipstone
