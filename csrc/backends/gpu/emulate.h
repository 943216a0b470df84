// GPU threads on a CPU: a fiber each, switched where lanes or a block's warps meet. Enough to run a kernel's source bit for bit, one block at a time.
// Every time fibers meet they go on in another order, so a kernel that lacks a barrier gives other values from run to run of the order's seed.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

namespace skipstone::gpu::emulate {

struct Meeting { int size = 0, arrived = 0; unsigned round = 0; };
struct Warp { Meeting meeting; uint32_t value[2][32]; };
struct Fiber {
  ucontext_t context;
  jmp_buf at;
  bool started = false;
  std::unique_ptr<char[]> stack;
  int thread = 0, exchanges = 0, pieces = 0;
  bool done = false;
};
struct State {
  jmp_buf scheduler;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Meeting all;
  std::vector<std::vector<char>> memory;      // shared memory, one piece a declaration
  const std::function<void()>* body = nullptr;
  Fiber* now = nullptr;
  int block = 0;
};
inline State& state() { static State s; return s; }

inline int thread() { return state().now->thread; }
inline int block() { return state().block; }
// A context starts a fiber on its own stack; from then on jumps switch, for a context's switch asks the kernel about signals every time.
inline void yield() {
  if (_setjmp(state().now->at) == 0) _longjmp(state().scheduler, 1);
}
inline void go_on(Fiber& f) {
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
inline void* shared(size_t bytes) {
  State& s = state();
  const size_t piece = static_cast<size_t>(s.now->pieces++);
  if (s.memory.size() == piece) s.memory.emplace_back(bytes + 16, char(0xff));      // NaN bits: reading before writing shows
  const uintptr_t at = reinterpret_cast<uintptr_t>(s.memory[piece].data());
  return reinterpret_cast<void*>((at + 15) & ~uintptr_t(15));
}
inline void enter() {
  (*state().body)();
  state().now->done = true;
  yield();
}

inline void run(int blocks, int threads, uint32_t seed, const std::function<void()>& body) {
  State& s = state();
  s.body = &body;
  s.fibers.resize(static_cast<size_t>(threads));
  uint32_t random = seed * 2654435761u + 1;
  for (int b = 0; b < blocks; ++b) {
    s.block = b;
    s.memory.clear();
    s.memory.reserve(16);
    s.all = {threads, 0, 0};
    s.warps.assign(static_cast<size_t>((threads + 31) / 32), Warp{{32, 0, 0}, {}});
    for (int t = 0; t < threads; ++t) {
      Fiber& f = s.fibers[static_cast<size_t>(t)];
      constexpr size_t stack = 128 << 10;
      if (!f.stack) f.stack.reset(new char[stack]);
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.get();
      f.context.uc_stack.ss_size = stack;
      f.context.uc_link = nullptr;
      f.thread = t, f.exchanges = 0, f.pieces = 0, f.done = f.started = false;
      makecontext(&f.context, enter, 0);
    }
    for (bool more = true; more;) {
      more = false;
      random = random * 1664525u + 1013904223u;
      const int first = static_cast<int>((random >> 8) % static_cast<uint32_t>(threads)), step = (random >> 4) & 1 ? 1 : threads - 1;
      for (int i = 0, t = first; i < threads; ++i, t = (t + step) % threads) {
        Fiber& f = s.fibers[static_cast<size_t>(t)];
        if (f.done) continue;
        s.now = &f;
        go_on(f);
        more = more || !f.done;
      }
    }
  }
}

}  // namespace skipstone::gpu::emulate
