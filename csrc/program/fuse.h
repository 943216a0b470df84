// Operations as recorded -> the same with those merged that run better as one. No result changes by a bit.
#pragma once
#include <vector>

#include "ops/operation.h"

namespace skipstone {

// matmul (gate, up), glu, matmul (down), of which nobody else reads what lies between -> gated_mlp.
std::vector<Attributes> fuse(const std::vector<Attributes>& recorded);

}  // namespace skipstone
