#include "runtime/weight.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "runtime/error.h"
#include "runtime/thread_pool.h"

namespace skipstone {

std::shared_ptr<uint8_t> allocate(int64_t bytes) {
  constexpr size_t large = size_t{2} << 20;
  const size_t alignment = bytes >= static_cast<int64_t>(4 * large) ? large : 64;
  const size_t size = (static_cast<size_t>(bytes) + alignment - 1) / alignment * alignment;
  void* p = std::aligned_alloc(alignment, size ? size : alignment);
  if (!p) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (alignment == large) madvise(p, size, MADV_HUGEPAGE);
#endif
  return std::shared_ptr<uint8_t>(static_cast<uint8_t*>(p), [](uint8_t* q) { std::free(q); });
}

Weight::Weight(const std::string& type, int64_t rows, int64_t columns, const uint8_t* data, int64_t bytes, std::shared_ptr<void> owner) : owner_(std::move(owner)) {
  const formats::TypeInfo* info = formats::find(type);
  if (!info) throw ArgumentError("weight type '" + type + "' is unknown");
  constexpr int64_t limit = int64_t{1} << 40;
  if (rows < 1 || columns < 1 || rows > limit || columns > limit) throw ArgumentError("a weight of shape (" + std::to_string(rows) + ", " + std::to_string(columns) + ") makes no sense");
  if (columns % info->block) throw ArgumentError("a weight of type " + type + " needs columns that are a multiple of " + std::to_string(info->block) + ", found " + std::to_string(columns));
  if (!info->unpack && info->block != 1) throw ArgumentError("weights of type " + type + " cannot be multiplied");
  const int64_t row_bytes = columns / info->block * info->bytes;
  if (bytes / row_bytes != rows || bytes % row_bytes)
    throw ArgumentError("a weight of type " + type + " and shape (" + std::to_string(rows) + ", " + std::to_string(columns) + ") has " + std::to_string(bytes) + " bytes; expected " +
                        std::to_string(rows) + " x " + std::to_string(row_bytes));
  matrix_ = {info, rows, columns, data, row_bytes, nullptr, nullptr, 0};
}

const cpu::Matrix& Weight::for_matmul() {
  std::call_once(once_, [this] {
    const cpu::MatmulLayout* layout = cpu::find_layout(matrix_.type->id);
    if (!layout) {                                         // read from the file's own layout
      matrix_.group_bytes = cpu::group_rows * matrix_.row_bytes;
      return;
    }
    const int64_t group_bytes = layout->group_bytes(matrix_.columns), groups = cpu::group_count(matrix_);
    packed_ = allocate(groups * group_bytes + 8192);       // kernels prefetch a little beyond the end
    const auto zeros = std::make_unique<uint8_t[]>(static_cast<size_t>(matrix_.row_bytes));
    memset(zeros.get(), 0, static_cast<size_t>(matrix_.row_bytes));
    ThreadPool::shared().run(usable_cores(), [&](int member, Team& team) {
      for (int64_t g = groups * member / team.size(); g < groups * (member + 1) / team.size(); ++g) {
        const uint8_t* rows[cpu::group_rows];
        for (int r = 0; r < cpu::group_rows; ++r) {
          const int64_t index = g * cpu::group_rows + r;
          rows[r] = index < matrix_.rows ? matrix_.source + index * matrix_.row_bytes : zeros.get();
        }
        layout->pack(rows, matrix_.columns, packed_.get() + g * group_bytes);
      }
    });
    matrix_.packed = packed_.get();
    matrix_.group_bytes = group_bytes;
    matrix_.layout = layout;
  });
  return matrix_;
}

void Weight::row(int64_t index, float* out) const {
  matrix_.type->dequantize(matrix_.source + index * matrix_.row_bytes, out, matrix_.columns);
}

}  // namespace skipstone
