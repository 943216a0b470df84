// Where a cached key or value lies, and what a row sees of the cache.
#pragma once
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

SK_DEVICE void* chunk_of(const unsigned long long* chunks, int capacity, const Cache& c, int chunk) {
  return device_pointer(from_device(chunks + (i64(c.state) * capacity + (c.ring ? chunk % c.ring : chunk))));
}

// A value to the cache. What f16 cannot hold becomes the largest it can: an infinite value would reach rows that do not see it, as 0 * infinity.
SK_DEVICE void put_cached(void* to, int type, i64 i, float v) {
  if (type == 0) static_cast<float*>(to)[i] = v;
  else static_cast<u16*>(to)[i] = static_cast<u16>(type == 1 ? to_half(v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v) : to_brain(v));
}

// Of caches in blocks: a whole number with its block's scale, as it is read back.
SK_DEVICE float block_value(float scale, i32 q) {
  const float v = mul(scale, static_cast<float>(q));
  return from_half(to_half(v > 65504.0f ? 65504.0f : v < -65504.0f ? -65504.0f : v));
}
// A head to blocks of 32, a lane a value, scales as the CPU makes them; `values` becomes what is read back.
SK_DEVICE void put_blocks(u8* plane, int type, int head, int place, float* values) {
  const int lane = thread() & 31;
  u8* quants = plane + place * quants_bytes(head, type);
  u16* scales = reinterpret_cast<u16*>(plane + chunk_positions * quants_bytes(head, type)) + place * (head / 32);
  for (int b = 0; b < head / 32; ++b) {
    const float v = values[32 * b + lane], above = largest_lane(v), below = largest_lane(-v), most = above > below ? above : below;
    float d = type == 3 ? divide(most, 127.0f) : divide(above > below ? above : -below, -8.0f);
    d = d > 65504.0f ? 65504.0f : d < -65504.0f ? -65504.0f : d;
    const u32 half = to_half(d);
    d = from_half(half);
    float q = round_even(mul(v, d == 0.0f ? 0.0f : divide(1.0f, d)));
    const float low = type == 3 ? -127.0f : -8.0f, high = type == 3 ? 127.0f : 7.0f;
    q = q < high ? q : high;
    q = q > low ? q : low;
    const i32 whole = static_cast<i32>(q);
    const u32 other = swap_lanes<1>(static_cast<u32>(whole + 8));
    if (type == 3) quants[32 * b + lane] = static_cast<u8>(whole);
    else if (!(lane & 1)) quants[16 * b + lane / 2] = static_cast<u8>(static_cast<u32>(whole + 8) | other << 4);
    if (lane == 0) scales[b] = static_cast<u16>(half);
    values[32 * b + lane] = block_value(d, whole);
  }
  meet_lanes();
}
// Eight values side by side, from the block they are in, as f16.
SK_DEVICE U4 eight_of_block(const u8* plane, int type, int head, int place, int d) {
  const u8* quants = plane + i64(place) * quants_bytes(head, type);
  const float scale = from_half(reinterpret_cast<const u16*>(plane + chunk_positions * quants_bytes(head, type))[place * (head / 32) + d / 32]);
  U4 out;
  u32* to[4] = {&out.x, &out.y, &out.z, &out.w};
  u32 words[2];
  if (type == 3) words[0] = *reinterpret_cast<const u32*>(quants + d), words[1] = *reinterpret_cast<const u32*>(quants + d + 4);
  else words[0] = words[1] = *reinterpret_cast<const u32*>(quants + d / 2);
  SK_UNROLL for (int i = 0; i < 4; ++i) {
    u32 pair = 0;
    SK_UNROLL for (int j = 0; j < 2; ++j) {
      const int at = 2 * i + j;
      const i32 q = type == 3 ? static_cast<i32>(static_cast<i8>(words[at / 4] >> (8 * (at % 4)))) : static_cast<i32>(words[0] >> (4 * at) & 15u) - 8;
      pair |= to_half(block_value(scale, q)) << (16 * j);
    }
    *to[i] = pair;
  }
  return out;
}

// A position's key (which 0) or value to the cache, by one warp. In blocks, `from` becomes what is read back.
SK_DEVICE void store_head(const Cache& c, const PartRecord& part, int position, int kv_head, int which, float* from) {
  void* chunk = chunk_of(part.chunks, part.capacity, c, position / chunk_positions);
  const int place = position % chunk_positions;
  u8* plane = static_cast<u8*>(chunk) + (which * c.kv_heads + kv_head) * plane_bytes(c.head, c.type);
  if (in_blocks(c.type)) return put_blocks(plane, c.type, c.head, place, from);
  for (int i = thread() & 31; i < c.head; i += 32) put_cached(plane, c.type, i64(place) * c.head + i, from[i]);
}

struct Visible { int low, high; };       // positions low .. high - 1
SK_DEVICE Visible visible(const PartRecord& part, int position, int window, int borrows) {
  const int high = borrows ? part.borrowed_length : position + 1;
  return {window && high > window ? high - window : 0, high};
}

}  // namespace skipstone::gpu
