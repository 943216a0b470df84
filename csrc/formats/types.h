// The weight formats of GGUF files: one table, found by id or name.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

namespace skipstone::formats {

// 32 weights of one row in a form that every quantized type reduces to without loss:
// weight i = scale[i/16] * q[i] + min[i/16]. Scales and minimums are exact in float32.
struct Unpacked {
  int8_t q[32];
  float scale[2];
  float min[2];
};

struct TypeInfo {
  int id;            // in GGUF files
  const char* name;  // as GGUF spells it
  int block;         // weights a block
  int bytes;         // bytes a block

  // n weights (a multiple of block) from their blocks, bit for bit as the gguf Python package computes them.
  void (*dequantize)(const void* blocks, float* out, int64_t n);
  // n finite weights (a multiple of block) to blocks of small squared error; null: the type cannot be written.
  // Values beyond the type's range saturate.
  void (*quantize)(const float* in, void* blocks, int64_t n);
  // Weights 32*block32 ... 32*block32 + 31 of a row; null for F32, F16, BF16.
  void (*unpack)(const void* row, int64_t block32, Unpacked& out);

  bool half_scales;  // scale or min may differ between the two halves of 16
  bool has_min;      // false: min is always 0
};

const TypeInfo* find(int id);                 // null: unknown
const TypeInfo* find(std::string_view name);  // null: unknown
std::span<const TypeInfo> all();

}  // namespace skipstone::formats
