// What the kernels need of CUDA, HIP and the CPU emulation: qualifiers, lanes in groups of 32, copies to shared memory, the int8 matrix product.
// Every function has one meaning on all three, so a kernel's bits do not depend on where it runs. Contraction is off in every build
// (--fmad=false, -ffp-contract=off) and fma is written out.
#pragma once
#if defined(__HIP_DEVICE_COMPILE__) || defined(__AMDGCN__)
#define SK_AMD 1
#elif defined(__CUDACC__)
#define SK_CUDA 1
#else
#define SK_EMULATED 1
#include "backends/gpu/emulate.h"
#endif
// The emulation is of an NVIDIA card, or with SK_EMULATED_WAVE 32 or 64 of an AMD card with such waves: then what is AMD's below runs on emulated lanes.
#if SK_AMD || SK_EMULATED_WAVE
#define SK_AMD_FORM 1
#endif

#if SK_CUDA
#define SK_DEVICE __device__ __forceinline__
#define SK_KERNEL(threads, blocks_an_sm) extern "C" __global__ void __launch_bounds__(threads, blocks_an_sm)
#define SK_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define SK_UNROLL _Pragma("unroll")
#define SK_UNROLL_NOT _Pragma("unroll 1")
#elif SK_AMD
#define SK_DEVICE __attribute__((device, always_inline)) inline
#define SK_KERNEL(threads, blocks_an_sm) extern "C" __attribute__((global, amdgpu_flat_work_group_size(threads, threads))) void
#define SK_SHARED(type, name, count) __attribute__((shared, aligned(16))) type name[count]
#define SK_UNROLL _Pragma("unroll")
#define SK_UNROLL_NOT _Pragma("unroll 1")
#else
#define SK_DEVICE inline
#define SK_KERNEL(threads, blocks_an_sm) extern "C" void
#define SK_SHARED(type, name, count) type* name = static_cast<type*>(emulate::shared(sizeof(type) * (count)))
#define SK_UNROLL
#define SK_UNROLL_NOT
#endif

namespace skipstone::gpu {
using i8 = signed char;
using u8 = unsigned char;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned;
using i64 = long long;
struct alignas(16) U4 { u32 x, y, z, w; };
struct alignas(16) F4 { float x, y, z, w; };

template <class To, class From> SK_DEVICE To bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  __builtin_memcpy(&out, &v, sizeof(To));
  return out;
}

// For pointers that came out of memory or a choice: what they point to is the card's memory. AMD's compiler, else, asks at every access which is meant.
#if SK_AMD
template <class T> using Global = __attribute__((address_space(1))) T;
SK_DEVICE void* device_pointer(unsigned long long address) { return (void*)reinterpret_cast<Global<void>*>(address); }
template <class T> SK_DEVICE T from_device(const T* p) { return *(const Global<T>*)p; }
template <class T> SK_DEVICE void to_device(T* p, T v) { *(Global<T>*)p = v; }
typedef u32 FourWords __attribute__((ext_vector_type(4)));
template <> SK_DEVICE U4 from_device(const U4* p) {
  const FourWords v = *(const Global<FourWords>*)p;
  return {v.x, v.y, v.z, v.w};
}
#else
SK_DEVICE void* device_pointer(unsigned long long address) { return reinterpret_cast<void*>(address); }
template <class T> SK_DEVICE T from_device(const T* p) { return *p; }
template <class T> SK_DEVICE void to_device(T* p, T v) { *p = v; }
#endif

#if SK_CUDA
SK_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
SK_DEVICE int block() { return static_cast<int>(blockIdx.x); }
SK_DEVICE void barrier() { __syncthreads(); }
SK_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
SK_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
SK_DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }
SK_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
SK_DEVICE float round_even(float a) { return rintf(a); }
SK_DEVICE float from_half(u32 h) {
  float f;
  asm("{.reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h;}" : "=f"(f) : "r"(h));
  return f;
}
template <int MASK> SK_DEVICE u32 swap_lanes(u32 v) { return __shfl_xor_sync(~0u, v, MASK, 32); }
SK_DEVICE u32 from_lane(u32 v, int lane) { return __shfl_sync(~0u, v, lane, 32); }
SK_DEVICE u32 bytes_of(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
// Programmatic dependent launch: weights may be asked for before the kernel in front has finished, activations may not.
SK_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
SK_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
SK_DEVICE void meet_lanes() { __syncwarp(); }
// Where a compiler that brings too many loads forward, or puts sums off, would spill: nothing moves past the first, a value is there at the second.
SK_DEVICE void stay_in_order() {}
SK_DEVICE void settle(float&) {}
SK_DEVICE void touch(const u8* p) {              // brings its line nearer
  u32 unused;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(unused) : "l"(p));
}
SK_DEVICE u8* dynamic_shared() {
  extern __shared__ __align__(16) u8 skipstone_dynamic[];
  return skipstone_dynamic;
}
// 16 bytes to shared memory, on their way until wait_copies; visible to the lane that asked, to others after they have met.
SK_DEVICE void copy_later(u8* to, const u8* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" :: "r"(static_cast<u32>(__cvta_generic_to_shared(to))), "l"(from) : "memory");
#else
  *reinterpret_cast<U4*>(to) = *reinterpret_cast<const U4*>(from);
#endif
}
SK_DEVICE void close_copies() {                  // what was asked for since the last call is one group
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
SK_DEVICE U4 load_once(const u8* from) { return *reinterpret_cast<const U4*>(from); }
template <int LEFT> SK_DEVICE void wait_copies() {      // until at most LEFT groups are on their way
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
#endif
}
// What this block wrote is seen by the block that arrives last; true for that one. By one thread, the block's others before or after it at a barrier.
SK_DEVICE bool arrives_last(i32* counter, i32 of) {
  __threadfence();
  const bool last = atomicAdd(counter, 1) == of - 1;
  if (last) atomicExch(counter, 0);
  __threadfence();
  return last;
}
SK_DEVICE void share_writes() { __threadfence(); }      // before the barrier in front of arrives_last
#endif

#if SK_AMD
SK_DEVICE int thread() { return static_cast<int>(__builtin_amdgcn_workitem_id_x()); }
SK_DEVICE int block() { return static_cast<int>(__builtin_amdgcn_workgroup_id_x()); }
SK_DEVICE void barrier() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
// Lanes trade within their own group of 32, whatever the wave: in a wave of 64 the other group may be elsewhere.
template <int CONTROL> SK_DEVICE u32 move_lanes(u32 v) { return static_cast<u32>(__builtin_amdgcn_update_dpp(0, static_cast<int>(v), CONTROL, 0xf, 0xf, true)); }
template <int MASK> SK_DEVICE u32 swap_lanes(u32 v) {
  if constexpr (MASK < 4) return move_lanes<(0 ^ MASK) | (1 ^ MASK) << 2 | (2 ^ MASK) << 4 | (3 ^ MASK) << 6>(v);
#if defined(__GFX9__)
  else return static_cast<u32>(__builtin_amdgcn_ds_swizzle(static_cast<int>(v), (MASK << 10) | 0x1f));
#else
  else if constexpr (MASK < 16) return move_lanes<0x160 + MASK>(v);
  else return __builtin_amdgcn_permlanex16(v, v, 0x76543210u, 0xfedcba98u, false, false);
#endif
}
template <int I> SK_DEVICE u32 of_quad(u32 v) { return move_lanes<I * 0x55>(v); }      // what lane I of the own four has
SK_DEVICE u32 from_lane(u32 v, int lane) {                    // of the own group of 32
  const int self = static_cast<int>(__builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0u)));
  return static_cast<u32>(__builtin_amdgcn_ds_bpermute(4 * ((self & ~31) | lane), static_cast<int>(v)));
}
SK_DEVICE void meet_lanes() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
SK_DEVICE void touch(const u8*) {}
SK_DEVICE void stay_in_order() {
  asm volatile("" ::: "memory");
  __builtin_amdgcn_sched_barrier(0);
}
SK_DEVICE void settle(float& v) { asm volatile("" : "+v"(v)); }
extern "C" __attribute__((shared, aligned(16))) u8 skipstone_dynamic[];
SK_DEVICE u8* dynamic_shared() { return reinterpret_cast<u8*>(&skipstone_dynamic[0]); }
SK_DEVICE void copy_later(u8* to, const u8* from) { *reinterpret_cast<U4*>(to) = from_device(reinterpret_cast<const U4*>(from)); }
SK_DEVICE void close_copies() {}
template <int LEFT> SK_DEVICE void wait_copies() {}
SK_DEVICE U4 load_once(const u8* from) {                      // past the caches: weights are read once
  const FourWords v = __builtin_nontemporal_load((const Global<FourWords>*)from);
  return {v.x, v.y, v.z, v.w};
}
SK_DEVICE bool arrives_last(i32* counter, i32 of) {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");
  const bool last = __hip_atomic_fetch_add(counter, 1, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT) == of - 1;
  if (last) __hip_atomic_store(counter, 0, __ATOMIC_RELAXED, __HIP_MEMORY_SCOPE_AGENT);
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");
  return last;
}
SK_DEVICE void share_writes() { __builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent"); }
SK_DEVICE u32 bytes_of(u32 a, u32 b, u32 selector) {          // v_perm_b32 counts bytes 0..3 in its second operand
  return __builtin_amdgcn_perm(b, a, (selector & 7) | (selector & 0x70) << 4 | (selector & 0x700) << 8 | (selector & 0x7000) << 12);
}
#elif SK_EMULATED
SK_DEVICE int thread() { return emulate::thread(); }
SK_DEVICE int block() { return emulate::block(); }
SK_DEVICE void barrier() { emulate::barrier(); }
SK_DEVICE u32 from_lane(u32 v, int lane) { return emulate::from_lane(v, lane); }
template <int I> SK_DEVICE u32 of_quad(u32 v) { return emulate::from_lane(v, (emulate::thread() & 28) | I); }
template <int MASK> SK_DEVICE u32 swap_lanes(u32 v) { return emulate::from_lane(v, (emulate::thread() & 31) ^ MASK); }
SK_DEVICE void meet_lanes() { emulate::meet_lanes(); }
SK_DEVICE void stay_in_order() {}
SK_DEVICE void settle(float&) {}
SK_DEVICE void touch(const u8*) {}
SK_DEVICE u8* dynamic_shared() { return emulate::dynamic_shared(); }
SK_DEVICE void copy_later(u8* to, const u8* from) { emulate::copy_later(to, from); }
SK_DEVICE void close_copies() { emulate::close_copies(); }
template <int LEFT> SK_DEVICE void wait_copies() { emulate::wait_copies(LEFT); }
SK_DEVICE U4 load_once(const u8* from) { return *reinterpret_cast<const U4*>(from); }
SK_DEVICE bool arrives_last(i32* counter, i32 of) {
  const bool last = ++*counter == of;
  if (last) *counter = 0;
  return last;
}
SK_DEVICE void share_writes() {}
SK_DEVICE u32 bytes_of(u32 a, u32 b, u32 selector) {
  u32 out = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 from = (selector >> (4 * i)) & 7;
    out |= (((from < 4 ? a : b) >> (8 * (from & 3))) & 255u) << (8 * i);
  }
  return out;
}
#endif
// Over the 32 lanes: the largest value; the first lane where p holds (one must).
#if SK_CUDA && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
SK_DEVICE u32 largest_u32(u32 v) { return __reduce_max_sync(~0u, v); }
#else
template <int MASK> SK_DEVICE u32 larger_u32(u32 v) {
  const u32 other = swap_lanes<MASK>(v);
  return other > v ? other : v;
}
SK_DEVICE u32 largest_u32(u32 v) { return larger_u32<1>(larger_u32<2>(larger_u32<4>(larger_u32<8>(larger_u32<16>(v))))); }
#endif
SK_DEVICE int first_lane(bool p) {
#if SK_CUDA
  return __ffs(static_cast<int>(__ballot_sync(~0u, p))) - 1;
#else
  return 31 - static_cast<int>(largest_u32(p ? 31u - static_cast<u32>(thread() & 31) : 0u));
#endif
}
#if SK_AMD || SK_EMULATED
SK_DEVICE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
SK_DEVICE float add(float a, float b) { return a + b; }
SK_DEVICE float mul(float a, float b) { return a * b; }
SK_DEVICE float divide(float a, float b) { return a / b; }
SK_DEVICE float round_even(float a) { return __builtin_rintf(a); }
SK_DEVICE float from_half(u32 h) { return static_cast<float>(bits<_Float16>(static_cast<u16>(h))); }
SK_DEVICE void let_next_start() {}
SK_DEVICE void wait_for_previous() {}
#endif

// c[16 x 8] += a[16 x 32] * b[32 x 8] over 32 lanes, exact. Lane l (g = l / 4, t = l % 4) holds
//   a0, a1: rows g, g + 8, positions 4t .. 4t + 3;  a2, a3: the same rows, positions 16 + 4t ..
//   c0, c1: row g, columns 2t and 2t + 1;  c2, c3: row g + 8
// and of b what load() takes from a pair of blocks (kernels.h). SIGNED says how a's bytes are meant; b's are signed. `half`: the first or second 16
// positions of the block alone.
struct Product { i32 c[4]; };

#if SK_CUDA || (SK_EMULATED && !SK_AMD_FORM)
constexpr bool through_registers = false;        // copies to shared memory go by themselves
constexpr bool bytes_above_127 = true;           // a's, where they are unsigned
// b0, b1: column g, positions 4t .. and 16 + 4t .., of both blocks.
struct Columns {
  U4 q;
  static constexpr int count = 1;                // columns that a lane reads: column(0); of each what lies within(column) bytes into its group of 8
  static SK_DEVICE int column(int) { return (thread() & 31) >> 2; }
  static SK_DEVICE int within(int column) { return 64 * (column & 7) + 16 * (thread() & 3); }
  static SK_DEVICE int offset() { return within(column(0)); }
  SK_DEVICE void load(const u8* from) { q = *reinterpret_cast<const U4*>(from); }
  SK_DEVICE void load(const u8* from, const i32 (&at)[count]) { load(from + at[0]); }      // columns that lie anywhere
  SK_DEVICE u32 word(int block, int half) const { return block ? (half ? q.w : q.z) : half ? q.y : q.x; }
};
#endif
#if SK_CUDA
#if __CUDA_ARCH__ >= 800 || !defined(__CUDA_ARCH__)
template <bool SIGNED> SK_DEVICE Product multiply(const U4& a, const Columns& b, int block, i32 from) {
  Product p;
  if constexpr (SIGNED)
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(p.c[0]), "=r"(p.c[1]), "=r"(p.c[2]), "=r"(p.c[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.word(block, 0)), "r"(b.word(block, 1)), "r"(from));
  else
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(p.c[0]), "=r"(p.c[1]), "=r"(p.c[2]), "=r"(p.c[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.word(block, 0)), "r"(b.word(block, 1)), "r"(from));
  return p;
}
SK_DEVICE Product multiply_half(u32 a0, u32 a1, const Columns& b, int block, int half, i32 from) {
  Product p;
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
      : "=r"(p.c[0]), "=r"(p.c[1]), "=r"(p.c[2]), "=r"(p.c[3]) : "r"(a0), "r"(a1), "r"(b.word(block, half)), "r"(from));
  return p;
}
#else
template <bool SIGNED> SK_DEVICE void eight_rows(i32& c0, i32& c1, u32 a, u32 b) {
  if constexpr (SIGNED) asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(c0), "+r"(c1) : "r"(a), "r"(b));
  else asm("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+r"(c0), "+r"(c1) : "r"(a), "r"(b));
}
template <bool SIGNED> SK_DEVICE Product multiply(const U4& a, const Columns& b, int block, i32 from) {
  Product p{{from, from, from, from}};
  eight_rows<SIGNED>(p.c[0], p.c[1], a.x, b.word(block, 0));
  eight_rows<SIGNED>(p.c[2], p.c[3], a.y, b.word(block, 0));
  eight_rows<SIGNED>(p.c[0], p.c[1], a.z, b.word(block, 1));
  eight_rows<SIGNED>(p.c[2], p.c[3], a.w, b.word(block, 1));
  return p;
}
SK_DEVICE Product multiply_half(u32 a0, u32 a1, const Columns& b, int block, int half, i32 from) {
  Product p{{from, from, from, from}};
  eight_rows<true>(p.c[0], p.c[1], a0, b.word(block, half));
  eight_rows<true>(p.c[2], p.c[3], a1, b.word(block, half));
  return p;
}
#endif
#elif SK_EMULATED
template <bool SIGNED> SK_DEVICE i32 dot4(u32 a, u32 b, i32 c) {
  for (int s = 0; s < 32; s += 8) {
    const i32 left = SIGNED || !emulate::mixed_dot ? static_cast<i32>(static_cast<i8>(a >> s)) : static_cast<i32>((a >> s) & 255u);
    c += left * static_cast<i8>(b >> s);
  }
  return c;
}
#endif

#if SK_EMULATED && !SK_AMD_FORM
// One meeting of the lanes, then each reads what it needs of the others.
template <bool SIGNED> SK_DEVICE Product emulated_product(const u32 (&own)[6], i32 from, int quarters) {
  const auto* all = emulate::fragments(own);
  const int lane = thread() & 31, g = lane >> 2, t = lane & 3;
  Product p{{from, from, from, from}};
  for (int i = 0; i < 4; ++i)
    for (int q = 0; q < quarters; ++q) {
      const u32 row0 = all[4 * g + i][2 * q], row8 = all[4 * g + i][2 * q + 1];
      const u32 column0 = all[8 * t + i][4 + q], column1 = all[8 * t + 4 + i][4 + q];
      p.c[0] = dot4<SIGNED>(row0, column0, p.c[0]);
      p.c[1] = dot4<SIGNED>(row0, column1, p.c[1]);
      p.c[2] = dot4<SIGNED>(row8, column0, p.c[2]);
      p.c[3] = dot4<SIGNED>(row8, column1, p.c[3]);
    }
  return p;
}
template <bool SIGNED> SK_DEVICE Product multiply(const U4& a, const Columns& b, int block, i32 from) {
  return emulated_product<SIGNED>({a.x, a.y, a.z, a.w, b.word(block, 0), b.word(block, 1)}, from, 2);
}
SK_DEVICE Product multiply_half(u32 a0, u32 a1, const Columns& b, int block, int half, i32 from) {
  return emulated_product<true>({a0, a1, 0, 0, b.word(block, half), 0}, from, 1);
}
#endif

#if SK_AMD_FORM
// Dot products of four bytes: a's words come from the own four lanes, b's columns 2t and 2t + 1 whole from memory (a cache has them: eight lanes read the
// same). Sums are whole numbers, so another order of them is the same product.
constexpr bool through_registers = true;         // weights on their way to shared memory wait in registers
#if SK_AMD
#if defined(__GFX11__) || defined(__GFX12__)
constexpr bool bytes_above_127 = true;
template <bool SIGNED> SK_DEVICE i32 dot4(u32 a, u32 b, i32 c) { return __builtin_amdgcn_sudot4(SIGNED, static_cast<i32>(a), true, static_cast<i32>(b), c, false); }
#else
constexpr bool bytes_above_127 = false;          // both sides of the instruction are signed
template <bool SIGNED> SK_DEVICE i32 dot4(u32 a, u32 b, i32 c) { return __builtin_amdgcn_sdot4(static_cast<i32>(a), static_cast<i32>(b), c, false); }
#endif
#else
constexpr bool bytes_above_127 = emulate::mixed_dot;
#endif
struct Columns {
  U4 q[2][4];                                    // [column][position / 4 % 4]: both halves of both blocks
  static constexpr int count = 2;
  static SK_DEVICE int column(int i) { return 2 * (thread() & 3) + i; }
  static SK_DEVICE int within(int column) { return 64 * (column & 7); }
  static SK_DEVICE int offset() { return within(column(0)); }
  SK_DEVICE void load(const u8* from) { load(from, {0, 64}); }
  SK_DEVICE void load(const u8* from, const i32 (&at)[count]) {
    SK_UNROLL for (int i = 0; i < 8; ++i) q[i >> 2][i & 3] = from_device(reinterpret_cast<const U4*>(from + at[i >> 2] + 16 * (i & 3)));
  }
  SK_DEVICE u32 word(int column, int i, int block, int half) const {
    const U4& v = q[column][i];
    return block ? (half ? v.w : v.z) : half ? v.y : v.x;
  }
};
template <bool SIGNED, int I> SK_DEVICE void four_positions(Product& p, u32 low, u32 high, const Columns& b, int block, int half) {
  const u32 row0 = of_quad<I>(low), row8 = of_quad<I>(high);
  p.c[0] = dot4<SIGNED>(row0, b.word(0, I, block, half), p.c[0]);
  p.c[1] = dot4<SIGNED>(row0, b.word(1, I, block, half), p.c[1]);
  p.c[2] = dot4<SIGNED>(row8, b.word(0, I, block, half), p.c[2]);
  p.c[3] = dot4<SIGNED>(row8, b.word(1, I, block, half), p.c[3]);
}
template <bool SIGNED> SK_DEVICE void half_product(Product& p, u32 low, u32 high, const Columns& b, int block, int half) {
  four_positions<SIGNED, 0>(p, low, high, b, block, half);
  four_positions<SIGNED, 1>(p, low, high, b, block, half);
  four_positions<SIGNED, 2>(p, low, high, b, block, half);
  four_positions<SIGNED, 3>(p, low, high, b, block, half);
}
template <bool SIGNED> SK_DEVICE Product multiply(const U4& a, const Columns& b, int block, i32 from) {
  Product p{{from, from, from, from}};
  half_product<SIGNED>(p, a.x, a.y, b, block, 0);
  half_product<SIGNED>(p, a.z, a.w, b, block, 1);
  return p;
}
SK_DEVICE Product multiply_half(u32 a0, u32 a1, const Columns& b, int block, int half, i32 from) {
  Product p{{from, from, from, from}};
  half_product<true>(p, a0, a1, b, block, half);
  return p;
}
#endif

// c[16 x 8] += a[16 x 16] * b[16 x 8] in narrow floats with float sums. Lane (g, t) holds, two values a register,
//   a0, a1: rows g, g + 8, positions 2t, 2t + 1;  a2, a3: the same rows, positions 8 + 2t ..;  b0, b1: column g, positions 2t .. and 8 + 2t ..;  c as above.
// A row's results depend on its row of a and the column of b alone; in which order the 16 products are added is the card's own.
SK_DEVICE float wide(u32 narrow, bool brain) { return brain ? bits<float>(narrow << 16) : from_half(narrow); }
#if SK_EMULATED && !SK_AMD_FORM
template <bool BRAIN> SK_DEVICE void multiply_narrow(float c[4], const U4& a, u32 b0, u32 b1) {
  const u32 own[6] = {a.x, a.y, a.z, a.w, b0, b1};
  const auto* all = emulate::fragments(own);
  const int lane = thread() & 31, g = lane >> 2, t = lane & 3;
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k) {
      const int shift = 16 * (k & 1), in = k % 8 / 2;
      const u32 left = all[4 * g + in][2 * (k >> 3) + (i >> 1)], right = all[4 * (2 * t + (i & 1)) + in][4 + (k >> 3)];
      c[i] = fma(wide((left >> shift) & 0xffffu, BRAIN), wide((right >> shift) & 0xffffu, BRAIN), c[i]);
    }
}
#else
// Without such an instruction lanes trade their registers.
template <bool BRAIN> SK_DEVICE void trade_narrow(float c[4], const U4& a, u32 b0, u32 b1) {
  const int lane = thread() & 31, g = lane >> 2, t = lane & 3;
  SK_UNROLL_NOT for (int half = 0; half < 2; ++half)      // unrolled in all places it stands in, it takes the assembler minutes
    SK_UNROLL_NOT for (int in = 0; in < 4; ++in) {
      const u32 row0 = from_lane(half ? a.z : a.x, 4 * g + in), row8 = from_lane(half ? a.w : a.y, 4 * g + in);
      const u32 column0 = from_lane(half ? b1 : b0, 8 * t + in), column1 = from_lane(half ? b1 : b0, 8 * t + 4 + in);
      for (int shift = 0; shift < 32; shift += 16) {
        const float r0 = wide((row0 >> shift) & 0xffffu, BRAIN), r8 = wide((row8 >> shift) & 0xffffu, BRAIN);
        const float c0 = wide((column0 >> shift) & 0xffffu, BRAIN), c1 = wide((column1 >> shift) & 0xffffu, BRAIN);
        c[0] = fma(r0, c0, c[0]), c[1] = fma(r0, c1, c[1]), c[2] = fma(r8, c0, c[2]), c[3] = fma(r8, c1, c[3]);
      }
    }
}
#if SK_CUDA
template <bool BRAIN> SK_DEVICE void multiply_narrow(float c[4], const U4& a, u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800 || !defined(__CUDA_ARCH__)
  if constexpr (BRAIN)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
#else
  if constexpr (BRAIN) {
    trade_narrow<true>(c, a, b0, b1);
  } else {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a.x), "r"(a.y), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a.z), "r"(a.w), "r"(b1));
  }
#endif
}
#else
template <bool BRAIN> SK_DEVICE void multiply_narrow(float c[4], const U4& a, u32 b0, u32 b1) { trade_narrow<BRAIN>(c, a, b0, b1); }
#endif
#endif

// The a of 16 x 16 narrow values in shared memory, rows `stride` bytes (a multiple of 16) apart: as they lie, or turned (what lies in a row is a column of a).
#if SK_CUDA
SK_DEVICE U4 matrix_rows(const u8* from, int stride) {
  const int lane = thread() & 31;
  const u32 at = static_cast<u32>(__cvta_generic_to_shared(from + (lane & 15) * stride + (lane >> 4) * 16));
  U4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
  return v;
}
SK_DEVICE U4 matrix_columns(const u8* from, int stride) {
  const int lane = thread() & 31;
  const u32 at = static_cast<u32>(__cvta_generic_to_shared(from + ((lane & 7) + (lane >> 4) * 8) * stride + (lane >> 3 & 1) * 16));
  U4 v;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
  return v;
}
// Of 8 x 8 narrow values, a lane (g, t) with row g's 2t and 2t + 1: the same of the turned matrix.
SK_DEVICE u32 turned(u32 v) {
  u32 out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(v));
  return out;
}
#else
SK_DEVICE U4 matrix_rows(const u8* from, int stride) {
  const int lane = thread() & 31, g = lane >> 2, t = lane & 3;
  const auto at = [&](int row, int column) { return *reinterpret_cast<const u32*>(from + row * stride + 2 * column); };
  return {at(g, 2 * t), at(g + 8, 2 * t), at(g, 8 + 2 * t), at(g + 8, 8 + 2 * t)};
}
SK_DEVICE U4 matrix_columns(const u8* from, int stride) {
  const int lane = thread() & 31, g = lane >> 2, t = lane & 3;
  const auto at = [&](int row, int column) {
    const u8* p = from + row * stride + 2 * column;
    return static_cast<u32>(*reinterpret_cast<const u16*>(p)) | static_cast<u32>(*reinterpret_cast<const u16*>(p + stride)) << 16;
  };
  return {at(2 * t, g), at(2 * t, g + 8), at(8 + 2 * t, g), at(8 + 2 * t, g + 8)};
}
SK_DEVICE u32 turned(u32 v) {
  const int lane = thread() & 31, g = lane >> 2, t = lane & 3, from = 8 * t + (g >> 1), shift = 16 * (g & 1);
  return ((from_lane(v, from) >> shift) & 0xffffu) | ((from_lane(v, from + 4) >> shift) & 0xffffu) << 16;
}
#endif

}  // namespace skipstone::gpu
