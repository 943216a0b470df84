// Programs and sequences on a card, with the methods of those on the CPU (bindings/program.cpp).
#include <dlfcn.h>

#include <cstdlib>

#include "backends/gpu/program.h"
#include "bindings/spec.h"
#include "runtime/mapped_file.h"
#include "runtime/sampler.h"

namespace skipstone {
namespace {

using gpu::GpuAppend;
using gpu::GpuProgram;
using gpu::GpuSequence;

// The kernels lie beside this module, unless SKIPSTONE_GPU_IMAGE names another file.
std::string image_path() {
  if (const char* named = std::getenv("SKIPSTONE_GPU_IMAGE")) return named;
  Dl_info here{};
  dladdr(reinterpret_cast<const void*>(&image_path), &here);
  const std::string file = here.dli_fname ? here.dli_fname : "";
  return file.substr(0, file.rfind('/') + 1) + "gpu/kernels.fatbin";
}

py::list gpu_devices() {
  std::string reason;
  py::list out;
  std::vector<gpu::DeviceInfo> devices;
  {
    py::gil_scoped_release unlocked;
    devices = gpu::cuda_devices(reason);
  }
  for (const auto& d : devices) {
    py::dict item;
    item["name"] = d.name;
    item["description"] = d.description;
    item["memory"] = d.memory;
    item["processors"] = d.processors;
    item["capability"] = py::make_tuple(d.major, d.minor);
    item["problem"] = d.problem;
    out.append(item);
  }
  if (!reason.empty()) {
    py::dict item;
    item["name"] = "cuda";
    item["problem"] = reason;
    out.append(item);
  }
  return out;
}

std::unique_ptr<GpuProgram> make_program(const py::dict& spec, int device) {
  std::vector<StateSpec> states;
  for (const py::handle s : py::cast<py::list>(spec["states"])) states.push_back(state_of(py::cast<py::dict>(s)));
  std::vector<Attributes> operations;
  for (const py::handle op : py::cast<py::list>(spec["ops"])) operations.push_back(attributes_of(py::cast<py::dict>(op)));
  auto widths = py::cast<std::vector<int64_t>>(spec["widths"]);
  py::gil_scoped_release unlocked;
  auto program = std::make_unique<GpuProgram>(gpu::open_cuda(device, image_path()), std::move(widths), std::move(states), operations);
  for (const Attributes& a : operations)
    for (const auto& [name, list] : a.weights)
      for (const auto& weight : list) check_mapped(weight->data());      // they are on the card now
  return program;
}

py::tuple run(GpuProgram& program, const py::list& list, const py::object& hidden, const py::object& borrow, const std::string& want, const std::string& rows, int) {
  std::vector<TokenArray> tokens;
  std::vector<GpuAppend> appends;
  int64_t total = 0;
  const py::list borrowed = borrow.is_none() ? py::list() : py::cast<py::list>(borrow);
  if (!borrow.is_none() && py::len(borrowed) != py::len(list)) throw ArgumentError("borrow has " + std::to_string(py::len(borrowed)) + " sequences for " + std::to_string(py::len(list)) + " parts");
  for (size_t i = 0; i < py::len(list); ++i) {
    const auto part = py::cast<py::tuple>(list[i]);
    tokens.push_back(tokens_of(part[1]));
    appends.push_back({part[0].is_none() ? nullptr : py::cast<GpuSequence*>(part[0]), borrow.is_none() || borrowed[i].is_none() ? nullptr : py::cast<GpuSequence*>(borrowed[i]),
                       {tokens.back().data(), static_cast<size_t>(tokens.back().size())}});
    total += tokens.back().size();
  }
  FloatArray kept;
  const float* in = hidden_of(hidden, kept, total, program.input_width());
  if (want != "none" && want != "logits" && want != "choice") throw ArgumentError("want is '" + want + "'; expected none, logits or choice");
  if (rows != "all" && rows != "last") throw ArgumentError("rows is '" + rows + "'; expected all or last");
  const bool last = rows == "last";
  const int64_t results = last ? static_cast<int64_t>(appends.size()) : total;
  py::object result = py::none(), out = py::none();
  float *logits = nullptr, *hidden_out = nullptr;
  int32_t* choices = nullptr;
  if (want == "logits") {
    py::array_t<float> a({results, program.vocabulary()});
    logits = a.mutable_data();
    result = a;
  } else if (want == "choice") {
    py::array_t<int32_t> a(results);
    choices = a.mutable_data();
    result = a;
  }
  if (program.hidden_width()) {
    py::array_t<float> a({total, program.hidden_width()});
    hidden_out = a.mutable_data();
    out = a;
  }
  {
    py::gil_scoped_release unlocked;
    program.run(appends, in, want == "none" ? Want::none : want == "logits" ? Want::logits : Want::choice, last, logits, choices, hidden_out);
  }
  return py::make_tuple(result, out);
}

std::vector<int32_t> chain(GpuProgram& program, GpuSequence* sequence, const py::object& tokens, const py::object& hidden, int steps, GpuSequence* borrow, Sampler* sampler, int) {
  const TokenArray ids = tokens_of(tokens);
  FloatArray kept;
  const float* in = hidden_of(hidden, kept, ids.size(), program.input_width());
  const GpuAppend start{sequence, borrow, {ids.data(), static_cast<size_t>(ids.size())}};
  py::gil_scoped_release unlocked;
  return program.chain(start, in, steps, sampler);
}

}  // namespace

void bind_gpu(py::module_& m) {
  m.def("gpu_devices", &gpu_devices, "The graphics cards: dicts with name, description, memory (bytes), processors, capability and problem (empty: usable). Without a driver one dict with name and problem.");
  py::class_<GpuSequence>(m, "GpuSequence", "What a program on a card remembers of one text.")
      .def_property_readonly("length", &GpuSequence::length, "Tokens held.")
      .def("rollback", &GpuSequence::rollback, py::arg("length"), "As Sequence.rollback.")
      .def("copy", &GpuSequence::copy, "An independent sequence with the same contents.")
      .def("keep_marks", [](GpuSequence&, int64_t) {}, py::arg("most"), "Accepted; a card's sequence keeps one mark.")
      .def("mark", &GpuSequence::mark, "As Sequence.mark.")
      .def_property_readonly("bytes", &GpuSequence::bytes, "Device memory held.");
  py::class_<GpuProgram>(m, "GpuProgram", "A forward pass recorded once and run on a card; methods as Program's. threads is accepted and has no effect.")
      .def(py::init(&make_program), py::arg("spec"), py::arg("device") = 0)
      .def("sequence", [](const GpuProgram& p, const std::string& kv_type) { return p.sequence(kv_type_of(kv_type)); }, py::arg("kv_type") = "f16")
      .def_property_readonly("vocabulary", &GpuProgram::vocabulary)
      .def_property_readonly("hidden_width", &GpuProgram::hidden_width)
      .def_property_readonly("input_width", &GpuProgram::input_width)
      .def_property_readonly("borrows", &GpuProgram::borrows)
      .def("run", &run, py::arg("parts"), py::arg("hidden") = py::none(), py::arg("borrow") = py::none(), py::arg("want") = "logits", py::arg("rows") = "all", py::arg("threads") = 0,
           "One pass, as Program.run.")
      .def("chain", &chain, py::arg("sequence"), py::arg("tokens"), py::arg("hidden"), py::arg("steps"), py::arg("borrow") = nullptr, py::arg("sampler") = nullptr, py::arg("threads") = 0,
           "A drafter's chain, as Program.chain.");
}

}  // namespace skipstone
