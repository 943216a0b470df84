// Reads memory as fast as the card can, to know how fast that is.
#include "backends/gpu/pass.h"
#include "backends/gpu/port.h"

namespace skipstone::gpu {

SK_KERNEL(512, 2) read_memory(ReadArgs a) {
  constexpr int at_once = 8;
  const U4* from = static_cast<const U4*>(a.from);
  const long long own = static_cast<long long>(block()) * 512 + thread(), all = 512ll * a.blocks;
  u32 bits_seen = 0;
  for (long long i = own; i < a.count; i += at_once * all) {
    U4 v[at_once] = {};
    SK_UNROLL for (int j = 0; j < at_once; ++j)
      if (i + j * all < a.count) v[j] = from[i + j * all];
    SK_UNROLL for (int j = 0; j < at_once; ++j) bits_seen |= v[j].x | v[j].y | v[j].z | v[j].w;
  }
  if (bits_seen == 0x5A5A5A5Au) *a.seen = bits_seen;      // so that the reads are needed
}

}  // namespace skipstone::gpu
