// A weight matrix, or the matrices of a mixture's experts: the bytes of the file, and, once a matmul wants them, the same bits laid out for the machine.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/cpu/kernels.h"

namespace skipstone {

class Weight {
 public:
  // (rows, columns) of `type`; data: rows x columns in the file's layout, `bytes` in all, kept alive by `owner`.
  Weight(const std::string& type, int64_t rows, int64_t columns, const uint8_t* data, int64_t bytes, std::shared_ptr<void> owner)
      : Weight(type, rows, columns, std::vector<const uint8_t*>{data}, bytes, std::move(owner)) {}
  // One matrix of that shape for each expert, `bytes` each.
  Weight(const std::string& type, int64_t rows, int64_t columns, std::vector<const uint8_t*> experts, int64_t bytes, std::shared_ptr<void> owner);

  // Factors of the weights, [expert][row][stretch of `columns` columns]; before the first matmul. Quantized weights take one a row.
  void scale(std::vector<float> factors, int64_t columns);
  bool scaled() const { return !factors_.empty(); }
  const std::vector<float>& factors() const { return factors_; }                                        // as scale() took them
  int64_t scale_columns() const { return matrix_.scale_columns; }

  const formats::TypeInfo& type() const { return *matrix_.type; }
  int64_t rows() const { return matrix_.rows; }
  int64_t columns() const { return matrix_.columns; }
  int64_t experts() const { return static_cast<int64_t>(sources_.size()); }                             // 1: an ordinary matrix
  const uint8_t* data(int64_t expert = 0) const { return sources_[static_cast<size_t>(expert)]; }      // file layout, row after row
  int64_t bytes() const { return experts() * matrix_.rows * matrix_.row_bytes; }
  int64_t laid_out_bytes() const { return packed_[0].bytes + packed_[1].bytes; }

  const cpu::Matrix& for_matmul(const cpu::Kernels& kernels);      // lays out anew at the first call for kernels of this group size; the first expert's
  cpu::Matrix for_matmul(const cpu::Kernels& kernels, int64_t expert) {
    cpu::Matrix m = for_matmul(kernels);
    m.packed += expert * cpu::group_count(m) * m.group_bytes;
    m.source = data(expert);
    if (m.scales) m.scales += expert * cpu::group_count(m) * cpu::scale_stretches(m) * m.group_rows;
    return m;
  }
  void row(int64_t index, float* out) const;           // dequantized, columns() floats

 private:
  struct Packed {
    std::once_flag once;
    cpu::Matrix matrix;
    std::shared_ptr<uint8_t> memory;
    std::vector<float> scales;
    std::atomic<int64_t> bytes = 0;
  };
  void pack(Packed& to, int64_t group_rows) const;
  cpu::Matrix matrix_{};
  std::vector<const uint8_t*> sources_;                // by expert
  std::shared_ptr<void> owner_;
  std::vector<float> factors_;
  Packed packed_[2];                                   // in groups of 8 and of 16 rows; one is used unless tests ask for other kernels
};

// 64-byte aligned memory, in large pages where it is large; throws std::bad_alloc.
std::shared_ptr<uint8_t> allocate(int64_t bytes);
// The same, where small pieces share large pages; a piece keeps the others' memory from going.
std::shared_ptr<uint8_t> allocate_shared(int64_t bytes);

}  // namespace skipstone
