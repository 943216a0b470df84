#include "backends/gpu/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backends/gpu/planner.h"
#include "program/chain.h"
#include "runtime/thread_pool.h"

namespace skipstone::gpu {
namespace {

// What a pass reads: by row its part, position, whether its logits are wanted, its token, then the parts.
constexpr int64_t part_of_at = 0, position_at = 4 * pass_rows, wanted_at = 8 * pass_rows, tokens_at = 12 * pass_rows, records_at = 16 * pass_rows, noise_at = records_at + pass_rows * sizeof(PartRecord), tables_bytes = noise_at + sizeof(NoiseRecord);
constexpr size_t most_recordings = 64;

// 1, 2, 3, 4, 6, 8, 12 and so on, so that a growing text asks for few shapes.
int bucket(int64_t n) {
  int b = 1;
  while (b < n) b = b == 1 ? 2 : (b & (b - 1)) ? b / 3 * 4 : b / 2 * 3;
  return b;
}

// Of attention: which of its forms suits a head and so many queries of a key/value head in a part. Which one runs changes no bit.
struct AttentionForm {
  std::string name;
  int columns, preparers;                // groups of 8 queries; as in AttentionArgs
  int bytes(int head, int type, int pieces) const { return attention_shared(head, type, columns, pieces, preparers); }
};
constexpr int attention_static = 64;     // bytes of shared memory that are always taken
// shared: bytes of a block. blocks: a tile; room: blocks that the card runs at once. While there is room, tiles of 8 queries go side by side: they read the
// cache from its caches.
AttentionForm attention_form(int head, int type, int queries, int shared, int blocks = 1, int room = 0) {
  const bool less = shared <= 64 << 10;          // fewer forms are there (attention.cu)
  const bool common = type == 1 && (head == 128 || (head == 256 && !less)), few = queries <= 8 || (queries + 7) / 8 * blocks <= room;
  int columns = few && type == 1 && (common || head > 256) ? 1 : queries > 32 && common ? 8 : 4;
  const auto fits = [&](int preparers) { return attention_shared(head, type, columns, 1, preparers) + attention_static <= shared; };
  if (columns == 8 && !fits(8)) columns = 4;
  if (columns > 1 && ((less && (common || head > 128 || type == 0)) || !fits(8)) && (type || head <= 256)) columns = 1;
  const std::string size = common ? std::to_string(head) : head <= 128 ? "to_128" : head <= 256 ? "to_256" : "to_512";
  return {"attention_" + size + (type == 1 ? "_f16_" : type == 2 ? "_bf16_" : in_blocks(type) ? "_blocks_" : "_f32_") + std::to_string(columns), columns, fits(8) ? 8 : 4};
}
constexpr int most_queries = 64;         // of a block of attention
// Pieces of the cache on their way in a block: as many as fit, but two blocks a processor where there are so many.
int attention_pieces(const DeviceInfo& card, const Cache& cache, const AttentionForm& form, int blocks) {
  const auto fit = [&](int bytes) {
    int pieces = 6;
    while (pieces > 1 && form.bytes(cache.head, cache.type, pieces) > bytes) --pieces;
    return pieces;
  };
  const int alone = fit(card.shared_a_block - attention_static), together = fit(std::min(card.shared_a_block, card.shared_a_processor / 2 - 1024) - attention_static);
  return blocks > card.processors && form.columns < 8 && together >= 2 ? together : alone;
}

TableKind table_kind(const DeviceWeight& w) {
  if (w.plain >= 0) return static_cast<TableKind>(w.plain);
  const std::pair<const char*, TableKind> kinds[] = {{"q8_0", q8_0_table}, {"q4_0", q4_0_table}, {"q5_0", q5_0_table}, {"q4_k", q4_k_table}, {"q5_k", q5_k_table}, {"q6_k", q6_k_table}};
  for (const auto& [name, kind] : kinds)
    if (w.type == name) return kind;
  return canonical_table;
}

Table table_of(const DeviceWeight& w) { return {w.memory.as<const unsigned char>(), table_kind(w), w.rows, w.columns, w.chunks, w.chunk_bytes}; }

// A draft need not be the sampler's choice, only often be. What top_k and top_p leave out is taken to lie below a share of the best token's weight.
NoiseRecord noise_of(const Sampler& sampler) {
  const SamplerOptions& o = sampler.options();
  float least = o.min_p;
  if (o.top_p < 1) least = std::max(least, (1 - o.top_p) / 4);
  if (o.top_k > 0) least = std::max(least, 1 / (64.0f * static_cast<float>(o.top_k)));
  return {o.seed, o.sequence, sampler.position(), 1 / o.temperature, least > 0 ? std::log(least) * o.temperature : -std::numeric_limits<float>::infinity(), o.limit > 0 ? o.limit : sampler.vocabulary()};
}

// Routes of so many pairs, the shared expert's included, and their jobs.
int64_t route_bytes(int64_t pairs) { return (7 * pairs + 4) * 4; }
Routes routes_in(const Memory& memory, int64_t pairs) {
  int* at = memory.as<int>();
  return {at, reinterpret_cast<float*>(at + pairs), at + 2 * pairs, reinterpret_cast<Job*>(at + 2 * pairs + 4), at + 6 * pairs + 4};
}
ExpertWeights side_of(const DeviceWeight* first, const DeviceWeight* second) {
  if (!first) return {};
  ExpertWeights w{};
  w.first = first->memory.as<const void*>();
  w.second = second ? second->memory.as<const void*>() : nullptr;
  w.bytes = first->expert_bytes;
  w.columns = first->columns;
  w.chunks = first->chunks;
  w.outputs = first->rows;
  w.units = (first->rows + unit_rows - 1) / unit_rows;
  w.type = first->plain;
  w.stretch = first->stretch;
  w.first_factors = first->factors.as<const float>();
  if (second) w.second_factors = second->factors.as<const float>();
  return w;
}

}  // namespace

GpuProgram::GpuProgram(std::shared_ptr<Driver> driver, std::vector<int64_t> widths, std::vector<StateSpec> states, const std::vector<Attributes>& operations)
    : driver_(std::move(driver)), widths_(std::move(widths)), states_(std::move(states)) {
  for (int64_t w : widths_)
    if (w < 1 || w > (int64_t{1} << 24)) throw ModelError("a buffer of width " + std::to_string(w) + "; expected 1 to 16777216");
  const Planner plan(*this, operations);
  choose_expert_columns();
  tables_ = Memory(driver_, tables_bytes);
  pass_ = {reinterpret_cast<const PartRecord*>(tables_.address() + records_at), reinterpret_cast<const int*>(tables_.address() + part_of_at),
           reinterpret_cast<const int*>(tables_.address() + position_at), reinterpret_cast<const int*>(tables_.address() + wanted_at)};
  arrived_ = Memory(driver_, pass_rows * most_heads_ * 4);
  driver_->zero(arrived_.address(), arrived_.bytes());
  for (size_t s = 0; s < steps_.size(); ++s)
    for (size_t i = 0; i < steps_[s].pieces.size(); ++i) {
      Piece& piece = steps_[s].pieces[i];
      const Planner::Ids& id = plan.ids[s][i];
      if (id.a >= 0) piece.a = buffer(id.a);
      if (id.b >= 0) piece.b = buffer(id.b);
      if (id.d >= 0) piece.d = buffer(id.d);
      if (id.y >= 0) piece.y = buffer(id.y);
      if (id.z >= 0) piece.z = buffer(id.z);
      if (id.to >= 0) piece.to = activations(id.to);
      if (piece.kind == open_norm_piece) piece.z = squares(id.to);
      if (piece.kind == mix_piece) {
        piece.a_stride = piece.b_stride = 0;             // it finds rows by itself
        piece.c = buffer(static_cast<int>(reinterpret_cast<intptr_t>(piece.c)));
        piece.y = mixed_.as<float>();
        piece.z = gates_.as<float>();
      }
    }
  if (mixture_.used) {
    routes_ = Memory(driver_, route_bytes(pass_rows * (mixture_.used + 1)));
    counters_ = Memory(driver_, mixture_.counters * 4);
    driver_->zero(counters_.address(), counters_.bytes());
  }
  if (head_) {
    head_input_ = Memory(driver_, most_rows * static_cast<int64_t>(head_->columns) * 4);
    head_activations_ = Memory(driver_, int64_t{4} * pair_bytes * chunk_count(head_->columns));
    if (ordered_.top) {
      const int64_t pairs = int64_t{most_rows} * ordered_.top;
      ordered_.scores = Memory(driver_, int64_t{most_rows} * ordered_.centroids->rows * 4);
      ordered_.routes = Memory(driver_, route_bytes(pairs));
      ordered_.made = Memory(driver_, pairs * head_->rows * 4);
    }
    logits_ = Memory(driver_, most_rows * vocabulary_ * 4);
    best_ = Memory(driver_, most_rows * choice_blocks * 4);
    ids_ = Memory(driver_, most_rows * choice_blocks * 4);
    choices_ = Memory(driver_, pass_rows * 4);
    drafts_ = Memory(driver_, step_back * 4);
  }
}

GpuProgram::~GpuProgram() { forget_recordings(); }

// Experts, the head's clusters among them, take 16 pairs at once, or 8 where a block's memory has no room for so many results. DeviceError.
void GpuProgram::choose_expert_columns() {
  const DeviceInfo& card = driver_->info();
  int most[2] = {0, 0};                  // bytes with 8 and with 16 columns
  const auto needs = [&](const std::shared_ptr<const DeviceWeight>& w, int halves) {
    for (int i = 0; i < 2; ++i)
      if (w && w->plain < 0) most[i] = std::max(most[i], experts_shared(1, w->chunk_bytes, 8 << i, halves) + expert_static);
  };
  for (const Step& s : steps_)
    if (s.kind == Kind::experts) needs(s.gate, 2), needs(s.down, 1);
  if (ordered_.top) needs(head_, 1);
  if (most[0] > card.shared_a_block)
    throw DeviceError(card.name + " (" + card.description + ") has " + std::to_string(card.shared_a_block) + " bytes of shared memory a block; this model's experts need " + std::to_string(most[0]) + "; use device='cpu'");
  expert_columns_ = most[1] > card.shared_a_block || card.shared_a_block <= 64 << 10 ? 8 : 16;      // (experts.cu)
}

// Recordings hold addresses, so they are dropped with the memory that grows.
void GpuProgram::forget_recordings() {
  for (auto& [shape, recording] : recordings_)
    for (void* stretch : recording.second) driver_->forget(stretch);
  recordings_.clear();
}

const float* GpuProgram::constant(const std::vector<float>& values) {
  constants_.emplace_back(driver_, static_cast<int64_t>(values.size()) * 4);
  driver_->write(constants_.back().address(), values.data(), static_cast<int64_t>(values.size()) * 4);
  driver_->wait();
  return constants_.back().as<const float>();
}

int GpuProgram::angles(const std::vector<float>& frequencies) {
  const auto it = std::find(frequencies_.begin(), frequencies_.end(), frequencies);
  if (it != frequencies_.end()) return static_cast<int>(it - frequencies_.begin());
  frequencies_.push_back(frequencies);
  angles_.emplace_back();
  return static_cast<int>(angles_.size()) - 1;
}

// Cosines and sines of the positions before `positions`.
void GpuProgram::cover_angles(int64_t positions) {
  if (positions <= angle_positions_ || frequencies_.empty()) return;
  const int64_t covered = std::max<int64_t>({2 * angle_positions_, (positions + 1023) / 1024 * 1024, 2048});
  for (size_t t = 0; t < frequencies_.size(); ++t) {
    const auto& f = frequencies_[t];
    std::vector<float> table(static_cast<size_t>(covered) * 2 * f.size());
    for (int64_t p = 0; p < covered; ++p)
      for (size_t j = 0; j < f.size(); ++j) {
        const float angle = static_cast<float>(p) * f[j];      // float32, as the reference has it
        table[static_cast<size_t>(2 * p) * f.size() + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
        table[static_cast<size_t>(2 * p + 1) * f.size() + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    angles_[t] = Memory();
    angles_[t] = Memory(driver_, static_cast<int64_t>(table.size()) * 4);
    driver_->write(angles_[t].address(), table.data(), static_cast<int64_t>(table.size()) * 4);
    driver_->wait();
  }
  angle_positions_ = covered;
  forget_recordings();
}

float* GpuProgram::squares(int id) const {
  const Activations& x = activations_[static_cast<size_t>(id)];
  return x.deferred ? reinterpret_cast<float*>(activations(id) + int64_t{4} * pair_bytes * chunk_count(x.columns) * (pass_rows / most_rows)) : nullptr;
}

bool GpuProgram::grow(Memory& memory, int64_t bytes) {
  if (memory.bytes() >= bytes) return false;
  memory = Memory();
  memory = Memory(driver_, bytes);
  forget_recordings();
  return true;
}

void GpuProgram::issue_rows(const std::vector<Piece>& pieces, int rows, const int* wanted) {
  RowsArgs args{};
  args.pass = pass_;
  args.pass.wanted = wanted;
  args.count = static_cast<int>(pieces.size());
  std::copy(pieces.begin(), pieces.end(), args.pieces);
  for (int i = 0; i < args.count; ++i)
    if (args.pieces[i].kind == rope_piece) args.pieces[i].c = angles_[static_cast<size_t>(args.pieces[i].l)].as<float>();
  // Rows of many columns are cut where every piece works on each column, or block of 32, by itself.
  const auto columns_of = [](const Piece& p) { return p.kind == gated_piece ? p.n * p.m : p.n; };
  const int columns = columns_of(pieces[0]);
  const bool cut = std::all_of(pieces.begin(), pieces.end(), [&](const Piece& p) {
    if (p.kind == mix_piece) return 1024 % p.k == 0 && pieces.size() == 1;
    if (p.kind == gated_piece) return 1024 % p.m == 0 && columns_of(p) == columns;
    return p.n == columns && (p.kind == silu_piece || p.kind == gelu_piece || p.kind == sigmoid_piece || p.kind == add_piece || p.kind == quantize_piece);
  });
  args.stretches = cut ? (columns + 1023) / 1024 : 1;
  driver_->launch("rows_in_order", rows * args.stretches, rows_threads, &args);
}

PlainArgs GpuProgram::plain_args(const Operand& x, int rows) const {
  PlainArgs args{};
  args.rows = rows;
  if (x.buffer < 0) return args;
  args.x = buffer(x.buffer);
  args.x_stride = args.columns = static_cast<int>(widths_[static_cast<size_t>(x.buffer)]);
  if (x.squares < 0) return args;
  args.norm = x.norm;
  args.squares = squares(x.squares);
  args.squares_count = args.columns / unit_rows;
  args.eps = activations_[static_cast<size_t>(x.squares)].eps;
  return args;
}
void GpuProgram::add_plain(PlainArgs& args, const DeviceWeight& w, float* y, int64_t stride) {
  args.parts[args.count++] = {w.memory.as<const void*>(), w.factors.as<const float>(), y, static_cast<int>(stride), w.rows, w.plain, w.stretch};
  args.outputs += w.rows;
}
void GpuProgram::issue_plain(const PlainArgs& args) {
  driver_->launch("matmul_plain", (args.outputs + 3) / 4 * ((args.rows + plain_rows - 1) / plain_rows), 128, &args);
}

void GpuProgram::issue_route(const Step& s, int rows) {
  RouteArgs args = s.route;
  args.products = plain_args(s.input, rows);
  for (size_t i = 0; i < s.weights.size(); ++i) add_plain(args.products, *s.weights[i], buffer(s.outputs[i]), widths_[static_cast<size_t>(s.outputs[i])]);
  args.to = routes_in(routes_, pass_rows * (mixture_.used + 1));
  args.logits = buffer(s.logits);
  args.arrived = counters_.as<int>();
  args.rows = rows;
  args.columns = expert_columns(rows);
  const int outputs = args.products.outputs, warps = route_threads / 32;
  args.blocks = outputs ? (outputs + warps - 1) / warps * ((rows + plain_rows - 1) / plain_rows) : 1;
  driver_->launch("route", args.blocks, route_threads, &args);
}

// halves: 2 for gate and up.
void GpuProgram::launch_experts(const char* name, const DeviceWeight& w, ExpertsArgs& args, int halves) {
  const DeviceInfo& card = driver_->info();
  const int columns = expert_columns(args.rows), shared_jobs = args.shared.units ? (args.rows + columns - 1) / columns : 0, most_jobs = args.rows * args.used + shared_jobs;
  args.slice_bits = 0;
  if (w.plain < 0)
    while (args.slice_bits < 3 && (2 << args.slice_bits) <= w.chunks) ++args.slice_bits;
  const int teams = w.plain >= 0 ? 1 : expert_warps >> args.slice_bits, stretches = std::max((args.own.units + teams - 1) / teams, (args.shared.units + teams - 1) / teams);
  int shared_bytes = 0, at_once = 4;
  if (w.plain < 0) {
    const auto bytes = [&](int depth) { return experts_shared(depth, w.chunk_bytes, columns, halves); };
    // Two blocks a processor with all that they can have on its way.
    const int steps = halves * ((w.chunks + (1 << args.slice_bits) - 1) >> args.slice_bits);
    args.depth = 1;
    for (int depth : {2, 4})
      if (card.rings && depth <= std::max(2, steps) && bytes(depth) <= card.shared_a_block && 2 * (bytes(depth) + 1024) <= card.shared_a_processor) args.depth = depth;
    shared_bytes = bytes(args.depth);
    at_once = std::max(1, std::min(columns == 8 ? 2 : 1, card.shared_a_processor / (shared_bytes + 1024)));
  }
  args.blocks = std::min(most_jobs * stretches, card.processors * at_once);
  const std::string kernel = std::string("experts_") + name + (w.plain >= 0 ? "_plain" : "_" + w.type + "_columns" + std::to_string(columns));
  driver_->launch(kernel.c_str(), args.blocks, expert_threads, &args, shared_bytes);
}

// Gate and up, then down and, for many rows, the sum.
void GpuProgram::issue_experts(const Step& s, int rows) {
  ExpertsArgs args = s.experts;
  args.rows = rows;
  args.routes = routes_in(routes_, pass_rows * (mixture_.used + 1));
  args.own = side_of(s.gate.get(), s.up.get());
  args.shared = side_of(s.shared_gate.get(), s.shared_up.get());
  if (s.x >= 0) {
    args.x = activations(s.x);
    args.x_more = int64_t{4} * pair_bytes * s.gate->chunks;
    args.squares = squares(s.x);
    args.norm_columns = s.gate->columns;
    args.squares_count = s.gate->columns / unit_rows;
    args.eps = activations_[static_cast<size_t>(s.x)].eps;
  } else {
    args.plain = buffer(s.input.buffer);
  }
  const bool quantizes = s.down->plain < 0;
  const int64_t more = int64_t{4} * pair_bytes * s.down->chunks, shared_more = s.has_shared ? int64_t{4} * pair_bytes * s.shared_down->chunks : 0;
  if (quantizes) {
    args.to = gated_.as<unsigned char>();
    args.to_more = more;
    args.to_blocks = 8 * s.down->chunks;
    args.to_shared = gated_shared_.as<unsigned char>();
    args.to_shared_more = shared_more;
    args.to_shared_blocks = s.has_shared ? 8 * s.shared_down->chunks : 0;
  } else {
    args.gated = gated_.as<float>();
    args.gated_shared = gated_shared_.as<float>();
  }
  launch_experts("enter", *s.gate, args, 2);

  args.own = side_of(s.down.get(), nullptr);
  args.shared = side_of(s.shared_down.get(), nullptr);
  args.x = args.to;
  args.x_more = more;
  args.x_shared = args.to_shared;
  args.x_shared_more = shared_more;
  args.plain = args.gated;
  args.plain_shared = args.gated_shared;
  args.made = made_.as<float>();
  args.joins = rows <= most_rows;
  args.arrived = counters_.as<int>() + 1;
  if (s.extra >= 0) args.extra = buffer(s.extra);
  if (s.opening >= 0) {
    args.opening = buffer(s.opening);
    args.opening_stride = 1;
  }
  args.residual_scale = s.scale;
  if (s.residual >= 0) args.residual = buffer(s.residual);
  args.y = buffer(s.outputs[0]);
  if (s.to >= 0) {
    args.norm = s.norm;
    args.y_to = activations(s.to);
    args.y_to_more = int64_t{4} * pair_bytes * chunk_count(activations_[static_cast<size_t>(s.to)].columns);
    args.squares_to = squares(s.to);
  }
  launch_experts("leave", *s.down, args, 1);
  if (!args.joins) driver_->launch("join_experts", (rows * args.own.units + expert_warps - 1) / expert_warps, expert_threads, &args);
}

// Of the matmul for many rows (prompt.cu): rows of a block, 0 where it has no form for the card, the weights or so few rows; blocks of the grid.
struct PromptForm { int rows, blocks; };
PromptForm prompt_form(const DeviceInfo& card, const DeviceWeight& w, int units, int rows) {
  PromptForm best{0, 0};
  if (!card.large_teams || !card.rings || rows <= 4 * most_rows) return best;
  int64_t least = 0;
  for (int size : {64, 128}) {
    const int bytes = prompt_shared(size, w.chunk_bytes);
    if (bytes > card.shared_a_block || (size == 128 && (w.type == "q6_k" || w.type == "canonical"))) continue;
    const int items = (units + size / unit_rows - 1) / (size / unit_rows) * ((rows + size - 1) / size), at_once = card.processors * (size == 64 && 2 * (bytes + 1024) <= card.shared_a_processor ? 2 : 1);
    // Rounds of blocks times what one costs, a processor to itself: a large one as much as 3.9 small ones.
    const int64_t cost = int64_t{(items + at_once - 1) / at_once} * (at_once / card.processors) * (size == 64 ? 10 : 39);
    if (!best.rows || cost < least) best = {size, std::min(items, at_once)}, least = cost;
  }
  return best;
}

// The form that suits the rows and the card; which one changes no bit. args: all but the grid.
void GpuProgram::issue_matmul(const DeviceWeight& w, MatmulArgs args, int units, int rows) {
  const DeviceInfo& card = driver_->info();
  args.chunks = w.chunks;
  args.units = units;
  args.rows = rows;
  args.columns = w.columns;
  args.squares_count = w.columns / unit_rows;
  const auto bytes = [&](int team, int depth, int columns) { return matmul_shared(team, depth, w.chunk_bytes, columns); };
  if (const PromptForm form = prompt_form(card, w, units, rows); form.rows) {
    args.work = gate_work_.as<float>();
    args.blocks = form.blocks;
    return driver_->launch(("prompt_" + w.type + "_" + std::to_string(form.rows)).c_str(), form.blocks, prompt_threads(form.rows), &args, prompt_shared(form.rows, w.chunk_bytes));
  }
  const bool small = !card.large_teams || bytes(16, 1, 16) > card.shared_a_block;
  const int team = small ? 4 : 16, columns = rows <= 8 ? 8 : 16, items = units * ((rows + columns - 1) / columns);
  if (bytes(team, 1, columns) > card.shared_a_block)
    throw DeviceError(card.name + " (" + card.description + ") has " + std::to_string(card.shared_a_block) + " bytes of shared memory a block; this model's weights need " + std::to_string(bytes(team, 1, columns)) + "; use device='cpu'");
  int blocks = team == 16 ? 1 : 4;
  while (blocks > 1 && blocks * (bytes(team, 1, columns) + 1024) > card.shared_a_processor) --blocks;
  // Twice as much on its way, where two blocks of it have room, so that the next kernel's can come early.
  const int twice = bytes(team, 2, columns);
  args.depth = card.rings && twice <= card.shared_a_block && std::max(2, blocks) * (twice + 1024) <= card.shared_a_processor ? 2 : 1;
  args.blocks = std::min(items, card.processors * blocks);
  driver_->launch(("matmul_" + w.type + "_team" + std::to_string(team) + "_columns" + std::to_string(columns)).c_str(), args.blocks, team == 16 ? 512 : 128, &args, bytes(team, args.depth, columns));
}

void GpuProgram::issue_step(const Step& s, int rows) {
  const DeviceWeight& w = *s.weights[0];
  if (w.plain >= 0) {
    PlainArgs args = plain_args(s.input, rows);
    for (size_t i = 0; i < s.weights.size(); ++i) add_plain(args, *s.weights[i], buffer(s.outputs[i]), widths_[static_cast<size_t>(s.outputs[i])]);
    return issue_plain(args);
  }
  MatmulArgs args{};
  int units = 0;
  for (size_t i = 0; i < static_cast<size_t>(most_parts); ++i) {
    args.parts[i].first = 1 << 30;
    if (i >= s.weights.size()) continue;
    const DeviceWeight& part = *s.weights[i];
    args.parts[i] = {part.memory.as<const unsigned char>(), s.outputs[i] >= 0 ? buffer(s.outputs[i]) : nullptr, part.rows, part.rows, units};
    units += part.tiles / 2;
  }
  if (s.end >= silu_end) units /= 2;
  args.x = activations(s.x);
  args.x_more = int64_t{4} * pair_bytes * w.chunks;
  args.end = s.end;
  args.squares = squares(s.x);
  args.eps = activations_[static_cast<size_t>(s.x)].eps;
  args.scale = s.scale;
  if (s.residual >= 0) args.residual = buffer(s.residual);
  if (s.to >= 0) {
    args.norm = s.norm;
    args.to = activations(s.to);
    args.to_more = int64_t{4} * pair_bytes * chunk_count(activations_[static_cast<size_t>(s.to)].columns);
    args.squares_to = squares(s.to);
  }
  issue_matmul(w, args, units, rows);
}

void GpuProgram::issue_attention(Step& s, const Shape& shape) {
  AttentionArgs& a = s.attention;
  a.pass = pass_;
  a.cache.type = shape.cache_type;
  a.rows = shape.rows;
  a.splits = shape.splits;
  a.partial = partial_.as<float>();
  a.arrived = arrived_.as<int>();
  a.q.x = buffer(s.q);
  if (s.k >= 0) a.k.x = buffer(s.k);
  if (s.v >= 0) a.v.x = buffer(s.v);
  if (s.q_angles >= 0) a.q.angles = angles_[static_cast<size_t>(s.q_angles)].as<float>();
  if (s.k_angles >= 0) a.k.angles = angles_[static_cast<size_t>(s.k_angles)].as<float>();
  a.y = s.outputs[0] >= 0 ? buffer(s.outputs[0]) : nullptr;
  if (s.to >= 0) {
    a.to = activations(s.to);
    a.to_more = int64_t{4} * pair_bytes * chunk_count(activations_[static_cast<size_t>(s.to)].columns);
  }
  a.stored = s.shares || (!a.borrows && shape.rows > most_rows);
  if (a.stored && !s.shares) driver_->launch("store_heads", (shape.rows * 2 * a.cache.kv_heads + 7) / 8, 256, &a);
  const AttentionForm form = attention_form(a.cache.head, a.cache.type, shape.longest * (a.heads / a.cache.kv_heads), driver_->info().shared_a_block, shape.parts * shape.splits * a.cache.kv_heads, 2 * driver_->info().processors);
  a.parts = shape.parts;
  a.tiles = (shape.longest * (a.heads / a.cache.kv_heads) + 8 * form.columns - 1) / (8 * form.columns);
  a.splits = shape.splits;
  const int blocks = a.parts * a.tiles * a.splits * a.cache.kv_heads;
  a.preparers = form.preparers;
  a.pieces = attention_pieces(driver_->info(), a.cache, form, blocks);
  // What the last block of a tile has to join, it joins alone. (There are counters for all tiles of a pass unless its parts are very unlike.)
  a.joins = a.splits == 1 || (int64_t{8} * form.columns * a.splits * a.cache.head <= int64_t{16} << 10 && int64_t{4} * a.parts * a.tiles * a.cache.kv_heads <= arrived_.bytes());
  driver_->launch(form.name.c_str(), blocks, 256, &a, form.bytes(a.cache.head, a.cache.type, a.pieces));
  if (!a.joins) driver_->launch("attention_join", (shape.rows * a.heads * ((a.cache.head + 31) / 32) + 7) / 8, 256, &a);
}

// Of the rows in head_input_: scores of the centroids, the best of them, the products with their clusters.
void GpuProgram::issue_ordered(int rows) {
  const DeviceWeight& centroids = *ordered_.centroids;
  if (centroids.plain >= 0) {
    PlainArgs args{};
    args.x = head_input_.as<float>();
    args.x_stride = args.columns = centroids.columns;
    args.rows = rows;
    add_plain(args, centroids, ordered_.scores.as<float>(), centroids.rows);
    issue_plain(args);
  } else {
    MatmulArgs args{};
    for (MatmulPart& p : args.parts) p.first = 1 << 30;
    args.parts[0] = {centroids.memory.as<const unsigned char>(), ordered_.scores.as<float>(), centroids.rows, centroids.rows, 0};
    args.x = head_activations_.as<unsigned char>();
    issue_matmul(centroids, args, centroids.tiles / 2, rows);
  }
  RouteArgs route{};
  route.to = routes_in(ordered_.routes, most_rows * ordered_.top);
  route.logits = ordered_.scores.as<float>();
  route.experts = centroids.rows;
  route.used = ordered_.top;
  route.normalize = 1;
  route.rows = rows;
  route.columns = expert_columns(rows);
  route.blocks = 1;
  driver_->launch("route", 1, route_threads, &route);
  ExpertsArgs args{};
  args.own = side_of(head_.get(), nullptr);
  args.routes = route.to;
  args.used = ordered_.top;
  args.rows = rows;
  args.by_row = 1;
  args.x = head_activations_.as<unsigned char>();
  args.plain = head_input_.as<float>();
  args.made = ordered_.made.as<float>();
  launch_experts("leave", *head_, args, 1);
  const CapArgs close{logits_.as<float>(), rows * vocabulary_, 0.0f, 4 * driver_->info().processors};
  driver_->launch("close_logits", close.blocks, 256, &close);
  const OrderedArgs open{args.made, route.to.chosen, ordered_.order.as<int>(), logits_.as<float>(), ordered_.top, head_->rows, static_cast<int>(vocabulary_), softcap_};
  driver_->launch("open_logits", rows * ordered_.top, 128, &open);
}

// Up to 16 wanted rows from the first-th on.
void GpuProgram::issue_head(int first, int rows, int want) {
  const int columns = head_->columns, vocabulary = static_cast<int>(vocabulary_);
  std::vector<Piece> pieces(1);
  pieces[0].kind = gather_piece;
  pieces[0].n = pieces[0].a_stride = pieces[0].y_stride = columns;
  pieces[0].a = buffer(head_buffer_);
  pieces[0].y = head_input_.as<float>();
  if (head_->plain < 0 || (ordered_.top && ordered_.centroids->plain < 0)) {
    Piece q{};
    q.kind = quantize_piece;
    q.n = q.a_stride = columns;
    q.m = static_cast<int>(chunk_count(columns));
    q.a = head_input_.as<float>();
    q.to = head_activations_.as<unsigned char>();
    pieces.push_back(q);
  }
  issue_rows(pieces, rows, pass_.wanted + first);
  if (ordered_.top) {
    issue_ordered(rows);
  } else if (head_->plain >= 0) {
    PlainArgs args{};
    args.x = head_input_.as<float>();
    args.x_stride = args.columns = columns;
    args.rows = rows;
    add_plain(args, *head_, logits_.as<float>(), vocabulary);
    issue_plain(args);
  } else {
    MatmulArgs args{};
    for (MatmulPart& p : args.parts) p.first = 1 << 30;
    args.parts[0] = {head_->memory.as<const unsigned char>(), logits_.as<float>(), vocabulary, vocabulary, 0};
    args.x = head_activations_.as<unsigned char>();
    issue_matmul(*head_, args, head_->tiles / 2, rows);
  }
  if (softcap_ > 0 && !ordered_.top) {
    const CapArgs cap{logits_.as<float>(), static_cast<long long>(rows) * vocabulary, softcap_, 4 * driver_->info().processors};
    driver_->launch("softcap", cap.blocks, 256, &cap);
  }
  if (want != static_cast<int>(Want::choice)) return;
  const ChoiceArgs choice{logits_.as<float>(), best_.as<float>(), ids_.as<int>(), arrived_.as<int>(), choices_.as<int>(first), vocabulary, nullptr, 0};
  driver_->launch("choose", rows * choice_blocks, 256, &choice);
}

// Steps first .. last - 1, none of which is a meeting, and after the last one the head.
void GpuProgram::issue(const Shape& shape, size_t first, size_t last) {
  for (size_t i = first; i < last; ++i) {
    Step& s = steps_[i];
    if (s.kind == Kind::rows) {
      issue_rows(s.pieces, shape.rows, pass_.wanted);
    } else if (s.kind == Kind::matmul) {
      issue_step(s, shape.rows);
    } else if (s.kind == Kind::attention) {
      issue_attention(s, shape);
    } else if (s.kind == Kind::route) {
      issue_route(s, shape.rows);
    } else if (s.kind == Kind::experts) {
      issue_experts(s, shape.rows);
    } else {
      DeltaArgs& d = s.delta;
      d.pass = pass_;
      d.mixed = mixed_.as<float>();
      d.gates = gates_.as<float>();
      d.delta = updates_.as<float>();
      d.work = work_.as<float>();
      d.y = buffer(s.outputs[0]);
      driver_->launch(d.head == 128 ? "delta_rule_128" : "delta_rule", shape.parts * d.value_heads, 512, &d);
    }
  }
  if (last < steps_.size()) return;
  if (shape.wanted && shape.wanted <= most_rows) issue_head(0, shape.wanted, shape.want);
  if (shape.steps) issue_chain(shape);
}

void GpuProgram::issue_choice(const Shape& shape, int step) {
  if (!shape.noisy) return;
  const ChoiceArgs choice{logits_.as<float>(), best_.as<float>(), ids_.as<int>(), arrived_.as<int>(), choices_.as<int>(), static_cast<int>(vocabulary_),
                          reinterpret_cast<const NoiseRecord*>(tables_.address() + noise_at), step};
  driver_->launch("choose_noisy", choice_blocks, 256, &choice);
}

// After a pass that chose a draft: the further ones, a row each.
void GpuProgram::issue_chain(const Shape& shape) {
  DraftArgs d{};
  d.part = reinterpret_cast<PartRecord*>(tables_.address() + records_at);
  d.part_of = reinterpret_cast<int*>(tables_.address() + part_of_at);
  d.position = reinterpret_cast<int*>(tables_.address() + position_at);
  d.wanted = reinterpret_cast<int*>(tables_.address() + wanted_at);
  d.choice = choices_.as<int>();
  d.input = buffer(input_buffer_);
  d.embed = buffer(embeddings_[0].buffer);
  d.table = table_of(*table_);
  d.scale = embeddings_[0].scale;
  d.hidden_width = static_cast<int>(hidden_width_);
  d.stays = borrows_;
  issue_choice(shape, 0);
  for (int step = 1; step <= shape.steps; ++step) {
    d.hidden = buffer(hidden_buffer_) + (step == 1 ? shape.rows - 1 : 0) * hidden_width_;
    d.draft = drafts_.as<int>() + step - 1;
    driver_->launch("draft_next", 1, 1024, &d);
    if (step == shape.steps) break;
    issue({1, 1, 1, shape.splits, 1, shape.want, shape.cache_type}, 0, steps_.size());
    issue_choice(shape, step);
  }
}

// Of the attention step and the tile of queries that need most; with fewer blocks than splits a tile would never be joined.
int GpuProgram::most_splits(const std::vector<PartRecord>& records) const {
  int most = 1;
  for (const Step& s : steps_) {
    if (s.kind != Kind::attention) continue;
    const int window = s.attention.cache.window;
    for (const PartRecord& part : records) {
      const int rows = s.attention.borrows ? 1 : part.rows, high = s.attention.borrows ? part.borrowed_length : part.start + rows;
      // Of all texts' splits the last position has most before it; of a window's as many as any tile of its rows can touch, wherever it lies in the pass.
      const int before = split_of(window ? std::max(0, (s.attention.borrows ? high : part.start + 1) - window) : 0, window);
      const int touched = window ? (window + most_queries - 3) / 256 + 2 : std::numeric_limits<int>::max();
      most = std::max(most, std::min(split_of(high - 1, window) - before + 1, touched));
    }
  }
  return bucket(most);
}

// Rows of a pass, where partial results of attention take a share of the memory.
int64_t GpuProgram::rows_that_fit(int64_t longest) const {
  constexpr int64_t most_bytes = int64_t{512} << 20;
  int64_t splits = 1;
  for (const Step& s : steps_)
    if (s.kind == Kind::attention) {
      const int64_t window = s.attention.cache.window;
      splits = std::max<int64_t>(splits, window && window < longest ? window / 256 + 3 : split_of(static_cast<int>(longest), 0) + 1);
    }
  return std::clamp<int64_t>(most_bytes / std::max<int64_t>(1, 4 * splits * attention_floats_) / most_rows * most_rows, most_rows, pass_rows);
}

// The steps of a pass. A shape that comes again is recorded, stretch by stretch between meetings with the processor.
void GpuProgram::go(const Shape& shape) {
  auto& [seen, recordings] = recordings_[shape];
  const bool records = ++seen == 2;
  size_t first = 0, stretch = 0;
  while (first <= steps_.size()) {
    size_t last = first;
    while (last < steps_.size() && steps_[last].meeting < 0) ++last;
    if (last > first || last == steps_.size()) {
      if (records) {
        driver_->begin_recording();
        issue(shape, first, last);
        recordings.push_back(driver_->end_recording());
      }
      if (stretch < recordings.size()) driver_->replay(recordings[stretch++]);
      else issue(shape, first, last);
    }
    if (last < steps_.size()) {
      const Meeting& m = meetings_[static_cast<size_t>(steps_[last].meeting)];
      steps_[last].kind == Kind::fetch ? fetch(m, shape.rows) : meet(m, shape.rows);
    }
    first = last + 1;
  }
}

// Rows of an embedding table: looked up on the card where the table is there (with the head, or for a drafter's chain), else by the host.
void GpuProgram::embed(const Embedding& e, const std::vector<int32_t>& tokens) {
  const int rows = static_cast<int>(tokens.size());
  const int64_t width = e.table->columns();
  const DeviceWeight* table = head_ && head_->weight == e.table && !ordered_.top ? head_.get() : table_ && table_->weight == e.table ? table_.get() : nullptr;
  if (rows > most_rows && table && !e.table->scaled() && table->rows >= vocabulary_) {
    const EmbedArgs args{table_of(*table), reinterpret_cast<const int*>(tables_.address() + tokens_at), buffer(e.buffer), e.scale, static_cast<int>((width + 1023) / 1024)};
    return driver_->launch("embed_rows", rows * args.stretches, 256, &args);
  }
  std::vector<float> staged(static_cast<size_t>(rows * width));
  const auto look_up = [&](int r) {
    float* to = staged.data() + r * width;
    e.table->row(tokens[static_cast<size_t>(r)], to);
    if (e.scale != 1.0f)
      for (int64_t i = 0; i < width; ++i) to[i] *= e.scale;
  };
  if (rows <= most_rows)
    for (int r = 0; r < rows; ++r) look_up(r);
  else
    ThreadPool::shared().run(usable_cores(), [&](int member, Team& team) {
      for (int r = member; r < rows; r += team.size()) look_up(r);
    });
  driver_->write(reinterpret_cast<Address>(buffer(e.buffer)), staged.data(), rows * width * 4);
}

void GpuProgram::pass(std::vector<PartRecord>& records, const std::vector<int>& part_of, const std::vector<int>& positions, const std::vector<int>& wanted, const std::vector<int32_t>& tokens,
                      const float* hidden, Want want, const std::vector<GpuSequence*>& sequences, float* logits, int32_t* choices, float* hidden_out, const Chain* chain) {
  const int rows = static_cast<int>(tokens.size()), asked = static_cast<int>(wanted.size());
  cover_angles(*std::max_element(positions.begin(), positions.end()) + 1 + (chain ? chain->steps : 0));
  // What the pass reads.
  const int64_t used = records_at + static_cast<int64_t>(records.size() * sizeof(PartRecord));
  std::vector<uint8_t> table(static_cast<size_t>(used));
  memcpy(table.data() + part_of_at, part_of.data(), part_of.size() * 4);
  memcpy(table.data() + position_at, positions.data(), positions.size() * 4);
  if (asked) memcpy(table.data() + wanted_at, wanted.data(), wanted.size() * 4);
  memcpy(table.data() + tokens_at, tokens.data(), tokens.size() * 4);
  memcpy(table.data() + records_at, records.data(), records.size() * sizeof(PartRecord));
  driver_->write(tables_.address(), table.data(), used);
  const bool noisy = chain && chain->sampler && chain->sampler->options().temperature > 0;
  if (noisy) {
    const NoiseRecord noise = noise_of(*chain->sampler);
    driver_->write(tables_.address() + noise_at, &noise, sizeof noise);
  }
  for (const Embedding& e : embeddings_) embed(e, tokens);
  if (input_buffer_ >= 0) driver_->write(reinterpret_cast<Address>(buffer(input_buffer_)), hidden, rows * input_width_ * 4);

  // Its shape, and the memory that follows from it.
  Shape shape{rows, static_cast<int>(records.size()), 1, most_splits(records), asked <= most_rows ? asked : 0, static_cast<int>(want), 0, chain ? chain->steps : 0, noisy};
  if (chain && !borrows_) {
    std::vector<PartRecord> last = records;
    last[0].start += rows + chain->steps - 2, last[0].rows = 1;
    shape.splits = std::max(shape.splits, most_splits(last));
  }
  for (const PartRecord& r : records) shape.longest = std::max(shape.longest, r.rows);
  if (records.size() > 1) shape.longest = std::min(rows, bucket(shape.longest));
  for (Step& s : steps_) {
    if (s.kind != Kind::attention) continue;
    Cache& c = s.attention.cache;
    for (GpuSequence* sequence : sequences) {
      const Cache real = sequence->cache(c.state);
      if (real.kv_heads != c.kv_heads || real.head != c.head) throw ModelError("the borrowed cache has another shape than the drafter expects");
      if (sequence != sequences[0] && real.type != shape.cache_type) throw ArgumentError("the sequences of one pass must have one kv_type");
      shape.cache_type = real.type;
      if (!s.attention.borrows || c.ring == real.ring) continue;
      c.ring = real.ring;
      forget_recordings();
    }
    const int shared = driver_->info().shared_a_block;
    if (attention_form(c.head, shape.cache_type, most_queries, shared).bytes(c.head, shape.cache_type, 1) + attention_static > shared)
      throw DeviceError(driver_->info().name + " (" + driver_->info().description + ") has too little shared memory for heads of " + std::to_string(c.head) + " in a cache of this kv_type; use kv_type='f16'");
  }
  if (shape.splits > 1) grow(partial_, int64_t{bucket(rows)} * shape.splits * attention_floats_ * 4);
  if (rows > 4 * most_rows) grow(gate_work_, int64_t{prompt_work_bytes} * driver_->info().processors);
  grow(work_, int64_t{bucket(shape.parts)} * delta_work_ * 4);
  grow(made_, int64_t{bucket(rows)} * mixture_.made_floats * 4);
  // Rows come in groups of 16.
  grow(gated_, (int64_t{bucket(rows)} * mixture_.gated_bytes) + (mixture_.used ? most_rows * mixture_.gated_bytes / mixture_.used : 0));
  grow(gated_shared_, (bucket(rows) + most_rows) * mixture_.shared_bytes);

  if (recordings_.size() >= most_recordings && !recordings_.count(shape)) forget_recordings();
  go(shape);

  if (chain) driver_->read(chain->drafts, drafts_.address(), chain->steps * 4);
  else if (asked > most_rows)
    for (int first = 0; first < asked; first += most_rows) {
      const int count = std::min(most_rows, asked - first);
      issue_head(first, count, static_cast<int>(want));
      if (want == Want::logits) driver_->read(logits + first * vocabulary_, logits_.address(), count * vocabulary_ * 4);
    }
  else if (asked && want == Want::logits) driver_->read(logits, logits_.address(), asked * vocabulary_ * 4);
  if (asked && want == Want::choice && choices) driver_->read(choices, choices_.address(), asked * 4);
  if (hidden_out && hidden_buffer_ >= 0) driver_->read(hidden_out, reinterpret_cast<Address>(buffer(hidden_buffer_)), rows * hidden_width_ * 4);
  driver_->wait();
}

void GpuProgram::check(std::span<const GpuAppend> parts, const float* hidden, Want want) const {
  for (const GpuAppend& p : parts) {
    if (p.tokens.empty()) throw ArgumentError("a part of a pass has no tokens");
    if (!p.sequence && !states_.empty()) throw ArgumentError("a part of a pass has no sequence");
    if (borrows_ && !p.borrowed) throw ArgumentError("this program reads another sequence's cache, and none was given");
    if (borrows_ && p.borrowed->length() < 1) throw ArgumentError("the borrowed sequence is empty; a drafter that reads its cache needs at least one processed token");
    for (const GpuAppend& other : parts)
      if (&other != &p && p.sequence && other.sequence == p.sequence) throw ArgumentError("one sequence stands twice in a pass");
    for (int32_t token : p.tokens)
      if (token < 0 || (vocabulary_ && token >= vocabulary_)) throw ArgumentError("token id " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocabulary_));
  }
  if (input_width_ && !hidden) throw ArgumentError("this program needs hidden rows of width " + std::to_string(input_width_));
  if (want != Want::none && !head_) throw ArgumentError("this program has no head: ask for none");
}

void GpuProgram::run(std::span<const GpuAppend> parts, const float* hidden, Want want, bool last_only, float* logits, int32_t* choices, float* hidden_out) {
  std::lock_guard<std::mutex> lock(driver_->busy);
  check(parts, hidden, want);
  int64_t longest = 0;
  for (const GpuAppend& p : parts) longest = std::max(longest, borrows_ ? p.borrowed->length() : (p.sequence ? p.sequence->length() : 0) + static_cast<int64_t>(p.tokens.size()));
  const int64_t most = rows_that_fit(longest);
  size_t part = 0, at = 0;                       // the next token to take
  int64_t done = 0, done_wanted = 0;
  while (part < parts.size()) {
    std::vector<PartRecord> records;
    std::vector<int> part_of, positions, wanted;
    std::vector<int32_t> tokens;
    std::vector<GpuSequence*> sequences, advanced;
    while (part < parts.size() && static_cast<int64_t>(tokens.size()) < most) {
      const GpuAppend& p = parts[part];
      const int64_t first = static_cast<int64_t>(tokens.size()), take = std::min(static_cast<int64_t>(p.tokens.size() - at), most - first);
      const int64_t start = borrows_ ? p.borrowed->length() : (p.sequence ? p.sequence->length() : 0);
      PartRecord record{};
      if (!states_.empty()) {
        p.sequence->reserve(start + take);
        p.sequence->describe(record);
      }
      if (p.borrowed) p.borrowed->describe_borrowed(record);
      record.first = static_cast<int>(first);
      record.rows = static_cast<int>(take);
      record.start = static_cast<int>(start);
      if (borrows_ || !states_.empty()) sequences.push_back(borrows_ ? p.borrowed : p.sequence);
      advanced.push_back(p.sequence);
      for (int64_t i = 0; i < take; ++i) {
        tokens.push_back(p.tokens[at + static_cast<size_t>(i)]);
        part_of.push_back(static_cast<int>(records.size()));
        positions.push_back(static_cast<int>(borrows_ ? start : start + i));
        const bool last = at + static_cast<size_t>(i) + 1 == p.tokens.size();
        if (want != Want::none && (last || !last_only)) wanted.push_back(static_cast<int>(first + i));
      }
      records.push_back(record);
      at += static_cast<size_t>(take);
      if (at == p.tokens.size()) ++part, at = 0;
    }
    pass(records, part_of, positions, wanted, tokens, hidden ? hidden + done * input_width_ : nullptr, want, sequences, logits ? logits + done_wanted * vocabulary_ : nullptr,
         choices ? choices + done_wanted : nullptr, hidden_out ? hidden_out + done * hidden_width_ : nullptr);
    for (size_t i = 0; i < advanced.size(); ++i)
      if (advanced[i] && !states_.empty()) advanced[i]->advance(records[i].rows);
    done += static_cast<int64_t>(tokens.size());
    done_wanted += static_cast<int64_t>(wanted.size());
  }
}

// Whether a chain needs nothing of the host between its drafts: choices with penalties, a bias or a grammar are the sampler's.
bool GpuProgram::chains_alone(const GpuAppend& start, const Sampler* sampler) {
  const bool simple = std::all_of(states_.begin(), states_.end(), [](const StateSpec& s) { return s.kv.has_value(); });
  if (!head_ || !meetings_.empty() || embeddings_.size() != 1 || embeddings_[0].table->scaled() || input_buffer_ < 0 || hidden_buffer_ < 0 || !simple || start.tokens.empty() || no_table_ || (sampler && !sampler->plain_greedy() && !sampler->plain_draw())) return false;
  if (table_) return true;
  try {
    std::lock_guard<std::mutex> lock(driver_->busy);
    table_ = on_device(driver_, embeddings_[0].table);
  } catch (const DeviceError&) {
    no_table_ = true;                            // the host looks the rows up, as it does for passes
  }
  return table_ != nullptr;
}

std::vector<int32_t> GpuProgram::chain(const GpuAppend& start, const float* hidden, int steps, Sampler* sampler) {
  if (chains_alone(start, sampler)) {
    check_chain(*this, steps);
    check({&start, 1}, hidden, Want::choice);
    // All but the last rows go before; the last ones and the drafts are one launch.
    const int64_t lead = static_cast<int64_t>(start.tokens.size()) - 1 < most_rows ? 0 : (static_cast<int64_t>(start.tokens.size()) - 1) / most_rows * most_rows;
    GpuAppend rest = start;
    if (lead) {
      const GpuAppend first{start.sequence, start.borrowed, start.tokens.first(static_cast<size_t>(lead))};
      run({&first, 1}, hidden, Want::none, true, nullptr, nullptr, nullptr);
      rest.tokens = start.tokens.subspan(static_cast<size_t>(lead));
    }
    std::lock_guard<std::mutex> lock(driver_->busy);
    const int rows = static_cast<int>(rest.tokens.size());
    PartRecord record{};
    record.rows = rows;
    record.start = static_cast<int>(borrows_ ? rest.borrowed->length() : rest.sequence ? rest.sequence->length() : 0);
    if (!states_.empty()) {
      rest.sequence->reserve(record.start + rows + steps - 1);
      rest.sequence->describe(record);
    }
    if (rest.borrowed) rest.borrowed->describe_borrowed(record);
    std::vector<PartRecord> records{record};
    std::vector<int> positions;
    for (int r = 0; r < rows; ++r) positions.push_back(record.start + (borrows_ ? 0 : r));
    std::vector<int32_t> drafts(static_cast<size_t>(steps));
    const Chain chain{steps, sampler, drafts.data()};
    pass(records, std::vector<int>(static_cast<size_t>(rows), 0), positions, {rows - 1}, {rest.tokens.begin(), rest.tokens.end()}, hidden + lead * input_width_, Want::choice,
         borrows_ || !states_.empty() ? std::vector<GpuSequence*>{borrows_ ? rest.borrowed : rest.sequence} : std::vector<GpuSequence*>{}, nullptr, nullptr, nullptr, &chain);
    if (!states_.empty()) rest.sequence->advance(rows);
    return drafts;
  }
  std::vector<float> rows;                       // hidden rows of the pass, of which the last goes on
  return draft_chain(*this, start, hidden, steps, sampler, [&](const GpuAppend& next, const float* in, Want want, float* logits, int32_t* token, float* out) {
    rows.resize(next.tokens.size() * static_cast<size_t>(hidden_width_));
    run({&next, 1}, in, want, true, logits, token, rows.data());
    std::copy(rows.end() - hidden_width_, rows.end(), out);
  });
}

// Of a pass of one row.
std::vector<std::string> GpuProgram::kernels() const {
  std::vector<std::string> names;
  for (const Step& s : steps_) {
    if (s.kind == Kind::experts) {
      for (const auto& [name, w] : {std::pair{"experts_enter_", &*s.gate}, {"experts_leave_", &*s.down}}) names.push_back(name + (w->plain >= 0 ? "plain" : w->type));
      continue;
    }
    names.push_back(s.kind == Kind::rows ? "rows_in_order" : s.kind == Kind::attention ? "attention" : s.kind == Kind::delta ? "delta_rule" : s.kind == Kind::route ? "route" : s.kind == Kind::fetch ? "fetch" : s.kind == Kind::host ? "host" : "matmul_" + (s.weights[0]->plain >= 0 ? "plain" : s.weights[0]->type));
  }
  return names;
}

}  // namespace skipstone::gpu
