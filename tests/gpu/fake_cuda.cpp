// A libcuda of our own: memory is the process's, kernels are the GPU kernels' source as the emulation runs it, a graph is a list of launches. What tests/gpu
// puts in the driver's place, so that the host code and whole models run without a card. Device memory starts as rubbish.
//   SKIPSTONE_FAKE_CARDS: how many (default 1)                  SKIPSTONE_FAKE_CLAIM: bytes that it says are free beyond those that are
//   SKIPSTONE_FAKE_MEMORY: bytes of a card (default 1 GiB)      SKIPSTONE_FAKE_SEED: order in which GPU threads go on
//   SKIPSTONE_FAKE_SMALL: 1 for a card of compute capability 7.5, with little shared memory; SKIPSTONE_FAKE_SHARED: KiB of it a block
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "backends/gpu/cuda/driver.h"
#include "backends/gpu/kernels.cu"

using namespace skipstone::gpu;

namespace {

struct Kernel {
  size_t bytes;                          // of its arguments
  std::function<void(const void*)> run;
};
template <class Args> Kernel kernel(void (*f)(Args)) {
  return {sizeof(Args), [f](const void* a) { f(*static_cast<const Args*>(a)); }};
}
#define KERNEL(name) {#name, kernel(name)}
#define MATMULS(name) KERNEL(matmul_##name##_team16_columns8), KERNEL(matmul_##name##_team16_columns16), KERNEL(matmul_##name##_team4_columns8), \
                      KERNEL(matmul_##name##_team4_columns16), KERNEL(prompt_##name##_64)
#define EXPERTS(name) KERNEL(experts_enter_##name##_columns8), KERNEL(experts_enter_##name##_columns16), KERNEL(experts_leave_##name##_columns8), KERNEL(experts_leave_##name##_columns16)
#define ATTENTIONS(name) KERNEL(attention_to_128_##name), KERNEL(attention_to_256_##name), KERNEL(attention_to_512_##name)
std::map<std::string, Kernel> kernels{EXPERTS(q8_0), EXPERTS(q4_k), EXPERTS(q6_k), EXPERTS(q5_k), EXPERTS(q4_0), EXPERTS(q5_0), EXPERTS(canonical),
                                      KERNEL(experts_enter_plain), KERNEL(experts_leave_plain), KERNEL(join_experts), KERNEL(route), KERNEL(close_logits), KERNEL(open_logits),
                                      MATMULS(q8_0), MATMULS(q4_k), MATMULS(q6_k), MATMULS(q5_k), MATMULS(q4_0), MATMULS(q5_0), MATMULS(canonical), KERNEL(prompt_q8_0_128), KERNEL(prompt_q4_k_128), KERNEL(prompt_q5_k_128), KERNEL(prompt_q4_0_128), KERNEL(prompt_q5_0_128),
                                      KERNEL(matmul_plain), KERNEL(rows_in_order), ATTENTIONS(bf16_4), ATTENTIONS(blocks_4), ATTENTIONS(f32_4), ATTENTIONS(f16_4), ATTENTIONS(bf16_1), ATTENTIONS(blocks_1), ATTENTIONS(f16_1),
                                      KERNEL(attention_to_128_f32_1), KERNEL(attention_to_256_f32_1), KERNEL(attention_128_f16_1), KERNEL(attention_128_f16_4),
                                      KERNEL(attention_128_f16_8), KERNEL(attention_256_f16_1), KERNEL(attention_256_f16_4), KERNEL(attention_256_f16_8), KERNEL(attention_join),
                                      KERNEL(store_heads), KERNEL(delta_rule), KERNEL(delta_rule_128), KERNEL(choose), KERNEL(read_memory), KERNEL(choose_noisy), KERNEL(draft_next), KERNEL(embed_rows), KERNEL(softcap)};

int64_t number(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoll(text) : otherwise;
}
bool small_card() { return number("SKIPSTONE_FAKE_SMALL", 0) != 0; }
// Forms of attention that cards with 64 KiB of shared memory a block do not have.
bool large_attention(const std::string& name) {
  return !name.compare(0, 10, "attention_") && name != "attention_join" && (name.compare(10, 7, "to_128_") || name == "attention_to_128_f32_4") && (name.substr(name.size() - 2) != "_1" || name == "attention_256_f16_1");
}
int64_t card_bytes() { return number("SKIPSTONE_FAKE_MEMORY", int64_t{1} << 30); }

constexpr int most_cards = 8;
struct Piece { size_t bytes; int card; };
std::map<uintptr_t, Piece> memory;
size_t taken[most_cards];
int contexts[most_cards], current = 0;      // a card's context is the address of its number here
uint32_t launches = 0;
using Work = std::vector<std::function<void()>>;
Work* recording = nullptr;

// Everything is done at once, or kept for a graph.
int perform(std::function<void()> work) {
  if (recording) recording->push_back(std::move(work));
  else work();
  return 0;
}

}  // namespace

extern "C" {
using cuda::Address;
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* v) { *v = 12080; return 0; }
int cuGetErrorString(int error, const char** text) { *text = error == 2 ? "out of memory" : "a fault"; return 0; }
int cuDeviceGetCount(int* n) { *n = static_cast<int>(number("SKIPSTONE_FAKE_CARDS", 1)); return 0; }
int cuDeviceGet(int* d, int i) { *d = i; return 0; }
int cuDeviceGetName(char* name, int, int) { std::strcpy(name, "Emulated card"); return 0; }
int cuDeviceGetAttribute(int* v, int attribute, int) {
  switch (attribute) {
    case 16: *v = 3; return 0;           // processors
    case 75: *v = small_card() ? 7 : 9; return 0;
    case 76: *v = small_card() ? 5 : 0; return 0;
    case 81: *v = (small_card() ? 64 : 228) << 10; return 0;
    case 97: *v = static_cast<int>(number("SKIPSTONE_FAKE_SHARED", small_card() ? 64 : 227)) << 10; return 0;
    default: *v = 0; return 0;
  }
}
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = static_cast<size_t>(card_bytes()); return 0; }
int cuDevicePrimaryCtxRetain(void** c, int d) { *c = &contexts[d]; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void* c) { current = static_cast<int>(static_cast<int*>(c) - contexts); return 0; }
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  *total = static_cast<size_t>(card_bytes());
  *free = *total - taken[current] + static_cast<size_t>(number("SKIPSTONE_FAKE_CLAIM", 0));
  return 0;
}
int cuModuleLoadData(void** m, const void*) { *m = &kernels; return 0; }
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** f, void*, const char* name) {
  const auto found = kernels.find(name);
  if (found == kernels.end() || (small_card() && large_attention(name))) return std::fprintf(stderr, "no kernel %s\n", name), 500;
  *f = &found->second;
  return 0;
}
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuMemAlloc_v2(Address* a, size_t bytes) {
  if (taken[current] + bytes > static_cast<size_t>(card_bytes())) return 2;
  void* at = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(at, 0xcd, bytes);
  memory[reinterpret_cast<uintptr_t>(at)] = {bytes, current};
  taken[current] += bytes;
  *a = reinterpret_cast<Address>(at);
  return 0;
}
int cuMemFree_v2(Address a) {
  const auto found = memory.find(static_cast<uintptr_t>(a));
  if (found == memory.end() || found->second.card != current) return 1;
  taken[current] -= found->second.bytes;
  std::free(reinterpret_cast<void*>(found->first));
  memory.erase(found);
  return 0;
}
int cuMemHostAlloc(void** a, size_t bytes, unsigned) { *a = std::malloc(bytes); return 0; }
int cuMemFreeHost(void* a) { std::free(a); return 0; }
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) { std::memcpy(reinterpret_cast<void*>(to), from, bytes); return recording ? 900 : 0; }
int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void*) { std::memcpy(to, reinterpret_cast<void*>(from), bytes); return recording ? 900 : 0; }
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void*) {
  return perform([=] { std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes); });
}
int cuMemsetD8Async(Address to, unsigned char v, size_t bytes, void*) { return perform([=] { std::memset(reinterpret_cast<void*>(to), v, bytes); }); }
int cuStreamCreate(void** s, unsigned) { *s = &launches; return 0; }
int cuStreamDestroy_v2(void*) { return 0; }
int cuStreamSynchronize(void*) { return recording ? 900 : 0; }
int cuStreamBeginCapture_v2(void*, int) { recording = new Work; return 0; }
int cuStreamEndCapture(void*, void** graph) { *graph = recording; recording = nullptr; return 0; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) { *executable = new Work(*static_cast<Work*>(graph)); return 0; }
int cuGraphLaunch(void* executable, void*) {
  for (const auto& work : *static_cast<Work*>(executable)) work();
  return 0;
}
int cuGraphExecDestroy(void* executable) { delete static_cast<Work*>(executable); return 0; }
int cuGraphDestroy(void* graph) { delete static_cast<Work*>(graph); return 0; }
int cuEventCreate(void** e, unsigned) { *e = &launches; return 0; }
int cuEventRecord(void*, void*) { return 0; }
int cuEventSynchronize(void*) { return 0; }
int cuEventElapsedTime(float* ms, void*, void*) { *ms = 1.0f; return 0; }
int cuEventDestroy_v2(void*) { return 0; }
int cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) { return 1; }
int cuLaunchKernelEx(const cuda::LaunchConfig* c, void* f, void** parameters, void**) {
  const Kernel& k = *static_cast<Kernel*>(f);
  const auto* from = static_cast<const unsigned char*>(parameters[0]);
  const std::vector<unsigned char> arguments(from, from + k.bytes);
  const int blocks = static_cast<int>(c->grid[0]), threads = static_cast<int>(c->block[0]);
  const size_t shared = c->shared_bytes;
  return perform([=, &k] { emulate::run(blocks, threads, static_cast<uint32_t>(number("SKIPSTONE_FAKE_SEED", 1)) + ++launches, [&] { k.run(arguments.data()); }, shared); });
}
}
