#include "backends/gpu/cuda/driver.h"

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace skipstone::gpu::cuda {
namespace {

#ifdef _WIN32
constexpr const char* usual_path = "nvcuda.dll";
void* open_library(const char* path, std::string& why) {
  void* library = reinterpret_cast<void*>(LoadLibraryA(path));
  if (!library) why = "error " + std::to_string(GetLastError());
  return library;
}
void* find_symbol(void* library, const char* name) { return reinterpret_cast<void*>(GetProcAddress(reinterpret_cast<HMODULE>(library), name)); }
#else
constexpr const char* usual_path = "libcuda.so.1";
void* open_library(const char* path, std::string& why) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* text = dlerror();
    why = text ? text : "unknown reason";
  }
  return library;
}
void* find_symbol(void* library, const char* name) { return dlsym(library, name); }
#endif

constexpr int oldest_version = 12000;            // what the images are compiled for runs from CUDA 12.0 on

struct Loaded {
  std::unique_ptr<Driver> driver;                // null: why says it
  std::string why;
};

// The library stays open to the end of the process: the driver keeps threads of its own, and nothing is gained by unloading it.
Loaded load(const std::string& path) {
  std::string reason;
  void* library = open_library(path.c_str(), reason);
  if (!library) return {nullptr, "NVIDIA's driver library was not found (" + reason + "); install NVIDIA's driver to use an NVIDIA card."};
  auto d = std::make_unique<Driver>();
  const char* missing = nullptr;
#define SKIPSTONE_FIND(name, parameters)                                                   \
  d->name = reinterpret_cast<decltype(d->name)>(find_symbol(library, #name));              \
  if (!d->name && !missing) missing = #name;
  SKIPSTONE_CUDA_FUNCTIONS(SKIPSTONE_FIND)
#undef SKIPSTONE_FIND
  // The version first: an old driver lacks functions, and "update it" says more than the name of one.
  if (d->cuDriverGetVersion && d->cuDriverGetVersion(&d->version) == 0 && d->version < oldest_version)
    return {nullptr, "NVIDIA's driver serves CUDA " + std::to_string(d->version / 1000) + "." + std::to_string(d->version % 1000 / 10) +
                     ", and Skipstone needs 12.0 or newer; update the driver (525 or newer)."};
  if (missing) return {nullptr, path + " lacks the function " + missing + ", so it is no driver that Skipstone can use; update NVIDIA's driver."};
  if (const Result error = d->cuInit(0)) {
    if (error == 100) return {nullptr, "NVIDIA's driver is installed, but it shows no card (CUDA_VISIBLE_DEVICES may hide it)."};
    return {nullptr, "NVIDIA's driver is installed, but does not start: " + describe(*d, error) + "."};
  }
  return {std::move(d), ""};
}

}  // namespace

std::string describe(const Driver& driver, Result error) {
  const char* text = nullptr;
  if (!driver.cuGetErrorString || driver.cuGetErrorString(error, &text) != 0 || !text) text = "unknown error";
  return std::string(text) + " (" + std::to_string(error) + ")";
}

const Driver* driver(std::string& why) {
  static std::mutex mutex;
  static std::map<std::string, Loaded> tried;
  const char* chosen = std::getenv("SKIPSTONE_LIBCUDA");
  const std::string path = chosen && *chosen ? chosen : usual_path;
  const std::lock_guard lock(mutex);
  auto found = tried.find(path);
  if (found == tried.end()) found = tried.emplace(path, load(path)).first;
  why = found->second.why;
  return found->second.driver.get();
}

std::vector<Card> cards(std::string& why) {
  const Driver* d = driver(why);
  if (!d) return {};
  int count = 0;
  if (const Result error = d->cuDeviceGetCount(&count)) {
    why = "NVIDIA's driver cannot count its cards: " + describe(*d, error) + ".";
    return {};
  }
  if (count == 0) why = "NVIDIA's driver is installed, but it shows no card (CUDA_VISIBLE_DEVICES may hide it).";
  std::vector<Card> found;
  for (int i = 0; i < count; ++i) {
    constexpr int processors = 16, l2_bytes = 38, shared_a_processor = 81, shared_a_block = 97, major = 75, minor = 76;      // CUdevice_attribute
    Device device = 0;
    Card card;
    char name[256] = {};
    int l2 = 0;
    Result error = d->cuDeviceGet(&device, i);
    if (!error) error = d->cuDeviceGetName(name, sizeof name - 1, device);
    if (!error) error = d->cuDeviceGetAttribute(&card.major, major, device);
    if (!error) error = d->cuDeviceGetAttribute(&card.minor, minor, device);
    if (!error) error = d->cuDeviceGetAttribute(&card.processors, processors, device);
    if (!error) error = d->cuDeviceGetAttribute(&l2, l2_bytes, device);
    if (!error) error = d->cuDeviceGetAttribute(&card.shared_a_processor, shared_a_processor, device);
    if (!error) error = d->cuDeviceGetAttribute(&card.shared_a_block, shared_a_block, device);
    if (!error) error = d->cuDeviceTotalMem_v2(&card.memory_bytes, device);
    if (error) {
      why = "NVIDIA's driver says nothing of card " + std::to_string(i) + ": " + describe(*d, error) + ".";
      return {};
    }
    card.name = name;
    card.l2_bytes = static_cast<size_t>(l2);
    found.push_back(card);
  }
  return found;
}

}  // namespace skipstone::gpu::cuda
