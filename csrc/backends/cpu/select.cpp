// Which variant of the kernels runs: the best that this processor has, or the one that SKIPSTONE_ISA names.
#include <cstdlib>
#include <string>
#include <string_view>

#ifdef SKIPSTONE_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(SKIPSTONE_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(SKIPSTONE_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "backends/cpu/kernels.h"
#include "runtime/error.h"

namespace skipstone::cpu {

namespace baseline { extern const Kernels kernels; }
#ifdef SKIPSTONE_X86
namespace avx2 { extern const Kernels kernels; }
namespace avxvnni { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace amx { extern const Kernels kernels; }
#endif
#ifdef SKIPSTONE_ARM64
namespace neon { extern const Kernels kernels; }
namespace i8mm { extern const Kernels kernels; }
#endif

namespace {

struct Variant {
  const Kernels* kernels;
  bool (*runs_here)();
};

#ifdef SKIPSTONE_X86
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2"); }
bool has_avx512() { return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"); }

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};
Registers cpuid(unsigned leaf, unsigned part) {
  Registers r;
  __get_cpuid_count(leaf, part, &r.a, &r.b, &r.c, &r.d);
  return r;
}
bool has_avxvnni() { return has_avx2() && cpuid(7, 1).a & 1u << 4; }

// Linux saves tile registers, and lets a process use them, only once the process has asked for it.
bool has_amx() {
#ifdef __linux__
  constexpr unsigned tile = 1u << 24, int8 = 1u << 25, osxsave = 1u << 27, tile_state = 3u << 17;
  constexpr long ask_for_state = 0x1023, tile_data = 18;                           // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (!has_avx512() || (cpuid(7, 0).d & (tile | int8)) != (tile | int8) || !(cpuid(1, 0).c & osxsave)) return false;
  unsigned enabled, high;
  asm("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
  return (enabled & tile_state) == tile_state && syscall(SYS_arch_prctl, ask_for_state, tile_data) == 0;
#else
  return false;
#endif
}
#endif
#ifdef SKIPSTONE_ARM64
#if defined(__linux__)
bool has_neon() { return getauxval(AT_HWCAP) & 1ul << 20; }                     // HWCAP_ASIMDDP
bool has_i8mm() { return has_neon() && getauxval(AT_HWCAP2) & 1ul << 13; }      // HWCAP2_I8MM
#elif defined(__APPLE__)
bool has(const char* feature) {
  int there = 0;
  size_t size = sizeof there;
  return sysctlbyname(feature, &there, &size, nullptr, 0) == 0 && there;
}
bool has_neon() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_neon() && has("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_neon() { return false; }
bool has_i8mm() { return false; }
#endif
#endif

const Variant variants[] = {      // best first
#ifdef SKIPSTONE_X86
    {&amx::kernels, has_amx},
    {&avx512::kernels, has_avx512},
    {&avxvnni::kernels, has_avxvnni},
    {&avx2::kernels, has_avx2},
#endif
#ifdef SKIPSTONE_ARM64
    {&i8mm::kernels, has_i8mm},
    {&neon::kernels, has_neon},
#endif
    {&baseline::kernels, [] { return true; }},
};

const Kernels& choose() {
  const char* wanted = std::getenv("SKIPSTONE_ISA");
  if (!wanted || !*wanted)
    for (const Variant& v : variants)
      if (v.runs_here()) return *v.kernels;
  if (const Kernels* k = find_kernels(wanted)) return *k;
  throw DeviceError("SKIPSTONE_ISA is '" + std::string(wanted) + "', which is unknown or cannot run here; this machine runs: " + runnable_names());
}

}  // namespace

const Kernels* find_kernels(const char* name) {
  for (const Variant& v : variants)
    if (std::string_view(v.kernels->name) == name && v.runs_here()) return v.kernels;
  return nullptr;
}

const char* runnable_names() {
  static const std::string names = [] {
    std::string all;
    for (const Variant& v : variants)
      if (v.runs_here()) all += (all.empty() ? "" : " ") + std::string(v.kernels->name);
    return all;
  }();
  return names.c_str();
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace skipstone::cpu
