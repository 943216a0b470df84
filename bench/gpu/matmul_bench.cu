// The matmul kernels on a card: bits against a scalar host loop, rows alone against rows together, and bytes of weights a second. Prints JSON.
//   nvcc -arch=sm_90 -std=c++20 -O3 --fmad=false -Xcompiler -ffp-contract=off -Icsrc -o matmul_bench bench/gpu/matmul_bench.cu
//   matmul_bench [all]      all: every form (warps a block, grid, dependent launch) instead of the ones that are used
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backends/gpu/layout.cpp"
#include "backends/gpu/matmul.cu"

using namespace skipstone::gpu;

static void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}
#define CHECK(call) check(call, #call)

struct Type {
  const char* name;
  int id;
  void (*kernel[2][2])(MatmulArgs);      // [warps 4, 8][columns 8, 16]
};
#define TYPE(name, id, lower) {name, id, {{matmul_##lower##_warps4_columns8, matmul_##lower##_warps4_columns16}, \
                                          {matmul_##lower##_warps8_columns8, matmul_##lower##_warps8_columns16}}}
static const Type types[] = {TYPE("Q8_0", 8, q8_0), TYPE("Q4_K", 12, q4_k), TYPE("Q6_K", 14, q6_k),
                             TYPE("Q5_K", 13, q5_k), TYPE("Q4_0", 2, q4_0), TYPE("Q5_0", 6, q5_0)};

static uint32_t random_state = 12345;
static uint32_t random_bits() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 17;
  return random_state ^= random_state << 5;
}
static float half_value(const uint8_t* p) {
  _Float16 h;
  memcpy(&h, p, 2);
  return static_cast<float>(h);
}
static void put_half(uint8_t* p) {
  const _Float16 h = static_cast<_Float16>((static_cast<int>(random_bits() % 2001) - 1000) * 5e-5f);
  memcpy(p, &h, 2);
}

static std::vector<uint8_t> random_matrix(const Layout& layout, int64_t rows, int64_t columns) {
  std::vector<uint8_t> data(static_cast<size_t>(rows * columns / layout.block * layout.block_bytes));
  for (auto& b : data) b = static_cast<uint8_t>(random_bits() >> 8);
  for (size_t at = 0; at < data.size(); at += static_cast<size_t>(layout.block_bytes)) {
    if (layout.type_id == 14) put_half(&data[at + 208]);
    else put_half(&data[at]);
    if (layout.type_id == 12 || layout.type_id == 13) put_half(&data[at + 2]);
  }
  return data;
}

// One block of 32 as the file has it.
struct Block { int q[32]; float scale, min; int halves[2]; };
static Block read_block(int type, const uint8_t* row, int64_t b) {
  Block o = {};
  const auto k_scales = [&](const uint8_t* in, int j) {
    const uint8_t* s = in + 4;
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4, min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    o.scale = half_value(in) * static_cast<float>(scale);
    o.min = -(half_value(in + 2) * static_cast<float>(min));
  };
  const int j = static_cast<int>(b % 8);
  for (int k = 0; k < 32; ++k) {
    if (type == 8) o.q[k] = static_cast<int8_t>(row[34 * b + 2 + k]);
    if (type == 2) o.q[k] = (row[18 * b + 2 + k % 16] >> (k / 16 * 4) & 15) - 8;
    if (type == 6) o.q[k] = ((row[22 * b + 6 + k % 16] >> (k / 16 * 4) & 15) | (row[22 * b + 2 + k / 8] >> (k % 8) & 1) << 4) - 16;
    if (type == 12) o.q[k] = row[144 * (b / 8) + 16 + 32 * (j / 2) + k] >> (j % 2 * 4) & 15;
    if (type == 13) o.q[k] = (row[176 * (b / 8) + 48 + 32 * (j / 2) + k] >> (j % 2 * 4) & 15) | (row[176 * (b / 8) + 16 + k] >> j & 1) << 4;
    if (type == 14) {
      const uint8_t* in = row + 210 * (b / 8);
      const int part = j / 4, quarter = j % 4;
      o.q[k] = ((in[64 * part + 32 * (quarter % 2) + k] >> (quarter / 2 * 4) & 15) | (in[128 + 32 * part + k] >> (2 * quarter) & 3) << 4) - 32;
    }
  }
  if (type == 8 || type == 2 || type == 6) o.scale = half_value(row + (type == 8 ? 34 : type == 2 ? 18 : 22) * b);
  if (type == 12 || type == 13) k_scales(row + (type == 12 ? 144 : 176) * (b / 8), j);
  if (type == 14) {
    o.scale = half_value(row + 210 * (b / 8) + 208);
    for (int h = 0; h < 2; ++h) o.halves[h] = static_cast<int8_t>(row[210 * (b / 8) + 192 + 2 * j + h]);
  }
  return o;
}

struct HostRow { std::vector<int> q; std::vector<float> scale, sum; };
static HostRow quantize_on_host(const float* x, int columns) {
  HostRow o;
  for (int b = 0; b < columns / 32; ++b) {
    float largest = 0;
    for (int k = 0; k < 32; ++k) largest = std::max(largest, std::fabs(x[32 * b + k]));
    const bool counts = largest > 1e-30f;
    const float inverse = counts ? 127.0f / largest : 0.0f, scale = counts ? largest / 127.0f : 0.0f;
    int total = 0;
    for (int k = 0; k < 32; ++k) {
      o.q.push_back(static_cast<int>(std::rint(x[32 * b + k] * inverse)));
      total += o.q.back();
    }
    o.scale.push_back(scale);
    o.sum.push_back(scale * static_cast<float>(total));
  }
  return o;
}

// The order of sums that matmul.cu states, one output at a time; `exact`: the same in double precision, `size`: the terms' magnitudes.
static float product_on_host(int type, const uint8_t* row, const HostRow& x, int columns, double& exact, double& size) {
  const int chunks = static_cast<int>(chunk_count(columns)), blocks = columns / 32;
  float total = 0, pair = 0;
  exact = size = 0;
  for (int s = 0; s < slices; ++s) {
    float acc = 0;
    for (int c = s; c < chunks; c += slices) {
      float own = 0;
      for (int b = 8 * c; b < std::min(8 * c + 8, blocks); ++b) {
        const Block block = read_block(type, row, b);
        int sums[2] = {0, 0};
        for (int k = 0; k < 32; ++k) sums[k / 16] += block.q[k] * x.q[static_cast<size_t>(32 * b + k)];
        const float dx = x.scale[static_cast<size_t>(b)], sum = x.sum[static_cast<size_t>(b)];
        if (type == 14) {
          for (int h = 0; h < 2; ++h) {
            own = std::fma(static_cast<float>(block.halves[h]) * static_cast<float>(sums[h]), dx, own);
            const double term = double(block.scale) * block.halves[h] * sums[h] * dx;
            exact += term, size += std::fabs(term);
          }
        } else {
          acc = std::fma(block.scale * static_cast<float>(sums[0] + sums[1]), dx, acc);
          const double term = double(block.scale) * (sums[0] + sums[1]) * dx;
          exact += term, size += std::fabs(term);
          if (type == 12 || type == 13) {
            acc = std::fma(block.min, sum, acc);
            exact += double(block.min) * sum, size += std::fabs(double(block.min) * sum);
          }
        }
      }
      if (type == 14) acc = std::fma(half_value(row + 210 * c + 208), own, acc);
    }
    pair = s % 2 ? pair + acc : acc;
    if (s % 2) total = s == 1 ? pair : total + pair;
  }
  return total;
}

static cudaStream_t stream;
static int processors;

struct DeviceActivations {
  unsigned char* data = nullptr;
  float* x = nullptr;
  DeviceActivations(int64_t columns) {
    const size_t bytes = static_cast<size_t>(4 * chunk_count(columns) * pair_bytes);
    CHECK(cudaMalloc(&data, bytes));
    CHECK(cudaMalloc(&x, static_cast<size_t>(most_rows * columns * 4)));
    CHECK(cudaMemset(data, 0xff, bytes));      // NaN where no row is
  }
  ~DeviceActivations() { cudaFree(data), cudaFree(x); }
  void fill(const float* from, int rows, int columns) {
    CHECK(cudaMemcpyAsync(x, from, static_cast<size_t>(rows) * static_cast<size_t>(columns) * 4, cudaMemcpyHostToDevice, stream));
    const int chunks = static_cast<int>(chunk_count(columns));
    quantize_rows<<<rows * chunks * 2, 128, 0, stream>>>(QuantizeArgs{x, data, columns, rows, columns, chunks});
    CHECK(cudaGetLastError());
  }
};

struct Form { int warps; bool persistent, dependent; };
static void launch(const Type& type, const Form& form, MatmulArgs args) {
  const auto kernel = type.kernel[form.warps == 8][args.rows > 8];
  int resident = 0;
  CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, 32 * form.warps, 0));
  resident *= processors;
  args.blocks = form.persistent ? std::min(args.tiles, resident) : args.tiles;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(args.blocks));
  config.blockDim = dim3(static_cast<unsigned>(32 * form.warps));
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = form.dependent ? 1 : 0;
  CHECK(cudaLaunchKernelEx(&config, kernel, args));
}
static Form used(int tiles) { return {warps_for(tiles, processors), true, true}; }

static bool verify(const Type& type, int64_t outputs, int columns) {
  const Layout& layout = *find_layout(type.id);
  const auto data = random_matrix(layout, outputs, columns);
  std::vector<uint8_t> packed(static_cast<size_t>(packed_bytes(layout, outputs, columns)));
  const int tiles = static_cast<int>((outputs + 15) / 16), chunks = static_cast<int>(chunk_count(columns));
  pack(layout, data.data(), outputs, columns, packed.data(), 0, tiles);
  std::vector<float> x(static_cast<size_t>(most_rows * columns));
  for (auto& v : x) v = static_cast<float>(static_cast<int>(random_bits() >> 8) - (1 << 23)) * 0x1p-22f;
  uint8_t* weights;
  float* y;
  CHECK(cudaMalloc(&weights, packed.size()));
  CHECK(cudaMemcpy(weights, packed.data(), packed.size(), cudaMemcpyHostToDevice));
  CHECK(cudaMalloc(&y, static_cast<size_t>(most_rows * outputs * 4)));
  DeviceActivations a(columns);
  const auto run = [&](int first, int rows, Form form) {
    std::vector<float> out(static_cast<size_t>(rows * outputs));
    a.fill(x.data() + static_cast<int64_t>(first) * columns, rows, columns);
    CHECK(cudaMemsetAsync(y, 0xff, out.size() * 4, stream));
    launch(type, form, {weights, a.data, y, outputs, static_cast<int>(outputs), tiles, chunks, rows, 0});
    CHECK(cudaMemcpyAsync(out.data(), y, out.size() * 4, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    return out;
  };
  int64_t other_bits = 0, other_rows = 0, other_form = 0;
  double worst = 0;
  const Form form = used(tiles);
  std::vector<float> alone;
  for (int r = 0; r < most_rows; ++r) {
    const auto out = run(r, 1, form);
    alone.insert(alone.end(), out.begin(), out.end());
  }
  for (int rows = 1; rows <= most_rows; ++rows)
    for (int first = 0; first + rows <= most_rows; first += std::max(1, most_rows - rows)) {
      const auto out = run(first, rows, form);
      const size_t row_bytes = static_cast<size_t>(outputs) * 4;
      for (int r = 0; r < rows; ++r) other_rows += memcmp(out.data() + r * outputs, alone.data() + (first + r) * outputs, row_bytes) != 0;
    }
  for (int i = 0; i < 8; ++i) {      // block, grid and launch change nothing
    const auto out = run(0, i & 1 ? 16 : 7, {i & 4 ? 8 : 4, (i & 2) != 0, (i & 2) == 0});
    other_form += memcmp(out.data(), alone.data(), out.size() * 4) != 0;
  }
  for (int r = 0; r < most_rows; r += 5) {
    const HostRow host = quantize_on_host(x.data() + static_cast<int64_t>(r) * columns, columns);
    for (int64_t n = 0; n < outputs; ++n) {
      double exact, size;
      const uint8_t* row = data.data() + n * (columns / layout.block) * layout.block_bytes;
      const float want = product_on_host(type.id, row, host, columns, exact, size), got = alone[static_cast<size_t>(r * outputs + n)];
      other_bits += memcmp(&want, &got, 4) != 0;
      worst = std::max(worst, std::fabs(got - exact) / (size + 1e-30));
    }
  }
  cudaFree(weights), cudaFree(y);
  const bool good = other_bits == 0 && other_rows == 0 && other_form == 0 && worst < (columns / 16 + 16) * 0x1p-24;
  printf("    {\"type\": \"%s\", \"outputs\": %lld, \"columns\": %d, \"values_with_other_bits_than_the_host\": %lld, "
         "\"rows_with_other_bits_together\": %lld, "
         "\"forms_with_other_bits\": %lld, \"worst_error_over_magnitudes\": %.3g, \"good\": %s}", type.name, static_cast<long long>(outputs), columns,
         static_cast<long long>(other_bits), static_cast<long long>(other_rows), static_cast<long long>(other_form), worst, good ? "true" : "false");
  return good;
}

// --- time

__global__ void fill_random(uint4* p, size_t n, uint32_t seed) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x) {
    uint32_t v = static_cast<uint32_t>(i) * 2654435761u + seed;
    uint4 out;
    for (int k = 0; k < 4; ++k) {
      v ^= v << 13, v ^= v >> 17, v ^= v << 5;
      (&out.x)[k] = v;
    }
    p[i] = out;
  }
}
// Four loads of 16 bytes in flight a thread, 32 warps an SM: saturates an H100.
__global__ void __launch_bounds__(512) copy_kernel(const uint4* from, uint4* to, size_t n) {
  const size_t step = size_t(gridDim.x) * blockDim.x;
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i + 3 * step < n; i += 4 * step) {
    uint4 v[4];
    for (int k = 0; k < 4; ++k) v[k] = __ldcs(from + i + k * step);
    for (int k = 0; k < 4; ++k) __stcs(to + i + k * step, v[k]);
  }
}
__global__ void __launch_bounds__(512) read_kernel(const uint4* from, uint4* to, size_t n) {
  const size_t step = size_t(gridDim.x) * blockDim.x;
  uint4 all = {};
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i + 3 * step < n; i += 4 * step) {
    uint4 v[4];
    for (int k = 0; k < 4; ++k) v[k] = __ldcs(from + i + k * step);
    for (int k = 0; k < 4; ++k) all.x ^= v[k].x, all.y ^= v[k].y, all.z ^= v[k].z, all.w ^= v[k].w;
  }
  if ((all.x ^ all.y) == 1 && (all.z ^ all.w) == 12345) *to = all;
}

// Median seconds of a graph of what `record` puts on the stream.
template <class Record> static double seconds(Record record, int repeats = 9) {
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  record();
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t start, stop;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&stop));
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    CHECK(cudaEventRecord(start, stream));
    CHECK(cudaGraphLaunch(executable, stream));
    CHECK(cudaEventRecord(stop, stream));
    CHECK(cudaEventSynchronize(stop));
    float ms;
    CHECK(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 2) times.push_back(ms * 1e-3);
  }
  CHECK(cudaEventDestroy(start));
  CHECK(cudaEventDestroy(stop));
  CHECK(cudaGraphExecDestroy(executable));
  CHECK(cudaGraphDestroy(graph));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

int main(int count, char** arguments) {
  const bool all = count > 1 && std::string(arguments[1]) == "all";
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  processors = device.multiProcessorCount;
  CHECK(cudaStreamCreate(&stream));
  printf("{\n  \"device\": \"%s\", \"compute_capability\": \"%d.%d\", \"processors\": %d, \"l2_bytes\": %d, \"memory_bytes\": %zu,\n",
         device.name, device.major, device.minor, processors, device.l2CacheSize, device.totalGlobalMem);

  printf("  \"checks\": [\n");
  bool good = true, first = true;
  for (const Type& type : types)
    for (const auto& [outputs, columns] : {std::pair<int, int>{1037, 4096}, {519, 12288}, {77, 5120}, {40, 256}}) {
      printf("%s", first ? "" : ",\n");
      first = false;
      good = verify(type, outputs, columns) && good;
    }
  printf("\n  ],\n  \"all_checks_good\": %s,\n", good ? "true" : "false");
  fflush(stdout);

  const size_t pool_bytes = size_t(3) << 30;
  uint8_t* pool;
  CHECK(cudaMalloc(&pool, pool_bytes));
  fill_random<<<processors * 4, 512, 0, stream>>>(reinterpret_cast<uint4*>(pool), pool_bytes / 16, 1);
  CHECK(cudaStreamSynchronize(stream));
  const size_t half = pool_bytes / 2;
  auto* from = reinterpret_cast<uint4*>(pool);
  auto* to = reinterpret_cast<uint4*>(pool + half);
  double copy = 0, read = 0;
  for (int an_sm : {2, 4}) {
    copy = std::max(copy, 2.0 * half / seconds([&] { copy_kernel<<<processors * an_sm, 512, 0, stream>>>(from, to, half / 16); }));
    read = std::max(read, 1.0 * half / seconds([&] { read_kernel<<<processors * an_sm, 512, 0, stream>>>(from, to, half / 16); }));
  }
  const double copy_call = 2.0 * half / seconds([&] { CHECK(cudaMemcpyAsync(to, from, half, cudaMemcpyDeviceToDevice, stream)); });
  printf("  \"copy_gb_s\": %.0f, \"memcpy_gb_s\": %.0f, \"read_gb_s\": %.0f,\n", copy * 1e-9, copy_call * 1e-9, read * 1e-9);

  printf("  \"matmul\": [\n");
  first = true;
  const std::pair<int, int> shapes[] = {{4096, 4096}, {12288, 4096}, {4096, 12288}, {151936, 4096}};
  float* y;
  CHECK(cudaMalloc(&y, size_t(most_rows) * 151936 * 4));
  for (const Type& type : types)
    for (const auto& [outputs, columns] : shapes) {
      const Layout& layout = *find_layout(type.id);
      const int64_t bytes = packed_bytes(layout, outputs, columns);
      const int copies = static_cast<int>(std::clamp<int64_t>((int64_t(800) << 20) / bytes, 3, static_cast<int64_t>(pool_bytes) / bytes));
      const int tiles = (outputs + 15) / 16;
      DeviceActivations a(columns);
      std::vector<float> x(static_cast<size_t>(most_rows) * static_cast<size_t>(columns));
      for (auto& v : x) v = static_cast<float>(static_cast<int>(random_bits() >> 8) - (1 << 23)) * 0x1p-22f;
      a.fill(x.data(), most_rows, columns);
      CHECK(cudaStreamSynchronize(stream));
      std::vector<Form> forms{used(tiles)};
      if (all) {
        forms.clear();
        for (int w : {4, 8})
          for (bool persistent : {false, true})
            for (bool dependent : {false, true}) forms.push_back({w, persistent, dependent});
      }
      for (const Form& form : forms) {
        double time[17] = {};
        for (int rows : {1, 2, 4, 8, 16}) {
          const double t = seconds([&] {
            for (int c = 0; c < copies; ++c)
              launch(type, form, {pool + c * bytes, a.data, y, outputs, outputs, tiles, static_cast<int>(chunk_count(columns)), rows, 0});
          });
          time[rows] = t / copies;
        }
        printf("%s    {\"type\": \"%s\", \"outputs\": %d, \"columns\": %d, \"megabytes\": %.1f, ", first ? "" : ",\n", type.name, outputs, columns,
               bytes * 1e-6);
        printf("\"warps\": %d, \"grid\": \"%s\", \"dependent_launch\": %s", form.warps, form.persistent ? "resident" : "tiles",
               form.dependent ? "true" : "false");
        first = false;
        const auto list = [&](const char* name, auto value, const char* format) {
          printf(", \"%s\": {", name);
          for (int rows : {1, 2, 4, 8, 16})
            if (time[rows] > 0) {
              printf("%s\"%d\": ", rows == 1 ? "" : ", ", rows);
              printf(format, value(time[rows]));
            }
          printf("}");
        };
        list("us", [](double t) { return t * 1e6; }, "%.2f");
        list("gb_s", [&](double t) { return bytes / t * 1e-9; }, "%.0f");
        list("share_of_copy", [&](double t) { return bytes / t / copy; }, "%.3f");
        list("over_one_row", [&](double t) { return t / time[1]; }, "%.3f");
        printf("}");
        fflush(stdout);
      }
    }
  printf("\n  ]\n}\n");
  return good ? 0 : 1;
}
