#include "ops/operation.h"

#include <cmath>

#include "runtime/error.h"

namespace skipstone {

void Attributes::fail(const std::string& what) const { throw ModelError("operation '" + kind + "': " + what); }

int64_t Attributes::integer(const std::string& name) const {
  auto it = numbers.find(name);
  if (it == numbers.end()) fail("parameter '" + name + "' is missing");
  if (!(std::fabs(it->second) < 9e15) || it->second != std::floor(it->second)) fail("parameter '" + name + "' must be a whole number");
  return static_cast<int64_t>(it->second);
}

float Attributes::number(const std::string& name) const {
  auto it = numbers.find(name);
  if (it == numbers.end()) fail("parameter '" + name + "' is missing");
  return static_cast<float>(it->second);
}

const std::vector<float>& Attributes::vector(const std::string& name, int64_t length) const {
  auto it = vectors.find(name);
  if (it == vectors.end()) fail("vector '" + name + "' is missing");
  if (static_cast<int64_t>(it->second.size()) != length)
    fail("vector '" + name + "' has " + std::to_string(it->second.size()) + " values; expected " + std::to_string(length));
  return it->second;
}

#define OPERATION(name) std::unique_ptr<Operation> make_##name(const Attributes& a, Setting& s);
#include "ops/ops.def"
#undef OPERATION

std::unique_ptr<Operation> make_operation(const Attributes& a, Setting& setting) {
#define OPERATION(name) \
  if (a.kind == #name) return make_##name(a, setting);
#include "ops/ops.def"
#undef OPERATION
  a.fail("unknown kind");
}

}  // namespace skipstone
