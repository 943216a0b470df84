// Operations that the processor does in the middle of a pass on a card, such as experts that have no room there. What the operation reads is fetched as soon
// as it is there; what the card does until the result is needed, it does while the processor works.
#include <cstring>

#include "backends/gpu/planner.h"
#include "ops/rowwise.h"
#include "program/program.h"

namespace skipstone::gpu {

// Recorded with device = cpu.
bool GpuProgram::Planner::on_host(const Attributes& a) {
  const auto word = a.words.find("device");
  if (word == a.words.end()) return false;
  if (word->second != "cpu") a.fail("parameter 'device' is '" + word->second + "'; expected cpu");
  return true;
}

void GpuProgram::Planner::add_fetch(int index) {
  const Attributes& a = ops_[static_cast<size_t>(index)];
  if (a.inputs.empty() || a.outputs.size() != 1) a.fail("cannot be done by the processor amid a pass: expected inputs and one output");
  Meeting m{a.inputs, a.outputs[0], nullptr};
  std::vector<int64_t> widths(1);
  std::vector<Attributes> program(1);
  program[0].kind = "input";
  program[0].outputs = {0};
  Attributes own = a;
  own.words.erase("device");
  own.inputs.clear();
  for (int id : a.inputs) {
    Attributes slice;
    slice.kind = "slice";
    slice.inputs = {0};
    slice.numbers["offset"] = static_cast<double>(widths[0]);
    own.inputs.push_back(static_cast<int>(widths.size()));
    slice.outputs = {own.inputs.back()};
    program.push_back(slice);
    widths[0] += width(id);
    widths.push_back(width(id));
  }
  own.outputs = {static_cast<int>(widths.size())};
  widths.push_back(width(a.outputs[0]));
  Attributes result;
  result.kind = "hidden";
  result.inputs = own.outputs;
  program.push_back(own);
  program.push_back(result);
  m.program = std::make_shared<Program>(widths, std::vector<StateSpec>{}, program);
  if (!p_.meetings_.empty()) m.program->share_memory(*p_.meetings_[0].program);
  kernel(Kind::fetch).meeting = meeting_[static_cast<size_t>(index)] = static_cast<int>(p_.meetings_.size());
  for (int id : a.inputs) reads(id);
  p_.meetings_.push_back(std::move(m));
  ++stage_;
}

void GpuProgram::Planner::add_host(int index) {
  kernel(Kind::host).meeting = meeting_[static_cast<size_t>(index)];
  writes(ops_[static_cast<size_t>(index)].outputs[0]);
  ++stage_;
}

void GpuProgram::fetch(const Meeting& m, int rows) {
  int64_t all = 0;
  for (int id : m.inputs) all += widths_[static_cast<size_t>(id)];
  fetched_.resize(static_cast<size_t>(rows * all));
  brought_.resize(fetched_.size());
  float* to = m.inputs.size() == 1 ? fetched_.data() : brought_.data();
  for (int id : m.inputs) {
    const int64_t floats = rows * widths_[static_cast<size_t>(id)];
    driver_->read(to, reinterpret_cast<Address>(buffer(id)), floats * 4);
    to += floats;
  }
  driver_->wait();
  if (m.inputs.size() == 1) return;
  const float* from = brought_.data();             // input after input; the program takes them side by side
  int64_t at = 0;
  for (int id : m.inputs) {
    const int64_t width = widths_[static_cast<size_t>(id)];
    for (int r = 0; r < rows; ++r, from += width) memcpy(fetched_.data() + r * all + at, from, static_cast<size_t>(width) * 4);
    at += width;
  }
}

void GpuProgram::meet(const Meeting& m, int rows) {
  const std::vector<int32_t> tokens(static_cast<size_t>(rows));
  const Append part{nullptr, nullptr, tokens};
  const int64_t floats = rows * widths_[static_cast<size_t>(m.output)];
  brought_.resize(static_cast<size_t>(floats));
  m.program->run({&part, 1}, fetched_.data(), Want::none, true, false, host_threads_, nullptr, nullptr, brought_.data());
  driver_->write(reinterpret_cast<Address>(buffer(m.output)), brought_.data(), floats * 4);
}

}  // namespace skipstone::gpu
