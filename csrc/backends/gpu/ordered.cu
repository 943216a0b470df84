// Logits of a head of ordered embeddings: minus infinity, then those of the tokens in the open clusters.
#include "backends/gpu/math.h"
#include "backends/gpu/experts.h"

namespace skipstone::gpu {

// cap * tanh(x / cap)
SK_DEVICE float capped(float x, float cap) { return mul(cap, add(1.0f, -divide(2.0f, add(exponential(mul(x, divide(2.0f, cap))), 1.0f)))); }

SK_KERNEL(256, 2) close_logits(CapArgs a) {
  let_next_start();
  wait_for_previous();
  for (i64 i = i64(256) * block() + thread(); i < a.count; i += i64(256) * a.blocks) a.x[i] = -__builtin_inff();
}

// A block a row and open cluster.
SK_KERNEL(128, 4) open_logits(OrderedArgs a) {
  let_next_start();
  wait_for_previous();
  const int row = block() / a.top;
  const int* tokens = a.order + i64(a.chosen[block()]) * a.size;
  for (int i = thread(); i < a.size; i += 128) {
    const float z = a.made[i64(block()) * a.size + i];
    a.logits[i64(row) * a.vocabulary + tokens[i]] = a.cap > 0.0f ? capped(z, a.cap) : z;
  }
}

}  // namespace skipstone::gpu
