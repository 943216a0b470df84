// How many threads a small pass takes: all that it may, or only the caller. Small models finish a pass in less time than a busy machine needs to bring
// two threads to one barrier, so the choice follows the clock. It changes no bit of the result.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

namespace skipstone {

class TeamSize {
 public:
  // Threads for a pass over `rows` rows, of at most `threads`.
  int choose(int64_t rows, int threads) {
    if (threads == 1 || rows > small) return threads;
    Case& c = cases_[static_cast<size_t>(rows)];
    if (c.threads != threads) {
      c = {};
      c.threads = threads;
      c.until_probe = memory;                                               // the team first: most models are large
    }
    const bool team = c.seconds(true) <= c.seconds(false);                  // a way that was never taken counts as slow
    return (c.until_probe <= 0 ? !team : team) ? threads : 1;
  }
  void report(int64_t rows, int threads, int members, double seconds) {
    if (threads == 1 || rows > small) return;
    Case& c = cases_[static_cast<size_t>(rows)];
    const size_t team = members > 1;
    c.samples[team][c.taken[team]++ % memory] = seconds;
    if (--c.until_probe >= 0) return;
    // The slower way is looked at again after a while, the longer the slower it was: probes cost about one part in thirty.
    const double ratio = std::max(c.seconds(true), c.seconds(false)) / std::min(c.seconds(true), c.seconds(false));
    // Where the two are close and one is little known, every other pass.
    const bool known = c.taken[0] >= memory && c.taken[1] >= memory;
    c.until_probe = ratio < 1.15 && !known ? 1 : static_cast<int>(std::clamp(30 * (ratio - 1), 12.0, 600.0));
  }

 private:
  static constexpr int64_t small = 16;
  static constexpr int memory = 4;
  struct Case {
    int threads = 0;
    int until_probe = 0;
    std::array<std::array<double, memory>, 2> samples{};                    // of the last passes alone, as a team
    std::array<size_t, 2> taken{};                                          // passes, alone and as a team
    // The best of the last few: what disturbs a pass makes it longer.
    double seconds(bool team) const {
      double best = 1e9;
      for (double s : samples[team]) best = s > 0 ? std::min(best, s) : best;
      return best;
    }
  };
  std::array<Case, small + 1> cases_{};
};

}  // namespace skipstone
