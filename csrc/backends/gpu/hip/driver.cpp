#include "backends/gpu/hip/driver.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#ifdef _WIN32
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace skipstone::gpu::hip {
namespace {

#ifdef _WIN32
constexpr const char* usual_names[] = {"amdhip64_7.dll", "amdhip64_6.dll", "amdhip64.dll"};
constexpr const char* install = "install AMD's graphics driver (Adrenalin) to use an AMD card";
void* open_library(const char* path, std::string& why) {
  void* library = reinterpret_cast<void*>(LoadLibraryA(path));
  if (!library) why = "error " + std::to_string(GetLastError());
  return library;
}
void* find_symbol(void* library, const char* name) { return reinterpret_cast<void*>(GetProcAddress(reinterpret_cast<HMODULE>(library), name)); }
#else
constexpr const char* usual_names[] = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"};
constexpr const char* install = "install ROCm's HIP runtime to use an AMD card";
// One that the process has already (PyTorch brings its own) comes first: two runtimes in one process do not get along.
void* open_library(const char* path, std::string& why) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* text = dlerror();
    why = text ? text : "unknown reason";
  }
  return library;
}
void* already_open() {
  for (const char* name : usual_names)
    if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) return library;
  return nullptr;
}
void* find_symbol(void* library, const char* name) { return dlsym(library, name); }
#endif

void* find_library(const char* chosen, std::string& path, std::string& why) {
  if (chosen) return open_library((path = chosen).c_str(), why);
#ifndef _WIN32
  path = "the HIP runtime of this process";
  if (void* library = already_open()) return library;
#endif
  std::string first;
  for (const char* name : usual_names) {
    if (void* library = open_library((path = name).c_str(), why)) return library;
    if (first.empty()) first = why;
  }
  why = first;
  return nullptr;
}

constexpr int oldest_major = 5;

struct Loaded {
  std::unique_ptr<Driver> driver;                // null: why says it
  std::string why;
};

// The library stays open to the end of the process, for it keeps threads of its own.
Loaded load(const char* chosen) {
  if (chosen && !strcmp(chosen, "off")) return {nullptr, "AMD's HIP runtime is turned off (SKIPSTONE_LIBAMDHIP64=off); unset the variable to use an AMD card."};
  std::string path, reason;
  void* library = find_library(chosen, path, reason);
  if (!library) return {nullptr, "AMD's HIP runtime was not found (" + reason + "); " + install + "."};
  auto d = std::make_unique<Driver>();
  const char* missing = nullptr;
#define SKIPSTONE_FIND(result, name, parameters)                                           \
  d->name = reinterpret_cast<decltype(d->name)>(find_symbol(library, #name));              \
  if (!d->name && !missing) missing = #name;
  SKIPSTONE_HIP_FUNCTIONS(SKIPSTONE_FIND)
#undef SKIPSTONE_FIND
  // The struct that hipGetDeviceProperties fills grew with HIP 6, under a new name; the old name fills the old one.
  using Properties = decltype(d->properties);
  constexpr size_t at_in_6 = 1160, at_in_5 = 396;
  d->properties = reinterpret_cast<Properties>(find_symbol(library, "hipGetDevicePropertiesR0600"));
  d->architecture_at = d->properties ? at_in_6 : at_in_5;
  if (!d->properties) d->properties = reinterpret_cast<Properties>(find_symbol(library, "hipGetDeviceProperties"));
  if (!d->properties && !missing) missing = "hipGetDeviceProperties";
  // The version first: an old runtime lacks functions, and "update it" says more than the name of one.
  if (d->hipRuntimeGetVersion && d->hipRuntimeGetVersion(&d->version) == 0 && d->version / 10000000 < oldest_major)
    return {nullptr, "AMD's HIP runtime has version " + std::to_string(d->version / 10000000) + "." + std::to_string(d->version / 100000 % 100) + ", and Skipstone needs 5.2 or newer; update ROCm."};
  if (missing) return {nullptr, path + " lacks the function " + missing + ", so it is no HIP runtime that Skipstone can use; update ROCm."};
  return {std::move(d), ""};
}

constexpr const char* no_card =
    "AMD's HIP runtime is installed, but it shows no card; check that the amdgpu kernel driver is loaded and this user may open /dev/kfd and /dev/dri (groups render and video), "
    "and that HIP_VISIBLE_DEVICES does not hide the card.";

}  // namespace

std::string describe(const Driver& driver, Result error) {
  const char* text = driver.hipGetErrorString ? driver.hipGetErrorString(error) : nullptr;
  return std::string(text ? text : "unknown error") + " (" + std::to_string(error) + ")";
}

const Driver* driver(std::string& why) {
  static std::mutex mutex;
  static std::map<std::string, Loaded> tried;
  const char* chosen = std::getenv("SKIPSTONE_LIBAMDHIP64");
  if (chosen && !*chosen) chosen = nullptr;
  const std::lock_guard lock(mutex);
  const std::string key = chosen ? chosen : "";
  auto found = tried.find(key);
  if (found == tried.end()) found = tried.emplace(key, load(chosen)).first;
  why = found->second.why;
  return found->second.driver.get();
}

std::vector<Card> cards(std::string& why) {
  const Driver* d = driver(why);
  if (!d) return {};
  int count = 0;
  constexpr int no_device = 100, invalid_device = 101;
  const Result counted = d->hipGetDeviceCount(&count);
  if (counted == no_device || counted == invalid_device || (!counted && count == 0)) {
    why = no_card;
    return {};
  }
  if (counted) {
    why = "AMD's HIP runtime cannot count its cards: " + describe(*d, counted) + "; check that the amdgpu kernel driver fits it.";
    return {};
  }
  std::vector<Card> found;
  for (int i = 0; i < count; ++i) {
    constexpr int processors = 63, shared_a_block = 74, wave = 87;      // hipDeviceAttribute_t
    Card card;
    char name[256] = {};
    std::vector<char> properties(16384);         // more than any version's struct
    Result error = d->hipDeviceGetName(name, sizeof name - 1, i);
    if (!error) error = d->hipDeviceTotalMem(&card.memory_bytes, i);
    if (!error) error = d->hipDeviceGetAttribute(&card.processors, processors, i);
    if (!error) error = d->hipDeviceGetAttribute(&card.shared_a_block, shared_a_block, i);
    if (!error) error = d->hipDeviceGetAttribute(&card.wave, wave, i);
    if (!error) error = d->properties(properties.data(), i);
    if (error) {
      why = "AMD's HIP runtime says nothing of card " + std::to_string(i) + ": " + describe(*d, error) + ".";
      return {};
    }
    card.name = name;
    // "gfx90a:sramecc+:xnack-": features follow the target.
    const char* target = properties.data() + d->architecture_at;
    card.target.assign(target, strcspn(target, ":"));
    if (card.name.empty()) card.name = "AMD card, " + card.target;
    found.push_back(card);
  }
  return found;
}

}  // namespace skipstone::gpu::hip
