// The interface of an operation of a Program, and how it learns its parameters.
//
// Most operations compute row r from row r alone (`rows`). The others work on all rows together, in steps with barriers between (`step`), and may
// have something to do for each row before and after. The program strings the row-wise pieces together, so that a member of the team takes rows
// through all of them without meeting the others: its own rows, or, where that is cheaper than meeting, every row in memory of its own.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/pass.h"
#include "runtime/weight.h"

namespace skipstone {

// The parameters of one operation as recorded. Asking for one that is missing or of another kind throws ModelError.
struct Attributes {
  std::string kind;
  std::vector<int> inputs, outputs;
  std::map<std::string, double> numbers;
  std::map<std::string, std::string> words;
  std::map<std::string, std::vector<float>> vectors;
  std::map<std::string, std::vector<int64_t>> integers;
  std::map<std::string, std::vector<std::shared_ptr<Weight>>> weights;

  int64_t integer(const std::string& name) const;
  float number(const std::string& name) const;
  const std::vector<float>& vector(const std::string& name, int64_t length) const;
  [[noreturn]] void fail(const std::string& what) const;
};

// What an operation may ask of the program that it becomes part of.
struct Setting {
  const std::vector<int64_t>& widths;                 // floats a row, by buffer
  const std::vector<StateSpec>& states;
  std::vector<std::vector<float>>& frequencies;       // tables of rotary frequencies; shared where equal
  int64_t& hidden_width;                              // of the `hidden` operation, 0 without
  int64_t& input_width;                               // of the `input` operation, 0 without
  int64_t& vocabulary;                                // of the `head` operation, 0 without
  bool& borrows;                                      // reads another program's sequence
};

class Operation {
 public:
  explicit Operation(const Attributes& a) : inputs(a.inputs), outputs(a.outputs) {}
  virtual ~Operation() = default;
  virtual int steps() const { return 0; }             // 0: row-wise
  virtual bool rows_after() const { return false; }   // whether `after` writes the outputs; otherwise the steps do
  virtual void begin(Pass&, int /*members*/) {}       // once a pass, before the team starts: memory is taken here, not in the others
  virtual void end(Pass&, int /*members*/) {}         // once a pass, when the team has finished
  // Row-wise. These write the outputs and pass.quantized only, as several members may run them on the same rows.
  virtual void rows(Pass&, int64_t /*first*/, int64_t /*last*/) {}
  virtual void before(Pass&, int64_t /*first*/, int64_t /*last*/) {}
  virtual void after(Pass&, int64_t /*first*/, int64_t /*last*/) {}
  // Row-wise, after `rows` or `before`: what goes anywhere else. Each row once.
  virtual void store(Pass&, int64_t /*first*/, int64_t /*last*/) {}
  virtual bool reads_stored() const { return false; } // whether step 0 reads what other members stored; asked after `begin`
  virtual void step(Pass&, int /*step*/, int /*member*/, int /*members*/) {}
  virtual bool whole_parts() const { return false; }  // whether a row depends on the later rows of its part, so that a part may not be cut
  virtual std::vector<int> remembered() const { return {}; }     // inputs of which every row leaves something in a state

  // Rows that the operation computes begin here: all, where a later operation leaves something of them in a state.
  int64_t first_row(const Pass& pass) const { return feeds_state ? 0 : pass.tail; }
  bool feeds_state = true;                            // set by the program
  const std::vector<int> inputs, outputs;
};

std::unique_ptr<Operation> make_operation(const Attributes& a, Setting& setting);

}  // namespace skipstone
