// Matmul for the types without a layout of their own, through their canonical form, and for unquantized weights.
#include "backends/gpu/matmul.cu"
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

// int8 as Q8_0 has them, then float32 scales and minima of 16 positions: [row][half] twice.
// The sum of a half's activations, which a minimum needs, is its product with ones.
struct Canonical {
  static constexpr int bytes = 6144;
  U4 q[8];
  const u8* at;
  SK_DEVICE void load(const u8* chunk, bool wanted) {
    const int lane = thread() & 31;
    at = chunk;
    SK_UNROLL for (int i = 0; i < 8; ++i) load_once(q[i], chunk + 512 * i + 16 * lane, wanted);
  }
  template <int NT> SK_DEVICE void use(const u8* next, bool wanted, const Lane& x, Sums<NT>& acc) {
    const int lane = thread() & 31, g = lane >> 2;
    const float* scales = reinterpret_cast<const float*>(at + 4096);
    SK_UNROLL for (int i = 0; i < 4; ++i) {
      Pair<NT> a;
      a.load(x, i);
      SK_UNROLL for (int j = 0; j < 2; ++j) {
        const int b = 2 * i + j;
        SK_UNROLL for (int half = 0; half < 2; ++half)
          SK_UNROLL for (int n = 0; n < NT; ++n) {
            const u32 v = half ? (j ? a.q[n].w : a.q[n].y) : (j ? a.q[n].z : a.q[n].x);
            const Product p = multiply_half(half ? q[b].z : q[b].x, half ? q[b].w : q[b].y, v, 0);
            const Product ones = multiply_half(0x01010101u, 0x01010101u, v, 0);
            SK_UNROLL for (int k = 0; k < 4; ++k) {
              const int of = 16 * (g + 8 * (k >> 1)) + 2 * b + half;
              const float xs = part(a.scale[n], 2 * j + (k & 1));
              acc.of[n][k] = fma(mul(static_cast<float>(p.c[k]), scales[of]), xs, acc.of[n][k]);
              acc.of[n][k] = fma(mul(static_cast<float>(ones.c[k]), scales[256 + of]), xs, acc.of[n][k]);
            }
          }
        load_once(q[b], next + 512 * b + 16 * lane, wanted);
      }
    }
    at = next;
  }
};

SK_KERNEL(128, 2) matmul_canonical_warps4_columns8(MatmulArgs a) { matmul<Canonical, 4, 1>(a); }
SK_KERNEL(128, 2) matmul_canonical_warps4_columns16(MatmulArgs a) { matmul<Canonical, 4, 2>(a); }
SK_KERNEL(256, 1) matmul_canonical_warps8_columns8(MatmulArgs a) { matmul<Canonical, 8, 1>(a); }
SK_KERNEL(256, 1) matmul_canonical_warps8_columns16(MatmulArgs a) { matmul<Canonical, 8, 2>(a); }

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
