// skipstone._native: the parts of the module, and native errors as the Python exceptions of the same names.
#include <pybind11/pybind11.h>

#include "runtime/error.h"

namespace py = pybind11;

void bind_formats(py::module_& m);
void bind_sampler(py::module_& m);
namespace skipstone {
void bind_files(py::module_& m);
void bind_kernels(py::module_& m);
void bind_program(py::module_& m);
void bind_gpu(py::module_& m);
void bind_split(py::module_& m);
}  // namespace skipstone

PYBIND11_MODULE(_native, m) {
  m.doc() = "Native core of skipstone: formats, kernels, programs, sampling.";
  py::register_exception_translator([](std::exception_ptr e) {
    auto raise = [](const char* name, const std::exception& error) { py::set_error(py::module_::import("skipstone.errors").attr(name), error.what()); };
    try {
      std::rethrow_exception(e);
    } catch (const skipstone::ArgumentError& error) {
      raise("ArgumentError", error);
    } catch (const skipstone::FileError& error) {
      raise("FileError", error);
    } catch (const skipstone::ModelError& error) {
      raise("ModelError", error);
    } catch (const skipstone::DeviceMemoryError& error) {
      raise("DeviceOutOfMemory", error);
    } catch (const skipstone::DeviceError& error) {
      raise("DeviceError", error);
    } catch (const std::bad_alloc& error) {
      py::set_error(py::module_::import("skipstone.errors").attr("OutOfMemory"), "the machine has too little memory for this; use a smaller model, context or kv_type");
    }
  });
  bind_formats(m);
  skipstone::bind_files(m);
  skipstone::bind_kernels(m);
  skipstone::bind_program(m);
  skipstone::bind_gpu(m);
  skipstone::bind_split(m);
  bind_sampler(m);
}
