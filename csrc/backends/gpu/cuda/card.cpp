// A card through NVIDIA's driver.
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>

#include "backends/gpu/cuda/driver.h"
#include "backends/gpu/driver.h"
#include "runtime/error.h"

namespace skipstone::gpu {
namespace {

constexpr int out_of_memory = 2, no_image_for_device = 209, unsupported_ptx = 222;

DeviceInfo describe(int index, const cuda::Card& card) {
  DeviceInfo d;
  d.name = "cuda:" + std::to_string(index);
  d.description = card.name;
  d.memory = static_cast<int64_t>(card.memory_bytes);
  d.processors = card.processors;
  d.major = card.major;
  d.minor = card.minor;
  d.large_teams = d.rings = d.major >= 8;
  d.shared_a_processor = card.shared_a_processor;
  d.shared_a_block = card.shared_a_block;
  if (10 * d.major + d.minor < 75) d.problem = "compute capability " + std::to_string(d.major) + "." + std::to_string(d.minor) + " is too old; 7.5 or newer is needed";
  return d;
}

class CudaDriver final : public Driver {
 public:
  CudaDriver(const cuda::Driver& driver, int index, const cuda::Card& card, const std::string& image_path) : f_(driver), info_(describe(index, card)) {
    if (!info_.problem.empty()) throw DeviceError(info_.name + " (" + info_.description + ") cannot be used: " + info_.problem);
    std::ifstream file(image_path, std::ios::binary);
    const std::string image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (image.size() < 16 || (memcmp(image.data(), "\x50\xed\x55\xba", 4) && memcmp(image.data(), "\x7f" "ELF", 4)))
      throw DeviceError(info_.name + ": this installation has no kernels for it (" + image_path + "); install skipstone where nvcc is present, with SKIPSTONE_CUDA=ON");
    int device = 0;
    check(f_.cuDeviceGet(&device, index), "find the card");
    check(f_.cuDevicePrimaryCtxRetain(&context_, device), "start");
    enter();
    const cuda::Result loaded = f_.cuModuleLoadData(&module_, image.data());
    if (loaded == no_image_for_device || loaded == unsupported_ptx)
      throw DeviceError(info_.name + " (" + info_.description + ", compute capability " + std::to_string(info_.major) + "." + std::to_string(info_.minor) +
                        "): the kernels were not built for it, or its driver (CUDA " + std::to_string(f_.version / 1000) + "." + std::to_string(f_.version / 10 % 100) + ") is too old for them; update the driver, or use device='cpu'");
    check(loaded, "load the kernels");
    check(f_.cuStreamCreate(&stream_, 1), "create a stream");
  }
  const DeviceInfo& info() const override { return info_; }
  int64_t free_memory() override {
    enter();
    size_t free = 0, total = 0;
    check(f_.cuMemGetInfo_v2(&free, &total), "tell its memory");
    return static_cast<int64_t>(free);
  }
  Address allocate(int64_t bytes) override {
    enter();
    Address memory = 0;
    const int r = f_.cuMemAlloc_v2(&memory, static_cast<size_t>(bytes > 0 ? bytes : 1));
    if (r == out_of_memory) {
      throw DeviceMemoryError(info_.name + " (" + info_.description + ") has no memory left: " + std::to_string(bytes >> 20) + " MiB were asked for, " + std::to_string(free_memory() >> 20) + " of " + std::to_string(info_.memory >> 20) +
                        " MiB are free; use a smaller model, a shorter context, or device='cpu'");
    }
    check(r, "allocate memory");
    return memory;
  }
  void free(Address memory) override {
    if (!memory) return;
    enter();
    f_.cuStreamSynchronize(stream_);
    f_.cuMemFree_v2(memory);
  }
  void write(Address to, const void* from, int64_t bytes) override {
    enter();
    if (void* staged = stage(bytes)) {
      memcpy(staged, from, static_cast<size_t>(bytes));
      from = staged;
    }
    check(f_.cuMemcpyHtoDAsync_v2(to, from, static_cast<size_t>(bytes), stream_), "take data");      // pageable memory is staged before it returns
  }
  void read(void* to, Address from, int64_t bytes) override {
    enter();
    void* staged = stage(bytes);
    check(f_.cuMemcpyDtoHAsync_v2(staged ? staged : to, from, static_cast<size_t>(bytes), stream_), "hand back results");
    if (staged) results_.push_back({to, staged, bytes});
  }
  void copy(Address to, Address from, int64_t bytes) override {
    enter();
    check(f_.cuMemcpyDtoDAsync_v2(to, from, static_cast<size_t>(bytes), stream_), "copy");
  }
  void zero(Address to, int64_t bytes) override {
    enter();
    check(f_.cuMemsetD8Async(to, 0, static_cast<size_t>(bytes), stream_), "clear memory");
  }
  void launch(const char* kernel, int blocks, int threads, const void* arguments, int shared_bytes) override {
    enter();
    Kernel& k = kernels_[kernel];
    if (!k.function) {
      check(f_.cuModuleGetFunction(&k.function, module_, kernel), kernel);
      // Kernels share a processor only where they split its memory alike.
      constexpr int preferred_carveout = 9, percent = 85;
      f_.cuFuncSetAttribute(k.function, preferred_carveout, percent);
    }
    if (shared_bytes > k.shared_bytes) {
      constexpr int most_dynamic_shared = 8;
      check(f_.cuFuncSetAttribute(k.function, most_dynamic_shared, shared_bytes), kernel);
      k.shared_bytes = shared_bytes;
    }
    void* list[] = {const_cast<void*>(arguments)};
    // The next kernel's blocks may come and ask for weights before this one has ended; every kernel waits before it reads anything else.
    cuda::LaunchAttribute early{};
    early.id = cuda::programmatic_stream_serialization;
    early.value = 1;
    const cuda::LaunchConfig config{{static_cast<unsigned>(blocks), 1, 1}, {static_cast<unsigned>(threads), 1, 1}, static_cast<unsigned>(shared_bytes), stream_, &early, info_.major >= 9 ? 1u : 0u};
    check(f_.cuLaunchKernelEx(&config, k.function, list, nullptr), kernel);
  }
  void wait() override {
    enter();
    check(f_.cuStreamSynchronize(stream_), "finish its work");
    for (const Result& r : results_) memcpy(r.to, r.staged, static_cast<size_t>(r.bytes));
    results_.clear();
    staged_bytes_ = 0;
  }
  void begin_recording() override {
    enter();
    check(f_.cuStreamBeginCapture_v2(stream_, 1), "record a pass");
  }
  void* end_recording() override {
    cuda::Graph graph = nullptr;
    cuda::GraphExec executable = nullptr;
    check(f_.cuStreamEndCapture(stream_, &graph), "record a pass");
    const cuda::Result r = f_.cuGraphInstantiateWithFlags(&executable, graph, 0);
    f_.cuGraphDestroy(graph);
    check(r, "prepare a pass");
    return executable;
  }
  void replay(void* recording) override {
    enter();
    check(f_.cuGraphLaunch(static_cast<cuda::GraphExec>(recording), stream_), "run a pass");
  }
  void forget(void* recording) override {
    enter();
    f_.cuGraphExecDestroy(static_cast<cuda::GraphExec>(recording));
  }

 private:
  void enter() { check(f_.cuCtxSetCurrent(context_), "be entered"); }
  void check(cuda::Result r, const char* what) const {
    if (r) throw DeviceError(info_.name + " (" + info_.description + ") could not " + what + ": " + cuda::describe(f_, r));
  }
  // Memory that the card reads and writes by itself, until the next wait; null: none is left.
  void* stage(int64_t bytes) {
    constexpr int64_t most = int64_t{8} << 20;
    if (!stage_ && f_.cuMemHostAlloc(&stage_, most, 0)) stage_ = nullptr;
    if (!stage_ || bytes > most - staged_bytes_) return nullptr;
    void* at = static_cast<char*>(stage_) + staged_bytes_;
    staged_bytes_ += (bytes + 63) / 64 * 64;
    return at;
  }
  struct Kernel {
    cuda::Function function = nullptr;
    int shared_bytes = 0;
  };
  struct Result {
    void *to, *staged;
    int64_t bytes;
  };
  const cuda::Driver& f_;
  DeviceInfo info_;
  cuda::Context context_ = nullptr;
  cuda::Module module_ = nullptr;
  cuda::Stream stream_ = nullptr;
  std::map<std::string, Kernel> kernels_;
  void* stage_ = nullptr;
  int64_t staged_bytes_ = 0;
  std::vector<Result> results_;
};

}  // namespace

std::vector<DeviceInfo> cuda_devices(std::string& reason) {
  std::vector<DeviceInfo> all;
  const auto cards = cuda::cards(reason);
  for (const cuda::Card& card : cards) all.push_back(describe(static_cast<int>(all.size()), card));
  return all;
}

std::shared_ptr<Driver> open_cuda(int index, const std::string& image_path) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Driver>> open;
  std::lock_guard<std::mutex> lock(mutex);
  auto driver = open[index].lock();
  if (driver) return driver;
  std::string why;
  const cuda::Driver* table = cuda::driver(why);
  const auto cards = cuda::cards(why);
  const std::string name = "cuda:" + std::to_string(index);
  if (!table || cards.empty()) throw DeviceError(name + ": " + why);
  if (index < 0 || index >= static_cast<int>(cards.size())) throw DeviceError(name + ": this machine has " + std::to_string(cards.size()) + " NVIDIA cards, counted from 0");
  open[index] = driver = std::make_shared<CudaDriver>(*table, index, cards[static_cast<size_t>(index)], image_path);
  return driver;
}

}  // namespace skipstone::gpu
