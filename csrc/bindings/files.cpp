// Mapped model files as read-only numpy arrays.
#include <cerrno>
#include <system_error>

#include "bindings/arrays.h"
#include "runtime/mapped_file.h"

namespace skipstone {
namespace {

py::array map_file(int descriptor, uint64_t size, const std::string& name) {
  std::unique_ptr<MappedFile> file;
  try {
    file = std::make_unique<MappedFile>(descriptor, size, name);
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
  const uint8_t* data = file->data();
  const py::capsule owner(file.release(), [](void* p) { delete static_cast<MappedFile*>(p); });
  py::array_t<uint8_t> array(static_cast<py::ssize_t>(size), data, owner);
  array.attr("flags").attr("writeable") = false;
  return array;
}

}  // namespace

void bind_files(py::module_& m) {
  m.def("map_file", &map_file, py::arg("descriptor"), py::arg("size"), py::arg("name"),
        "The first `size` bytes of an open file, uint8 (size,), read-only, not copied; the descriptor may be closed afterwards.\n\n"
        "Bytes that the file loses later read as zeros, and check_mapped and passes over them raise FileError. Raises FileError for a shorter\n"
        "file, OSError where it cannot be mapped. Sets a handler for SIGBUS, which hands faults elsewhere on.");
  m.def("check_mapped", [](const ByteArray& data) { check_mapped(data.data()); }, py::arg("data"), "Raises FileError if the mapped file that `data` views has lost bytes that were read.");
}

}  // namespace skipstone
