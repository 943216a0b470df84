// skipstone._native: weight formats over numpy arrays.
#include "formats/types.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace {

using skipstone::formats::TypeInfo;
using std::to_string;

const TypeInfo& type_named(const std::string& name) {
  if (const TypeInfo* type = skipstone::formats::find(name)) return *type;
  std::string known;
  for (const TypeInfo& type : skipstone::formats::all()) {
    if (!known.empty()) known += ", ";
    known += type.name;
  }
  throw std::invalid_argument("type: '" + name + "' is not known; expected one of " + known);
}

// The elements of an array that is exactly 1-D, contiguous and of type T: a silent copy of weights would be a surprise.
template <class T>
const T* elements(const py::array& array, const char* argument) {
  if (!array.dtype().is(py::dtype::of<T>()))
    throw std::invalid_argument(std::string(argument) + ": dtype " + py::str(array.dtype()).cast<std::string>() + "; expected " +
                                py::str(py::dtype::of<T>()).cast<std::string>());
  if (array.ndim() != 1) throw std::invalid_argument(std::string(argument) + ": " + to_string(array.ndim()) + " dimensions; expected 1");
  if (array.size() > 1 && array.strides(0) != py::ssize_t(sizeof(T)))
    throw std::invalid_argument(std::string(argument) + ": not contiguous; expected a contiguous array (numpy.ascontiguousarray)");
  return static_cast<const T*>(array.data());
}

int64_t weights_in(const TypeInfo& type, const py::array& data) {
  if (data.size() % type.bytes)
    throw std::invalid_argument(std::string("data: ") + to_string(data.size()) + " bytes of " + type.name + "; expected a multiple of " +
                                to_string(type.bytes) + ", the bytes of a block");
  return data.size() / type.bytes * type.block;
}

py::list types() {
  py::list list;
  for (const TypeInfo& type : skipstone::formats::all()) {
    py::dict entry;
    entry["name"] = type.name;
    entry["id"] = type.id;
    entry["block"] = type.block;
    entry["bytes"] = type.bytes;
    entry["can_quantize"] = type.quantize != nullptr;
    entry["half_scales"] = type.half_scales;
    entry["has_min"] = type.has_min;
    list.append(entry);
  }
  return list;
}

py::array_t<float> dequantize(const std::string& name, const py::array& data) {
  const TypeInfo& type = type_named(name);
  const uint8_t* blocks = elements<uint8_t>(data, "data");
  const int64_t n = weights_in(type, data);
  py::array_t<float> out(n);
  float* values = out.mutable_data();
  py::gil_scoped_release unlocked;
  type.dequantize(blocks, values, n);
  return out;
}

py::array_t<uint8_t> quantize(const std::string& name, const py::array& x) {
  const TypeInfo& type = type_named(name);
  const float* values = elements<float>(x, "x");
  const int64_t n = x.size();
  if (!type.quantize) throw std::invalid_argument(std::string("type: ") + type.name + " cannot be written, only read; choose another type");
  if (n % type.block)
    throw std::invalid_argument("x: " + to_string(n) + " values; " + type.name + " expects a multiple of " + to_string(type.block));
  if (type.unpack)  // the plain float types can hold any value
    for (int64_t i = 0; i < n; i++)
      if (!std::isfinite(values[i]))
        throw std::invalid_argument("x: value " + to_string(i) + " is " + to_string(values[i]) + "; " + type.name + " expects finite values");
  py::array_t<uint8_t> out(n / type.block * type.bytes);
  uint8_t* blocks = out.mutable_data();
  py::gil_scoped_release unlocked;
  type.quantize(values, blocks, n);
  return out;
}

py::tuple unpack(const std::string& name, const py::array& data) {
  const TypeInfo& type = type_named(name);
  const uint8_t* blocks = elements<uint8_t>(data, "data");
  if (!type.unpack) throw std::invalid_argument(std::string("type: ") + type.name + " has no quantized blocks; use dequantize");
  const int64_t runs = weights_in(type, data) / 32;
  py::array_t<int8_t> q({runs, int64_t(32)});
  py::array_t<float> scale({runs, int64_t(2)}), min({runs, int64_t(2)});
  for (int64_t i = 0; i < runs; i++) {
    skipstone::formats::Unpacked run;
    type.unpack(blocks, i, run);
    std::copy(run.q, run.q + 32, q.mutable_data(i, 0));
    std::copy(run.scale, run.scale + 2, scale.mutable_data(i, 0));
    std::copy(run.min, run.min + 2, min.mutable_data(i, 0));
  }
  return py::make_tuple(q, scale, min);
}

}  // namespace

void bind_formats(py::module_& m) {
  m.def("types", &types,
        "The weight types: a list of dict(name, id, block, bytes, can_quantize, half_scales, has_min).\n\n"
        "block and bytes are weights and bytes a block; half_scales: scale or min may differ between 16 and 16 weights of a run of 32.");
  m.def("dequantize", &dequantize, py::arg("type"), py::arg("data"),
        "The weights of whole blocks.\n\ndata: uint8 (bytes,), a multiple of the type's block bytes. Returns float32 (weights,), bit for bit\n"
        "as the gguf package gives them. Raises ValueError for an unknown type or a wrong size.");
  m.def("quantize", &quantize, py::arg("type"), py::arg("x"),
        "Blocks of small squared error for weights.\n\nx: float32 (weights,), finite, a multiple of the type's block. Returns uint8 (bytes,).\n"
        "Values beyond the type's range saturate. Raises ValueError for a type that cannot be written, a wrong size, or a value that is\n"
        "not finite (F32, F16 and BF16 take any).");
  m.def("unpack", &unpack, py::arg("type"), py::arg("data"),
        "Runs of 32 weights as small integers: weight i = scale[i // 16] * q[i] + min[i // 16].\n\n"
        "data: uint8 (bytes,). Returns (q int8 (runs, 32), scale float32 (runs, 2), min float32 (runs, 2)).");
}
