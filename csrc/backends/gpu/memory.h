// Device memory with an owner, and weights on a card.
#pragma once
#include <memory>
#include <string>

#include "backends/gpu/driver.h"
#include "backends/gpu/layout.h"
#include "runtime/weight.h"

namespace skipstone::gpu {

class Memory {
 public:
  Memory() = default;
  Memory(std::shared_ptr<Driver> driver, int64_t bytes) : driver_(std::move(driver)), address_(driver_->allocate(bytes)), bytes_(bytes) {}
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(driver_, other.driver_);
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() {
    if (driver_) driver_->free(address_);
  }
  Address address() const { return address_; }
  int64_t bytes() const { return bytes_; }
  template <class T> T* as(int64_t offset = 0) const { return reinterpret_cast<T*>(address_) + offset; }

 private:
  std::shared_ptr<Driver> driver_;
  Address address_ = 0;
  int64_t bytes_ = 0;
};

// A weight on a card, laid out for matmul.cu.
struct DeviceWeight {
  std::shared_ptr<Weight> weight;        // kept, so that its address stands for it
  Memory memory;
  int rows = 0, columns = 0, chunks = 0, tiles = 0, chunk_bytes = 0;
  int plain = -1;                        // unquantized: 0 f32, 1 f16, 2 bf16
  std::string type;                      // of its kernels: matmul_<type>_...
  int experts = 1;
  Memory factors;                        // of unquantized weights that are scaled: floats, [expert][output][stretch]
  int stretch = 1;                       // columns that share a factor
  int64_t expert_bytes = 0;              // from expert to expert
};
// Of a matrix of this type on a card.
int64_t device_bytes(const std::string& type, int64_t rows, int64_t columns);
// To the card, for the caller alone; the weight is let go.
std::shared_ptr<const DeviceWeight> upload(const std::shared_ptr<Driver>& driver, const std::shared_ptr<Weight>& weight);
// Uploaded at the first call for this card and shared from then on. canonical: in the layout that all quantized types have.
std::shared_ptr<const DeviceWeight> on_device(const std::shared_ptr<Driver>& driver, const std::shared_ptr<Weight>& weight, bool canonical = false);

}  // namespace skipstone::gpu
