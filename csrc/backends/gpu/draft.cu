// A drafter's chain without the host: from the token that a pass chose and its hidden row to the next pass's inputs, and a choice with the sampler's noise.
#include "backends/gpu/math.h"
#include "backends/gpu/pass.h"

namespace skipstone::gpu {

// One weight of a matrix as it lies on the card (layout.cpp), in the arithmetic of Weight::row.
SK_DEVICE float weight_at(const Table& table, i64 row, int column) {
  if (table.kind < q8_0_table) {
    const i64 at = row * table.columns + column;
    if (table.kind == f32_table) return static_cast<const float*>(table.weights)[at];
    const u32 narrow = static_cast<const u16*>(table.weights)[at];
    return table.kind == f16_table ? from_half(narrow) : from_brain(narrow);
  }
  const i64 tile = row / tile_rows, place = (tile / 2 * table.chunks + column / chunk_columns) * 2 + tile % 2;
  const u8* chunk = static_cast<const u8*>(table.weights) + place * table.chunk_bytes;
  const int r = static_cast<int>(row % tile_rows), g = r % 8, upper = r / 8, b = column % chunk_columns / 32, k = column % 32, reg = 2 * (k / 16) + upper, at = 16 * (4 * g + k % 16 / 4);
  const auto half_at = [&](int i) { return from_half(*reinterpret_cast<const u16*>(chunk + i)); };
  if (table.kind == q8_0_table || table.kind == canonical_table) {
    const float q = static_cast<float>(static_cast<i8>(chunk[512 * b + at + 4 * reg + k % 4]));
    if (table.kind == q8_0_table) return mul(half_at(4096 + 128 * (b / 4) + 16 * g + 4 * (b % 4) + 2 * upper), q);
    const float* scales = reinterpret_cast<const float*>(chunk + 4096) + 16 * r + 2 * b + k / 16;
    return fma(q, scales[0], scales[256]);
  }
  const bool five = table.kind == q5_0_table || table.kind == q5_k_table;
  int q = chunk[512 * (b / 2) + at + 4 * reg + k % 4] >> (4 * (b % 2)) & 15;
  if (five) q |= (chunk[2048 + at + 4 * (b / 2) + k % 4] >> (4 * (b % 2) + reg) & 1) << 4;
  const int scales = five ? 2560 : 2048;
  if (table.kind == q4_0_table || table.kind == q5_0_table) return mul(half_at(scales + 128 * (b / 4) + 16 * g + 4 * (b % 4) + 2 * upper), static_cast<float>(q - (five ? 16 : 8)));
  if (table.kind == q6_k_table) {
    q |= ((chunk[2048 + 512 * (b / 4) + at + 4 * (b % 4) + k % 4] >> (2 * reg) & 3) ^ 2) << 4;
    const float whole = static_cast<float>(static_cast<i8>(chunk[3072 + 128 * upper + 16 * g + 2 * b + k / 16] ^ 0x80));
    return mul(mul(half_at(3328 + 4 * g + 2 * upper), whole), static_cast<float>(q - 32));
  }
  const u8* header = chunk + scales + 128 * upper + 16 * g;
  const int scale = b < 4 ? header[4 + b] & 63 : (header[8 + b] & 15) | header[b] >> 6 << 4, min = b < 4 ? header[8 + b] & 63 : header[8 + b] >> 4 | header[4 + b] >> 6 << 4;
  const float d = from_half(*reinterpret_cast<const u16*>(header)), dmin = from_half(*reinterpret_cast<const u16*>(header + 2));
  return add(mul(mul(d, static_cast<float>(scale)), static_cast<float>(q)), -mul(dmin, static_cast<float>(min)));
}

// Embeddings of a pass of many rows.
SK_KERNEL(256, 4) embed_rows(EmbedArgs a) {
  let_next_start();
  wait_for_previous();
  const int row = block() / a.stretches, first = 1024 * (block() % a.stretches), token = a.tokens[row];
  for (int i = first + thread(); i < first + 1024 && i < a.table.columns; i += 256) {
    const float v = weight_at(a.table, token, i);
    a.y[i64(row) * a.table.columns + i] = a.scale == 1.0f ? v : mul(v, a.scale);
  }
}

// By one block: the chosen token is kept as a draft; its embedding and the hidden row before it become the only row of the next pass.
SK_KERNEL(1024, 1) draft_next(DraftArgs a) {
  constexpr int most_values = 16;
  let_next_start();
  wait_for_previous();
  const int token = *a.choice;
  float hidden[most_values];                     // which may lie where the embedding goes
  for (int first = 0; first < a.hidden_width; first += 1024 * most_values) {
    SK_UNROLL for (int i = 0; i < most_values; ++i) {
      const int at = first + 1024 * i + thread();
      hidden[i] = at < a.hidden_width ? a.hidden[at] : 0.0f;
    }
    barrier();
    SK_UNROLL for (int i = 0; i < most_values; ++i) {
      const int at = first + 1024 * i + thread();
      if (at < a.hidden_width) a.input[at] = hidden[i];
    }
  }
  barrier();
  for (int i = thread(); i < a.table.columns; i += 1024) {
    const float v = weight_at(a.table, token < a.table.rows ? token : 0, i);
    a.embed[i] = a.scale == 1.0f ? v : mul(v, a.scale);
  }
  if (thread() != 0) return;
  *a.draft = token;
  if (!a.stays) a.part->start += a.part->rows;
  a.part->first = 0, a.part->rows = 1;
  a.part_of[0] = a.wanted[0] = 0;
  a.position[0] = a.part->start;
}

// Philox4x32-10 and the Gumbel noise of a token (runtime/philox.h), in float.
SK_DEVICE float noise(const NoiseRecord& n, i64 position, u32 id) {
  u32 c[4] = {id / 4, static_cast<u32>(position), static_cast<u32>(n.sequence), static_cast<u32>(n.sequence >> 32)}, key[2] = {static_cast<u32>(n.seed), static_cast<u32>(n.seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const unsigned long long a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    const u32 first = static_cast<u32>(b >> 32) ^ c[1] ^ key[0], third = static_cast<u32>(a >> 32) ^ c[3] ^ key[1];
    c[0] = first, c[1] = static_cast<u32>(b), c[2] = third, c[3] = static_cast<u32>(a);
    key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
  }
  const u32 word = id % 4 == 0 ? c[0] : id % 4 == 1 ? c[1] : id % 4 == 2 ? c[2] : c[3];
  if (word < 0x80000000u) return -natural_log(-natural_log(mul(add(static_cast<float>(word), 0.5f), 0x1p-32f)));
  const float rest = mul(add(static_cast<float>(~word), 0.5f), 0x1p-32f), u = add(1.0f, -rest);      // log(1 - rest)
  return -natural_log(u == 1.0f ? rest : mul(natural_log(u), divide(rest, add(u, -1.0f))));
}

// After `choose`: the token with the largest logit / temperature + noise, among those whose logit is not too far below the best one.
SK_KERNEL(256, 2) choose_noisy(ChoiceArgs a) {
  SK_SHARED(float, value, 8);
  SK_SHARED(i32, id, 8);
  SK_SHARED(i32, is_last, 1);
  let_next_start();
  wait_for_previous();
  const NoiseRecord n = *a.noise;
  const int best_id = a.choices[0], limit = n.limit < a.vocabulary ? n.limit : a.vocabulary;
  const float top = a.logits[best_id];
  const i32 begin = static_cast<i32>(i64(limit) * block() / choice_blocks), end = static_cast<i32>(i64(limit) * (block() + 1) / choice_blocks);
  Best best{0.0f, -1};
  for (i32 i = begin + thread(); i < end; i += 256) {
    const float below = add(a.logits[i], -top);
    if (!(below >= n.floor)) continue;
    const float score = add(mul(below, n.inverse_temperature), noise(n, n.position + a.step, static_cast<u32>(i)));
    if (best.id < 0 || score > best.value) best = {score, i};
  }
  best_lane(best);
  if ((thread() & 31) == 0) value[thread() >> 5] = best.value, id[thread() >> 5] = best.id;
  barrier();
  if (thread() >= 32) return;
  best = {thread() < 8 ? value[thread()] : 0.0f, thread() < 8 ? id[thread()] : -1};
  best_lane(best);
  if (thread() == 0) {
    a.best[block()] = best.value, a.id[block()] = best.id;
    share_writes();
    *is_last = arrives_last(a.arrived, choice_blocks);
  }
  meet_lanes();
  if (!*is_last) return;
  best = {a.best[thread()], a.id[thread()]};
  best_lane(best);
  if (thread() == 0 && best.id >= 0) a.choices[0] = best.id;
}

}  // namespace skipstone::gpu
