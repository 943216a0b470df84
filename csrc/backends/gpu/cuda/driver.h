// NVIDIA's driver, found at run time: no toolkit is needed to build, no library is linked, and a machine without a driver loses nothing.
// One table of the driver API's functions; its prototypes are declared here because cuda.h belongs to the toolkit.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace skipstone::gpu::cuda {

// Handles are opaque pointers; a device is a number; an address on the card is 64 bits. CUresult is an int, 0 = success.
using Result = int;
using Device = int;
using Address = unsigned long long;
struct Context_;
struct Module_;
struct Function_;
struct Stream_;
struct Event_;
struct Graph_;
struct GraphExec_;
using Context = Context_*;
using Module = Module_*;
using Function = Function_*;
using Stream = Stream_*;
using Event = Event_*;
using Graph = Graph_*;
using GraphExec = GraphExec_*;

// cuLaunchKernelEx's configuration; attribute 6 is programmatic stream serialization (CUDA 11.8).
struct LaunchAttribute {
  int id;
  char pad[4];
  union { char bytes[64]; int value; };
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  Stream stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};
constexpr int programmatic_stream_serialization = 6;

// The entries: name, parameters. The names with a version are the ones the library exports for what cuda.h calls without it.
#define SKIPSTONE_CUDA_FUNCTIONS(F)                                                                                                  \
  F(cuInit, (unsigned flags))                                                                                                        \
  F(cuDriverGetVersion, (int* version))                                                                                              \
  F(cuGetErrorString, (Result error, const char** text))                                                                             \
  F(cuDeviceGetCount, (int* count))                                                                                                  \
  F(cuDeviceGet, (Device* device, int index))                                                                                        \
  F(cuDeviceGetName, (char* name, int size, Device device))                                                                          \
  F(cuDeviceGetAttribute, (int* value, int attribute, Device device))                                                                \
  F(cuDeviceTotalMem_v2, (size_t* bytes, Device device))                                                                             \
  F(cuDevicePrimaryCtxRetain, (Context* context, Device device))                                                                     \
  F(cuDevicePrimaryCtxRelease_v2, (Device device))                                                                                   \
  F(cuCtxSetCurrent, (Context context))                                                                                              \
  F(cuMemGetInfo_v2, (size_t* free_bytes, size_t* total_bytes))                                                                      \
  F(cuModuleLoadData, (Module* module, const void* image))                                                                           \
  F(cuModuleUnload, (Module module))                                                                                                 \
  F(cuModuleGetFunction, (Function* function, Module module, const char* name))                                                      \
  F(cuFuncSetAttribute, (Function function, int attribute, int value))                                                              \
  F(cuMemAlloc_v2, (Address* address, size_t bytes))                                                                                 \
  F(cuMemFree_v2, (Address address))                                                                                                 \
  F(cuMemHostAlloc, (void** address, size_t bytes, unsigned flags))                                                                  \
  F(cuMemFreeHost, (void* address))                                                                                                  \
  F(cuMemcpyHtoDAsync_v2, (Address to, const void* from, size_t bytes, Stream stream))                                               \
  F(cuMemcpyDtoHAsync_v2, (void* to, Address from, size_t bytes, Stream stream))                                                     \
  F(cuMemcpyDtoDAsync_v2, (Address to, Address from, size_t bytes, Stream stream))                                                   \
  F(cuMemsetD8Async, (Address to, unsigned char value, size_t bytes, Stream stream))                                                 \
  F(cuStreamCreate, (Stream* stream, unsigned flags))                                                                                \
  F(cuStreamDestroy_v2, (Stream stream))                                                                                             \
  F(cuStreamSynchronize, (Stream stream))                                                                                            \
  F(cuStreamBeginCapture_v2, (Stream stream, int mode))                                                                              \
  F(cuStreamEndCapture, (Stream stream, Graph* graph))                                                                               \
  F(cuGraphInstantiateWithFlags, (GraphExec* executable, Graph graph, unsigned long long flags))                                     \
  F(cuGraphLaunch, (GraphExec executable, Stream stream))                                                                            \
  F(cuGraphExecDestroy, (GraphExec executable))                                                                                      \
  F(cuGraphDestroy, (Graph graph))                                                                                                   \
  F(cuEventCreate, (Event* event, unsigned flags))                                                                                   \
  F(cuEventRecord, (Event event, Stream stream))                                                                                     \
  F(cuEventSynchronize, (Event event))                                                                                               \
  F(cuEventElapsedTime, (float* milliseconds, Event from, Event to))                                                                 \
  F(cuEventDestroy_v2, (Event event))                                                                                                \
  F(cuLaunchKernel, (Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,       \
                     unsigned block_z, unsigned shared_bytes, Stream stream, void** parameters, void** extra))                       \
  F(cuLaunchKernelEx, (const LaunchConfig* config, Function function, void** parameters, void** extra))

struct Driver {
#define SKIPSTONE_MEMBER(name, parameters) Result(*name) parameters = nullptr;
  SKIPSTONE_CUDA_FUNCTIONS(SKIPSTONE_MEMBER)
#undef SKIPSTONE_MEMBER
  int version = 0;                               // 12040 = CUDA 12.4: the newest that the driver serves
};

struct Card {
  std::string name;
  int major = 0, minor = 0;                      // compute capability
  int processors = 0, shared_a_processor = 0, shared_a_block = 0;
  size_t memory_bytes = 0, l2_bytes = 0;
};

// The loaded and initialized driver; null with a sentence in `why` when there is none, it is too old, or it has no card. Tried once a path.
// path: SKIPSTONE_LIBCUDA, or the system's library; tests put a driver of their own there.
const Driver* driver(std::string& why);

// Every card that the driver shows. Empty: `why` says the reason as a sentence.
std::vector<Card> cards(std::string& why);

// What the driver says of an error, as part of a sentence.
std::string describe(const Driver& driver, Result error);

}  // namespace skipstone::gpu::cuda
