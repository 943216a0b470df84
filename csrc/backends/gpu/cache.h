// Where a cached key or value lies, and what a row sees of the cache.
#pragma once
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

SK_DEVICE void* chunk_of(const unsigned long long* chunks, int capacity, const Cache& c, int chunk) {
  return reinterpret_cast<void*>(chunks[i64(c.state) * capacity + (c.ring ? chunk % c.ring : chunk)]);
}

// A value to the cache. What f16 cannot hold becomes the largest it can: an infinite value would reach rows that do not see it, as 0 * infinity.
SK_DEVICE void put_cached(void* to, int type, i64 i, float v) {
  if (type == 0) static_cast<float*>(to)[i] = v;
  else static_cast<u16*>(to)[i] = static_cast<u16>(type == 1 ? to_half(v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v) : to_brain(v));
}

// A position's key (which 0) or value to the cache, by one warp. (Caches in blocks: here the blocks are made, and put_cached puts into shared memory what
// reads back from them; attend's `fetch` turns blocks into f16 on the way to shared memory, and everything else stays as it is.)
SK_DEVICE void store_head(const Cache& c, const PartRecord& part, int position, int kv_head, int which, const float* from) {
  void* chunk = chunk_of(part.chunks, part.capacity, c, position / chunk_positions);
  const i64 at = (i64(which * c.kv_heads + kv_head) * chunk_positions + position % chunk_positions) * c.head;
  for (int i = thread() & 31; i < c.head; i += 32) put_cached(chunk, c.type, at + i, from[i]);
}

struct Visible { int low, high; };       // positions low .. high - 1
SK_DEVICE Visible visible(const PartRecord& part, int position, int window, int borrows) {
  const int high = borrows ? part.borrowed_length : position + 1;
  return {window && high > window ? high - window : 0, high};
}

}  // namespace skipstone::gpu
