// Checks that row-wise operations share.
#pragma once
#include "ops/operation.h"

namespace skipstone {

// The operation has so many inputs and outputs.
inline void expect_counts(const Attributes& a, size_t inputs, size_t outputs) {
  if (a.inputs.size() != inputs || a.outputs.size() != outputs)
    a.fail("has " + std::to_string(a.inputs.size()) + " inputs and " + std::to_string(a.outputs.size()) + " outputs; expected " + std::to_string(inputs) + " and " + std::to_string(outputs));
}

inline void expect_width(const Attributes& a, const Setting& s, int buffer, int64_t width) {
  const int64_t found = s.widths[static_cast<size_t>(buffer)];
  if (found != width) a.fail("buffer " + std::to_string(buffer) + " is " + std::to_string(found) + " wide; expected " + std::to_string(width));
}

// A head size: a multiple of 8, at most 512.
inline int64_t head_size(const Attributes& a) {
  const int64_t head = a.integer("head");
  if (head < 8 || head > 512 || head % 8) a.fail("head size " + std::to_string(head) + " is not a multiple of 8 up to 512");
  return head;
}

inline int64_t positive(const Attributes& a, const char* name, int64_t limit = int64_t{1} << 31) {
  const int64_t value = a.integer(name);
  if (value < 1 || value > limit) a.fail(std::string("parameter '") + name + "' is " + std::to_string(value) + "; expected 1 to " + std::to_string(limit));
  return value;
}

}  // namespace skipstone
