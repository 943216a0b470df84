// GPU threads on a CPU: a fiber each, switched where lanes or a block's warps meet. Enough to run a kernel's source bit for bit, one block at a time.
// The seed orders the blocks, and every time fibers meet they go on in another order, so a kernel that lacks a barrier gives other values from seed to seed.
// Lanes meet in groups of 32; of a wave of 64 both groups take their turns side by side, and may still be at different places, as on a card.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

namespace skipstone::gpu::emulate {

#if SK_EMULATED_WAVE
constexpr int wave = SK_EMULATED_WAVE;
constexpr bool mixed_dot = wave == 32;           // whether dot products take unsigned with signed bytes, as AMD's newer cards with waves of 32 do
#else
constexpr int wave = 32;
constexpr bool mixed_dot = true;
#endif

struct Meeting { int size = 0, arrived = 0; unsigned round = 0; };
struct Warp { Meeting meeting; uint32_t value[2][32]; uint32_t fragments[2][32][6]; };
struct Fiber {
  ucontext_t context;
  jmp_buf at;
  bool started = false;
  std::unique_ptr<char[]> stack;
  int thread = 0, exchanges = 0, products = 0, pieces = 0;
  bool done = false;
  struct Copy { unsigned char* to; const unsigned char* from; int group; };
  std::vector<Copy> copies;                      // asked for and not yet made: they come as late as they may
  int groups = 0;
};
struct State {
  jmp_buf scheduler;
  std::deque<Fiber> fibers;             // which do not move
  std::vector<Warp> warps;
  Meeting all;
  std::vector<std::vector<char>> memory;      // shared memory, one piece a declaration
  std::vector<char> dynamic;                  // shared memory whose size the launch says
  size_t dynamic_bytes = 0;
  const std::function<void()>* body = nullptr;
  Fiber* now = nullptr;
  int block = 0;
};
inline State& state() { static State s; return s; }

inline int thread() { return state().now->thread; }
inline int block() { return state().block; }
// A context starts a fiber on its own stack; from then on jumps switch, for a context's switch asks the kernel about signals every time.
[[gnu::noinline]] inline void yield() {
  if (_setjmp(state().now->at) == 0) _longjmp(state().scheduler, 1);
}
[[gnu::noinline]] inline void go_on(Fiber& f) {
  if (_setjmp(state().scheduler) != 0) return;
  if (f.started) _longjmp(f.at, 1);
  f.started = true;
  setcontext(&f.context);
}
inline void meet(Meeting& m) {
  const unsigned round = m.round;
  if (++m.arrived == m.size) {
    m.arrived = 0;
    ++m.round;
  } else {
    while (m.round == round) yield();
  }
}
inline void barrier() { meet(state().all); }
// Two sets of values in turn: a lane cannot be a whole exchange ahead of a lane that still reads.
inline uint32_t from_lane(uint32_t v, int lane) {
  Warp& w = state().warps[static_cast<size_t>(thread() / 32)];
  uint32_t* values = w.value[state().now->exchanges++ & 1];
  values[thread() & 31] = v;
  meet(w.meeting);
  return values[lane];
}
// What every lane brings to a matrix instruction, [lane]; to be read before the next one.
inline const uint32_t (*fragments(const uint32_t (&own)[6]))[6] {
  Warp& w = state().warps[static_cast<size_t>(thread() / 32)];
  auto* all = w.fragments[state().now->products++ & 1];
  memcpy(all[thread() & 31], own, sizeof own);
  meet(w.meeting);
  return all;
}
inline void meet_lanes() { meet(state().warps[static_cast<size_t>(thread() / 32)].meeting); }
inline unsigned char* aligned(std::vector<char>& memory) {
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(memory.data()) + 15) & ~uintptr_t(15));
}
inline unsigned char* dynamic_shared() { return aligned(state().dynamic); }
inline void copy_later(unsigned char* to, const unsigned char* from) {
  Fiber& f = *state().now;
  f.copies.push_back({to, from, f.groups});
}
inline void close_copies() { ++state().now->groups; }
inline void wait_copies(int left) {
  Fiber& f = *state().now;
  size_t kept = 0;
  for (const Fiber::Copy& c : f.copies)
    if (c.group < f.groups - left) memcpy(c.to, c.from, 16);
    else f.copies[kept++] = c;
  f.copies.resize(kept);
}
inline void* shared(size_t bytes) {
  State& s = state();
  const size_t piece = static_cast<size_t>(s.now->pieces++);
  if (s.memory.size() == piece) s.memory.emplace_back(bytes + 16, char(0xff));      // NaN bits: reading before writing shows
  return aligned(s.memory[piece]);
}
// A fiber lives on from block to block, for to start one asks the system.
inline void enter() {
  for (;;) {
    (*state().body)();
    state().now->done = true;
    yield();
  }
}

inline void run(int blocks, int threads, uint32_t seed, const std::function<void()>& body, size_t dynamic_bytes = 0) {
  State& s = state();
  s.dynamic_bytes = dynamic_bytes;
  s.body = &body;
  while (s.fibers.size() < static_cast<size_t>(threads)) {
    constexpr size_t stack = 128 << 10;
    Fiber& f = s.fibers.emplace_back();
    f.stack.reset(new char[stack]);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.get();
    f.context.uc_stack.ss_size = stack;
    f.context.uc_link = nullptr;
    f.thread = static_cast<int>(s.fibers.size()) - 1;
    makecontext(&f.context, enter, 0);
  }
  uint32_t random = seed * 2654435761u + 1;
  const auto below = [&](int n) {
    random = random * 1664525u + 1013904223u;
    return static_cast<int>((random >> 8) % static_cast<uint32_t>(n));
  };
  // first, first + step, first + 2 step, ... meets all of n.
  struct Order { int n, first, step; int at(int i) const { return static_cast<int>((first + int64_t{i} * step) % n); } };
  const auto shuffled = [&](int n) {
    Order o{n, below(n), 1 + below(n)};
    while (std::gcd(o.step, n) != 1) ++o.step;
    return o;
  };
  const int width = threads < wave ? threads : wave;
  const Order of_blocks = shuffled(blocks);
  for (int b = 0; b < blocks; ++b) {
    s.block = of_blocks.at(b);
    s.memory.clear();
    s.memory.reserve(16);
    s.dynamic.assign(s.dynamic_bytes + 16, char(0xff));
    s.all = {threads, 0, 0};
    s.warps.assign(static_cast<size_t>((threads + 31) / 32), Warp{{32, 0, 0}, {}, {}});
    for (int t = 0; t < threads; ++t) {
      Fiber& f = s.fibers[static_cast<size_t>(t)];
      f.exchanges = f.products = f.pieces = f.groups = 0;
      f.done = false;
      f.copies.clear();
    }
    for (bool more = true; more;) {
      more = false;
      const Order waves = shuffled(threads / width), lanes = shuffled(width);
      for (int i = 0; i < threads; ++i) {
        Fiber& f = s.fibers[static_cast<size_t>(waves.at(i / width) * width + lanes.at(i % width))];
        if (f.done) continue;
        s.now = &f;
        go_on(f);
        more = more || !f.done;
      }
    }
  }
}

}  // namespace skipstone::gpu::emulate
