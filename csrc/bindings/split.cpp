// Programs whose sections run on several devices, with the methods of those on one (bindings/program.cpp).
#include "bindings/run.h"
#include "placement/split.h"
#include "runtime/sampler.h"

namespace skipstone {
namespace {

std::unique_ptr<SplitProgram> make_program(const py::list& sections) {
  std::vector<SplitProgram::Section> all;
  for (const py::handle section : sections) {
    if (py::isinstance<gpu::GpuProgram>(section)) all.emplace_back(py::cast<gpu::GpuProgram*>(section));
    else all.emplace_back(py::cast<Program*>(section));
  }
  return std::make_unique<SplitProgram>(std::move(all));
}

}  // namespace

void bind_split(py::module_& m) {
  py::class_<SplitSequence>(m, "SplitSequence", "What the sections of a split program remember of one text.")
      .def_property_readonly("length", &SplitSequence::length, "Tokens held.")
      .def("rollback", &SplitSequence::rollback, py::arg("length"), "As Sequence.rollback.")
      .def("copy", &SplitSequence::copy, "An independent sequence with the same contents.")
      .def("keep_marks", &SplitSequence::keep_marks, py::arg("most"), "As Sequence.keep_marks; on a card one mark is kept.")
      .def("mark", &SplitSequence::mark, "As Sequence.mark.")
      .def_property_readonly("bytes", &SplitSequence::bytes, "Memory held, on all devices.");
  py::class_<SplitProgram>(m, "SplitProgram", "Programs, each on its device, run one after the other: from the second on they take the hidden rows of the one before. Methods as Program's.")
      .def(py::init(&make_program), py::arg("sections"), py::keep_alive<1, 2>())
      .def("sequence", [](const SplitProgram& p, const std::string& kv_type) { return p.sequence(kv_type_of(kv_type)); }, py::arg("kv_type") = "f16")
      .def_property_readonly("vocabulary", &SplitProgram::vocabulary)
      .def_property_readonly("hidden_width", &SplitProgram::hidden_width)
      .def_property_readonly("input_width", &SplitProgram::input_width)
      .def_property_readonly("borrows", &SplitProgram::borrows)
      .def("run", [](SplitProgram& p, const py::list& parts, const py::object& hidden, const py::object& borrow, const std::string& want, const std::string& rows, int threads) {
             return run_program<SplitAppend, SplitSequence>(p, parts, hidden, borrow, want, rows, [&](const auto& appends, const float* in, Want what, bool last, float* logits, int32_t* choices, float* out) {
               p.run(appends, in, what, last, threads > 0 ? threads : usable_cores(), logits, choices, out);
             });
           }, py::arg("parts"), py::arg("hidden") = py::none(), py::arg("borrow") = py::none(), py::arg("want") = "logits", py::arg("rows") = "all", py::arg("threads") = 0,
           "One pass, as Program.run.")
      .def("chain", [](SplitProgram& p, SplitSequence* sequence, const py::object& tokens, const py::object& hidden, int steps, SplitSequence* borrow, Sampler* sampler, int threads) {
             return run_chain<SplitAppend>(p, sequence, tokens, hidden, borrow, [&](const SplitAppend& start, const float* in) { return p.chain(start, in, steps, sampler, threads > 0 ? threads : usable_cores()); });
           }, py::arg("sequence"), py::arg("tokens"), py::arg("hidden"), py::arg("steps"), py::arg("borrow") = nullptr, py::arg("sampler") = nullptr, py::arg("threads") = 0,
           "A drafter's chain, as Program.chain.");
}

}  // namespace skipstone
