// A weight matrix: the bytes of the file, and, once a matmul wants it, the same bits laid out for the machine.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "backends/cpu/kernels.h"

namespace skipstone {

class Weight {
 public:
  // (rows, columns) of `type`; data: rows x columns in the file's layout, `bytes` in all, kept alive by `owner`.
  Weight(const std::string& type, int64_t rows, int64_t columns, const uint8_t* data, int64_t bytes, std::shared_ptr<void> owner);

  const formats::TypeInfo& type() const { return *matrix_.type; }
  int64_t rows() const { return matrix_.rows; }
  int64_t columns() const { return matrix_.columns; }
  const uint8_t* data() const { return matrix_.source; }      // file layout, row after row
  int64_t bytes() const { return matrix_.rows * matrix_.row_bytes; }

  const cpu::Matrix& for_matmul(const cpu::Kernels& kernels);      // lays out anew at the first call for kernels of this group size
  void row(int64_t index, float* out) const;           // dequantized, columns() floats

 private:
  struct Packed {
    std::once_flag once;
    cpu::Matrix matrix;
    std::shared_ptr<uint8_t> memory;
  };
  void pack(Packed& to, int64_t group_rows) const;
  cpu::Matrix matrix_{};
  std::shared_ptr<void> owner_;
  Packed packed_[2];                                   // in groups of 8 and of 16 rows; one is used unless tests ask for other kernels
};

// 64-byte aligned memory, in large pages where it is large; throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate(int64_t bytes);

}  // namespace skipstone
