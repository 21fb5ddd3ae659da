// Random GRUs in float32 and reduced precision, calls of them, and what the calls must give by the
// equations in double. Arrays are exact-size heap allocations, so that AddressSanitizer catches
// reading or writing one float beyond a user's array.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "network/network.hpp"
#include "network/pack.hpp"
#include "plan/plan.hpp"
#include "support.hpp"

namespace fastgru {

struct TestGru {
  GruSpec spec;
  std::vector<Floats> tensors;  // four per layer and direction

  explicit TestGru(const GruSizes& sizes);
};

std::vector<Precision> reduced_precisions();

// A GRU's weights as Python makes them: values that a precision can write, or integers and scales.
struct ReducedGru {
  TestGru gru;
  std::vector<Floats> scales;  // two per layer and direction

  ReducedGru(const GruSizes& sizes, Precision precision);
  // The GRU of the numbers that the weights stand for.
  TestGru in_float32() const;
};

// A GRU of one or several layers with tanh and sigmoid.
GruSizes default_gru(std::size_t input_size, std::size_t hidden_size, std::size_t num_layers,
                     std::size_t num_directions, bool reset_after);

struct Result {
  Floats y, h_n;
  bool operator==(const Result& other) const {
    return same_bits(y, other.y) && same_bits(h_n, other.h_n);
  }
};

struct Case {
  std::size_t T, B;
  Floats x, h_0;                      // [T, B, I], [L * D, B, H]
  std::vector<std::int64_t> lengths;  // [B]
};

Case random_case(const GruSizes& s, std::size_t T, std::size_t B, bool ragged);

// One row of a case, as a case.
Case row_of(const GruSizes& s, const Case& c, std::size_t b);

std::string describe(const GruSizes& s, const Case& c, const char* isa);

// The equations in double, one row at a time.
Result reference(const TestGru& gru, const Case& c);

// A network of one stack, which must outlive it.
PackedNetwork network_of(const PackedGru& gru);

// The case from h_0, with its lengths where `ragged`, by the plan or by the engine's own (null).
Result engine(const PackedGru& gru, const Case& c, const Plan* plan, bool ragged = true);

}  // namespace fastgru
