#include "backends/gpu/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ops/rowwise.h"
#include "runtime/error.h"
#include "runtime/sampler.h"

namespace skipstone::gpu {
namespace {

constexpr int64_t records_at = 0, part_of_at = pass_rows * sizeof(PartRecord), position_at = part_of_at + 4 * pass_rows, wanted_at = position_at + 4 * pass_rows,
                  tables_bytes = wanted_at + 4 * pass_rows;
constexpr size_t most_recordings = 64;

// A power of two from 1 on, so that a growing text asks for few shapes.
int bucket(int64_t n) {
  int b = 1;
  while (b < n) b *= 2;
  return b;
}

}  // namespace

// Turns recorded operations into kernels. Buffers get their places once it is known which kernel writes and which reads them last;
// until then a piece holds buffer ids.
class GpuProgram::Planner {
 public:
  Planner(GpuProgram& p, const std::vector<Attributes>& operations)
      : p_(p), born_(p.widths_.size(), 0), dies_(p.widths_.size(), 0), setting_{p.widths_, p.states_, p.frequencies_, p.hidden_width_, p.input_width_, p.vocabulary_, p.borrows_} {
    std::vector<bool> written(p.widths_.size());
    for (const Attributes& a : operations) {
      for (int id : a.inputs)
        if (id < 0 || id >= static_cast<int>(p.widths_.size()) || !written[static_cast<size_t>(id)]) a.fail("reads buffer " + std::to_string(id) + " before anything wrote it");
      for (int id : a.outputs) {
        if (id < 0 || id >= static_cast<int>(p.widths_.size()) || written[static_cast<size_t>(id)]) a.fail("writes buffer " + std::to_string(id) + ", which does not exist or was written before");
        written[static_cast<size_t>(id)] = true;
      }
      add(a);
    }
    if (!p.vocabulary_) throw ModelError("a program needs an embedding or a head");
    flush();
    for (int id : {p.hidden_buffer_, p.head_buffer_})
      if (id >= 0) dies_[static_cast<size_t>(id)] = stage_;
    for (int id : {p.embed_buffer_, p.input_buffer_})
      if (id >= 0) born_[static_cast<size_t>(id)] = 0;
    place();
  }
  struct Ids { int a = -1, b = -1, d = -1, y = -1, z = -1; bool internal = false; };
  std::vector<std::vector<Ids>> ids;     // of the steps' pieces

 private:
  int64_t width(int id) const { return p_.widths_[static_cast<size_t>(id)]; }
  void reads(int id, int stage) { dies_[static_cast<size_t>(id)] = std::max(dies_[static_cast<size_t>(id)], stage); }
  void writes(int id, int stage) {
    born_[static_cast<size_t>(id)] = stage;
    reads(id, stage);
  }
  void flush() {
    if (open_) ++stage_;
    open_ = false;
  }
  // Into the stretch of row-wise pieces that is open.
  void piece(Piece piece, Ids id) {
    if (!open_ || p_.steps_.back().pieces.size() == most_pieces) {
      p_.steps_.push_back({Kind::rows, {}, nullptr});
      ids.emplace_back();
      open_ = true;
    }
    auto set = [&](int buffer, int& stride) { if (buffer >= 0) stride = static_cast<int>(width(buffer)); };
    set(id.a, piece.a_stride);
    set(id.b, piece.b_stride);
    set(id.y, piece.y_stride);
    for (int buffer : {id.a, id.b, id.d}) if (buffer >= 0) reads(buffer, stage_);
    for (int buffer : {id.y, id.z}) if (buffer >= 0) writes(buffer, stage_);
    p_.steps_.back().pieces.push_back(piece);
    ids.back().push_back(id);
  }
  Step& kernel(Kind kind) {
    flush();
    p_.steps_.push_back({kind, {}, nullptr});
    ids.emplace_back();
    return p_.steps_.back();
  }

  void add(const Attributes& a) {
    const auto& in = a.inputs;
    const auto& out = a.outputs;
    Piece q{};
    auto n_of = [&](int id) { return static_cast<int>(width(id)); };
    if (a.kind == "embed") {
      if (p_.embedding_) a.fail("per-layer embeddings cannot be run on a card yet; use device='cpu'");
      p_.embedding_ = one_weight(a);
      expect_counts(a, 0, 1);
      if (p_.embedding_->columns() != width(out[0])) a.fail("the table has " + std::to_string(p_.embedding_->columns()) + " columns; expected " + std::to_string(width(out[0])));
      p_.embedding_scale_ = a.number("scale");
      p_.embed_buffer_ = out[0];
      p_.vocabulary_ = p_.vocabulary_ ? std::min(p_.vocabulary_, p_.embedding_->rows()) : p_.embedding_->rows();
    } else if (a.kind == "input") {
      expect_counts(a, 0, 1);
      p_.input_buffer_ = out[0];
      p_.input_width_ = width(out[0]);
    } else if (a.kind == "hidden") {
      expect_counts(a, 1, 0);
      p_.hidden_buffer_ = in[0];
      p_.hidden_width_ = width(in[0]);
    } else if (a.kind == "rms_norm") {
      expect_counts(a, 1, 1);
      expect_width(a, setting_, out[0], width(in[0]));
      q.kind = norm_piece;
      q.n = n_of(in[0]);
      q.m = static_cast<int>(positive(a, "group"));
      if (q.n % q.m) a.fail("groups of " + std::to_string(q.m) + " do not divide a width of " + std::to_string(q.n));
      q.f = a.number("eps");
      if (a.vectors.count("weight")) q.c = p_.constant(a.vector("weight", q.m));
      piece(q, {in[0], -1, -1, out[0]});
    } else if (a.kind == "rope") {
      expect_counts(a, 1, 1);
      expect_width(a, setting_, out[0], width(in[0]));
      q.kind = rope_piece;
      q.n = n_of(in[0]);
      q.m = static_cast<int>(head_size(a));
      q.k = static_cast<int>(a.integer("rotated"));
      if (q.n % q.m || q.k < 2 || q.k > q.m || q.k % 2) a.fail("cannot rotate " + std::to_string(q.k) + " of " + std::to_string(q.m) + " values in a width of " + std::to_string(q.n));
      const auto& f = a.vector("frequencies", q.k / 2);
      auto it = std::find(p_.frequencies_.begin(), p_.frequencies_.end(), f);
      const size_t table = static_cast<size_t>(it - p_.frequencies_.begin());
      if (it == p_.frequencies_.end()) {
        p_.frequencies_.push_back(f);
        p_.angles_.emplace_back(p_.driver_, pass_rows * q.k * 4);
      }
      q.c = p_.angles_[table].as<float>();
      piece(q, {in[0], -1, -1, out[0]});
    } else if (a.kind == "glu" || a.kind == "sigmoid_gate" || a.kind == "add") {
      expect_counts(a, 2, 1);
      for (int id : in) expect_width(a, setting_, id, width(out[0]));
      q.n = n_of(out[0]);
      if (a.kind == "add") q.f = a.number("scale");
      if (a.kind == "glu") {
        const auto word = a.words.find("activation");
        const std::string activation = word == a.words.end() ? "" : word->second;
        if (activation != "silu" && activation != "gelu_tanh") a.fail("parameter 'activation' must be silu or gelu_tanh");
        q.kind = activation == "silu" ? silu_piece : gelu_piece;
      } else {
        q.kind = a.kind == "add" ? add_piece : sigmoid_piece;
      }
      piece(q, {in[0], in[1], -1, out[0]});
    } else if (a.kind == "split_heads") {
      expect_counts(a, 1, 2);
      q.kind = split_piece;
      q.m = static_cast<int>(head_size(a));
      q.n = n_of(in[0]) / (2 * q.m);
      expect_width(a, setting_, in[0], 2 * q.n * q.m);
      for (int id : out) expect_width(a, setting_, id, q.n * q.m);
      piece(q, {in[0], -1, -1, out[0], out[1]});
    } else if (a.kind == "concat") {
      expect_counts(a, 2, 1);
      q.kind = concat_piece;
      q.n = n_of(in[0]);
      q.m = n_of(in[1]);
      expect_width(a, setting_, out[0], q.n + q.m);
      piece(q, {in[0], in[1], -1, out[0]});
    } else if (a.kind == "matmul") {
      add_matmul(a);
    } else if (a.kind == "attention" || a.kind == "attend") {
      add_attention(a);
    } else if (a.kind == "delta_net") {
      add_delta(a);
    } else if (a.kind == "head") {
      expect_counts(a, 1, 0);
      const auto weight = one_weight(a);
      if (weight->columns() != width(in[0])) a.fail("the head has " + std::to_string(weight->columns()) + " columns; expected " + std::to_string(width(in[0])));
      p_.softcap_ = a.number("softcap");
      if (!(p_.softcap_ >= 0)) a.fail("a soft cap cannot be negative");
      p_.head_ = on_device(p_.driver_, weight);
      p_.head_buffer_ = in[0];
      p_.vocabulary_ = weight->rows();
      p_.most_chunks_ = std::max<int64_t>(p_.most_chunks_, p_.head_->chunks);
    } else {
      a.fail("unknown kind");
    }
  }

  std::shared_ptr<Weight> one_weight(const Attributes& a) {
    const auto it = a.weights.find("weight");
    if (it == a.weights.end() || it->second.size() != 1) a.fail("needs one weight");
    return it->second[0];
  }

  void add_matmul(const Attributes& a) {
    const auto it = a.weights.find("weights");
    if (it == a.weights.end() || it->second.empty()) a.fail("needs weights");
    expect_counts(a, 1, it->second.size());
    const int in = a.inputs[0];
    bool quantizes = false;
    int64_t columns = width(in);
    std::vector<std::shared_ptr<const DeviceWeight>> weights;
    for (size_t i = 0; i < it->second.size(); ++i) {
      if (it->second[i]->columns() != columns) a.fail("weight " + std::to_string(i) + " has " + std::to_string(it->second[i]->columns()) + " columns; expected " + std::to_string(columns));
      expect_width(a, setting_, a.outputs[i], it->second[i]->rows());
      weights.push_back(on_device(p_.driver_, it->second[i]));
      quantizes = quantizes || weights.back()->plain < 0;
      p_.most_chunks_ = std::max<int64_t>(p_.most_chunks_, weights.back()->chunks);
    }
    if (quantizes) {
      Piece q{};
      q.kind = quantize_piece;
      q.n = static_cast<int>(columns);
      q.m = static_cast<int>(chunk_count(columns));
      piece(q, {in});
    }
    for (size_t i = 0; i < weights.size(); ++i) {
      Step& s = kernel(Kind::matmul);
      s.weight = weights[i];
      s.input = in;
      s.output = a.outputs[i];
      reads(in, stage_);
      writes(a.outputs[i], stage_);
    }
    ++stage_;
  }

  void add_attention(const Attributes& a) {
    const bool borrows = a.kind == "attend";
    expect_counts(a, borrows ? 1 : 3, 1);
    const int64_t heads = positive(a, "heads", 4096), kv_heads = positive(a, "kv_heads", 4096), head = head_size(a), window = a.integer("window"), state = a.integer(borrows ? "borrowed_state" : "state");
    if (heads % kv_heads) a.fail(std::to_string(kv_heads) + " key/value heads do not divide " + std::to_string(heads) + " query heads");
    if (window < 0 || state < 0) a.fail("window and state cannot be negative");
    expect_width(a, setting_, a.inputs[0], heads * head);
    expect_width(a, setting_, a.outputs[0], heads * head);
    if (!borrows) {
      for (int i : {1, 2}) expect_width(a, setting_, a.inputs[static_cast<size_t>(i)], kv_heads * head);
      if (state >= static_cast<int64_t>(p_.states_.size()) || !p_.states_[static_cast<size_t>(state)].kv) a.fail("state " + std::to_string(state) + " is not a cache of keys and values");
      const KvSpec& kv = *p_.states_[static_cast<size_t>(state)].kv;
      if (kv.kv_heads != kv_heads || kv.head != head || kv.window != window) a.fail("state " + std::to_string(state) + " has another shape");
    }
    p_.borrows_ = p_.borrows_ || borrows;
    p_.attention_floats_ = std::max(p_.attention_floats_, heads * (head + 2));
    Cache cache{static_cast<int>(state), 0, static_cast<int>(kv_heads), static_cast<int>(head), static_cast<int>(window), 0};
    if (!borrows) cache.ring = static_cast<int>(kv_ring(*p_.states_[static_cast<size_t>(state)].kv));
    if (!borrows) {
      Piece q{};
      q.kind = store_piece;
      q.cache = cache;
      piece(q, {a.inputs[1], a.inputs[2]});
    }
    Step& s = kernel(Kind::attention);
    s.input = a.inputs[0];
    s.attention.cache = cache;
    s.attention.scale = a.number("scale");
    s.attention.heads = static_cast<int>(heads);
    s.attention.borrows = borrows;
    reads(a.inputs[0], stage_);
    ++stage_;
    Piece q{};
    q.kind = join_piece;
    q.n = static_cast<int>(heads);
    q.k = borrows;
    q.cache = cache;
    piece(q, {-1, -1, -1, a.outputs[0]});
  }

  void add_delta(const Attributes& a) {
    expect_counts(a, 4, 1);
    const int64_t state = a.integer("state"), head = head_size(a), key_heads = positive(a, "key_heads", 4096), value_heads = positive(a, "value_heads", 4096), kernel_size = positive(a, "kernel", 32);
    const int64_t channels = 2 * key_heads * head + value_heads * head;
    expect_width(a, setting_, a.inputs[0], channels);
    expect_width(a, setting_, a.inputs[1], value_heads * head);
    for (size_t i : {size_t{2}, size_t{3}}) expect_width(a, setting_, a.inputs[i], value_heads);
    expect_width(a, setting_, a.outputs[0], value_heads * head);
    if (state < 0 || state >= static_cast<int64_t>(p_.states_.size()) || !p_.states_[static_cast<size_t>(state)].delta) a.fail("state " + std::to_string(state) + " is not a delta-net's");
    const DeltaSpec& spec = *p_.states_[static_cast<size_t>(state)].delta;
    if (spec.key_heads != key_heads || spec.value_heads != value_heads || spec.head != head || spec.channels != channels || spec.kernel != kernel_size) a.fail("state " + std::to_string(state) + " has another shape");
    int64_t offset = 0;
    for (int64_t s = 0; s < state; ++s)
      if (const auto& d = p_.states_[static_cast<size_t>(s)].delta) offset += delta_floats(d->value_heads, d->head, d->channels);
    const auto& conv = a.vector("conv", channels * kernel_size);
    std::vector<float> constants(conv.size());
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t t = 0; t < kernel_size; ++t) constants[static_cast<size_t>(t * channels + c)] = conv[static_cast<size_t>(c * kernel_size + t)];
    for (const char* name : {"decay", "dt_bias"}) {
      const auto& v = a.vector(name, value_heads);
      constants.insert(constants.end(), v.begin(), v.end());
    }
    const auto found = a.integers.find("key_of_value");
    if (found == a.integers.end() || static_cast<int64_t>(found->second.size()) != value_heads) a.fail("parameter 'key_of_value' needs one key head a value head");
    std::vector<float> keys(static_cast<size_t>(value_heads));
    for (size_t h = 0; h < keys.size(); ++h) {
      const int key = static_cast<int>(found->second[h]);
      if (key < 0 || key >= key_heads) a.fail("parameter 'key_of_value' names key head " + std::to_string(key) + " of " + std::to_string(key_heads));
      memcpy(&keys[h], &key, 4);
    }
    auto grow = [&](Memory& m, int64_t floats) { p_.grow(m, 4 * floats); };
    grow(p_.mixed_, pass_rows * channels);
    grow(p_.gates_, pass_rows * 2 * value_heads);
    grow(p_.updates_, pass_rows * value_heads * head);
    p_.delta_work_ = std::max(p_.delta_work_, value_heads * head * head);

    if (open_ && born_[static_cast<size_t>(a.inputs[0])] == stage_) flush();      // it reads other rows' inputs
    Piece q{};
    q.kind = mix_piece;
    q.n = static_cast<int>(channels);
    q.m = static_cast<int>(kernel_size);
    q.k = static_cast<int>(head);
    q.l = static_cast<int>(key_heads);
    q.d = p_.constant(constants);
    q.offset = offset;
    Ids mixed{a.inputs[0], a.inputs[2]};
    mixed.d = -1;
    q.c = reinterpret_cast<const float*>(static_cast<intptr_t>(a.inputs[3]));      // a buffer, until places are known
    reads(a.inputs[3], stage_);
    piece(q, mixed);
    Step& s = kernel(Kind::delta);
    s.output = a.outputs[0];
    s.delta.key_of_value = reinterpret_cast<const int*>(p_.constant(keys));
    s.delta.offset = offset;
    s.delta.key_heads = static_cast<int>(key_heads);
    s.delta.value_heads = static_cast<int>(value_heads);
    s.delta.head = static_cast<int>(head);
    s.delta.channels = static_cast<int>(channels);
    writes(a.outputs[0], stage_);
    ++stage_;
    Piece g{};
    g.kind = gated_piece;
    g.n = static_cast<int>(value_heads);
    g.m = static_cast<int>(head);
    g.k = static_cast<int>(channels);
    g.c = p_.constant(a.vector("norm", head));
    g.f = a.number("eps");
    g.offset = offset;
    const int born = born_[static_cast<size_t>(a.outputs[0])];
    piece(g, {a.outputs[0], a.inputs[1], a.inputs[0], a.outputs[0]});
    born_[static_cast<size_t>(a.outputs[0])] = born;
  }

  void place() {
    struct Slot {
      int64_t offset, width;
      int until;
    };
    std::vector<Slot> slots;
    int64_t floats = 0;
    p_.slot_.assign(born_.size(), 0);
    for (int s = 0; s <= stage_; ++s)
      for (size_t id = 0; id < born_.size(); ++id) {
        if (born_[id] != s) continue;
        const int64_t wide = (p_.widths_[id] + 31) / 32 * 32;
        auto fits = std::find_if(slots.begin(), slots.end(), [&](const Slot& slot) { return slot.until < s && slot.width >= wide; });
        if (fits == slots.end()) {
          slots.push_back({floats, wide, 0});
          floats += wide;
          fits = slots.end() - 1;
        }
        fits->until = std::max(dies_[id], s);
        p_.slot_[id] = fits->offset;
      }
    p_.values_ = Memory(p_.driver_, std::max<int64_t>(1, floats) * pass_rows * 4);
  }

  GpuProgram& p_;
  std::vector<int> born_, dies_;         // by buffer: stages
  int stage_ = 0;
  bool open_ = false;
  Setting setting_;
};

GpuProgram::GpuProgram(std::shared_ptr<Driver> driver, std::vector<int64_t> widths, std::vector<StateSpec> states, const std::vector<Attributes>& operations)
    : driver_(std::move(driver)), widths_(std::move(widths)), states_(std::move(states)) {
  for (int64_t w : widths_)
    if (w < 1 || w > (int64_t{1} << 24)) throw ModelError("a buffer of width " + std::to_string(w) + "; expected 1 to 16777216");
  const Planner plan(*this, operations);
  tables_ = Memory(driver_, tables_bytes);
  pass_ = {tables_.as<const PartRecord>(), reinterpret_cast<const int*>(tables_.address() + part_of_at), reinterpret_cast<const int*>(tables_.address() + position_at),
           reinterpret_cast<const int*>(tables_.address() + wanted_at)};
  quantized_ = Memory(driver_, int64_t{4} * pair_bytes * most_chunks_ * (pass_rows / most_rows));
  for (size_t s = 0; s < steps_.size(); ++s)
    for (size_t i = 0; i < steps_[s].pieces.size(); ++i) {
      Piece& piece = steps_[s].pieces[i];
      const Planner::Ids& id = plan.ids[s][i];
      if (id.a >= 0) piece.a = buffer(id.a);
      if (id.b >= 0) piece.b = buffer(id.b);
      if (id.d >= 0) piece.d = buffer(id.d);
      if (id.y >= 0) piece.y = buffer(id.y);
      if (id.z >= 0) piece.z = buffer(id.z);
      if (piece.kind == quantize_piece) piece.to = activations(piece.m, 0);
      if (piece.kind == mix_piece) {
        piece.a_stride = piece.b_stride = 0;             // it finds rows by itself
        piece.c = buffer(static_cast<int>(reinterpret_cast<intptr_t>(piece.c)));
        piece.y = mixed_.as<float>();
        piece.z = gates_.as<float>();
      }
    }
  if (head_) {
    head_input_ = Memory(driver_, most_rows * static_cast<int64_t>(head_->columns) * 4);
    logits_ = Memory(driver_, most_rows * vocabulary_ * 4);
    best_ = Memory(driver_, most_rows * choice_blocks * 4);
    ids_ = Memory(driver_, most_rows * choice_blocks * 4);
    choices_ = Memory(driver_, pass_rows * 4);
  }
}

GpuProgram::~GpuProgram() {
  for (auto& [shape, recording] : recordings_)
    if (recording.second) driver_->forget(recording.second);
}

const float* GpuProgram::constant(const std::vector<float>& values) {
  constants_.emplace_back(driver_, static_cast<int64_t>(values.size()) * 4);
  driver_->write(constants_.back().address(), values.data(), static_cast<int64_t>(values.size()) * 4);
  return constants_.back().as<const float>();
}

unsigned char* GpuProgram::activations(int chunks, int first_row) const {
  return quantized_.as<unsigned char>(int64_t{4} * pair_bytes * chunks * (first_row / most_rows));
}

// Recordings hold addresses, so they are dropped with the memory that grows.
bool GpuProgram::grow(Memory& memory, int64_t bytes) {
  if (memory.bytes() >= bytes) return false;
  memory = Memory();
  memory = Memory(driver_, bytes);
  for (auto& [shape, recording] : recordings_)
    if (recording.second) driver_->forget(recording.second);
  recordings_.clear();
  return true;
}

void GpuProgram::issue_rows(const std::vector<Piece>& pieces, int rows, const int* wanted) {
  RowsArgs args{};
  args.pass = pass_;
  args.pass.wanted = wanted;
  args.count = static_cast<int>(pieces.size());
  std::copy(pieces.begin(), pieces.end(), args.pieces);
  // Rows of many columns are cut where every piece works on each column, or block of 32, by itself.
  const int columns = pieces[0].n;
  const bool cut = std::all_of(pieces.begin(), pieces.end(), [&](const Piece& p) {
    return p.n == columns && (p.kind == silu_piece || p.kind == gelu_piece || p.kind == sigmoid_piece || p.kind == add_piece || p.kind == quantize_piece);
  });
  args.stretches = cut ? (columns + 1023) / 1024 : 1;
  driver_->launch("rows_in_order", rows * args.stretches, rows_threads, &args);
}

void GpuProgram::issue_matmul(const DeviceWeight& w, const float* x, int x_width, float* y, int64_t y_width, int rows) {
  if (w.plain >= 0) {
    const PlainArgs args{w.memory.as<const void*>(), x, y, x_width, y_width, w.plain, w.rows, w.columns, rows};
    driver_->launch("matmul_plain", (w.rows + 3) / 4, 128, &args);
    return;
  }
  const int blocks = std::min(w.tiles, driver_->info().processors * w.blocks_a_processor);
  for (int first = 0; first < rows; first += most_rows) {
    const int count = std::min(most_rows, rows - first);
    const MatmulArgs args{w.memory.as<const unsigned char>(), activations(w.chunks, first), y + first * y_width, y_width, w.rows, w.tiles, w.chunks, count, blocks};
    driver_->launch((w.kernel + (count > 8 ? "16" : "8")).c_str(), blocks, w.threads, &args);
  }
}

// Up to 16 wanted rows from the first-th on.
void GpuProgram::issue_head(int first, int rows, int want) {
  const int columns = head_->columns, vocabulary = static_cast<int>(vocabulary_);
  std::vector<Piece> pieces(1);
  pieces[0].kind = gather_piece;
  pieces[0].n = pieces[0].a_stride = pieces[0].y_stride = columns;
  pieces[0].a = buffer(head_buffer_);
  pieces[0].y = head_input_.as<float>();
  if (head_->plain < 0) {
    Piece q{};
    q.kind = quantize_piece;
    q.n = q.a_stride = columns;
    q.m = head_->chunks;
    q.a = head_input_.as<float>();
    q.to = activations(head_->chunks, 0);
    pieces.push_back(q);
  }
  issue_rows(pieces, rows, pass_.wanted + first);
  issue_matmul(*head_, head_input_.as<float>(), columns, logits_.as<float>(), vocabulary, rows);
  if (softcap_ > 0) {
    const CapArgs cap{logits_.as<float>(), static_cast<long long>(rows) * vocabulary, softcap_, 4 * driver_->info().processors};
    driver_->launch("softcap", cap.blocks, 256, &cap);
  }
  if (want != static_cast<int>(Want::choice)) return;
  const ChoiceArgs choice{logits_.as<float>(), best_.as<float>(), ids_.as<int>(), choices_.as<int>(first), vocabulary};
  driver_->launch("choose_parts", rows * choice_blocks, 256, &choice);
  driver_->launch("choose", rows, 32, &choice);
}

void GpuProgram::issue(const Shape& shape) {
  for (Step& s : steps_) {
    if (s.kind == Kind::rows) {
      for (Piece& piece : s.pieces) {
        piece.cache.type = shape.cache_type;
        if (piece.kind != join_piece) continue;
        piece.a = partial_.as<float>();
        piece.m = shape.chunks;
      }
      issue_rows(s.pieces, shape.rows, pass_.wanted);
    } else if (s.kind == Kind::matmul) {
      issue_matmul(*s.weight, buffer(s.input), static_cast<int>(widths_[static_cast<size_t>(s.input)]), buffer(s.output), widths_[static_cast<size_t>(s.output)], shape.rows);
    } else if (s.kind == Kind::attention) {
      AttentionArgs& a = s.attention;
      a.q = buffer(s.input);
      a.partial = partial_.as<float>();
      a.pass = pass_;
      a.cache.type = shape.cache_type;
      a.chunks = shape.chunks;
      driver_->launch("attention", shape.rows * a.cache.kv_heads * shape.chunks, 256, &a);
    } else {
      DeltaArgs& d = s.delta;
      d.pass = pass_;
      d.mixed = mixed_.as<float>();
      d.gates = gates_.as<float>();
      d.delta = updates_.as<float>();
      d.work = work_.as<float>();
      d.y = buffer(s.output);
      driver_->launch("delta_rule", shape.parts * d.value_heads, 512, &d);
    }
  }
  if (shape.wanted && shape.wanted <= most_rows) issue_head(0, shape.wanted, shape.want);
}

void GpuProgram::pass(std::vector<PartRecord>& records, const std::vector<int>& part_of, const std::vector<int>& positions, const std::vector<int>& wanted, const std::vector<int32_t>& tokens,
                      const float* hidden, Want want, const std::vector<GpuSequence*>& sequences, float* logits, int32_t* choices, float* hidden_out) {
  const int rows = static_cast<int>(tokens.size()), asked = static_cast<int>(wanted.size());
  // What the pass reads.
  std::vector<uint8_t> table(tables_bytes);
  memcpy(table.data() + records_at, records.data(), records.size() * sizeof(PartRecord));
  memcpy(table.data() + part_of_at, part_of.data(), part_of.size() * 4);
  memcpy(table.data() + position_at, positions.data(), positions.size() * 4);
  if (asked) memcpy(table.data() + wanted_at, wanted.data(), wanted.size() * 4);
  driver_->write(tables_.address(), table.data(), tables_bytes);
  std::vector<float> staged;
  for (size_t t = 0; t < frequencies_.size(); ++t) {
    const auto& f = frequencies_[t];
    staged.resize(static_cast<size_t>(rows) * 2 * f.size());
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r)
      for (size_t j = 0; j < f.size(); ++j) {
        const float angle = static_cast<float>(positions[r]) * f[j];      // float32, as the reference has it
        staged[2 * r * f.size() + j] = static_cast<float>(std::cos(static_cast<double>(angle)));
        staged[(2 * r + 1) * f.size() + j] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    driver_->write(angles_[t].address(), staged.data(), static_cast<int64_t>(staged.size()) * 4);
  }
  if (embedding_) {
    const int64_t width = embedding_->columns();
    staged.resize(static_cast<size_t>(rows * width));
    for (int r = 0; r < rows; ++r) embedding_->row(tokens[static_cast<size_t>(r)], staged.data() + r * width);
    if (embedding_scale_ != 1.0f)
      for (float& v : staged) v *= embedding_scale_;
    driver_->write(reinterpret_cast<Address>(buffer(embed_buffer_)), staged.data(), rows * width * 4);
  }
  if (input_buffer_ >= 0) driver_->write(reinterpret_cast<Address>(buffer(input_buffer_)), hidden, rows * input_width_ * 4);

  // Its shape, and the memory that follows from it.
  Shape shape{rows, static_cast<int>(records.size()), 1, asked <= most_rows ? asked : 0, static_cast<int>(want), 0};
  for (const Step& s : steps_) {
    if (s.kind != Kind::attention) continue;
    const Cache& c = s.attention.cache;
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      const PartRecord& part = records[static_cast<size_t>(part_of[r])];
      const int64_t high = s.attention.borrows ? part.borrowed_length : positions[r] + 1, low = c.window ? std::max<int64_t>(0, high - c.window) : 0;
      shape.chunks = std::max<int>(shape.chunks, bucket((high + chunk_positions - 1) / chunk_positions - low / chunk_positions));
    }
    for (GpuSequence* sequence : sequences) {
      const Cache real = sequence->cache(c.state);
      if (real.kv_heads != c.kv_heads || real.head != c.head) throw ModelError("the borrowed cache has another shape than the drafter expects");
      if (sequence != sequences[0] && real.type != shape.cache_type) throw ArgumentError("the sequences of one pass must have one kv_type");
      shape.cache_type = real.type;
      if (!s.attention.borrows || s.attention.cache.ring == real.ring) continue;
      const_cast<Step&>(s).attention.cache.ring = real.ring;
      for (auto& [old, recording] : recordings_)
        if (recording.second) driver_->forget(recording.second);
      recordings_.clear();
    }
  }
  grow(partial_, int64_t{bucket(rows)} * shape.chunks * attention_floats_ * 4);
  grow(work_, int64_t{bucket(shape.parts)} * delta_work_ * 4);

  if (recordings_.size() >= most_recordings && !recordings_.count(shape)) {
    for (auto& [old, recording] : recordings_)
      if (recording.second) driver_->forget(recording.second);
    recordings_.clear();
  }
  auto& [seen, recording] = recordings_[shape];
  if (++seen == 2) {                                       // a shape that comes again is recorded
    driver_->begin_recording();
    issue(shape);
    recording = driver_->end_recording();
  }
  if (recording) driver_->replay(recording);
  else issue(shape);

  if (asked > most_rows)
    for (int first = 0; first < asked; first += most_rows) {
      const int count = std::min(most_rows, asked - first);
      issue_head(first, count, static_cast<int>(want));
      if (want == Want::logits) driver_->read(logits + first * vocabulary_, logits_.address(), count * vocabulary_ * 4);
    }
  else if (asked && want == Want::logits) driver_->read(logits, logits_.address(), asked * vocabulary_ * 4);
  if (asked && want == Want::choice) driver_->read(choices, choices_.address(), asked * 4);
  if (hidden_out && hidden_buffer_ >= 0) driver_->read(hidden_out, reinterpret_cast<Address>(buffer(hidden_buffer_)), rows * hidden_width_ * 4);
  driver_->wait();
}

void GpuProgram::run(std::span<const GpuAppend> parts, const float* hidden, Want want, bool last_only, float* logits, int32_t* choices, float* hidden_out) {
  std::lock_guard<std::mutex> lock(driver_->busy);
  for (const GpuAppend& p : parts) {
    if (p.tokens.empty()) throw ArgumentError("a part of a pass has no tokens");
    if (!p.sequence && !states_.empty()) throw ArgumentError("a part of a pass has no sequence");
    if (borrows_ && !p.borrowed) throw ArgumentError("this program reads another sequence's cache, and none was given");
    if (borrows_ && p.borrowed->length() < 1) throw ArgumentError("the borrowed sequence is empty; a drafter that reads its cache needs at least one processed token");
    for (const GpuAppend& other : parts)
      if (&other != &p && p.sequence && other.sequence == p.sequence) throw ArgumentError("one sequence stands twice in a pass");
    for (int32_t token : p.tokens)
      if (token < 0 || token >= vocabulary_) throw ArgumentError("token id " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocabulary_));
  }
  if (input_width_ && !hidden) throw ArgumentError("this program needs hidden rows of width " + std::to_string(input_width_));
  if (want != Want::none && !head_) throw ArgumentError("this program has no head: ask for none");
  size_t part = 0, at = 0;                       // the next token to take
  int64_t done = 0, done_wanted = 0;
  while (part < parts.size()) {
    std::vector<PartRecord> records;
    std::vector<int> part_of, positions, wanted;
    std::vector<int32_t> tokens;
    std::vector<GpuSequence*> sequences, advanced;
    while (part < parts.size() && tokens.size() < static_cast<size_t>(pass_rows)) {
      const GpuAppend& p = parts[part];
      const int64_t first = static_cast<int64_t>(tokens.size()), take = std::min(static_cast<int64_t>(p.tokens.size() - at), pass_rows - first);
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

std::vector<int32_t> GpuProgram::chain(const GpuAppend& start, const float* hidden, int steps, Sampler* sampler) {
  if (steps < 1 || steps > step_back) throw ArgumentError("a chain of " + std::to_string(steps) + " drafts; expected 1 to " + std::to_string(step_back));
  if (hidden_width_ != input_width_) throw ModelError("a program whose hidden rows have width " + std::to_string(hidden_width_) + " and whose input has " + std::to_string(input_width_) + " cannot be chained");
  const int64_t rows = static_cast<int64_t>(start.tokens.size()), kept = (start.sequence ? start.sequence->length() : 0) + rows;
  std::vector<float> out(static_cast<size_t>(std::max<int64_t>(rows, 1) * hidden_width_)), logits(sampler ? static_cast<size_t>(vocabulary_) : 0), fed;
  std::vector<int32_t> drafts;
  GpuAppend next = start;
  int32_t token = 0;
  for (int i = 0; i < steps; ++i) {
    run({&next, 1}, hidden, sampler ? Want::logits : Want::choice, true, logits.data(), &token, out.data());
    if (sampler) {
      token = sampler->choose(logits.data());
      sampler->push(token);
    }
    drafts.push_back(token);
    fed.assign(out.end() - hidden_width_, out.end());
    out.resize(static_cast<size_t>(hidden_width_));
    hidden = fed.data();
    next.tokens = {&drafts.back(), 1};
  }
  if (sampler) sampler->pop(steps);
  if (start.sequence && !states_.empty()) start.sequence->rollback(kept);
  return drafts;
}

}  // namespace skipstone::gpu
