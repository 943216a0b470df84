// Matmul with unquantized weights.
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

SK_DEVICE float plain_weight(const void* w, int type, i64 i) {
  if (type == 0) return static_cast<const float*>(w)[i];
  const u32 h = static_cast<const u16*>(w)[i];
  return type == 1 ? from_half(h) : from_brain(h);
}

// A lane adds every 32nd product, then the lanes are added as a tree.
SK_KERNEL(128, 8) matmul_plain(PlainArgs a) {
  let_next_start();
  wait_for_previous();
  const int lane = thread() & 31, n = 4 * block() + (thread() >> 5);
  if (n >= a.outputs) return;
  const i64 from = i64(n) * a.columns;
  for (int first = 0; first < a.rows; first += plain_rows) {
    float acc[plain_rows] = {};
    for (int i = lane; i < a.columns; i += 32) {
      const float w = plain_weight(a.weights, a.type, from + i);
      SK_UNROLL for (int r = 0; r < plain_rows; ++r)
        if (first + r < a.rows) acc[r] = fma(w, a.x[a.x_stride * (first + r) + i], acc[r]);
    }
    SK_UNROLL for (int r = 0; r < plain_rows; ++r) {
      const float total = sum_lanes(acc[r]);
      if (lane == 0 && first + r < a.rows) a.y[a.y_stride * (first + r) + n] = total;
    }
  }
}

}  // namespace skipstone::gpu
