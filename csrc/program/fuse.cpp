#include "program/fuse.h"

#include <map>

namespace skipstone {
namespace {

bool has_weights(const Attributes& a, size_t count) {
  const auto it = a.weights.find("weights");
  return a.kind == "matmul" && it != a.weights.end() && it->second.size() == count && a.inputs.size() == 1 && a.outputs.size() == count;
}

// a, b, c are one feed-forward block. reads: how often each buffer is read.
bool is_gated_mlp(const Attributes& a, const Attributes& b, const Attributes& c, const std::map<int, int>& reads) {
  if (!has_weights(a, 2) || b.kind != "glu" || !has_weights(c, 1) || b.outputs.size() != 1) return false;
  if (b.inputs != a.outputs || c.inputs != b.outputs || !b.words.count("activation")) return false;
  for (int between : {a.outputs[0], a.outputs[1], b.outputs[0]})
    if (reads.at(between) != 1) return false;
  return a.weights.at("weights")[0]->rows() == a.weights.at("weights")[1]->rows();
}

}  // namespace

std::vector<Attributes> fuse(const std::vector<Attributes>& recorded) {
  std::map<int, int> reads;
  for (const Attributes& a : recorded)
    for (int id : a.inputs) ++reads[id];
  std::vector<Attributes> fused;
  for (size_t i = 0; i < recorded.size(); ++i) {
    const Attributes& a = recorded[i];
    if (i + 2 >= recorded.size() || !is_gated_mlp(a, recorded[i + 1], recorded[i + 2], reads)) {
      fused.push_back(a);
      continue;
    }
    const Attributes &glu = recorded[i + 1], &down = recorded[i + 2];
    Attributes block;
    block.kind = "gated_mlp";
    block.inputs = a.inputs;
    block.outputs = {a.outputs[0], a.outputs[1], glu.outputs[0], down.outputs[0]};
    block.words["activation"] = glu.words.at("activation");
    const auto& weights = a.weights.at("weights");
    block.weights = {{"gate", {weights[0]}}, {"up", {weights[1]}}, {"down", down.weights.at("weights")}};
    fused.push_back(std::move(block));
    i += 2;
  }
  return fused;
}

}  // namespace skipstone
