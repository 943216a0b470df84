// Weights and matmul over numpy arrays, and what is known of the machine.
#ifdef __linux__
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <sstream>
#include <variant>

#include "bindings/arrays.h"
#include "ops/matmul.h"
#include "runtime/thread_pool.h"
#include "runtime/weight.h"

namespace skipstone {
namespace {

std::shared_ptr<Weight> make_weight(const std::string& type, int64_t rows, int64_t columns, const std::variant<ByteArray, std::vector<ByteArray>>& data, const py::object& scales, int64_t scale_columns) {
  using Arrays = std::vector<ByteArray>;
  const Arrays arrays = std::holds_alternative<Arrays>(data) ? std::get<Arrays>(data) : Arrays{std::get<ByteArray>(data)};
  std::vector<const uint8_t*> experts;
  for (const ByteArray& array : arrays) {
    if (array.ndim() != 1) throw ArgumentError("weight data of shape " + shape_of(array) + "; expected one dimension of bytes");
    if (array.size() != arrays[0].size()) throw ArgumentError("the experts of a weight have " + std::to_string(arrays[0].size()) + " and " + std::to_string(array.size()) + " bytes; expected the same");
    experts.push_back(array.data());
  }
  const int64_t size = arrays.empty() ? 0 : arrays[0].size();
  auto owner = std::shared_ptr<void>(new Arrays(arrays), [](void* p) {
    py::gil_scoped_acquire locked;
    delete static_cast<Arrays*>(p);
  });
  std::vector<float> factors;
  if (!scales.is_none()) {
    const FloatArray given = FloatArray::ensure(scales);
    if (!given) throw ArgumentError("the scales of a weight are no numbers");
    factors.assign(given.data(), given.data() + given.size());
  }
  const bool scaled = !scales.is_none();
  py::gil_scoped_release unlocked;
  auto weight = std::make_shared<Weight>(type, rows, columns, std::move(experts), size, owner);
  if (scaled) weight->scale(std::move(factors), scale_columns ? scale_columns : columns);
  return weight;
}

const cpu::Kernels& kernels_named(const std::string& isa) {
  if (isa.empty()) return cpu::kernels();
  if (const cpu::Kernels* k = cpu::find_kernels(isa.c_str())) return *k;
  throw DeviceError("instruction set '" + isa + "' is unknown or cannot run here; this machine runs: " + cpu::runnable_names());
}

py::array_t<float> matmul(const FloatArray& x, const std::shared_ptr<Weight>& weight, int threads, const std::string& isa) {
  if (x.ndim() != 2 || x.shape(1) != weight->columns())
    throw ArgumentError("x has shape " + shape_of(x) + "; expected (rows, " + std::to_string(weight->columns()) + ")");
  if (weight->experts() != 1) throw ArgumentError("the weight holds " + std::to_string(weight->experts()) + " experts; expected one matrix");
  const cpu::Kernels& kernels = kernels_named(isa);
  const int64_t rows = x.shape(0), columns = weight->columns();
  py::array_t<float> y({rows, weight->rows()});
  float* out = y.mutable_data();
  const float* in = x.data();
  py::gil_scoped_release unlocked;
  if (!rows) return y;
  const cpu::Matrix& m = weight->for_matmul(kernels);
  QuantizedRows quantized;
  if (m.type->unpack) quantized.reserve(rows, columns, kernels);
  const Slices slices({&m});
  Shares shares;
  ThreadPool::shared().run(threads > 0 ? threads : usable_cores(), [&](int member, Team& team) {
    if (m.type->unpack)
      for (int64_t r = rows * member / team.size(); r < rows * (member + 1) / team.size(); ++r) quantized.quantize(kernels, in + r * columns, columns, r, columns);
    team.barrier();
    slices.take(shares, member, team.size(), [&](size_t, int64_t first, int64_t last) {
      kernels.matmul({&m, quantized.rows(0, rows, columns, in), first, last, out + first * m.group_rows, m.rows});
    });
  });
  return y;
}

// Bytes that `threads` cores read a second from memory too large for the caches, the best of a few rounds, in GB/s.
double read_bandwidth(int threads, int64_t megabytes) {
  const int64_t bytes = std::clamp<int64_t>(megabytes, 1, 4096) << 20;
  const auto memory = allocate(bytes);
  memset(memory.get(), 1, static_cast<size_t>(bytes));
  double best = 0;
  std::atomic<uint64_t> sink{0};               // so that the loop is not removed
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    ThreadPool::shared().run(std::max(1, threads), [&](int member, Team& team) {
      const int64_t words = bytes / 8;
      const uint64_t* p = reinterpret_cast<const uint64_t*>(memory.get());
      uint64_t sums[8] = {};
      const int64_t end = words * (member + 1) / team.size() - 7;
      for (int64_t i = words * member / team.size(); i < end; i += 8)
        for (int j = 0; j < 8; ++j) sums[j] ^= p[i + j];
      sink.fetch_xor(sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7]);
    });
    best = std::max(best, static_cast<double>(bytes) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best / 1e9;
}

// Freed memory back to the system, where the allocator keeps it.
void trim_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace

void bind_kernels(py::module_& m) {
  py::class_<Weight, std::shared_ptr<Weight>>(m, "Weight", "A weight matrix in a GGUF type, laid out for this machine when it is first multiplied.")
      .def(py::init(&make_weight), py::arg("type"), py::arg("rows"), py::arg("columns"), py::arg("data"), py::arg("scales") = py::none(), py::arg("scale_columns") = 0,
           "data: uint8 (bytes,), the matrix row after row as a GGUF file holds it, or a list of such arrays, one for each expert of a mixture; referred to, not copied.\n"
           "scales: float32, factors of the weights, [expert][row][stretch of scale_columns columns]; 0: a stretch is a row, which is all that quantized weights take.")
      .def_property_readonly("type", [](const Weight& w) { return std::string(w.type().name); })
      .def_property_readonly("rows", &Weight::rows)
      .def_property_readonly("columns", &Weight::columns)
      .def_property_readonly("experts", &Weight::experts, "Matrices of that shape: 1 but for a mixture's experts.")
      .def_property_readonly("bytes", &Weight::bytes, "Bytes of the matrices in the file.")
      .def_property_readonly("laid_out_bytes", &Weight::laid_out_bytes, "Bytes of its layouts for this machine: 0 until it is multiplied, and for a table whose rows are only looked up.");
  m.def("matmul", &matmul, py::arg("x"), py::arg("weight"), py::arg("threads") = 0, py::arg("isa") = "",
        "x (rows, columns) float32 times the transpose of weight (n, columns): float32 (rows, n). threads 0: all usable cores.");
  m.def("isa", [] { return std::string(cpu::kernels().name); }, "The instruction set that runs: SKIPSTONE_ISA, or the best of this machine.");
  m.def("isas", [] {
    std::istringstream names(cpu::runnable_names());
    std::vector<std::string> all;
    for (std::string name; names >> name;) all.push_back(name);
    return all;
  }, "The instruction sets that this machine runs, best first.");
  m.def("default_threads", &usable_cores, "Cores that this process may use: its affinity, limited by the cgroup's quota.");
  m.def("spins_in_vain", &ThreadPool::spins_in_vain, "Turns that waiting threads have spun before they went to sleep all the same; one takes some tens of nanoseconds.");
  m.def("trim_memory", &trim_memory, py::call_guard<py::gil_scoped_release>(), "Gives freed memory back to the system, where the allocator keeps it.");
  m.def("read_bandwidth", &read_bandwidth, py::arg("threads"), py::arg("megabytes") = 256, py::call_guard<py::gil_scoped_release>(),
        "GB/s that a plain read loop reaches on so many threads.");
}

}  // namespace skipstone
