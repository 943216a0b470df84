// A card through AMD's HIP runtime.
#include <cstring>
#include <map>
#include <mutex>

#include "backends/gpu/driver.h"
#include "backends/gpu/hip/driver.h"
#include "runtime/error.h"

namespace skipstone::gpu {
namespace {

constexpr int out_of_memory = 2, invalid_image = 200, no_image_for_device = 209, host_to_device = 1, device_to_host = 2, device_to_device = 3;
constexpr const char* built_for = "gfx1030 gfx1100 gfx1101 gfx1151 gfx1200 gfx1201 gfx90a gfx942";      // CMakeLists.txt: SKIPSTONE_HIP_TARGETS

bool known(const std::string& target) { return !target.empty() && (" " + std::string(built_for) + " ").find(" " + target + " ") != std::string::npos; }

DeviceInfo describe(int index, const hip::Card& card) {
  DeviceInfo d;
  d.name = "hip:" + std::to_string(index);
  d.description = card.name;
  d.target = card.target;
  d.memory = static_cast<int64_t>(card.memory_bytes);
  d.processors = card.processors;
  d.shared_a_block = card.shared_a_block;
  // Cards with waves of 32 have processors in pairs that share their memory.
  d.shared_a_processor = card.wave == 32 ? 2 * card.shared_a_block : card.shared_a_block;
  d.large_teams = d.rings = false;
  if (!known(card.target)) d.problem = "its architecture, " + (card.target.empty() ? "unknown" : card.target) + ", is none that the kernels are built for (" + built_for + "); use another card";
  return d;
}

class HipDriver final : public Driver {
 public:
  HipDriver(const hip::Driver& driver, int index, const hip::Card& card, const std::function<std::string(const std::string&)>& find_image) : f_(driver), index_(index), info_(describe(index, card)) {
    if (!info_.problem.empty()) throw DeviceError(info_.name + " (" + info_.description + ") cannot be used: " + info_.problem);
    const std::string image = find_image(info_.target);
    if (image.size() < 16 || memcmp(image.data(), "\x7f" "ELF", 4))
      throw DeviceError(info_.name + ": this installation has no kernels for it (" + info_.target + "); install skipstone where clang-19 and lld-19 are present, with SKIPSTONE_HIP=ON");
    enter();
    const hip::Result loaded = f_.hipModuleLoadData(&module_, image.data());
    if (loaded == no_image_for_device || loaded == invalid_image)
      throw DeviceError(info_.name + " (" + info_.description + ", " + info_.target + "): the HIP runtime (" + std::to_string(f_.version / 10000000) + "." + std::to_string(f_.version / 100000 % 100) +
                        ") does not take the kernels: " + hip::describe(f_, loaded) + "; update ROCm (6 or newer), or use device='cpu'");
    check(loaded, "load the kernels");
    constexpr unsigned non_blocking = 1;
    check(f_.hipStreamCreateWithFlags(&stream_, non_blocking), "create a stream");
  }
  const DeviceInfo& info() const override { return info_; }
  int64_t free_memory() override {
    enter();
    size_t free = 0, total = 0;
    check(f_.hipMemGetInfo(&free, &total), "tell its memory");
    return static_cast<int64_t>(free);
  }
  Address allocate(int64_t bytes) override {
    enter();
    void* memory = nullptr;
    const hip::Result r = f_.hipMalloc(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1));
    if (r == out_of_memory)
      throw DeviceMemoryError(info_.name + " (" + info_.description + ") has no memory left: " + std::to_string(bytes >> 20) + " MiB were asked for, " + std::to_string(free_memory() >> 20) + " of " + std::to_string(info_.memory >> 20) +
                        " MiB are free; use a smaller model, a shorter context, or device='cpu'");
    check(r, "allocate memory");
    return reinterpret_cast<Address>(memory);
  }
  void free(Address memory) override {
    if (!memory) return;
    enter();
    f_.hipStreamSynchronize(stream_);
    f_.hipFree(pointer(memory));
  }
  void write(Address to, const void* from, int64_t bytes) override {
    enter();
    void* staged = stage(bytes);
    if (staged) {
      memcpy(staged, from, static_cast<size_t>(bytes));
      from = staged;
    }
    check(f_.hipMemcpyAsync(pointer(to), from, static_cast<size_t>(bytes), host_to_device, stream_), "take data");
    if (!staged) check(f_.hipStreamSynchronize(stream_), "take data");      // memory that is not pinned may still be read when the call returns
  }
  void read(void* to, Address from, int64_t bytes) override {
    enter();
    void* staged = stage(bytes);
    check(f_.hipMemcpyAsync(staged ? staged : to, pointer(from), static_cast<size_t>(bytes), device_to_host, stream_), "hand back results");
    if (staged) results_.push_back({to, staged, bytes});
  }
  void copy(Address to, Address from, int64_t bytes) override {
    enter();
    check(f_.hipMemcpyAsync(pointer(to), pointer(from), static_cast<size_t>(bytes), device_to_device, stream_), "copy");
  }
  void zero(Address to, int64_t bytes) override {
    enter();
    check(f_.hipMemsetAsync(pointer(to), 0, static_cast<size_t>(bytes), stream_), "clear memory");
  }
  void launch(const char* kernel, int blocks, int threads, const void* arguments, int shared_bytes) override {
    enter();
    hip::Function& function = kernels_[kernel];
    if (!function) check(f_.hipModuleGetFunction(&function, module_, kernel), kernel);
    void* list[] = {const_cast<void*>(arguments)};
    check(f_.hipModuleLaunchKernel(function, static_cast<unsigned>(blocks), 1, 1, static_cast<unsigned>(threads), 1, 1, static_cast<unsigned>(shared_bytes), stream_, list, nullptr), kernel);
  }
  void wait() override {
    enter();
    check(f_.hipStreamSynchronize(stream_), "finish its work");
    for (const Result& r : results_) memcpy(r.to, r.staged, static_cast<size_t>(r.bytes));
    results_.clear();
    staged_bytes_ = 0;
  }
  void begin_recording() override {
    enter();
    constexpr int of_this_thread = 1;
    check(f_.hipStreamBeginCapture(stream_, of_this_thread), "record a pass");
  }
  void* end_recording() override {
    hip::Graph graph = nullptr;
    hip::GraphExec executable = nullptr;
    check(f_.hipStreamEndCapture(stream_, &graph), "record a pass");
    const hip::Result r = f_.hipGraphInstantiateWithFlags(&executable, graph, 0);
    f_.hipGraphDestroy(graph);
    check(r, "prepare a pass");
    return executable;
  }
  void replay(void* recording) override {
    enter();
    check(f_.hipGraphLaunch(static_cast<hip::GraphExec>(recording), stream_), "run a pass");
  }
  void forget(void* recording) override {
    enter();
    f_.hipStreamSynchronize(stream_);            // the runtime does not keep a graph that still runs
    f_.hipGraphExecDestroy(static_cast<hip::GraphExec>(recording));
  }

 private:
  static void* pointer(Address a) { return reinterpret_cast<void*>(a); }
  void enter() { check(f_.hipSetDevice(index_), "be entered"); }
  void check(hip::Result r, const char* what) const {
    if (r) throw DeviceError(info_.name + " (" + info_.description + ") could not " + what + ": " + hip::describe(f_, r));
  }
  // Memory that the card reads and writes by itself, until the next wait; null: none is left.
  void* stage(int64_t bytes) {
    constexpr int64_t most = int64_t{8} << 20;
    if (!stage_ && f_.hipHostMalloc(&stage_, most, 0)) stage_ = nullptr;
    if (!stage_ || bytes > most - staged_bytes_) return nullptr;
    void* at = static_cast<char*>(stage_) + staged_bytes_;
    staged_bytes_ += (bytes + 63) / 64 * 64;
    return at;
  }
  struct Result {
    void *to, *staged;
    int64_t bytes;
  };
  const hip::Driver& f_;
  int index_;
  DeviceInfo info_;
  hip::Module module_ = nullptr;
  hip::Stream stream_ = nullptr;
  std::map<std::string, hip::Function> kernels_;
  void* stage_ = nullptr;
  int64_t staged_bytes_ = 0;
  std::vector<Result> results_;
};

}  // namespace

std::vector<DeviceInfo> hip_devices(std::string& reason) {
  std::vector<DeviceInfo> all;
  const auto cards = hip::cards(reason);
  for (const hip::Card& card : cards) all.push_back(describe(static_cast<int>(all.size()), card));
  return all;
}

std::shared_ptr<Driver> open_hip(int index, const std::function<std::string(const std::string&)>& image) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Driver>> open;
  std::lock_guard<std::mutex> lock(mutex);
  auto driver = open[index].lock();
  if (driver) return driver;
  std::string why;
  const hip::Driver* table = hip::driver(why);
  const auto cards = hip::cards(why);
  const std::string name = "hip:" + std::to_string(index);
  if (!table || cards.empty()) throw DeviceError(name + ": " + why);
  if (index < 0 || index >= static_cast<int>(cards.size())) throw DeviceError(name + ": this machine has " + std::to_string(cards.size()) + " AMD cards, counted from 0");
  open[index] = driver = std::make_shared<HipDriver>(*table, index, cards[static_cast<size_t>(index)], image);
  return driver;
}

}  // namespace skipstone::gpu
