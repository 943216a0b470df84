// Put before the runtime of the address sanitizer, which has empty functions of the same names as libFuzzer: these pass on to libFuzzer.
// SKIPSTONE_FUZZER names the library that holds it, atheris' core_with_libfuzzer; native_coverage.py sets it and loads the library.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>

namespace {

template <class F>
F* in_fuzzer(const char* name) {
  const char* path = std::getenv("SKIPSTONE_FUZZER");
  void* library = path ? dlopen(path, RTLD_LAZY | RTLD_NOLOAD) : nullptr;
  return library ? reinterpret_cast<F*>(dlsym(library, name)) : nullptr;
}

}  // namespace

#define PASS_ON(name, type)                                                                          \
  extern "C" __attribute__((visibility("default"))) void name(type a, type b) {                      \
    static auto* f = in_fuzzer<void(type, type)>(#name);                                             \
    if (f) f(a, b);                                                                                  \
  }
PASS_ON(__sanitizer_cov_8bit_counters_init, uint8_t*)
PASS_ON(__sanitizer_cov_pcs_init, const uintptr_t*)
PASS_ON(__sanitizer_cov_trace_cmp1, uint8_t)
PASS_ON(__sanitizer_cov_trace_cmp2, uint16_t)
PASS_ON(__sanitizer_cov_trace_cmp4, uint32_t)
PASS_ON(__sanitizer_cov_trace_cmp8, uint64_t)
PASS_ON(__sanitizer_cov_trace_const_cmp1, uint8_t)
PASS_ON(__sanitizer_cov_trace_const_cmp2, uint16_t)
PASS_ON(__sanitizer_cov_trace_const_cmp4, uint32_t)
PASS_ON(__sanitizer_cov_trace_const_cmp8, uint64_t)
