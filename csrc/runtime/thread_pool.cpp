#include "runtime/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace skipstone {
namespace {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 50 microseconds: longer than one operation of a pass, shorter than anybody minds.
constexpr int spins_between_operations = 2500;

std::atomic<int64_t> spun_in_vain{0};

// Waits until the value is no longer `old`: first spinning, then asleep.
void wait_for_change(std::atomic<int>& value, int old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  spun_in_vain.fetch_add(spins, std::memory_order_relaxed);
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

// A small file's text, empty where there is none. Not by C++ streams: where the process has another C++ library beside this one's, their numbers cannot be read.
std::string text_of(const std::string& path) {
  std::string text;
  if (FILE* file = std::fopen(path.c_str(), "re")) {
    char piece[4096];
    for (size_t n; (n = std::fread(piece, 1, sizeof piece, file)) > 0;) text.append(piece, n);
    std::fclose(file);
  }
  return text;
}

double quota_of(const std::string& folder) {
  double quota = -1, period = 0;
  const std::string all = text_of(folder + "/cpu.max");              // "max ..." is no number
  if (std::sscanf(all.c_str(), "%lf %lf", &quota, &period) != 2) {
    quota = std::atof(text_of(folder + "/cpu.cfs_quota_us").c_str());
    period = std::atof(text_of(folder + "/cpu.cfs_period_us").c_str());
  }
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

// The smallest quota of the process's cgroup and of those above it, in either version of cgroups. A container may see its own as the root.
double cgroup_cores() {
  double cores = INFINITY;
  const std::string groups = text_of("/proc/self/cgroup");
  for (size_t at = 0, end; at < groups.size(); at = end + 1) {          // lines of number:controllers:path
    end = std::min(groups.find('\n', at), groups.size());
    const std::string line = groups.substr(at, end - at);
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), root = "/sys/fs/cgroup" + (controllers.empty() ? "" : "/" + controllers);
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    std::string path = line.substr(second + 1);
    for (;; path.resize(path.rfind('/'))) {
      if (path.find("..") == std::string::npos) cores = std::min(cores, quota_of(root + path));
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return cores;
}

}  // namespace

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(std::thread::hardware_concurrency());
  double quota = cgroup_cores();
  if (quota < cores) cores = static_cast<int>(std::ceil(quota));
  return std::max(1, cores);
}

int64_t ThreadPool::spins_in_vain() { return spun_in_vain.load(std::memory_order_relaxed); }

void Team::barrier() {
  if (size_ == 1) return;
  int generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  } else {
    wait_for_change(generation_, generation, spins_.load(std::memory_order_relaxed));
  }
}

ThreadPool& ThreadPool::shared() {
  // Never destroyed: workers may still sleep in it when the process ends. After fork the child has no workers, so it starts a new pool.
  static std::atomic<ThreadPool*> pool{new ThreadPool};
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(new ThreadPool); });
  (void)registered;
  return *pool.load();
}

void ThreadPool::start(int workers) {
  while (workers_ < workers) {
    int index = ++workers_;
    std::thread([this, index] { work(index); }).detach();
  }
}

void ThreadPool::work(int index) {
  int seen = 0;
  for (;;) {
    wait_for_change(region_, seen, team_.spins_.load(std::memory_order_relaxed));
    seen = region_.load(std::memory_order_acquire);
    if (index < (seen & 255)) {      // count and members in one value: a worker that overslept a region cannot mix two
      (*body_)(index, team_);
      running_.fetch_sub(1, std::memory_order_release);
      running_.notify_all();
    }
  }
}

void ThreadPool::run(int members, const std::function<void(int, Team&)>& body) {
  std::lock_guard<std::mutex> lock(turn_);
  members = std::clamp(members, 1, 255);
  static const int cores = usable_cores();
  team_.size_ = members;
  if (members == 1) {
    body(0, team_);
    return;
  }
  team_.spins_ = members <= cores ? spins_between_operations : 0;
  start(members - 1);
  body_ = &body;
  running_.store(members - 1, std::memory_order_relaxed);
  unsigned next = (static_cast<unsigned>(region_.load(std::memory_order_relaxed)) >> 8) + 1;
  region_.store(static_cast<int>(next << 8 | static_cast<unsigned>(members)), std::memory_order_release);
  region_.notify_all();
  body(0, team_);
  for (int left; (left = running_.load(std::memory_order_acquire)) != 0;) wait_for_change(running_, left, team_.spins_.load(std::memory_order_relaxed));
}

}  // namespace skipstone
