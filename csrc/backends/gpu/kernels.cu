// All kernels as one image.
#include "backends/gpu/matmul_any.cu"
#include "backends/gpu/rows.cu"
#include "backends/gpu/attention.cu"
#include "backends/gpu/delta.cu"
#include "backends/gpu/choice.cu"
