// A program as Python records it (skipstone.models.builder), and the arguments of a pass, turned into native types.
#pragma once
#include "bindings/arrays.h"
#include "ops/operation.h"

namespace skipstone {

inline Attributes attributes_of(const py::dict& op) {
  Attributes a;
  if (!op.contains("kind")) throw ModelError("an operation has no kind");
  a.kind = py::cast<std::string>(op["kind"]);
  for (auto [key, value] : op) {
    const std::string name = py::cast<std::string>(key);
    if (name == "kind" || value.is_none()) continue;
    if (name == "inputs") a.inputs = py::cast<std::vector<int>>(value);
    else if (name == "outputs") a.outputs = py::cast<std::vector<int>>(value);
    else if (py::isinstance<Weight>(value)) a.weights[name] = {py::cast<std::shared_ptr<Weight>>(value)};
    else if (py::isinstance<py::str>(value)) a.words[name] = py::cast<std::string>(value);
    else if (py::isinstance<py::array>(value)) {
      const FloatArray v = FloatArray::ensure(value);
      if (!v) throw ModelError("operation '" + a.kind + "': vector '" + name + "' is not of numbers");
      a.vectors[name].assign(v.data(), v.data() + v.size());
    } else if (py::isinstance<py::sequence>(value)) {
      const auto list = py::cast<py::sequence>(value);
      if (py::len(list) && py::isinstance<Weight>(list[0])) a.weights[name] = py::cast<std::vector<std::shared_ptr<Weight>>>(value);
      else a.integers[name] = py::cast<std::vector<int64_t>>(value);
    } else {
      a.numbers[name] = py::cast<double>(value);
    }
  }
  return a;
}

inline StateSpec state_of(const py::dict& s) {
  auto get = [&](const char* name) {
    if (!s.contains(name)) throw ModelError(std::string("a state has no '") + name + "'");
    return py::cast<int64_t>(s[name]);
  };
  const std::string kind = py::cast<std::string>(s["kind"]);
  if (kind == "kv") return {KvSpec{get("kv_heads"), get("head"), get("window")}, {}};
  if (kind == "delta") return {{}, DeltaSpec{get("key_heads"), get("value_heads"), get("head"), get("channels"), get("kernel")}};
  throw ModelError("a state of unknown kind '" + kind + "'");
}

inline cpu::KvType kv_type_of(const std::string& name) {
  if (name == "f16") return cpu::KvType::f16;
  if (name == "bf16") return cpu::KvType::bf16;
  if (name == "f32") return cpu::KvType::f32;
  if (name == "q8_0") return cpu::KvType::q8_0;
  if (name == "q4_0") return cpu::KvType::q4_0;
  throw ArgumentError("kv_type is '" + name + "'; expected f16, bf16, f32, q8_0 or q4_0");
}

inline TokenArray tokens_of(const py::handle& value) {
  TokenArray tokens = TokenArray::ensure(value);
  if (!tokens || tokens.ndim() != 1) throw ArgumentError("the tokens of a part must be a one-dimensional array of int32");
  return tokens;
}

inline const float* hidden_of(const py::object& hidden, FloatArray& kept, int64_t rows, int64_t width) {
  if (hidden.is_none()) return nullptr;
  kept = FloatArray::ensure(hidden);
  if (!kept || kept.ndim() != 2 || kept.shape(0) != rows || kept.shape(1) != width)
    throw ArgumentError("hidden has shape " + (kept ? shape_of(kept) : std::string("unknown")) + "; expected (" + std::to_string(rows) + ", " + std::to_string(width) + ")");
  return kept.data();
}

}  // namespace skipstone
