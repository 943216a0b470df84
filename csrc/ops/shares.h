// How the members of a team share work whose pieces may be done by any of them.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

namespace skipstone {

// Most of each member's share is its own; the rest goes piece by piece to whoever comes first. Members never run equally fast, least of all where others use
// the machine too, and the slowest would hold up all: on 16 virtual cores of a Xeon a fifth of a pass was waiting (measured), and 4 % so.
class Shares {
 public:
  void restart() { next_.store(0, std::memory_order_relaxed); }      // before the team starts
  // Calls body(first, last) for parts of `units` units, each of them given once; small ones, of less than four pieces a member, in equal shares.
  template <class Body> void take(int64_t units, int64_t piece, int member, int members, Body body) {
    auto start = [&](int64_t m) { return units * m / members; };
    auto own_end = [&](int64_t m) { return members > 1 && units >= 4 * piece * members ? start(m) + (start(m + 1) - start(m)) * 7 / 10 : start(m + 1); };
    if (start(member) < own_end(member)) body(start(member), own_end(member));
    if (own_end(0) == start(1)) return;
    const int64_t pieces = std::max<int64_t>(1, units / members * 3 / 10 / piece);           // of each member
    for (int64_t p; (p = next_.fetch_add(1, std::memory_order_relaxed)) < pieces * members;) {
      const int64_t owner = p % members, i = p / members, from = own_end(owner), size = start(owner + 1) - from;
      if (size * i / pieces < size * (i + 1) / pieces) body(from + size * i / pieces, from + size * (i + 1) / pieces);
    }
  }

 private:
  alignas(64) std::atomic<int64_t> next_{0};
};

}  // namespace skipstone
