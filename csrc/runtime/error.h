// What native code throws; the bindings turn each into the Python exception of the same name.
#pragma once
#include <stdexcept>

namespace skipstone {

struct ArgumentError : std::runtime_error { using runtime_error::runtime_error; };
struct FileError : std::runtime_error { using runtime_error::runtime_error; };
struct ModelError : std::runtime_error { using runtime_error::runtime_error; };
struct DeviceError : std::runtime_error { using runtime_error::runtime_error; };
struct DeviceMemoryError : DeviceError { using DeviceError::DeviceError; };      // a device has no memory left

}  // namespace skipstone
