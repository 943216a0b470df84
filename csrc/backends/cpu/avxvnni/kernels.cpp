// The kernels of the avxvnni variant: its vocabulary (isa.h) under the algorithms that all variants share.
#include "backends/cpu/avxvnni/isa.h"
#include "backends/cpu/layout.h"

namespace skipstone::cpu::avxvnni {
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
const Kernels kernels = {"avxvnni", group_rows,
#include "backends/cpu/common/table.inl"
};

}  // namespace skipstone::cpu::avxvnni
