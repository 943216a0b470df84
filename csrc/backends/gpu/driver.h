// A card as the executor sees it. cuda/ talks to NVIDIA's driver, hip/ to AMD's runtime; both are opened at run time.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace skipstone::gpu {

using Address = unsigned long long;      // of device memory

struct DeviceInfo {
  std::string name;                      // "cuda:0", "hip:0"
  std::string description;               // the card's own name
  int64_t memory = 0;                    // bytes
  int processors = 0, major = 0, minor = 0;
  int shared_a_processor = 0, shared_a_block = 0;      // bytes of shared memory
  std::string target;                    // AMD's name of the architecture: "gfx1100"
  bool large_teams = true;               // matmul kernels with teams of sixteen warps are there
  bool rings = true;                     // copies to shared memory go on by themselves, so more than one step can be on its way
  std::string problem;                   // why it cannot be used; empty: it can
};

// One card with one stream: what is asked of it happens in the order of asking. Throws DeviceError.
class Driver {
 public:
  virtual ~Driver() = default;
  virtual const DeviceInfo& info() const = 0;
  virtual int64_t free_memory() = 0;
  virtual Address allocate(int64_t bytes) = 0;
  virtual void free(Address memory) = 0;
  virtual void write(Address to, const void* from, int64_t bytes) = 0;      // `from` may be reused at once
  virtual void read(void* to, Address from, int64_t bytes) = 0;             // there after the next wait
  virtual void copy(Address to, Address from, int64_t bytes) = 0;
  virtual void zero(Address to, int64_t bytes) = 0;
  virtual void launch(const char* kernel, int blocks, int threads, const void* arguments, int shared_bytes = 0) = 0;      // arguments: one struct, by value
  virtual void wait() = 0;
  // What is launched and copied between the two calls is kept instead of run, to be replayed by its handle.
  virtual void begin_recording() = 0;
  virtual void* end_recording() = 0;
  virtual void replay(void* recording) = 0;
  virtual void forget(void* recording) = 0;

  std::mutex busy;                       // held for a whole pass: programs of one card share its stream
};

// Every card of the machine, also those that cannot be used. reason: why there are none.
std::vector<DeviceInfo> cuda_devices(std::string& reason);
std::vector<DeviceInfo> hip_devices(std::string& reason);
std::shared_ptr<Driver> open_cuda(int index, const std::string& image_path);      // the same object for the same card
std::shared_ptr<Driver> open_hip(int index, const std::function<std::string(const std::string&)>& image);      // image: the code object of an architecture; empty: none

}  // namespace skipstone::gpu
