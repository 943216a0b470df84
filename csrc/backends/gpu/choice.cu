// The largest logit of a row, the lowest id where several are: blocks over stretches of the vocabulary, the last of them over the blocks.
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

struct Best { float value; i32 id; };
SK_DEVICE Best better(const Best& a, const Best& b) {
  const bool other = b.id >= 0 && (a.id < 0 || b.value > a.value || (b.value == a.value && b.id < a.id));
  return {other ? b.value : a.value, other ? b.id : a.id};      // by value: a choice of references would put both in memory
}
template <int MASK> SK_DEVICE void take(Best& a) { a = better(a, {other_lane<MASK>(a.value), static_cast<i32>(swap_lanes<MASK>(static_cast<u32>(a.id)))}); }
SK_DEVICE void best_lane(Best& a) { take<16>(a), take<8>(a), take<4>(a), take<2>(a), take<1>(a); }

SK_KERNEL(256, 2) choose(ChoiceArgs a) {
  SK_SHARED(float, value, 8);
  SK_SHARED(i32, id, 8);
  SK_SHARED(i32, is_last, 1);
  let_next_start();
  wait_for_previous();
  const int row = block() / choice_blocks, part = block() % choice_blocks;
  const i32 begin = static_cast<i32>(i64(a.vocabulary) * part / choice_blocks), end = static_cast<i32>(i64(a.vocabulary) * (part + 1) / choice_blocks);
  const float* z = a.logits + i64(row) * a.vocabulary;
  Best best{0.0f, -1};
  for (i32 i = begin + thread(); i < end; i += 256)
    if (best.id < 0 || z[i] > best.value) best = {z[i], i};
  best_lane(best);
  if ((thread() & 31) == 0) value[thread() >> 5] = best.value, id[thread() >> 5] = best.id;
  barrier();
  if (thread() >= 32) return;
  best = {thread() < 8 ? value[thread()] : 0.0f, thread() < 8 ? id[thread()] : -1};
  best_lane(best);
  if (thread() == 0) {
    a.best[block()] = best.value, a.id[block()] = best.id;
    share_writes();
    *is_last = arrives_last(a.arrived + row, choice_blocks);
  }
  meet_lanes();
  if (!*is_last) return;
  const int at = row * choice_blocks + thread();
  best = {a.best[at], a.id[at]};
  best_lane(best);
  if (thread() == 0) a.choices[row] = best.id < 0 ? 0 : best.id;
}

// cap * tanh(x / cap)
SK_KERNEL(256, 2) softcap(CapArgs a) {
  let_next_start();
  wait_for_previous();
  for (i64 i = i64(256) * block() + thread(); i < a.count; i += i64(256) * a.blocks)
    a.x[i] = mul(a.cap, add(1.0f, -divide(2.0f, add(exponential(mul(a.x[i], divide(2.0f, a.cap))), 1.0f))));
}

}  // namespace skipstone::gpu
