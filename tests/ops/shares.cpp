// Shares gives every unit once, whatever their number, the pieces, the members and who is slow. Exit 1 and a line where it does not.
#include <cstdint>
#include <cstdio>
#include <thread>
#include <vector>

#include "ops/shares.h"

int main() {
  int pieces_taken = 0;
  for (const int members : {1, 2, 3, 7, 16})
    for (const int64_t units : {1, 5, 16, 63, 64, 1000, 4099})
      for (const int64_t piece : {1, 3, 50}) {
        skipstone::Shares shares;
        for (int pass = 0; pass < 2; ++pass) {                                   // the second after a restart
          shares.restart();
          std::vector<std::atomic<int>> given(static_cast<size_t>(units));
          std::atomic<int> parts = 0;
          std::vector<std::thread> team;
          for (int m = 0; m < members; ++m)
            team.emplace_back([&, m] {
              if (m == members / 2) std::this_thread::yield();
              shares.take(units, piece, m, members, [&](int64_t first, int64_t last) {
                ++parts;
                for (int64_t u = first; u < last; ++u) ++given[static_cast<size_t>(u)];
              });
            });
          for (std::thread& t : team) t.join();
          for (int64_t u = 0; u < units; ++u)
            if (given[static_cast<size_t>(u)] != 1) return std::printf("unit %lld of %lld, pieces of %lld, %d members: given %d times\n", static_cast<long long>(u), static_cast<long long>(units), static_cast<long long>(piece), members, given[static_cast<size_t>(u)].load()), 1;
          pieces_taken += parts > members;
        }
      }
  std::printf("%d times in pieces\n", pieces_taken);
  return 0;
}
