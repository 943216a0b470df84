// See planner.cpp.
#pragma once
#include "backends/gpu/program.h"

namespace skipstone::gpu {

class GpuProgram::Planner {
 public:
  Planner(GpuProgram& p, const std::vector<Attributes>& operations);
  // Buffers, and activations, of the steps' pieces: they get their places once it is known which kernel writes and which reads them last.
  struct Ids { int a = -1, b = -1, d = -1, y = -1, z = -1, to = -1; };
  std::vector<std::vector<Ids>> ids;

 private:
  struct HeadFused {
    int id = -1, angles = -1, rotated = 0;
    bool normed = false;
    float eps = 0.0f;
    const float* norm = nullptr;
  };
  struct Fused {                         // what an operation does besides itself: operations, a buffer
    int sum = -1, norm = -1, residual = -1, glu = -1;
    HeadFused q, k, v;
    bool gated = false, quantizes = false;
    int out = -1;
    // Of a matmul: weights that another operation multiplies. Of experts: matmuls and their weights that it takes over (-1: none), buffers.
    std::vector<bool> skipped;
    int router = -1, router_at = 0, opener = -1, opener_at = 0, entry = -1, gate_at = 0, up_at = 0, exit = -1;
    int opening = -1, extra = -1;
  };
  int64_t width(int id) const { return p_.widths_[static_cast<size_t>(id)]; }
  void reads(int id) { dies_[static_cast<size_t>(id)] = std::max(dies_[static_cast<size_t>(id)], stage_); }
  void writes(int id) {
    born_[static_cast<size_t>(id)] = stage_;
    reads(id);
  }
  void used(int activations) { p_.activations_[static_cast<size_t>(activations)].dies = stage_; }
  void made(int activations) {
    p_.activations_[static_cast<size_t>(activations)].born = stage_;
    used(activations);
  }
  static bool all_quantized(const Attributes& a);
  static bool quantized(const Attributes& a, const char* name);
  bool only_multiplied(int id, bool plain_too = false) const;
  int only_user(int id, const char* kind) const;
  void fuse_matmul(int index);
  void fuse_sum(int index, int out, Fused& f);
  int output_of(int id, const char* kind, int& at) const;
  bool takes(int op, int at);
  void fuse_experts(int index);
  bool fuse_shared(const Attributes& a, Fused& f);
  int fuse_head(int id, int64_t head, bool turned, HeadFused& h);
  void fuse_attention(int index);
  void flush();
  void piece(Piece piece, Ids id);
  Step& kernel(Kind kind);
  int new_activations(int64_t columns);
  void add(const Attributes& a, const Fused& f);
  static std::shared_ptr<Weight> one_weight(const Attributes& a, const char* name = "weight");
  static MatmulEnd activation(const Attributes& a);
  static int64_t rotated(const Attributes& a, int64_t head);
  int activations_of(int id);
  Operand operand(int id);
  void tail(Step& s, const Fused& f);
  void add_ordered_head(const Attributes& a);
  void add_matmul(const Attributes& a, const Fused& f);
  void add_experts(const Attributes& a, const Fused& f);
  void add_attention(const Attributes& a, const Fused& f);
  void add_delta(const Attributes& a);
  bool opens_section(const Attributes& norm) const;
  void add_open_norm(const Attributes& a);
  static bool on_host(const Attributes& a);
  void add_fetch(int index);
  void add_host(int index);
  void place();

  GpuProgram& p_;
  const std::vector<Attributes>& ops_;
  std::vector<int> producer_;            // by buffer: the operation that writes it
  std::vector<std::vector<int>> users_;  // by buffer: the operations that read it
  std::vector<int> meeting_;             // by operation: of those that the processor does, once it is fetched
  std::vector<bool> absorbed_;           // by operation: another does it
  std::vector<Fused> fused_;
  std::vector<int> quantized_;           // by buffer: its activations
  std::vector<int> born_, dies_;         // by buffer: stages
  int stage_ = 0;
  bool open_ = false;
  Setting setting_;
};

}  // namespace skipstone::gpu
