// Programs and sequences on a card, with the methods of those on the CPU (bindings/program.cpp).
#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <variant>

#include "backends/gpu/program.h"
#include "bindings/run.h"
#include "runtime/mapped_file.h"
#include "runtime/sampler.h"

namespace skipstone {
namespace {

using gpu::GpuAppend;
using gpu::GpuProgram;
using gpu::GpuSequence;

// The kernels lie beside this module, unless SKIPSTONE_GPU_IMAGE names another file.
std::string image_path(const char* name) {
  if (const char* named = std::getenv("SKIPSTONE_GPU_IMAGE")) return named;
  Dl_info here{};
  dladdr(reinterpret_cast<const void*>(&image_path), &here);
  const std::string file = here.dli_fname ? here.dli_fname : "";
  return file.substr(0, file.rfind('/') + 1) + "gpu/" + name;
}
constexpr const char *cuda_image = "kernels.fatbin", *hip_image = "kernels-hip.xz";

// The code object of an AMD architecture: from what hip/pack.py wrote, or the file itself. Empty: there is none.
std::string code_object(const std::string& target) {
  const std::string path = image_path(hip_image);
  std::ifstream file(path, std::ios::binary);
  std::string image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (image.compare(0, 6, std::string("\xfd" "7zXZ\0", 6))) return image;
  {
    const py::gil_scoped_acquire locked;
    image = py::cast<std::string>(py::module_::import("lzma").attr("decompress")(py::bytes(image)));
  }
  const size_t data = image.find("\n\n");
  std::istringstream index(image.substr(0, data == std::string::npos ? 0 : data));
  std::string name;
  for (size_t at = 0, bytes = 0; index >> name >> at >> bytes;)
    if (name == target) return image.substr(std::min(data + 2 + at, image.size()), bytes);
  return "";
}

// "cuda:0", "hip:0"; a number alone is an NVIDIA card's.
std::shared_ptr<gpu::Driver> open_card(const std::string& name) {
  const size_t colon = name.find(':');
  const std::string kind = colon == std::string::npos ? "cuda" : name.substr(0, colon), number = colon == std::string::npos ? name : name.substr(colon + 1);
  if ((kind != "cuda" && kind != "hip") || number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos)
    throw ArgumentError("device: '" + name + "'; expected cuda:N or hip:N");
  const int index = std::stoi(number);
  return kind == "cuda" ? gpu::open_cuda(index, image_path(cuda_image)) : gpu::open_hip(index, code_object);
}
std::shared_ptr<gpu::Driver> open_card(const std::variant<int, std::string>& device) {
  return open_card(std::holds_alternative<int>(device) ? "cuda:" + std::to_string(std::get<int>(device)) : std::get<std::string>(device));
}

void list_cards(py::list& out, const char* kind, std::vector<gpu::DeviceInfo> (*find)(std::string&), const char* no_kernels) {
  std::string reason;
  std::vector<gpu::DeviceInfo> devices;
  {
    py::gil_scoped_release unlocked;
    devices = find(reason);
  }
  for (const auto& d : devices) {
    py::dict item;
    item["name"] = d.name;
    item["description"] = d.description;
    item["memory"] = d.memory;
    item["processors"] = d.processors;
    if (d.target.empty()) item["capability"] = py::make_tuple(d.major, d.minor);
    else item["target"] = d.target;
    item["problem"] = !d.problem.empty() || std::ifstream(image_path(d.target.empty() ? cuda_image : hip_image)).good() ? d.problem : no_kernels;
    out.append(item);
  }
  if (reason.empty()) return;
  py::dict item;
  item["name"] = kind;
  item["problem"] = reason;
  out.append(item);
}

py::list gpu_devices() {
  py::list out;
  list_cards(out, "cuda", gpu::cuda_devices, "this installation has no kernels for it; install skipstone where nvcc is present, with SKIPSTONE_CUDA=ON");
  list_cards(out, "hip", gpu::hip_devices, "this installation has no kernels for it; install skipstone where clang-19 and lld-19 are present, with SKIPSTONE_HIP=ON");
  return out;
}

template <class Work> double seconds(const std::shared_ptr<gpu::Driver>& driver, Work work) {
  driver->wait();
  const auto started = std::chrono::steady_clock::now();
  work();
  driver->wait();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
}

// What plans are made with: a card's own copy of memory and a kernel that reads it, copies from and to the host, and a short message there and back; the best of a few.
py::dict gpu_memory(const std::variant<int, std::string>& device) {
  double best = 0, read = 0, to_card = 0, from_card = 0, meeting = 1;
  int64_t free = 0;
  {
    py::gil_scoped_release unlocked;
    const auto driver = open_card(device);
    free = driver->free_memory();
    const int64_t bytes = std::min<int64_t>(int64_t{512} << 20, free / 4);
    const gpu::Memory from(driver, bytes), to(driver, bytes);
    const int64_t some = std::min<int64_t>(int64_t{4} << 20, bytes);
    std::vector<uint8_t> host(static_cast<size_t>(some));
    driver->zero(from.address(), bytes);
    const gpu::ReadArgs args{from.as<const unsigned char>(), bytes / 16, to.as<unsigned>(), 2 * driver->info().processors};
    double spent = 0;
    for (int i = 0; i < 6 && spent < 0.1; ++i) {
      const double copies = seconds(driver, [&] {
        for (int j = 0; j < 4; ++j) driver->copy(to.address(), from.address(), bytes);
      });
      spent += copies;
      best = std::max(best, 8.0 * static_cast<double>(bytes) / copies);
      read = std::max(read, 4.0 * static_cast<double>(bytes) / seconds(driver, [&] {
        for (int j = 0; j < 4; ++j) driver->launch("read_memory", args.blocks, 512, &args);
      }));
      to_card = std::max(to_card, static_cast<double>(some) / seconds(driver, [&] { driver->write(to.address(), host.data(), some); }));
      from_card = std::max(from_card, static_cast<double>(some) / seconds(driver, [&] { driver->read(host.data(), to.address(), some); }));
      meeting = std::min(meeting, seconds(driver, [&] {
        driver->write(to.address(), host.data(), std::min<int64_t>(some, 8192));
        driver->read(host.data(), to.address(), std::min<int64_t>(some, 8192));
      }));
    }
  }
  py::dict out;
  out["free_bytes"] = free;
  out["copy_bytes_per_second"] = best;
  out["read_bytes_per_second"] = read;
  out["to_card_bytes_per_second"] = to_card;
  out["from_card_bytes_per_second"] = from_card;
  out["meeting_seconds"] = meeting;
  return out;
}

std::unique_ptr<GpuProgram> make_program(const py::dict& spec, const std::variant<int, std::string>& device) {
  std::vector<StateSpec> states;
  for (const py::handle s : py::cast<py::list>(spec["states"])) states.push_back(state_of(py::cast<py::dict>(s)));
  std::vector<Attributes> operations;
  for (const py::handle op : py::cast<py::list>(spec["ops"])) operations.push_back(attributes_of(py::cast<py::dict>(op)));
  auto widths = py::cast<std::vector<int64_t>>(spec["widths"]);
  py::gil_scoped_release unlocked;
  auto program = std::make_unique<GpuProgram>(open_card(device), std::move(widths), std::move(states), operations);
  for (const Attributes& a : operations)
    for (const auto& [name, list] : a.weights)
      for (const auto& weight : list) check_mapped(weight->data());      // they are on the card now
  return program;
}

}  // namespace

void bind_gpu(py::module_& m) {
  m.def("gpu_devices", &gpu_devices, "The graphics cards: dicts with name (cuda:N, hip:N), description, memory (bytes), processors, capability (AMD: target) and problem (empty: usable). For a driver that is not there one dict with name and problem.");
  m.def("gpu_memory", &gpu_memory, py::arg("device") = 0, "Of a card: free_bytes; copy_bytes_per_second, bytes read and written by its own copy; read_bytes_per_second; to_card and from_card_bytes_per_second; meeting_seconds, of 8 KiB there and back.");
  m.def("gpu_free_bytes", [](const std::variant<int, std::string>& device) { return open_card(device)->free_memory(); }, py::arg("device") = 0, py::call_guard<py::gil_scoped_release>(), "Memory of a card that nobody has taken.");
  m.def("gpu_weight_bytes", &gpu::device_bytes, py::arg("type"), py::arg("rows"), py::arg("columns"), "Memory of a matrix on a card.");
  m.def("gpu_operations", &GpuProgram::operations, "Kinds of operations that a card runs; the processor runs the others, or the whole model.");
  py::class_<GpuSequence>(m, "GpuSequence", "What a program on a card remembers of one text.")
      .def_property_readonly("length", &GpuSequence::length, "Tokens held.")
      .def("rollback", &GpuSequence::rollback, py::arg("length"), "As Sequence.rollback.")
      .def("copy", &GpuSequence::copy, "An independent sequence with the same contents.")
      .def("keep_marks", [](GpuSequence&, int64_t) {}, py::arg("most"), "Accepted; a card's sequence keeps one mark.")
      .def("mark", &GpuSequence::mark, "As Sequence.mark.")
      .def_property_readonly("bytes", &GpuSequence::bytes, "Device memory held.");
  py::class_<GpuProgram>(m, "GpuProgram", "A forward pass recorded once and run on a card; methods as Program's. threads: of operations that the processor does.")
      .def(py::init(&make_program), py::arg("spec"), py::arg("device") = 0)
      .def_property_readonly("kernels", &GpuProgram::kernels, "Names of the kernels of a pass of one row, in order, without its head.")
      .def("sequence", [](const GpuProgram& p, const std::string& kv_type) { return p.sequence(kv_type_of(kv_type)); }, py::arg("kv_type") = "f16")
      .def_property_readonly("vocabulary", &GpuProgram::vocabulary)
      .def_property_readonly("hidden_width", &GpuProgram::hidden_width)
      .def_property_readonly("input_width", &GpuProgram::input_width)
      .def_property_readonly("borrows", &GpuProgram::borrows)
      .def_property_readonly("ends_in_sum", &GpuProgram::ends_in_sum, "Whether the next section begins as behind_sum.")
      .def("run", [](GpuProgram& p, const py::list& parts, const py::object& hidden, const py::object& borrow, const std::string& want, const std::string& rows, int threads) {
             p.set_host_threads(threads > 0 ? threads : usable_cores());
             return run_program<GpuAppend, GpuSequence>(p, parts, hidden, borrow, want, rows, [&](const auto& appends, const float* in, Want what, bool last, float* logits, int32_t* choices, float* out) {
               p.run(appends, in, what, last, logits, choices, out);
             });
           }, py::arg("parts"), py::arg("hidden") = py::none(), py::arg("borrow") = py::none(), py::arg("want") = "logits", py::arg("rows") = "all", py::arg("threads") = 0,
           "One pass, as Program.run.")
      .def("chain", [](GpuProgram& p, GpuSequence* sequence, const py::object& tokens, const py::object& hidden, int steps, GpuSequence* borrow, Sampler* sampler, int threads) {
             p.set_host_threads(threads > 0 ? threads : usable_cores());
             return run_chain<GpuAppend>(p, sequence, tokens, hidden, borrow, [&](const GpuAppend& start, const float* in) { return p.chain(start, in, steps, sampler); });
           }, py::arg("sequence"), py::arg("tokens"), py::arg("hidden"), py::arg("steps"), py::arg("borrow") = nullptr, py::arg("sampler") = nullptr, py::arg("threads") = 0,
           "A drafter's chain, as Program.chain.");
}

}  // namespace skipstone
