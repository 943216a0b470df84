// One pool of threads for the process. A pass runs as one parallel region: every member executes the whole list of operations on its share and
// meets the others at barriers. Members spin for some tens of microseconds, then sleep; they never spin where there are more of them than cores.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>

namespace skipstone {

// Cores that this process may use: its affinity, limited by the cgroup's processor quota.
int usable_cores();

class Team {
 public:
  int size() const { return size_; }
  void barrier();           // returns when all members have come

 private:
  friend class ThreadPool;
  int size_ = 1;
  std::atomic<int> spins_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> generation_{0};
};

class ThreadPool {
 public:
  static ThreadPool& shared();
  // Runs body(member, team) for member = 0 .. members-1, 0 on the calling thread; returns when all have returned. body must not throw.
  // Regions of different callers take turns.
  void run(int members, const std::function<void(int, Team&)>& body);
  // Turns that waiting members of all pools have spun before they went to sleep all the same: what spinning has wasted.
  static int64_t spins_in_vain();

 private:
  ThreadPool() = default;
  void start(int workers);
  void work(int index);
  std::mutex turn_;
  int workers_ = 0;
  Team team_;
  const std::function<void(int, Team&)>* body_ = nullptr;
  alignas(64) std::atomic<int> region_{0};       // count of regions << 8 | members of this one; workers wait for it to change
  alignas(64) std::atomic<int> running_{0};
};

}  // namespace skipstone
