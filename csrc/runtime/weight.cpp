#include "runtime/weight.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "runtime/error.h"
#include "runtime/mapped_file.h"
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

std::shared_ptr<uint8_t> allocate_shared(int64_t bytes) {
  constexpr int64_t chunk_bytes = int64_t{32} << 20;
  if (bytes > chunk_bytes / 8) return allocate(bytes);
  static std::mutex mutex;
  static std::shared_ptr<uint8_t> chunk;
  static int64_t used = 0;
  const std::lock_guard lock(mutex);
  bytes = (bytes + 63) / 64 * 64;
  if (chunk && chunk.use_count() == 1) used = 0;           // nobody has a part of it any more
  if (!chunk || used + bytes > chunk_bytes) {
    chunk = allocate(chunk_bytes);
    used = 0;
  }
  used += bytes;
  return std::shared_ptr<uint8_t>(chunk, chunk.get() + used - bytes);
}

Weight::Weight(const std::string& type, int64_t rows, int64_t columns, std::vector<const uint8_t*> experts, int64_t bytes, std::shared_ptr<void> owner)
    : sources_(std::move(experts)), owner_(std::move(owner)) {
  const formats::TypeInfo* info = formats::find(type);
  if (!info) throw ArgumentError("weight type '" + type + "' is unknown");
  constexpr int64_t limit = int64_t{1} << 40;
  if (rows < 1 || columns < 1 || rows > limit || columns > limit) throw ArgumentError("a weight of shape (" + std::to_string(rows) + ", " + std::to_string(columns) + ") makes no sense");
  if (columns % info->block) throw ArgumentError("a weight of type " + type + " needs columns that are a multiple of " + std::to_string(info->block) + ", found " + std::to_string(columns));
  if (!cpu::find_layout(info->id)) throw ArgumentError("weights of type " + type + " cannot be multiplied");
  const int64_t row_bytes = columns / info->block * info->bytes;
  if (bytes / row_bytes != rows || bytes % row_bytes)
    throw ArgumentError("a weight of type " + type + " and shape (" + std::to_string(rows) + ", " + std::to_string(columns) + ") has " + std::to_string(bytes) + " bytes; expected " +
                        std::to_string(rows) + " x " + std::to_string(row_bytes));
  if (sources_.empty()) throw ArgumentError("a weight without experts");
  matrix_ = {info, rows, columns, sources_[0], row_bytes, 0, nullptr, 0};
}

void Weight::scale(std::vector<float> factors, int64_t columns) {
  if (columns < 1 || columns > matrix_.columns) throw ArgumentError("scales for " + std::to_string(columns) + " columns each; expected 1 to " + std::to_string(matrix_.columns));
  const int64_t stretches = (matrix_.columns + columns - 1) / columns, expected = experts() * matrix_.rows * stretches;
  if (static_cast<int64_t>(factors.size()) != expected) throw ArgumentError(std::to_string(factors.size()) + " scales; expected " + std::to_string(expected));
  if (stretches > 1 && !cpu::find_layout(matrix_.type->id)->float_input) throw ArgumentError(std::string("weights of type ") + matrix_.type->name + " take one scale a row");
  factors_ = std::move(factors);
  matrix_.scale_columns = columns;
}

const cpu::Matrix& Weight::for_matmul(const cpu::Kernels& kernels) {
  Packed& p = packed_[kernels.group_rows / 8 - 1];
  std::call_once(p.once, [&] { pack(p, kernels.group_rows); });
  return p.matrix;
}

// On all cores, a megabyte of the file at a time: its pages are read in before and given back after, so that the memory in use grows by the layout alone.
void Weight::pack(Packed& to, int64_t group_rows) const {
  cpu::Matrix& m = to.matrix;
  m = matrix_;
  m.group_rows = group_rows;
  const cpu::MatmulLayout* layout = cpu::find_layout(m.type->id);
  m.group_bytes = group_rows / 8 * layout->eight_rows_bytes(m.columns);
  const int64_t groups = cpu::group_count(m), all = experts() * groups;
  to.memory = allocate_shared(all * m.group_bytes + 8192);     // kernels prefetch a little beyond the end
  const std::vector<uint8_t> zeros(static_cast<size_t>(m.row_bytes));
  const int64_t step = std::max<int64_t>(1, (int64_t{1} << 20) / (group_rows * m.row_bytes));      // groups
  ThreadPool::shared().run(usable_cores(), [&](int member, Team& team) {
    const int64_t end = all * (member + 1) / team.size();
    for (int64_t first = all * member / team.size(), last; first < end; first = last) {
      last = std::min({end, first + step, (first / groups + 1) * groups});      // of one expert
      const uint8_t* source = data(first / groups);
      const int64_t row = first % groups * group_rows, end_row = std::min(m.rows, (last - 1) % groups * group_rows + group_rows);
      const uint8_t* piece = source + row * m.row_bytes;
      const size_t bytes = static_cast<size_t>((end_row - row) * m.row_bytes);
      fetch_mapped(piece, bytes);
      for (int64_t g = first; g < last; ++g) {
        const uint8_t* rows[16];
        for (int64_t r = 0; r < group_rows; ++r) {
          const int64_t i = g % groups * group_rows + r;
          rows[r] = i < m.rows ? source + i * m.row_bytes : zeros.data();
        }
        layout->pack[group_rows / 8 - 1](rows, m.columns, to.memory.get() + g * m.group_bytes);
      }
      release_mapped(piece, bytes);
    }
  });
  m.packed = to.memory.get();
  to.bytes = all * m.group_bytes;
  if (!scaled()) return;
  const int64_t stretches = (m.columns + m.scale_columns - 1) / m.scale_columns;
  to.scales.assign(static_cast<size_t>(all * stretches * group_rows), 0.0f);
  for (int64_t e = 0; e < experts(); ++e)
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t s = 0; s < stretches; ++s)
        to.scales[static_cast<size_t>(((e * groups + r / group_rows) * stretches + s) * group_rows + r % group_rows)] = factors_[static_cast<size_t>((e * m.rows + r) * stretches + s)];
  m.scales = to.scales.data();
}

void Weight::row(int64_t index, float* out) const {
  matrix_.type->dequantize(matrix_.source + index * matrix_.row_bytes, out, matrix_.columns);
  if (!scaled()) return;
  const int64_t width = matrix_.scale_columns, stretches = (matrix_.columns + width - 1) / width;
  for (int64_t k = 0; k < matrix_.columns; ++k) out[k] *= factors_[static_cast<size_t>(index * stretches + k / width)];
}

}  // namespace skipstone
