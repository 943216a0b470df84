// Matmul with unquantized weights: a block has four outputs for eight rows.
#include "backends/gpu/plain.h"

namespace skipstone::gpu {

SK_KERNEL(128, 8) matmul_plain(PlainArgs a) {
  const int blocks = (a.outputs + 3) / 4, n = 4 * (block() % blocks) + (thread() >> 5);
  if (n < a.outputs) touch_outputs(a, n);
  let_next_start();
  wait_for_previous();
  if (n < a.outputs) plain_products(a, n, block() / blocks * plain_rows);
}

}  // namespace skipstone::gpu
