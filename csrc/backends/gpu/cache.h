// Where a cached key or value lies, and what a row sees of the cache.
#pragma once
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

SK_DEVICE void* chunk_of(const unsigned long long* chunks, int capacity, const Cache& c, int chunk) {
  return device_pointer(from_device(chunks + (i64(c.state) * capacity + (c.ring ? chunk % c.ring : chunk))));
}

// Four values side by side; i is a multiple of 4.
SK_DEVICE F4 four_cached(const void* chunk, int type, i64 i) {
  if (type == 0) return *reinterpret_cast<const F4*>(static_cast<const float*>(chunk) + i);
  struct alignas(8) Two { u32 low, high; };
  const Two h = *reinterpret_cast<const Two*>(static_cast<const u16*>(chunk) + i);
  if (type == 1) return {from_half(h.low & 0xffffu), from_half(h.low >> 16), from_half(h.high & 0xffffu), from_half(h.high >> 16)};
  return {bits<float>(h.low << 16), bits<float>(h.low & 0xffff0000u), bits<float>(h.high << 16), bits<float>(h.high & 0xffff0000u)};
}

struct Visible { int low, high; };       // positions low .. high - 1
SK_DEVICE Visible visible(const PartRecord& part, int position, int window, int borrows) {
  const int high = borrows ? part.borrowed_length : position + 1;
  return {window && high > window ? high - window : 0, high};
}

}  // namespace skipstone::gpu
