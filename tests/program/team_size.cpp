// A simulated machine: passes that take so long with the team and alone, from some pass on otherwise. Prints how many of the passes between `from` and
// `to` were run alone.
#include "program/team_size.h"

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const double team = atof(argv[1]), alone = atof(argv[2]), later = atof(argv[3]);       // milliseconds; the team's from `change` on
  const int change = atoi(argv[4]), from = atoi(argv[5]), to = atoi(argv[6]);
  skipstone::TeamSize size;
  int count = 0;
  for (int i = 0; i < to; ++i) {
    const int members = size.choose(3, 2);
    const double noise = 1 + 0.05 * (i * 7919 % 13) / 13;
    size.report(3, 2, members, 1e-3 * noise * (members == 1 ? alone : i < change ? team : later));
    count += members == 1 && i >= from;
    if (size.choose(17, 2) != 2 || size.choose(3, 1) != 1) return 1;                       // many rows; no choice
  }
  std::printf("%d\n", count);
}
