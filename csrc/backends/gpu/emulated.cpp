// The GPU kernels for the CPU, and the pack functions, behind a plain C interface: what tests/gpu compiles. No part of the package.
#include <cstdint>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "backends/gpu/layout.h"
#include "backends/gpu/attention.cu"
#include "backends/gpu/matmul.cu"
#include "backends/gpu/prompt.cu"

namespace skipstone::gpu {
namespace {

template <class T> void launch(MatmulArgs a, int columns, int team, uint32_t seed) {
  if (team == 0) {
    emulate::run(a.blocks, prompt_threads(columns), seed, [&] { columns == 128 ? prompt<T, 4, 2, 8>(a) : prompt<T, 2, 2, 4>(a); }, static_cast<size_t>(prompt_shared(columns, T::bytes)));
    return;
  }
  const size_t shared = static_cast<size_t>(matmul_shared(team, a.depth, T::bytes, columns));
  emulate::run(a.blocks, team == 16 ? 512 : 128, seed, [&] {
    if (team == 16 && columns == 8) matmul<T, 8, 1, 1>(a);
    else if (team == 16) matmul<T, 8, 1, 2>(a);
    else if (team == 1) matmul<T, 1, 2, 4>(a);
    else if (columns == 8) matmul<T, 4, 2, 1>(a);
    else matmul<T, 4, 2, 2>(a);
  }, shared);
}

}  // namespace

extern "C" int64_t emulated_chunk_bytes(int type_id) {
  const Layout* layout = find_layout(type_id);
  return layout ? layout->chunk_bytes : 0;
}
extern "C" void emulated_pack(int type_id, const uint8_t* weights, int64_t rows, int64_t columns, uint8_t* packed) {
  pack(*find_layout(type_id), weights, rows, columns, packed, 0, tile_count(rows));
}
extern "C" void emulated_quantize(const float* x, int rows, int columns, unsigned char* out, uint32_t seed) {
  const int blocks = 8 * static_cast<int>(chunk_count(columns));
  emulate::run(rows * blocks, 32, seed, [&] {
    const int row = block() / blocks, b = block() % blocks, at = 32 * b + thread();
    quantize_block(at < columns ? x[i64(row) * columns + at] : 0.0f, out, row, b);
  });
}
// columns: 8, 16 or 32; team: 16, 4 or, with 32 columns, 1, or 0 for prompt.cu with 64 or 128 columns; blocks: of the grid; depth: steps ahead. None may change a bit.
extern "C" void emulated_matmul(int type_id, const uint8_t* packed, const unsigned char* x, float* y, int64_t stride, int outputs, int k, int rows,
                                int columns, int team, int blocks, int depth, uint32_t seed) {
  MatmulArgs a{};
  for (MatmulPart& p : a.parts) p.first = 1 << 30;
  a.parts[0] = {packed, y, static_cast<int>(stride), outputs, 0};
  a.x = x;
  a.chunks = static_cast<int>(chunk_count(k));
  a.x_more = i64(4 * pair_bytes) * a.chunks;
  a.rows = rows;
  a.units = (outputs + unit_rows - 1) / unit_rows;
  a.blocks = blocks;
  a.depth = depth;
  switch (type_id) {
    case 8: return launch<Q8_0>(a, columns, team, seed);
    case 12: return launch<Q4_K>(a, columns, team, seed);
    case 14: return launch<Q6_K>(a, columns, team, seed);
    case 13: return launch<Q5_K>(a, columns, team, seed);
    case 2: return launch<Q4_0>(a, columns, team, seed);
    case 6: return launch<Q5_0>(a, columns, team, seed);
  }
}

// One sequence's attention. cache: chunks of 256 positions one after the other; positions start .. start + rows - 1 are those of q, k, v (rows x heads x head,
// rows x kv_heads x head) and are put into it. columns: 1, 4 or 8 groups of queries; pieces, joins, stored: as in AttentionArgs. None of them may change a bit, nor the seed, which says how many warps prepare.
extern "C" void emulated_attention(const float* q, const float* k, const float* v, void* cache, float* y, int type, int heads, int kv_heads, int head, int window, int start, int rows,
                                   float scale, int columns, int pieces, int joins, int stored, uint32_t seed) {
  std::vector<unsigned long long> chunks;
  const i64 chunk_bytes = i64(2) * kv_heads * chunk_positions * head * cache_bytes(type);
  for (int at = 0; at < start + rows; at += chunk_positions) chunks.push_back(reinterpret_cast<unsigned long long>(static_cast<u8*>(cache) + chunk_bytes * (at / chunk_positions)));
  PartRecord part{};
  part.chunks = chunks.data(), part.capacity = static_cast<int>(chunks.size()), part.rows = rows, part.start = start;
  std::vector<int> part_of(static_cast<size_t>(rows)), position(static_cast<size_t>(rows));
  for (int r = 0; r < rows; ++r) position[static_cast<size_t>(r)] = start + r;
  AttentionArgs a{};
  a.q = {q, nullptr, nullptr, heads * head, head, 0, 0, 0.0f};
  a.k = {k, nullptr, nullptr, kv_heads * head, head, 0, 0, 0.0f};
  a.v = {v, nullptr, nullptr, kv_heads * head, head, 0, 0, 0.0f};
  a.pass = {&part, part_of.data(), position.data(), nullptr};
  a.cache = {0, type, kv_heads, head, window, 0};
  a.scale = scale, a.heads = heads, a.rows = rows, a.parts = 1, a.pieces = pieces, a.joins = joins, a.stored = stored, a.preparers = seed & 1 ? 8 : 4, a.y = y;
  a.tiles = (rows * (heads / kv_heads) + 8 * columns - 1) / (8 * columns);
  a.splits = split_of(start + rows - 1, window) - split_of(window && start >= window ? start + 1 - window : 0, window) + 1;
  std::vector<float> partial(static_cast<size_t>(i64(rows) * heads * a.splits * (head + 2)), __builtin_nanf(""));
  std::vector<int> arrived(static_cast<size_t>(a.tiles * kv_heads));
  a.partial = partial.data(), a.arrived = arrived.data();
  const auto form = [&](auto parts, auto columns_of) {
    constexpr int p = decltype(parts)::value, c = decltype(columns_of)::value;
    constexpr int common = p == 4 ? 0 : 128 * p;
    type == 1 && head == common ? attend<p, common, 1, c>(a) : type == 1 ? attend<p, 0, 1, c>(a) : type == 2 ? attend<p, 0, 2, c>(a) : attend<p, 0, 0, c>(a);
  };
  const auto sized = [&](auto columns_of) {
    head <= 128 ? form(std::integral_constant<int, 1>{}, columns_of) : head <= 256 ? form(std::integral_constant<int, 2>{}, columns_of) : form(std::integral_constant<int, 4>{}, columns_of);
  };
  if (stored) emulate::run((rows * 2 * kv_heads + 7) / 8, 256, seed, [&] { store_heads(a); });
  emulate::run(a.tiles * a.splits * kv_heads, 256, seed, [&] {
    columns == 1 ? sized(std::integral_constant<int, 1>{}) : columns == 4 ? sized(std::integral_constant<int, 4>{}) : sized(std::integral_constant<int, 8>{});
  }, static_cast<size_t>(attention_shared(head, type, columns, pieces, a.preparers)));
  if (!joins) emulate::run((rows * heads * ((head + 31) / 32) + 7) / 8, 256, seed, [&] { attention_join(a); });
}

}  // namespace skipstone::gpu
