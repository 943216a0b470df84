// A libamdhip64 of our own over the same emulated card as fake_cuda.cpp, with AMD's form of the kernels: built with SK_EMULATED_WAVE 32 or 64.
//   SKIPSTONE_FAKE_MEMORY, SKIPSTONE_FAKE_SEED: as there      SKIPSTONE_FAKE_TARGET: the card's architecture
#include "fake_cuda.cpp"

#include "backends/gpu/hip/driver.h"

namespace {
constexpr int success = 0, invalid_value = 1, invalid_image = 200, not_found = 500, stream_captures = 900;
}

extern "C" {
int hipRuntimeGetVersion(int* v) { *v = 60443482; return success; }
const char* hipGetErrorString(int error) { return error == 2 ? "out of memory" : "a fault"; }
int hipGetDeviceCount(int* n) { return cuDeviceGetCount(n); }
int hipDeviceGetName(char* name, int, int) { std::strcpy(name, "Emulated AMD card"); return success; }
int hipDeviceGetAttribute(int* v, int attribute, int) {
  if (attribute == 63) *v = 3;           // processors
  else if (attribute == 74) *v = 64 << 10;
  else if (attribute == 87) *v = emulate::wave;
  else return invalid_value;
  return success;
}
int hipDeviceTotalMem(size_t* bytes, int) { return cuDeviceTotalMem_v2(bytes, 0); }
int hipGetDevicePropertiesR0600(void* into, int) {
  const char* named = std::getenv("SKIPSTONE_FAKE_TARGET");
  std::memset(into, 0, 1472);
  std::strcpy(static_cast<char*>(into) + 1160, named ? named : emulate::wave == 32 ? "gfx1100" : "gfx90a:sramecc+:xnack-");
  return success;
}
int hipSetDevice(int device) {
  int cards = 0;
  cuDeviceGetCount(&cards);
  if (device < 0 || device >= cards) return 101;
  current = device;
  return success;
}
int hipMemGetInfo(size_t* free, size_t* total) { return cuMemGetInfo_v2(free, total); }
int hipModuleLoadData(void** m, const void* image) { return std::memcmp(image, "\x7f" "ELF", 4) ? invalid_image : cuModuleLoadData(m, image); }
// What AMD's images do not have is not found.
int hipModuleGetFunction(void** f, void* m, const char* name) {
  return std::strstr(name, "_team16_") || std::strstr(name, "prompt_") || large_attention(name) ? not_found : cuModuleGetFunction(f, m, name);
}
int hipMalloc(void** a, size_t bytes) {
  Address at = 0;
  const int r = cuMemAlloc_v2(&at, bytes);
  *a = reinterpret_cast<void*>(at);
  return r;
}
int hipFree(void* a) { return cuMemFree_v2(reinterpret_cast<Address>(a)); }
int hipHostMalloc(void** a, size_t bytes, unsigned) { *a = std::malloc(bytes); return success; }
int hipMemcpyAsync(void* to, const void* from, size_t bytes, int kind, void*) {
  if (kind == 3) return perform([=] { std::memcpy(to, from, bytes); });
  std::memcpy(to, from, bytes);
  return kind != 1 && kind != 2 ? invalid_value : recording ? stream_captures : success;
}
int hipMemsetAsync(void* to, int value, size_t bytes, void*) { return perform([=] { std::memset(to, value, bytes); }); }
int hipStreamCreateWithFlags(void** s, unsigned) { return cuStreamCreate(s, 0); }
int hipStreamSynchronize(void*) { return recording ? stream_captures : success; }
int hipStreamBeginCapture(void* s, int mode) { return recording ? stream_captures : cuStreamBeginCapture_v2(s, mode); }
int hipStreamEndCapture(void* s, void** graph) { return recording ? cuStreamEndCapture(s, graph) : invalid_value; }
int hipGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) { return cuGraphInstantiateWithFlags(executable, graph, flags); }
int hipGraphLaunch(void* executable, void* s) { return cuGraphLaunch(executable, s); }
int hipGraphExecDestroy(void* executable) { return cuGraphExecDestroy(executable); }
int hipGraphDestroy(void* graph) { return cuGraphDestroy(graph); }
int hipModuleLaunchKernel(void* f, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned block_y, unsigned block_z, unsigned shared, void*, void** parameters, void** extra) {
  if (y != 1 || z != 1 || block_y != 1 || block_z != 1 || extra || shared > 64 << 10) return invalid_value;
  cuda::LaunchConfig config{};
  config.grid[0] = blocks;
  config.block[0] = threads;
  config.shared_bytes = shared;
  return cuLaunchKernelEx(&config, f, parameters, nullptr);
}
}
