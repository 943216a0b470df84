// The kernels of the avx512 variant: its vocabulary (isa.h) under the algorithms that all variants share.
#include "backends/cpu/avx512/isa.h"
#include "backends/cpu/layout.h"

namespace skipstone::cpu::avx512 {
namespace {
#include "backends/cpu/common/math.inl"
#include "backends/cpu/common/rows.inl"
#include "backends/cpu/common/attention.inl"
#include "backends/cpu/common/delta_rule.inl"
#include "backends/cpu/common/experts.inl"
#include "backends/cpu/common/no_tiles.inl"
#include "backends/cpu/common/matmul.inl"
}  // namespace

extern const Kernels kernels;
const Kernels kernels = {"avx512", group_rows,
#include "backends/cpu/common/table.inl"
};

}  // namespace skipstone::cpu::avx512
