// Lists NVIDIA's cards through the run-time loaded driver, as JSON, or says why there is none.
//   c++ -std=c++20 -Icsrc -o cards bench/gpu/cards.cpp csrc/backends/gpu/cuda/driver.cpp -ldl
#include <cstdio>

#include "backends/gpu/cuda/driver.h"

int main() {
  std::string why;
  const auto cards = skipstone::gpu::cuda::cards(why);
  printf("{\"why_none\": \"%s\", \"cards\": [", why.c_str());
  for (const auto& c : cards)
    printf("%s{\"name\": \"%s\", \"compute_capability\": \"%d.%d\", \"processors\": %d, \"memory_bytes\": %zu, \"l2_bytes\": %zu}",
           &c == cards.data() ? "" : ", ", c.name.c_str(), c.major, c.minor, c.processors, c.memory_bytes, c.l2_bytes);
  printf("]}\n");
}
