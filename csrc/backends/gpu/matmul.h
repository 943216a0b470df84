// What the forms of the matmul share: which matrix a unit belongs to, and a row's factor of the norm in front.
#pragma once
#include "backends/gpu/kernels.h"
#include "backends/gpu/math.h"

namespace skipstone::gpu {

SK_DEVICE MatmulPart part_of(const MatmulArgs& a, int unit) {
  MatmulPart p = a.parts[0];
  SK_UNROLL for (int i = 1; i < most_parts; ++i)
    if (unit >= a.parts[i].first) p = a.parts[i];
  return p;
}

// A row's factor of the norm in front, for every lane; squares are added in a fixed order.
SK_DEVICE float factor_of(const MatmulArgs& a, int row) {
  float sum = 0.0f;
  for (int i = thread() & 31; i < a.squares_count; i += 32) sum = add(sum, a.squares[i64(a.squares_count) * row + i]);
  return divide(1.0f, square_root(add(divide(sum_lanes(sum), static_cast<float>(a.columns)), a.eps)));
}

}  // namespace skipstone::gpu
