// Which code of a Cython module ran, and what it compared: for libFuzzer, which lives inside atheris.
//
// Compilers call the functions below in code built with -fsanitize-coverage=trace-pc,trace-cmp. native_coverage.py hands the counters to libFuzzer and puts its
// functions into `compare`; without it everything here does nothing of note.
#include <cstdint>

extern "C" {

#define EXPORTED __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))

constexpr uintptr_t places = 1 << 13;      // more than a module has
EXPORTED uint8_t skipstone_fuzz_counters[places];
EXPORTED uintptr_t skipstone_fuzz_places[2 * places];
EXPORTED uintptr_t skipstone_fuzz_count = places;
EXPORTED void* skipstone_fuzz_compare[9];   // cmp and const_cmp of 1, 2, 4 and 8 bytes, switch

HIDDEN void __sanitizer_cov_trace_pc() {
  const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  uint8_t& count = skipstone_fuzz_counters[(pc ^ pc >> 13) % places];
  if (count < 255) ++count;
}

#define COMPARE(name, type, place)                                                     \
  HIDDEN void __sanitizer_cov_trace_##name(type a, type b) {                           \
    if (auto* f = reinterpret_cast<void (*)(type, type)>(skipstone_fuzz_compare[place])) f(a, b); \
  }
COMPARE(cmp1, uint8_t, 0)
COMPARE(cmp2, uint16_t, 1)
COMPARE(cmp4, uint32_t, 2)
COMPARE(cmp8, uint64_t, 3)
COMPARE(const_cmp1, uint8_t, 4)
COMPARE(const_cmp2, uint16_t, 5)
COMPARE(const_cmp4, uint32_t, 6)
COMPARE(const_cmp8, uint64_t, 7)

HIDDEN void __sanitizer_cov_trace_switch(uint64_t value, uint64_t* cases) {
  if (auto* f = reinterpret_cast<void (*)(uint64_t, uint64_t*)>(skipstone_fuzz_compare[8])) f(value, cases);
}
HIDDEN void __sanitizer_cov_trace_cmpf(float, float) {}
HIDDEN void __sanitizer_cov_trace_cmpd(double, double) {}

}
