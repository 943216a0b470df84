// How many threads a small pass takes: all that it may, or only the caller. Small models finish a pass in less time than a busy machine needs to bring
// two threads to one barrier, so the choice follows the clock. It changes no bit of the result.
#pragma once
#include <array>
#include <cstdint>

namespace skipstone {

class TeamSize {
 public:
  // Threads for a pass over `rows` rows, of at most `threads`.
  int choose(int64_t rows, int threads) {
    if (threads == 1 || rows > small) return threads;
    Cost& c = costs_[static_cast<size_t>(rows)];
    if (c.threads != threads) c = {threads, {}, 0, 0};
    const bool alone = c.seconds[0] < c.seconds[1];
    // The slower way is tried now and then, the less often the slower it was; first each way a few times.
    if (c.tries < 6) return c.tries % 2 ? threads : 1;
    if (c.until_probe <= 0) return alone ? threads : 1;
    return alone ? 1 : threads;
  }
  void report(int64_t rows, int threads, int members, double seconds) {
    if (threads == 1 || rows > small) return;
    Cost& c = costs_[static_cast<size_t>(rows)];
    const bool team = members > 1;
    double& known = c.seconds[team];
    known = known == 0 ? seconds : (seconds < known ? known + 0.5 * (seconds - known) : known + 0.2 * (seconds - known));
    ++c.tries;
    if (--c.until_probe < 0) {
      const double fast = c.seconds[0] < c.seconds[1] ? c.seconds[0] : c.seconds[1], slow = c.seconds[0] + c.seconds[1] - fast;
      const double ratio = fast > 0 ? slow / fast : 1;
      c.until_probe = static_cast<int>(50 * (ratio < 20 ? ratio : 20));
    }
  }

 private:
  static constexpr int64_t small = 16;
  struct Cost {
    int threads = 0;
    double seconds[2] = {};       // alone, as a team
    int tries = 0, until_probe = 0;
  };
  std::array<Cost, small + 1> costs_{};
};

}  // namespace skipstone
