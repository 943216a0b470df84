// All kernels as one image.
#include "backends/gpu/matmul.cu"
#include "backends/gpu/matmul_plain.cu"
#include "backends/gpu/rows.cu"
#include "backends/gpu/attention.cu"
#include "backends/gpu/delta.cu"
#include "backends/gpu/choice.cu"
#include "backends/gpu/draft.cu"
