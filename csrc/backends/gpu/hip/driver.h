// AMD's HIP runtime, found at run time as NVIDIA's driver is (cuda/driver.h): no ROCm is needed to build, nothing is linked.
// The functions and their shapes are the same from HIP 5.2 to 7.1; what changed between them (hipDeviceProp_t) is read by offsets.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace skipstone::gpu::hip {

// Handles are opaque pointers. hipError_t is an int, 0 = success.
using Result = int;
struct Module_;
struct Function_;
struct Stream_;
struct Graph_;
struct GraphExec_;
using Module = Module_*;
using Function = Function_*;
using Stream = Stream_*;
using Graph = Graph_*;
using GraphExec = GraphExec_*;

// Result, name, parameters.
#define SKIPSTONE_HIP_FUNCTIONS(F)                                                                                                     \
  F(Result, hipRuntimeGetVersion, (int* version))                                                                                      \
  F(const char*, hipGetErrorString, (Result error))                                                                                    \
  F(Result, hipGetDeviceCount, (int* count))                                                                                           \
  F(Result, hipDeviceGetName, (char* name, int size, int device))                                                                      \
  F(Result, hipDeviceGetAttribute, (int* value, int attribute, int device))                                                            \
  F(Result, hipDeviceTotalMem, (size_t* bytes, int device))                                                                            \
  F(Result, hipSetDevice, (int device))                                                                                                \
  F(Result, hipMemGetInfo, (size_t* free_bytes, size_t* total_bytes))                                                                  \
  F(Result, hipModuleLoadData, (Module* module, const void* image))                                                                    \
  F(Result, hipModuleGetFunction, (Function* function, Module module, const char* name))                                               \
  F(Result, hipMalloc, (void** address, size_t bytes))                                                                                 \
  F(Result, hipFree, (void* address))                                                                                                  \
  F(Result, hipHostMalloc, (void** address, size_t bytes, unsigned flags))                                                             \
  F(Result, hipMemcpyAsync, (void* to, const void* from, size_t bytes, int kind, Stream stream))                                       \
  F(Result, hipMemsetAsync, (void* to, int value, size_t bytes, Stream stream))                                                        \
  F(Result, hipStreamCreateWithFlags, (Stream* stream, unsigned flags))                                                                \
  F(Result, hipStreamSynchronize, (Stream stream))                                                                                     \
  F(Result, hipStreamBeginCapture, (Stream stream, int mode))                                                                          \
  F(Result, hipStreamEndCapture, (Stream stream, Graph* graph))                                                                        \
  F(Result, hipGraphInstantiateWithFlags, (GraphExec* executable, Graph graph, unsigned long long flags))                              \
  F(Result, hipGraphLaunch, (GraphExec executable, Stream stream))                                                                     \
  F(Result, hipGraphExecDestroy, (GraphExec executable))                                                                               \
  F(Result, hipGraphDestroy, (Graph graph))                                                                                            \
  F(Result, hipModuleLaunchKernel, (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,            \
                                    unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters, void** extra))

struct Driver {
#define SKIPSTONE_MEMBER(result, name, parameters) result(*name) parameters = nullptr;
  SKIPSTONE_HIP_FUNCTIONS(SKIPSTONE_MEMBER)
#undef SKIPSTONE_MEMBER
  Result (*properties)(void* into, int device) = nullptr;      // hipGetDevicePropertiesR0600 (HIP 6 and 7), else hipGetDeviceProperties (5)
  size_t architecture_at = 0;                                  // where its struct has gcnArchName
  int version = 0;                                             // 50200000 and more = HIP 5.2
};

struct Card {
  std::string name;
  std::string target;                            // "gfx1100": which code object is its own
  int processors = 0, wave = 0, shared_a_block = 0;
  size_t memory_bytes = 0;
};

// The loaded runtime; null with a sentence in `why` when there is none, it is too old or no runtime. Tried once a path.
// path: SKIPSTONE_LIBAMDHIP64 ("off": as if there were none), or the system's library by its names, the newest first.
const Driver* driver(std::string& why);

// Every card that the runtime shows. Empty: `why` says the reason as a sentence.
std::vector<Card> cards(std::string& why);

// What the runtime says of an error, as part of a sentence.
std::string describe(const Driver& driver, Result error);

}  // namespace skipstone::gpu::hip
