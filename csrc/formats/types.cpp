#include "formats/types.h"

#include "formats/fp4.h"
#include "formats/iq1.h"
#include "formats/iq2.h"
#include "formats/iq3.h"
#include "formats/iq4.h"
#include "formats/q2_k.h"
#include "formats/q3_k.h"
#include "formats/q4_0.h"
#include "formats/q4_1.h"
#include "formats/q4_k.h"
#include "formats/q5_0.h"
#include "formats/q5_1.h"
#include "formats/q5_k.h"
#include "formats/q6_k.h"
#include "formats/q8_0.h"
#include "formats/ternary.h"

namespace skipstone::formats {
namespace {

// Types without blocks.
struct F32 {
  using Block = Unaligned<float>;
  static float load(const Block& x) { return x; }
  static void store(float value, Block& x) { x = value; }
};
struct F16 {
  using Block = U16;
  static float load(const Block& x) { return f16_to_f32(x); }
  static void store(float value, Block& x) { x = f32_to_f16(value); }
};
struct BF16 {
  using Block = U16;
  static float load(const Block& x) { return bf16_to_f32(x); }
  static void store(float value, Block& x) { x = f32_to_bf16(value); }
};

template <class T>
concept Plain = requires(typename T::Block& x) { T::store(0.f, x); };
template <class T>
concept Writable = requires(const float* x, typename T::Block& block) { T::quantize(x, block); };

template <class T>
void unpack(const void* row, int64_t block32, Unpacked& out) {
  constexpr uint64_t parts = T::weights / 32;
  T::unpack(static_cast<const typename T::Block*>(row)[uint64_t(block32) / parts], int(uint64_t(block32) % parts), out);
}

template <class T>
void dequantize(const void* blocks, float* out, int64_t n) {
  if constexpr (Plain<T>) {
    for (int64_t i = 0; i < n; i++) out[i] = T::load(static_cast<const typename T::Block*>(blocks)[i]);
  } else {
    // One product and one sum of exact factors: the gguf package rounds at the same places, so the bits agree.
    Unpacked run;
    for (int64_t i = 0; i < n; i += 32) {
      unpack<T>(blocks, i / 32, run);
      for (int half = 0; half < 2; half++)
        for (int j = 0; j < 16; j++) {
          const float product = run.scale[half] * float(run.q[16 * half + j]);
          out[i + 16 * half + j] = T::has_min ? product + run.min[half] : product;
        }
    }
  }
}

template <class T>
void quantize(const float* in, void* blocks, int64_t n) {
  auto* to = static_cast<typename T::Block*>(blocks);
  if constexpr (Plain<T>)
    for (int64_t i = 0; i < n; i++) T::store(in[i], to[i]);
  else
    for (int64_t i = 0; i < n; i += T::weights) T::quantize(in + i, to[i / T::weights]);
}

template <class T>
constexpr TypeInfo describe(int id, const char* name, int block, int bytes) {
  TypeInfo info{id, name, block, bytes, dequantize<T>, nullptr, nullptr, false, false};
  if constexpr (Plain<T> || Writable<T>) info.quantize = quantize<T>;
  if constexpr (!Plain<T>) {
    info.unpack = unpack<T>;
    info.half_scales = T::half_scales;
    info.has_min = T::has_min;
  }
  return info;
}

template <class T>
constexpr int weights_of() {
  if constexpr (Plain<T>) return 1;
  else return T::weights;
}

#define TYPE(id, name, weights, bytes) \
  static_assert(sizeof(name::Block) == bytes && alignof(name::Block) == 1 && weights_of<name>() == weights);
#include "formats/types.def"
#undef TYPE

constexpr TypeInfo table[] = {
#define TYPE(id, name, weights, bytes) describe<name>(id, #name, weights, bytes),
#include "formats/types.def"
#undef TYPE
};

}  // namespace

const TypeInfo* find(int id) {
  for (const TypeInfo& type : table)
    if (type.id == id) return &type;
  return nullptr;
}

const TypeInfo* find(std::string_view name) {
  for (const TypeInfo& type : table)
    if (type.name == name) return &type;
  return nullptr;
}

std::span<const TypeInfo> all() { return table; }

}  // namespace skipstone::formats
