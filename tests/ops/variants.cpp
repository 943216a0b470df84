// Every kernel of every table that this machine runs over the same inputs. A line a case: name, digest of the scalar kernels' bytes, then "same" or the
// tables that differ and where. Inputs come from whole numbers and exact scaling, so the digests compare between machines.
// Usage: variants FILE, which holds weights: per type its name, rows, columns and bytes.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "backends/cpu/kernels.h"

using namespace skipstone::cpu;
using Floats = std::vector<float>;

struct Random {
  uint64_t state = 0x9e3779b97f4a7c15u;
  uint32_t bits() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 33);
  }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint32_t>(n)); }
  // Roughly normal: four whole numbers of 16 bits, summed and scaled without rounding.
  float value() {
    int total = 0;
    for (int i = 0; i < 4; ++i) total += below(1 << 16) - (1 << 15);
    return static_cast<float>(total) * 0x1p-15f;
  }
  Floats values(int64_t n, float factor = 1.0f) {
    Floats v(static_cast<size_t>(n));
    for (float& f : v) f = value() * factor;
    return v;
  }
};

// Of more_variants.cpp, as far as it is linked.
namespace skipstone::cpu::more {
[[gnu::weak]] const Kernels* plain_tiles();
[[gnu::weak]] const Kernels* wide_tiles();
[[gnu::weak]] const Kernels* evex();
}  // namespace skipstone::cpu::more

std::vector<const Kernels*> tables() {
  std::vector<const Kernels*> all;
  std::istringstream names(runnable_names());
  for (std::string name; names >> name;) all.push_back(find_kernels(name.c_str()));
  for (auto more : {more::plain_tiles, more::wide_tiles, more::evex})
    if (more) all.push_back(more());
  return all;
}

// What a kernel wrote, as bytes.
struct Output {
  std::vector<uint8_t> bytes;
  void add(const void* p, size_t n) { bytes.insert(bytes.end(), static_cast<const uint8_t*>(p), static_cast<const uint8_t*>(p) + n); }
  void add(const Floats& v) { add(v.data(), v.size() * sizeof(float)); }
  void add(float f) { add(&f, sizeof f); }
};

int differing = 0;

template <class Run> void compare(const std::string& name, Run run) {
  Output expected;
  run(*find_kernels("generic"), expected);
  uint64_t digest = 14695981039346656037u;
  for (uint8_t b : expected.bytes) digest = (digest ^ b) * 1099511628211u;
  std::string verdict;
  for (const Kernels* k : tables()) {
    Output got;
    run(*k, got);
    size_t at = 0;
    while (at < got.bytes.size() && at < expected.bytes.size() && got.bytes[at] == expected.bytes[at]) ++at;
    if (at < expected.bytes.size() || at < got.bytes.size()) verdict += " " + std::string(k->name) + " differs at byte " + std::to_string(at);
  }
  differing += !verdict.empty();
  std::printf("%s %zu %016llx%s\n", name.c_str(), expected.bytes.size(), static_cast<unsigned long long>(digest), verdict.empty() ? " same" : verdict.c_str());
}

struct Quantized {
  std::vector<int8_t> q;
  Floats scale, sum, half_sum;
  std::vector<int32_t> minus, half_minus;
  Quantized(const Kernels& k, const Floats& x, int64_t rows, int64_t columns) {
    const size_t blocks = static_cast<size_t>(rows * (columns / 32));
    q.resize(32 * blocks), scale.resize(blocks), sum.resize(blocks), half_sum.resize(2 * blocks), minus.resize(blocks), half_minus.resize(2 * blocks);
    for (int64_t r = 0; r < rows; ++r) k.quantize(x.data() + r * columns, columns, row(r, columns));
  }
  QuantizedRow row(int64_t r, int64_t columns) {
    const int64_t b = r * (columns / 32);
    return {q.data() + 32 * b, scale.data() + b, sum.data() + b, half_sum.data() + 2 * b, minus.data() + b, half_minus.data() + 2 * b};
  }
  void write(Output& out) const {
    out.add(q.data(), q.size());
    for (const Floats* v : {&scale, &sum, &half_sum}) out.add(*v);
    out.add(minus.data(), 4 * minus.size());
    out.add(half_minus.data(), 4 * half_minus.size());
  }
};

// Rows of activations: zeros, a block too small for its scale's reciprocal, both ends of the range, subnormal numbers, then ordinary ones of several sizes.
Floats activations(Random& random, int64_t rows, int64_t columns) {
  Floats x;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const float v = random.value();
      switch (r % 8) {
        case 3: x.push_back(0.0f); break;
        case 4: x.push_back(c < 32 ? 1e-38f : v); break;
        case 5: x.push_back(v < 0 ? -3.0f : 3.0f); break;
        case 6: x.push_back(c % 64 < 32 ? v * 0x1p-140f : v * 1e4f); break;
        default: x.push_back(r % 2 ? v * 0x1p-6f : v);
      }
    }
  return x;
}

struct Weights {
  std::string type;
  int64_t rows, columns;
  std::vector<uint8_t> bytes;
};

std::vector<Weights> read_weights(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<Weights> all;
  for (Weights w; file >> w.type >> w.rows >> w.columns;) {
    const skipstone::formats::TypeInfo* type = skipstone::formats::find(w.type);
    if (!type) std::cerr << "unknown type " << w.type << '\n', std::exit(2);
    w.bytes.resize(static_cast<size_t>(w.rows * w.columns / type->block * type->bytes));
    file.get();
    file.read(reinterpret_cast<char*>(w.bytes.data()), static_cast<std::streamsize>(w.bytes.size()));
    all.push_back(w);
  }
  return all;
}

struct Packed {
  Matrix matrix{};
  std::vector<uint8_t> memory;
  Packed(const Weights& w, int64_t group_rows) {
    const skipstone::formats::TypeInfo* type = skipstone::formats::find(w.type);
    const MatmulLayout* layout = find_layout(type->id);
    matrix = {type, w.rows, w.columns, w.bytes.data(), w.columns / type->block * type->bytes, group_rows, nullptr, group_rows / 8 * layout->eight_rows_bytes(w.columns)};
    const int64_t groups = group_count(matrix);
    memory.resize(static_cast<size_t>(groups * matrix.group_bytes + 8192 + 64));
    uint8_t* start = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    matrix.packed = start;
    const std::vector<uint8_t> zeros(static_cast<size_t>(matrix.row_bytes));
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* rows[16];
      for (int64_t r = 0; r < group_rows; ++r) rows[r] = g * group_rows + r < w.rows ? matrix.source + (g * group_rows + r) * matrix.row_bytes : zeros.data();
      layout->pack[group_rows / 8 - 1](rows, w.columns, start + g * matrix.group_bytes);
    }
  }
};

void matmuls(const std::vector<Weights>& all) {
  for (const Weights& w : all) {
    Random random;
    const int64_t most = 530;                      // beyond a tile of 64, and beyond the 512 that tile registers take at a time
    const Floats x = activations(random, most, w.columns);
    compare("matmul " + w.type, [&](const Kernels& k, Output& out) {
      Packed packed(w, k.group_rows);
      const bool floats = find_layout(packed.matrix.type->id)->float_input;
      Quantized quantized(k, x, floats ? 0 : most, w.columns);
      auto multiply = [&](int64_t first, int64_t rows) {
        Floats y(static_cast<size_t>(rows * w.rows));
        const Rows in{rows, w.columns, x.data() + first * w.columns, floats ? QuantizedRow{} : quantized.row(first, w.columns)};
        k.matmul({&packed.matrix, in, 0, group_count(packed.matrix), y.data(), w.rows});
        out.add(y);
      };
      for (int64_t rows = 1; rows <= 17; ++rows) multiply(rows % 5, rows);
      multiply(0, 68);
      multiply(0, most);
    });
  }
}

// Factors of the weights: one a row, and for unquantized weights one for each stretch of columns, the last of them shorter.
void scaled_matmuls(const std::vector<Weights>& all) {
  for (const Weights& w : all)
    for (const int64_t stretch : {w.columns, int64_t{40}}) {
      const bool floats = find_layout(skipstone::formats::find(w.type)->id)->float_input;
      if (stretch < w.columns && !floats) continue;
      Random random;
      constexpr int64_t rows = 17;
      const int64_t stretches = (w.columns + stretch - 1) / stretch;
      const Floats x = activations(random, rows, w.columns), factors = random.values(w.rows * stretches);
      compare("matmul " + w.type + " scaled by " + std::to_string(stretches), [&](const Kernels& k, Output& out) {
        Packed packed(w, k.group_rows);
        Floats scales(static_cast<size_t>(group_count(packed.matrix) * stretches * k.group_rows));
        for (int64_t r = 0; r < w.rows; ++r)
          for (int64_t s = 0; s < stretches; ++s)
            scales[static_cast<size_t>((r / k.group_rows * stretches + s) * k.group_rows + r % k.group_rows)] = factors[static_cast<size_t>(r * stretches + s)];
        packed.matrix.scales = scales.data(), packed.matrix.scale_columns = stretch;
        Quantized quantized(k, x, floats ? 0 : rows, w.columns);
        for (const int64_t count : {int64_t{1}, int64_t{3}, rows}) {
          Floats y(static_cast<size_t>(count * w.rows));
          const int64_t groups = group_count(packed.matrix), middle = groups / 2;
          for (auto [first, last] : {std::pair{int64_t{0}, middle}, {middle, groups}})
            k.matmul({&packed.matrix, {count, w.columns, x.data(), floats ? QuantizedRow{} : quantized.row(0, w.columns)}, first, last, y.data() + first * k.group_rows, w.rows});
          out.add(y);
        }
      });
    }
}

void quantizing() {
  Random random;
  Floats x = activations(random, 16, 160);
  for (int i = 0; i < 32; ++i) x[static_cast<size_t>(i)] = i ? static_cast<float>(i - 16) + 0.5f : 127.0f;      // ties, at a scale of 1
  compare("quantize", [&](const Kernels& k, Output& out) { Quantized(k, x, 16, 160).write(out); });
}

// Gates and other functions of single values, over a tail of every length; numbers from the subnormal to those whose exponential saturates.
void single_values() {
  Random random;
  for (int64_t n : {1, 7, 8, 13, 64, 103}) {
    Floats a = random.values(n, 3.0f), b = random.values(n);
    for (int64_t i = 0; i < n; i += 3) a[static_cast<size_t>(i)] *= i % 2 ? 60.0f : 0x1p-130f;
    auto each = [&](const char* name, auto run) {
      compare(name + (" " + std::to_string(n)), [&](const Kernels& k, Output& out) {
        Floats y(static_cast<size_t>(n));
        run(k, y.data());
        out.add(y);
      });
    };
    each("silu_gate", [&](const Kernels& k, float* y) { k.silu_gate(a.data(), b.data(), y, n); });
    each("gelu_gate", [&](const Kernels& k, float* y) { k.gelu_gate(a.data(), b.data(), y, n); });
    each("sigmoid_gate", [&](const Kernels& k, float* y) { k.sigmoid_gate(b.data(), a.data(), y, n); });
    each("add", [&](const Kernels& k, float* y) { k.add(a.data(), b.data(), y, n, 1.0f); });
    each("add scaled", [&](const Kernels& k, float* y) { k.add(a.data(), b.data(), y, n, 0.7f); });
    each("scale", [&](const Kernels& k, float* y) { k.scale(a.data(), y, n, 1.3f); });
    each("softcap", [&](const Kernels& k, float* y) { k.softcap(a.data(), y, n, 30.0f); });
    each("rms_norm", [&](const Kernels& k, float* y) { k.rms_norm(a.data(), b.data(), y, n, n, 1e-6f); });
    each("rms_norm plain", [&](const Kernels& k, float* y) { k.rms_norm(b.data(), nullptr, y, n, n, 1e-6f); });
    each("l2_norm", [&](const Kernels& k, float* y) { k.l2_norm(b.data(), y, n, 1e-6f, 0.125f); });
    each("gated_norm", [&](const Kernels& k, float* y) { k.gated_norm(b.data(), a.data(), b.data(), y, n, 1e-6f); });
    Floats holes = a;
    for (int64_t i = 0; i < n; i += 5) holes[static_cast<size_t>(i)] = i % 2 ? -__builtin_inff() : __builtin_nanf("");
    each("largest", [&](const Kernels& k, float* y) { y[0] = k.largest(a.data(), n); });
    each("largest holes", [&](const Kernels& k, float* y) { y[0] = k.largest(holes.data(), n); });
  }
  compare("rms_norm groups", [&](const Kernels& k, Output& out) {
    Random again;
    const Floats x = again.values(120), w = again.values(120);
    Floats y(120);
    k.rms_norm(x.data(), w.data(), y.data(), 120, 40, 1e-5f);
    out.add(y);
  });
}

void ropes() {
  for (int64_t rotated : {4, 24, 40, 64}) {
    Random random;
    const int64_t heads = 3, head = 64;
    const Floats x = random.values(heads * head), cosine = random.values(rotated / 2), sine = random.values(rotated / 2);
    compare("rope " + std::to_string(rotated), [&](const Kernels& k, Output& out) {
      Floats y(x.size());
      k.rope(x.data(), y.data(), heads, head, rotated, cosine.data(), sine.data());
      out.add(y);
    });
  }
}

constexpr KvType kv_types[] = {KvType::f16, KvType::bf16, KvType::f32, KvType::q8_0, KvType::q4_0};
constexpr const char* kv_names[] = {"f16", "bf16", "f32", "q8_0", "q4_0"};

void caches() {
  Random random;
  Floats x = random.values(256, 40.0f);
  const float special[] = {0.0f, -0.0f, 65504.0f, 65519.0f, 65520.0f, -1e9f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 6.1e-5f, 3.4e38f, 0x1p-149f, -__builtin_inff(), 2049.0f, 2051.0f, 1.00390625f};
  memcpy(x.data(), special, sizeof special);
  for (int i = 128; i < 256; ++i) x[static_cast<size_t>(i)] *= 0x1p-24f;                        // half precision's subnormal numbers, with ties
  for (int t = 0; t < 5; ++t)
    compare(std::string("store_kv ") + kv_names[t], [&](const Kernels& k, Output& out) {
      std::vector<uint8_t> stored(1024);
      const int64_t from = in_blocks(kv_types[t]) ? 32 : 0;      // no infinity in a block
      k.store_kv(x.data() + from, stored.data(), kv_types[t], 256 - from);
      out.add(stored.data(), stored.size());
    });
}

void attentions() {
  for (int t = 0; t < 5; ++t)
    for (int64_t head : {8, 40, 64})
      for (int64_t queries : {1, 2, 5}) {
        if (in_blocks(kv_types[t]) && head % kv_block_values) continue;
        Random random;
        const Floats keys = random.values(chunk_positions * head), values = random.values(chunk_positions * head), q = random.values(queries * head);
        const int32_t from[] = {0, 3, 17, 40, 9}, to[] = {75, 75, 74, 40, 256};                  // the fourth sees nothing
        const std::vector<int32_t> first(from, from + queries), last(to, to + queries);
        std::vector<int64_t> offset;
        for (int64_t i = 0; i < queries; ++i) offset.push_back((queries - 1 - i) * head);
        std::vector<Floats> done;
        compare(std::string("attention_chunk ") + kv_names[t] + " " + std::to_string(head) + " " + std::to_string(queries), [&](const Kernels& k, Output& out) {
          Floats k_stored(keys.size()), v_stored(keys.size()), scratch(static_cast<size_t>(attention_scratch_floats(queries, head)));
          k.store_kv(keys.data(), k_stored.data(), kv_types[t], chunk_positions * head);
          k.store_kv(values.data(), v_stored.data(), kv_types[t], chunk_positions * head);
          Floats largest(static_cast<size_t>(queries)), total(largest), value(static_cast<size_t>(queries * head));
          k.attention_chunk({q.data(), offset.data(), first.data(), last.data(), queries, head, 0.25f, kv_types[t], k_stored.data(), v_stored.data(), scratch.data(), largest.data(), total.data(), value.data()});
          out.add(largest), out.add(total), out.add(value);
        });
      }
  for (float gap : {0.0f, 0.37f, 5.5f, 100.0f})
    compare("attention_join " + std::to_string(gap), [&](const Kernels& k, Output& out) {
      Random random;
      Floats a = random.values(40);
      const Floats b = random.values(40);
      for (float sign : {1.0f, -1.0f}) {
        float largest = 1.5f, total = 7.25f;
        k.attention_join(&largest, &total, a.data(), 1.5f + sign * gap, 3.125f, b.data(), 40);
        out.add(largest), out.add(total), out.add(a);
      }
    });
}

void delta_nets() {
  for (int64_t head : {8, 40, 64})
    for (int64_t rows : {1, 2, 5})
      for (int64_t keep : {int64_t{0}, rows})
        compare("delta_rule " + std::to_string(head) + " " + std::to_string(rows) + " " + std::to_string(keep), [&](const Kernels& kernels, Output& out) {
          Random random;
          const int64_t pending = keep ? 2 : 0;
          Floats state = random.values(head * head), work(state.size()), delta(static_cast<size_t>(rows * head)), result(delta.size());
          const Floats q = random.values(rows * head, 0.25f), k = random.values(rows * head, 0.25f), v = random.values(rows * head);
          const Floats gamma(static_cast<size_t>(rows), 0.96875f), beta(static_cast<size_t>(rows), 0.40625f);
          const Floats pending_gamma = {0.9375f, 0.84375f}, pending_k = random.values(2 * head, 0.25f), pending_delta = random.values(2 * head);
          kernels.delta_rule({rows, head, q.data(), k.data(), v.data(), head, head, gamma.data(), beta.data(), state.data(), keep, work.data(), pending, pending_gamma.data(), pending_k.data(),
                              pending_delta.data(), delta.data(), result.data(), head});
          out.add(state), out.add(delta), out.add(result);
        });
  compare("causal_conv", [&](const Kernels& k, Output& out) {
    Random random;
    const Floats x = random.values(4 * 48, 4.0f), w = random.values(4 * 48);
    const float *taps[4], *weights[4];
    for (int t = 0; t < 4; ++t) taps[t] = x.data() + 48 * t, weights[t] = w.data() + 48 * t;
    Floats y(48);
    k.causal_conv(taps, weights, 4, y.data(), 48);
    out.add(y);
  });
}

void mixtures() {
  for (int64_t n : {5, 8, 60, 128})
    for (int64_t used : {1, 4})
      for (bool normalize : {true, false})
        compare("choose_experts " + std::to_string(n) + " " + std::to_string(used) + (normalize ? " normalized" : ""), [&](const Kernels& k, Output& out) {
          Random random;
          Floats logits = random.values(n, 4.0f), share(static_cast<size_t>(used));
          logits[4] = logits[2];                                   // a tie
          std::vector<int32_t> chosen(static_cast<size_t>(used));
          k.choose_experts(logits.data(), n, used, normalize, chosen.data(), share.data());
          out.add(chosen.data(), 4 * chosen.size()), out.add(share);
        });
  for (int64_t n : {7, 64, 77})
    compare("weighted_sum " + std::to_string(n), [&](const Kernels& k, Output& out) {
      Random random;
      const Floats x = random.values(3 * n), factors = random.values(3);
      const float* rows[] = {x.data(), x.data() + n, x.data() + 2 * n};
      Floats y(static_cast<size_t>(n));
      k.weighted_sum(rows, factors.data(), 3, y.data(), n);
      out.add(y);
    });
}

int main(int count, char** arguments) {
  if (count != 2) return 2;
  std::printf("isas %s; chosen %s; compared", runnable_names(), kernels().name);
  for (const Kernels* k : tables()) std::printf(" %s", k->name);
  std::printf("\n");
  const std::vector<Weights> all = read_weights(arguments[1]);
  matmuls(all), scaled_matmuls(all);
  quantizing(), single_values(), ropes(), caches(), attentions(), delta_nets(), mixtures();
  return differing ? 1 : 0;
}
