// From recorded operations to kernels. What a matmul's end or attention can do on the way is taken out of the list first:
//   add after a matmul, and the norm after that      the matmul's end; the norm's factor is left to whoever multiplies its result
//   glu after gate and up                            the matmul's end
//   a mixture's router, shared expert, residual and norm      its experts' kernels
//   split_heads, rms_norm, rope before attention, sigmoid_gate after it, and the quantization of what comes out      attention
// What remains runs row by row, strung together. All of it depends on the program alone, never on a pass, so a row's bits do not either.
#include "backends/gpu/planner.h"

#include <algorithm>
#include <cstring>

#include "ops/rowwise.h"
#include "runtime/error.h"

namespace skipstone::gpu {

GpuProgram::Planner::Planner(GpuProgram& p, const std::vector<Attributes>& operations)
    : p_(p), ops_(operations), producer_(p.widths_.size(), -1), users_(p.widths_.size()), absorbed_(operations.size()), fused_(operations.size()), quantized_(p.widths_.size(), -1),
      born_(p.widths_.size(), -1), dies_(p.widths_.size(), -1), setting_{p.widths_, p.states_, p.frequencies_, p.hidden_width_, p.input_width_, p.vocabulary_, p.borrows_} {
  for (size_t i = 0; i < ops_.size(); ++i) {
    const Attributes& a = ops_[i];
    for (int id : a.inputs) {
      if (id < 0 || id >= static_cast<int>(p.widths_.size()) || producer_[static_cast<size_t>(id)] < 0) a.fail("reads buffer " + std::to_string(id) + " before anything wrote it");
      users_[static_cast<size_t>(id)].push_back(static_cast<int>(i));
    }
    for (int id : a.outputs) {
      if (id < 0 || id >= static_cast<int>(p.widths_.size()) || producer_[static_cast<size_t>(id)] >= 0) a.fail("writes buffer " + std::to_string(id) + ", which does not exist or was written before");
      producer_[static_cast<size_t>(id)] = static_cast<int>(i);
    }
  }
  for (size_t i = 0; i < ops_.size(); ++i) {
    if (ops_[i].kind == "matmul") fuse_matmul(static_cast<int>(i));
    if (ops_[i].kind == "attention" || ops_[i].kind == "attend" || ops_[i].kind == "shared_attention") fuse_attention(static_cast<int>(i));
    if (ops_[i].kind == "experts" && !on_host(ops_[i])) fuse_experts(static_cast<int>(i));
  }
  std::vector<int> waiting;              // operations of the processor whose inputs are not there yet
  for (size_t i = 0; i < ops_.size(); ++i)
    if (on_host(ops_[i])) waiting.push_back(static_cast<int>(i));
  meeting_.assign(ops_.size(), -1);
  for (size_t i = 0; i < ops_.size(); ++i) {
    if (on_host(ops_[i])) add_host(static_cast<int>(i));
    else if (!absorbed_[i]) add(ops_[i], fused_[i]);
    std::erase_if(waiting, [&](int op) {
      const auto& in = ops_[static_cast<size_t>(op)].inputs;
      const bool there = std::all_of(in.begin(), in.end(), [&](int id) { return producer_[static_cast<size_t>(id)] <= static_cast<int>(i); });
      if (there) add_fetch(op);
      return there;
    });
  }
  if (!p.vocabulary_ && !p.input_width_) throw ModelError("a program needs an embedding, a head or an input");
  flush();
  for (int id : {p.hidden_buffer_, p.head_buffer_})
    if (id >= 0) dies_[static_cast<size_t>(id)] = stage_;
  for (const Embedding& e : p.embeddings_) born_[static_cast<size_t>(e.buffer)] = 0;
  if (p.input_buffer_ >= 0) born_[static_cast<size_t>(p.input_buffer_)] = 0;
  place();
}

bool GpuProgram::Planner::all_quantized(const Attributes& a) {
  const auto it = a.weights.find("weights");
  return a.kind == "matmul" && it != a.weights.end() && std::all_of(it->second.begin(), it->second.end(), [](const auto& w) { return w->type().unpack != nullptr; });
}

bool GpuProgram::Planner::quantized(const Attributes& a, const char* name) {
  const auto it = a.weights.find(name);
  return it != a.weights.end() && std::all_of(it->second.begin(), it->second.end(), [](const auto& w) { return w->type().unpack != nullptr; });
}

// Whoever reads it takes quantized activations. plain_too: some of those who multiply it may be unquantized.
bool GpuProgram::Planner::only_multiplied(int id, bool plain_too) const {
  const auto& users = users_[static_cast<size_t>(id)];
  const auto takes_quantized = [&](int u) {
    const Attributes& a = ops_[static_cast<size_t>(u)];
    return all_quantized(a) || (a.kind == "experts" && !on_host(a) && a.inputs.size() == 2 && a.inputs[0] == id && a.inputs[1] != id && quantized(a, "gate") && quantized(a, "up"));
  };
  if (!plain_too) return !users.empty() && std::all_of(users.begin(), users.end(), takes_quantized);
  return std::all_of(users.begin(), users.end(), [&](int u) { return takes_quantized(u) || ops_[static_cast<size_t>(u)].kind == "matmul"; }) &&
         std::any_of(users.begin(), users.end(), [&](int u) {
           const Attributes& a = ops_[static_cast<size_t>(u)];
           const auto it = a.weights.find("weights");
           return takes_quantized(u) || (it != a.weights.end() && std::any_of(it->second.begin(), it->second.end(), [](const auto& w) { return w->type().unpack != nullptr; }));
         });
}

int GpuProgram::Planner::only_user(int id, const char* kind) const {
  const auto& users = users_[static_cast<size_t>(id)];
  return users.size() == 1 && ops_[static_cast<size_t>(users[0])].kind == kind ? users[0] : -1;
}

void GpuProgram::Planner::fuse_matmul(int index) {
  const Attributes& a = ops_[static_cast<size_t>(index)];
  if (!all_quantized(a) || a.inputs.size() != 1) return;
  const auto& weights = a.weights.at("weights");
  Fused& f = fused_[static_cast<size_t>(index)];
  if (weights.size() == 2 && a.outputs.size() == 2) {
    const int glu = only_user(a.outputs[0], "glu");
    if (glu < 0 || glu != only_user(a.outputs[1], "glu")) return;
    const Attributes& g = ops_[static_cast<size_t>(glu)];
    if (g.inputs != a.outputs || g.outputs.size() != 1 || &weights[0]->type() != &weights[1]->type() || width(a.outputs[0]) != width(a.outputs[1]) || width(a.outputs[0]) != width(g.outputs[0]) ||
        width(a.outputs[0]) % unit_rows || weights[0]->rows() != weights[1]->rows() || !only_multiplied(g.outputs[0])) return;
    f.glu = glu;
    absorbed_[static_cast<size_t>(glu)] = true;
  } else if (weights.size() == 1 && a.outputs.size() == 1) {
    fuse_sum(index, a.outputs[0], f);
  }
}

// The sum of `out` with the residual, and the norm after that, at the end of an operation.
void GpuProgram::Planner::fuse_sum(int index, int out, Fused& f) {
  const int sum = only_user(out, "add");
  if (sum < 0) return;
  const Attributes& s = ops_[static_cast<size_t>(sum)];
  if (s.inputs.size() != 2 || s.outputs.size() != 1 || s.inputs[0] == s.inputs[1]) return;
  const int other = s.inputs[0] == out ? s.inputs[1] : s.inputs[0];
  if (producer_[static_cast<size_t>(other)] >= index || width(other) != width(out) || width(s.outputs[0]) != width(other)) return;
  f.sum = sum;
  f.residual = other;
  absorbed_[static_cast<size_t>(sum)] = true;
  if (width(other) % unit_rows) return;
  for (int u : users_[static_cast<size_t>(s.outputs[0])]) {
    const Attributes& n = ops_[static_cast<size_t>(u)];
    if (n.kind != "rms_norm" || n.outputs.size() != 1 || n.integer("group") != width(other) || !only_multiplied(n.outputs[0], true)) continue;
    f.norm = u;
    absorbed_[static_cast<size_t>(u)] = true;
    return;
  }
}

// The operation of that kind which makes `id` for one user alone, and which of its outputs it is; -1: another made it.
int GpuProgram::Planner::output_of(int id, const char* kind, int& at) const {
  const int op = producer_[static_cast<size_t>(id)];
  const Attributes& a = ops_[static_cast<size_t>(op)];
  if (a.kind != kind || users_[static_cast<size_t>(id)].size() != 1) return -1;
  at = static_cast<int>(std::find(a.outputs.begin(), a.outputs.end(), id) - a.outputs.begin());
  return op;
}

// Takes weight `at` out of a matmul's list.
bool GpuProgram::Planner::takes(int op, int at) {
  const Attributes& a = ops_[static_cast<size_t>(op)];
  const auto it = a.weights.find("weights");
  if (it == a.weights.end() || it->second.size() != a.outputs.size() || a.inputs.size() != 1) return false;
  auto& skipped = fused_[static_cast<size_t>(op)].skipped;
  skipped.resize(it->second.size());
  skipped[static_cast<size_t>(at)] = true;
  return true;
}

// The expert that all rows pass, where its weights are of the experts' types: its three matrices join theirs.
bool GpuProgram::Planner::fuse_shared(const Attributes& a, Fused& f) {
  int at = 0, unused = 0;
  const int exit = output_of(f.extra, "matmul", at);
  if (exit < 0 || ops_[static_cast<size_t>(exit)].outputs.size() != 1) return false;
  const Attributes& d = ops_[static_cast<size_t>(exit)];
  const int glu = output_of(d.inputs[0], "glu", unused);
  if (glu < 0) return false;
  const Attributes& g = ops_[static_cast<size_t>(glu)];
  if (g.inputs.size() != 2 || g.inputs[0] == g.inputs[1]) return false;
  const int entry = output_of(g.inputs[0], "matmul", f.gate_at);
  if (entry < 0 || entry != output_of(g.inputs[1], "matmul", f.up_at)) return false;
  const Attributes& e = ops_[static_cast<size_t>(entry)];
  const auto same = [&](const Attributes& of, int which, const char* name) {
    const auto &weights = of.weights.at("weights"), &experts = a.weights.at(name);
    return weights.size() == of.outputs.size() && experts.size() == 1 && &weights[static_cast<size_t>(which)]->type() == &experts[0]->type() && weights[static_cast<size_t>(which)]->scaled() == experts[0]->scaled() &&
           (!experts[0]->scaled() || weights[static_cast<size_t>(which)]->scale_columns() == experts[0]->scale_columns()) && weights[static_cast<size_t>(which)]->columns() == width(of.inputs[0]);
  };
  if (e.inputs.size() != 1 || e.inputs[0] != a.inputs[0] || d.inputs.size() != 1 || !same(e, f.gate_at, "gate") || !same(e, f.up_at, "up") || !same(d, 0, "down") ||
      width(g.inputs[0]) != width(g.inputs[1]) || width(d.outputs[0]) != width(a.outputs[0]) || g.words.count("activation") != a.words.count("activation") || activation(g) != activation(a)) return false;
  if (!takes(entry, f.gate_at) || !takes(entry, f.up_at) || !takes(exit, 0)) return false;
  absorbed_[static_cast<size_t>(glu)] = true;
  f.entry = entry;
  f.exit = exit;
  return true;
}

void GpuProgram::Planner::fuse_experts(int index) {
  const Attributes& a = ops_[static_cast<size_t>(index)];
  if (a.inputs.size() != 2 || a.outputs.size() != 1) return;      // said in add_experts
  Fused& f = fused_[static_cast<size_t>(index)];
  const auto unquantized = [&](int op, int at) {
    const auto& w = ops_[static_cast<size_t>(op)].weights.at("weights")[static_cast<size_t>(at)];
    return !w->type().unpack && w->columns() == width(ops_[static_cast<size_t>(op)].inputs[0]);
  };
  int at = 0;
  if (const int op = output_of(a.inputs[1], "matmul", at); op >= 0 && unquantized(op, at) && takes(op, at)) f.router = op, f.router_at = at;
  int out = a.outputs[0];
  const int sum = only_user(out, "add");
  if (sum >= 0 && ops_[static_cast<size_t>(sum)].inputs.size() == 2 && ops_[static_cast<size_t>(sum)].number("scale") == 1.0f) {
    const Attributes& s = ops_[static_cast<size_t>(sum)];
    const int gate = output_of(s.inputs[0] == out ? s.inputs[1] : s.inputs[0], "sigmoid_gate", at);
    if (gate >= 0) {
      const Attributes& g = ops_[static_cast<size_t>(gate)];
      if (g.inputs.size() == 2 && width(g.inputs[1]) == 1 && width(g.inputs[0]) == width(out) && producer_[static_cast<size_t>(g.inputs[0])] < index && producer_[static_cast<size_t>(g.inputs[1])] < index) {
        absorbed_[static_cast<size_t>(sum)] = absorbed_[static_cast<size_t>(gate)] = true;
        f.extra = g.inputs[0];
        f.opening = g.inputs[1];
        out = s.outputs[0];
        const int opener = output_of(f.opening, "matmul", at);
        if (f.router >= 0 && opener >= 0 && unquantized(opener, at) && ops_[static_cast<size_t>(opener)].inputs == ops_[static_cast<size_t>(f.router)].inputs && takes(opener, at)) f.opener = opener, f.opener_at = at;
        fuse_shared(a, f);
      }
    }
  }
  f.out = out;
  fuse_sum(index, out, f);
}

// From attention's input back to what a matmul made: takes what prepare_head does out of the list.
int GpuProgram::Planner::fuse_head(int id, int64_t head, bool turned, HeadFused& h) {
  const auto step = [&](const char* kind) -> const Attributes* {
    const int at = producer_[static_cast<size_t>(id)];
    const Attributes& a = ops_[static_cast<size_t>(at)];
    if (a.kind != kind || users_[static_cast<size_t>(id)].size() != 1 || a.inputs.size() != 1) return nullptr;
    if (std::string(kind) != "split_heads" && (a.outputs.size() != 1 || width(a.inputs[0]) != width(id))) return nullptr;
    return &a;
  };
  const auto take = [&](const Attributes& a) {
    absorbed_[static_cast<size_t>(producer_[static_cast<size_t>(id)])] = true;
    id = a.inputs[0];
  };
  if (const Attributes* a = turned ? step("rope") : nullptr; a && head_size(*a) == head) {
    h.rotated = static_cast<int>(rotated(*a, head));
    h.angles = p_.angles(a->vector("frequencies", h.rotated / 2));
    take(*a);
  }
  if (const Attributes* a = step("rms_norm"); a && a->integer("group") == head) {
    h.normed = true;
    h.eps = a->number("eps");
    if (a->vectors.count("weight")) h.norm = p_.constant(a->vector("weight", head));
    take(*a);
  }
  return id;
}

void GpuProgram::Planner::fuse_attention(int index) {
  const Attributes& a = ops_[static_cast<size_t>(index)];
  const bool alone = a.kind != "attention";      // without keys and values of its own
  if (a.inputs.size() != (alone ? 1u : 3u) || a.outputs.size() != 1) return;      // said in add_attention
  Fused& f = fused_[static_cast<size_t>(index)];
  const int64_t head = head_size(a), heads = positive(a, "heads", 4096), kv_heads = positive(a, "kv_heads", 4096);
  if (heads % kv_heads || width(a.inputs[0]) != heads * head) return;
  f.q.id = fuse_head(a.inputs[0], head, true, f.q);
  if (!alone) {
    f.k.id = fuse_head(a.inputs[1], head, true, f.k);
    f.v.id = fuse_head(a.inputs[2], head, false, f.v);
  }
  f.out = a.outputs[0];
  // q beside a gate: the split, and the gate after attention.
  const int split = producer_[static_cast<size_t>(f.q.id)], gate = only_user(f.out, "sigmoid_gate");
  if (split >= 0 && gate >= 0 && ops_[static_cast<size_t>(split)].kind == "split_heads" && users_[static_cast<size_t>(f.q.id)].size() == 1) {
    const Attributes &s = ops_[static_cast<size_t>(split)], &g = ops_[static_cast<size_t>(gate)];
    if (s.outputs.size() == 2 && s.outputs[0] == f.q.id && head_size(s) == head && g.inputs.size() == 2 && g.inputs[0] == f.out && g.inputs[1] == s.outputs[1] && g.outputs.size() == 1 &&
        users_[static_cast<size_t>(s.outputs[1])].size() == 1 && width(s.inputs[0]) == 2 * heads * head && width(g.outputs[0]) == heads * head) {
      absorbed_[static_cast<size_t>(split)] = absorbed_[static_cast<size_t>(gate)] = true;
      f.q.id = s.inputs[0];
      f.gated = true;
      f.out = g.outputs[0];
    }
  }
  f.quantizes = only_multiplied(f.out) && head % unit_rows == 0;      // a warp makes a block of 32 activations
}

void GpuProgram::Planner::flush() {
  if (open_) ++stage_;
  open_ = false;
}

// Into the stretch of row-wise pieces that is open.
void GpuProgram::Planner::piece(Piece piece, Ids id) {
  if (!open_ || p_.steps_.back().pieces.size() == most_pieces) {
    flush();
    p_.steps_.emplace_back();
    ids.emplace_back();
    open_ = true;
  }
  auto set = [&](int buffer, int& stride) { if (buffer >= 0) stride = static_cast<int>(width(buffer)); };
  set(id.a, piece.a_stride);
  set(id.b, piece.b_stride);
  set(id.y, piece.y_stride);
  for (int buffer : {id.a, id.b, id.d}) if (buffer >= 0) reads(buffer);
  for (int buffer : {id.y, id.z}) if (buffer >= 0) writes(buffer);
  if (id.to >= 0) made(id.to);
  p_.steps_.back().pieces.push_back(piece);
  ids.back().push_back(id);
}

GpuProgram::Step& GpuProgram::Planner::kernel(Kind kind) {
  flush();
  p_.steps_.emplace_back();
  p_.steps_.back().kind = kind;
  ids.emplace_back();
  return p_.steps_.back();
}

int GpuProgram::Planner::new_activations(int64_t columns) {
  p_.activations_.push_back({columns});
  return static_cast<int>(p_.activations_.size()) - 1;
}

std::vector<std::string> GpuProgram::operations() {
  return {"embed", "input", "hidden", "rms_norm", "rope", "glu", "sigmoid_gate", "add", "split_heads", "concat", "slice", "matmul", "attention", "shared_attention", "attend", "delta_net", "experts", "head", "ordered_head"};
}

void GpuProgram::Planner::add(const Attributes& a, const Fused& f) {
  const auto& in = a.inputs;
  const auto& out = a.outputs;
  Piece q{};
  auto n_of = [&](int id) { return static_cast<int>(width(id)); };
  if (a.kind == "embed") {
    const auto table = one_weight(a);
    expect_counts(a, 0, 1);
    if (table->columns() != width(out[0])) a.fail("the table has " + std::to_string(table->columns()) + " columns; expected " + std::to_string(width(out[0])));
    p_.embeddings_.push_back({table, a.number("scale"), out[0]});
    p_.vocabulary_ = p_.vocabulary_ ? std::min(p_.vocabulary_, table->rows()) : table->rows();
  } else if (a.kind == "input") {
    expect_counts(a, 0, 1);
    p_.input_buffer_ = out[0];
    p_.input_width_ = width(out[0]);
  } else if (a.kind == "hidden") {
    expect_counts(a, 1, 0);
    p_.hidden_buffer_ = in[0];
    for (const Fused& other : fused_) p_.ends_in_sum_ = p_.ends_in_sum_ || (other.sum >= 0 && ops_[static_cast<size_t>(other.sum)].outputs[0] == in[0] && width(in[0]) % unit_rows == 0);
    p_.hidden_width_ = width(in[0]);
  } else if (a.kind == "rms_norm") {
    expect_counts(a, 1, 1);
    expect_width(a, setting_, out[0], width(in[0]));
    if (opens_section(a)) return add_open_norm(a);
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
    if (q.n % q.m) a.fail("heads of " + std::to_string(q.m) + " do not divide a width of " + std::to_string(q.n));
    q.k = static_cast<int>(rotated(a, q.m));
    q.l = p_.angles(a.vector("frequencies", q.k / 2));
    piece(q, {in[0], -1, -1, out[0]});
  } else if (a.kind == "glu" || a.kind == "sigmoid_gate" || a.kind == "add") {
    expect_counts(a, 2, 1);
    const bool one_gate = a.kind == "sigmoid_gate" && width(in[1]) == 1;
    expect_width(a, setting_, in[0], width(out[0]));
    if (!one_gate) expect_width(a, setting_, in[1], width(out[0]));
    q.n = n_of(out[0]);
    q.m = one_gate;
    if (a.kind == "add") q.f = a.number("scale");
    q.kind = a.kind == "add" ? add_piece : a.kind == "sigmoid_gate" ? sigmoid_piece : activation(a) == silu_end ? silu_piece : gelu_piece;
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
    add_matmul(a, f);
  } else if (a.kind == "attention" || a.kind == "attend" || a.kind == "shared_attention") {
    add_attention(a, f);
  } else if (a.kind == "experts") {
    add_experts(a, f);
  } else if (a.kind == "slice") {
    expect_counts(a, 1, 1);
    q.kind = slice_piece;
    q.n = n_of(out[0]);
    const int64_t offset = a.integer("offset");
    if (offset < 0 || offset > width(in[0]) - q.n) a.fail("values " + std::to_string(offset) + " to " + std::to_string(offset + q.n) + " of a width of " + std::to_string(width(in[0])));
    q.k = static_cast<int>(offset);
    piece(q, {in[0], -1, -1, out[0]});
  } else if (a.kind == "ordered_head") {
    add_ordered_head(a);
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
  } else {
    throw DeviceError(p_.driver_->info().name + ": the operation '" + a.kind + "' of this model cannot be run on a card yet; use device='cpu'");
  }
}

// A norm whose rows another section hands over out of a matmul's end (`behind_sum`, see skipstone.placement): in one program that end would do it.
bool GpuProgram::Planner::opens_section(const Attributes& norm) const {
  const int id = norm.inputs[0];
  const Attributes& from = ops_[static_cast<size_t>(producer_[static_cast<size_t>(id)])];
  if (from.kind != "input" || !from.numbers.count("behind_sum") || width(id) % unit_rows) return false;
  for (int u : users_[static_cast<size_t>(id)]) {      // the first that fits, as in fuse_sum
    const Attributes& n = ops_[static_cast<size_t>(u)];
    if (n.kind == "rms_norm" && n.outputs.size() == 1 && n.integer("group") == width(id) && only_multiplied(n.outputs[0], true)) return n.outputs == norm.outputs;
  }
  return false;
}

void GpuProgram::Planner::add_open_norm(const Attributes& a) {
  const int64_t columns = width(a.inputs[0]);
  Piece q{};
  q.kind = open_norm_piece;
  q.n = static_cast<int>(columns);
  q.m = static_cast<int>(chunk_count(columns));
  if (a.vectors.count("weight")) q.c = p_.constant(a.vector("weight", columns));
  Ids id{a.inputs[0]};
  id.to = quantized_[static_cast<size_t>(a.outputs[0])] = new_activations(columns);
  p_.activations_.back().deferred = true;
  p_.activations_.back().eps = a.number("eps");
  p_.activations_.back().source = a.inputs[0];
  p_.activations_.back().norm = q.c;
  piece(q, id);
}

std::shared_ptr<Weight> GpuProgram::Planner::one_weight(const Attributes& a, const char* name) {
  const auto it = a.weights.find(name);
  if (it == a.weights.end() || it->second.size() != 1) a.fail(std::string("needs one weight '") + name + "'");
  return it->second[0];
}

// The table goes to the card cluster by cluster, each as one of many experts of which a row takes some.
void GpuProgram::Planner::add_ordered_head(const Attributes& a) {
  expect_counts(a, 1, 0);
  const auto table = one_weight(a), centroids = one_weight(a, "centroids");
  const int64_t columns = width(a.inputs[0]), clusters = centroids->rows(), size = table->rows() / clusters;
  for (const auto& w : {table, centroids})
    if (w->columns() != columns) a.fail("a weight has " + std::to_string(w->columns()) + " columns; expected " + std::to_string(columns));
  if (table->rows() % clusters) a.fail(std::to_string(clusters) + " centroids do not divide a vocabulary of " + std::to_string(table->rows()));
  if (table->scaled()) throw ModelError("operation 'ordered_head': a table with scales beside it cannot be laid out by clusters");
  p_.softcap_ = a.number("softcap");
  if (!(p_.softcap_ >= 0)) a.fail("a soft cap cannot be negative");
  const auto order = a.integers.find("order");
  if (order == a.integers.end() || static_cast<int64_t>(order->second.size()) != table->rows()) a.fail("parameter 'order' must list every token of the vocabulary");
  const int64_t row_bytes = table->bytes() / table->rows();
  std::vector<int> ids;
  std::vector<bool> listed(order->second.size());
  const auto sorted = skipstone::allocate(table->bytes());
  for (int64_t id : order->second) {
    if (id < 0 || id >= table->rows() || listed[static_cast<size_t>(id)]) a.fail("parameter 'order' has token " + std::to_string(id) + " twice or beyond the vocabulary");
    listed[static_cast<size_t>(id)] = true;
    memcpy(sorted.get() + static_cast<int64_t>(ids.size()) * row_bytes, table->data() + id * row_bytes, static_cast<size_t>(row_bytes));
    ids.push_back(static_cast<int>(id));
  }
  std::vector<const uint8_t*> each;
  for (int64_t c = 0; c < clusters; ++c) each.push_back(sorted.get() + c * size * row_bytes);
  p_.head_ = upload(p_.driver_, std::make_shared<Weight>(table->type().name, size, columns, each, size * row_bytes, sorted));
  p_.ordered_.centroids = on_device(p_.driver_, centroids);
  p_.ordered_.top = static_cast<int>(positive(a, "top", clusters));
  p_.ordered_.order = Memory(p_.driver_, static_cast<int64_t>(ids.size()) * 4);
  p_.driver_->write(p_.ordered_.order.address(), ids.data(), static_cast<int64_t>(ids.size()) * 4);
  p_.driver_->wait();
  p_.head_buffer_ = a.inputs[0];
  p_.vocabulary_ = table->rows();
}

MatmulEnd GpuProgram::Planner::activation(const Attributes& a) {
  const auto word = a.words.find("activation");
  const std::string name = word == a.words.end() ? "" : word->second;
  if (name != "silu" && name != "gelu_tanh") a.fail("parameter 'activation' must be silu or gelu_tanh");
  return name == "silu" ? silu_end : gelu_end;
}

int64_t GpuProgram::Planner::rotated(const Attributes& a, int64_t head) {
  const int64_t n = a.integer("rotated");
  if (n < 2 || n > head || n % 2) a.fail("cannot rotate " + std::to_string(n) + " of " + std::to_string(head) + " values of a head");
  return n;
}

// The activations that hold a buffer quantized; made where there are none yet.
int GpuProgram::Planner::activations_of(int id) {
  int& x = quantized_[static_cast<size_t>(id)];
  if (x < 0) {
    x = new_activations(width(id));
    Piece q{};
    q.kind = quantize_piece;
    q.n = static_cast<int>(width(id));
    q.m = static_cast<int>(chunk_count(width(id)));
    Ids ids{id};
    ids.to = x;
    piece(q, ids);
  }
  return x;
}

GpuProgram::Operand GpuProgram::Planner::operand(int id) {
  const int x = quantized_[static_cast<size_t>(id)];
  if (x < 0 || !p_.activations_[static_cast<size_t>(x)].deferred) return reads(id), Operand{id};
  const Activations& from = p_.activations_[static_cast<size_t>(x)];
  reads(from.source);
  used(x);
  return {from.source, x, from.norm};
}

// Residual and norm after a matmul or experts.
void GpuProgram::Planner::tail(Step& s, const Fused& f) {
  if (f.sum < 0) return;
  s.residual = f.residual;
  reads(f.residual);
  s.scale = ops_[static_cast<size_t>(f.sum)].number("scale");
  if (f.norm < 0) return;
  const Attributes& n = ops_[static_cast<size_t>(f.norm)];
  s.to = new_activations(width(f.residual));
  Activations& to = p_.activations_[static_cast<size_t>(s.to)];
  to.deferred = true;
  to.eps = n.number("eps");
  to.source = ops_[static_cast<size_t>(f.sum)].outputs[0];
  if (n.vectors.count("weight")) s.norm = to.norm = p_.constant(n.vector("weight", width(f.residual)));
  quantized_[static_cast<size_t>(n.outputs[0])] = s.to;
  made(s.to);
}

void GpuProgram::Planner::add_matmul(const Attributes& a, const Fused& f) {
  const auto it = a.weights.find("weights");
  if (it == a.weights.end() || it->second.empty()) a.fail("needs weights");
  expect_counts(a, 1, it->second.size());
  const int in = a.inputs[0];
  std::vector<Shared> weights(it->second.size());
  bool quantizes = false, left = false;
  for (size_t i = 0; i < it->second.size(); ++i) {
    if (it->second[i]->columns() != width(in)) a.fail("weight " + std::to_string(i) + " has " + std::to_string(it->second[i]->columns()) + " columns; expected " + std::to_string(width(in)));
    expect_width(a, setting_, a.outputs[i], it->second[i]->rows());
    if (i < f.skipped.size() && f.skipped[i]) continue;
    weights[i] = on_device(p_.driver_, it->second[i]);
    left = true;
    quantizes = quantizes || weights[i]->plain < 0;
  }
  if (!left) return;
  const int x = quantizes ? activations_of(in) : -1;
  flush();
  // Weights of one type share a kernel, unquantized ones theirs; all of them read the same activations, so nothing waits between them.
  bool first = true;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!weights[i]) continue;
    const bool plain = weights[i]->plain >= 0;
    const bool joins = !first && p_.steps_.back().weights[0]->type == weights[i]->type && p_.steps_.back().weights.size() < static_cast<size_t>(plain ? most_plain_parts : most_parts);
    first = false;
    Step& s = joins ? p_.steps_.back() : kernel(Kind::matmul);
    s.weights.push_back(weights[i]);
    s.outputs.push_back(f.glu >= 0 ? -1 : f.sum >= 0 ? ops_[static_cast<size_t>(f.sum)].outputs[0] : a.outputs[i]);
    if (plain) {
      s.input = operand(in);
    } else {
      s.x = x;
      used(x);
    }
    if (s.outputs.back() >= 0) writes(s.outputs.back());
  }
  Step& s = p_.steps_.back();
  if (f.glu >= 0) {
    s.end = activation(ops_[static_cast<size_t>(f.glu)]);
    const int result = ops_[static_cast<size_t>(f.glu)].outputs[0];
    quantized_[static_cast<size_t>(result)] = s.to = new_activations(width(result));
    made(s.to);
  } else if (f.sum >= 0) {
    s.end = add_end;
    tail(s, f);
  }
  ++stage_;
}

void GpuProgram::Planner::add_experts(const Attributes& a, const Fused& f) {
  expect_counts(a, 2, 1);
  const int64_t hidden = width(a.inputs[0]), experts = width(a.inputs[1]), used_by_row = positive(a, "used", std::min<int64_t>(experts, 256));
  expect_width(a, setting_, a.outputs[0], hidden);
  const auto weight = [&](const char* name) {
    const auto it = a.weights.find(name);
    if (it == a.weights.end() || it->second.size() != 1) a.fail(std::string("needs one weight '") + name + "'");
    return it->second[0];
  };
  const auto gate = weight("gate"), up = weight("up"), down = weight("down");
  const int64_t inner = gate->rows();
  const auto check = [&](const char* name, const Weight& w, int64_t rows, int64_t columns) {
    auto shape = [](int64_t e, int64_t r, int64_t c) { return std::to_string(e) + " experts of " + std::to_string(r) + " x " + std::to_string(c); };
    if (w.experts() != experts || w.rows() != rows || w.columns() != columns)
      a.fail(std::string("weight '") + name + "' has " + shape(w.experts(), w.rows(), w.columns()) + "; expected " + shape(experts, rows, columns));
  };
  check("gate", *gate, inner, hidden);
  check("up", *up, inner, hidden);
  check("down", *down, hidden, inner);
  if (!gate->type().unpack != !up->type().unpack) throw DeviceError(p_.driver_->info().name + ": experts whose gate is " + gate->type().name + " and whose up is " + up->type().name + " cannot be run on a card; use device='cpu'");
  if (gate->scaled() != up->scaled() || (gate->scaled() && gate->scale_columns() != up->scale_columns())) throw DeviceError(p_.driver_->info().name + ": experts whose gate and up are scaled by different blocks cannot be run on a card; use device='cpu'");
  const bool canonical = &gate->type() != &up->type(), plain = !gate->type().unpack;
  const auto of = [&](int op, int at) { return ops_[static_cast<size_t>(op)].weights.at("weights")[static_cast<size_t>(at)]; };

  const int x = plain ? -1 : activations_of(a.inputs[0]);
  Step& r = kernel(Kind::route);
  r.logits = a.inputs[1];
  r.has_shared = f.exit >= 0;
  RouteArgs& route = r.route;
  route.experts = static_cast<int>(experts);
  route.used = static_cast<int>(used_by_row);
  route.normalize = a.integer("normalize") != 0;
  route.shared = r.has_shared;
  if (a.vectors.count("scale")) route.scale = p_.constant(a.vector("scale", experts));
  if (f.router >= 0) {
    r.weights.push_back(on_device(p_.driver_, of(f.router, f.router_at)));
    r.outputs.push_back(a.inputs[1]);
    r.input = operand(ops_[static_cast<size_t>(f.router)].inputs[0]);
    writes(a.inputs[1]);
    if (f.opener >= 0) {
      r.weights.push_back(on_device(p_.driver_, of(f.opener, f.opener_at)));
      r.outputs.push_back(f.opening);
      writes(f.opening);
    }
  }
  reads(a.inputs[1]);
  ++stage_;

  Step& s = kernel(Kind::experts);
  ExpertsArgs& e = s.experts;
  s.gate = on_device(p_.driver_, gate, canonical);
  s.up = on_device(p_.driver_, up, canonical);
  s.down = on_device(p_.driver_, down);
  s.has_shared = f.exit >= 0;
  if (s.has_shared) {
    s.shared_gate = on_device(p_.driver_, of(f.entry, f.gate_at), canonical);
    s.shared_up = on_device(p_.driver_, of(f.entry, f.up_at), canonical);
    s.shared_down = on_device(p_.driver_, of(f.exit, 0));
  } else if (f.extra >= 0) {
    s.extra = f.extra;
    reads(f.extra);
  }
  if ((s.opening = f.opening) >= 0) reads(f.opening);
  e.used = static_cast<int>(used_by_row);
  e.gelu = activation(a) == gelu_end;
  for (auto [name, factors] : {std::pair{"gate_scale", &e.first_scale}, {"up_scale", &e.second_scale}})
    if (a.vectors.count(name)) *factors = p_.constant(a.vector(name, experts));
  if (!e.first_scale != !e.second_scale) a.fail("needs both 'gate_scale' and 'up_scale', or none");
  if (plain) {
    s.input = {a.inputs[0]};
    reads(a.inputs[0]);
  } else {
    s.x = x;
    used(x);
  }
  s.outputs = {f.sum >= 0 ? ops_[static_cast<size_t>(f.sum)].outputs[0] : f.out};
  s.scale = 1.0f;
  writes(s.outputs[0]);
  tail(s, f);
  auto& m = p_.mixture_;
  m.used = std::max(m.used, used_by_row);
  m.made_floats = std::max(m.made_floats, (used_by_row + 1) * hidden);
  const auto bytes_a_row = [](const DeviceWeight& w) { return w.plain >= 0 ? int64_t{w.columns} * 4 : int64_t{4} * pair_bytes * w.chunks / most_rows; };
  m.gated_bytes = std::max(m.gated_bytes, used_by_row * bytes_a_row(*s.down));
  if (s.has_shared) m.shared_bytes = std::max(m.shared_bytes, bytes_a_row(*s.shared_down));
  m.counters = std::max(m.counters, hidden / unit_rows + 2);
  ++stage_;
}

void GpuProgram::Planner::add_attention(const Attributes& a, const Fused& f) {
  const bool borrows = a.kind == "attend", alone = a.kind != "attention";
  expect_counts(a, alone ? 1 : 3, 1);
  const int64_t heads = positive(a, "heads", 4096), kv_heads = positive(a, "kv_heads", 4096), head = head_size(a), window = a.integer("window"), state = a.integer(borrows ? "borrowed_state" : "state");
  if (heads % kv_heads) a.fail(std::to_string(kv_heads) + " key/value heads do not divide " + std::to_string(heads) + " query heads");
  if (window < 0 || state < 0) a.fail("window and state cannot be negative");
  expect_width(a, setting_, a.inputs[0], heads * head);
  expect_width(a, setting_, a.outputs[0], heads * head);
  if (!borrows) {
    for (size_t i = 1; i < a.inputs.size(); ++i) expect_width(a, setting_, a.inputs[i], kv_heads * head);
    if (state >= static_cast<int64_t>(p_.states_.size()) || !p_.states_[static_cast<size_t>(state)].kv) a.fail("state " + std::to_string(state) + " is not a cache of keys and values");
    const KvSpec& kv = *p_.states_[static_cast<size_t>(state)].kv;
    if (kv.kv_heads != kv_heads || kv.head != head || kv.window != window) a.fail("state " + std::to_string(state) + " has another shape");
  }
  p_.borrows_ = p_.borrows_ || borrows;
  p_.attention_floats_ = std::max(p_.attention_floats_, heads * (head + 2));
  p_.most_heads_ = std::max(p_.most_heads_, heads);
  Step& s = kernel(Kind::attention);
  AttentionArgs& t = s.attention;
  t.cache = {static_cast<int>(state), 0, static_cast<int>(kv_heads), static_cast<int>(head), static_cast<int>(window), 0};
  if (!borrows) t.cache.ring = static_cast<int>(kv_ring(*p_.states_[static_cast<size_t>(state)].kv));
  t.scale = a.number("scale");
  t.heads = static_cast<int>(heads);
  t.borrows = borrows;
  s.shares = alone && !borrows;
  t.gated = f.gated;
  const auto head_args = [&](const HeadFused& h, HeadArgs& to, int& id, int step) {
    to = {nullptr, h.norm, nullptr, static_cast<int>(width(h.id)), step, h.normed, h.rotated, h.eps};
    id = h.id;
    reads(h.id);
  };
  const int one = static_cast<int>(head);
  head_args(f.q, t.q, s.q, f.gated ? 2 * one : one);
  s.q_angles = f.q.angles;
  if (!alone) {
    head_args(f.k, t.k, s.k, one);
    head_args(f.v, t.v, s.v, one);
    s.k_angles = f.k.angles;
  }
  if (f.quantizes) {
    quantized_[static_cast<size_t>(f.out)] = s.to = new_activations(heads * head);
    made(s.to);
    s.outputs = {-1};
  } else {
    s.outputs = {f.out};
    writes(f.out);
  }
  ++stage_;
}

void GpuProgram::Planner::add_delta(const Attributes& a) {
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
  reads(a.inputs[3]);
  piece(q, mixed);
  Step& s = kernel(Kind::delta);
  s.outputs = {a.outputs[0]};
  s.delta.key_of_value = reinterpret_cast<const int*>(p_.constant(keys));
  s.delta.offset = offset;
  s.delta.key_heads = static_cast<int>(key_heads);
  s.delta.value_heads = static_cast<int>(value_heads);
  s.delta.head = static_cast<int>(head);
  s.delta.channels = static_cast<int>(channels);
  writes(a.outputs[0]);
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

// Buffers and activations whose lives do not meet share their place; activations only where they have as many columns, for the last chunk is filled up
// with zeros once.
void GpuProgram::Planner::place() {
  struct Slot {
    int64_t offset, width;
    int until;
  };
  std::vector<Slot> slots;
  int64_t floats = 0;
  p_.slot_.assign(born_.size(), 0);
  for (size_t id = 0; id < born_.size(); ++id)      // what another kernel makes on the way is nowhere
    if (born_[id] < 0 && dies_[id] >= 0) born_[id] = 0;
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
  slots.clear();
  int64_t bytes = 0;
  for (Activations& x : p_.activations_) {      // in the order of their births
    auto fits = std::find_if(slots.begin(), slots.end(), [&](const Slot& slot) { return slot.until < x.born && slot.width == x.columns; });
    if (fits == slots.end()) {
      slots.push_back({bytes, x.columns, 0});
      bytes += int64_t{4} * pair_bytes * chunk_count(x.columns) * (pass_rows / most_rows) + (x.columns / 32 + 1) * 4 * pass_rows;
      bytes = (bytes + 255) / 256 * 256;
      fits = slots.end() - 1;
    }
    fits->until = x.dies;
    x.offset = fits->offset;
  }
  p_.activation_memory_ = Memory(p_.driver_, std::max<int64_t>(bytes, 16));
  p_.driver_->zero(p_.activation_memory_.address(), p_.activation_memory_.bytes());
}

}  // namespace skipstone::gpu
