// The activations by name, and where each may stand: in a GRU's candidate, in its gates, or in a
// layer of its own.
#pragma once

#include "kernels/contract.hpp"

namespace fastgru {

struct NamedFunction {
  const char* name;
  Function value;
  bool candidate, gate, layer;
};

constexpr NamedFunction kFunctions[] = {
    {"tanh", Function::tanh, true, false, true},
    {"relu", Function::relu, true, false, true},
    {"sigmoid", Function::sigmoid, true, true, true},
    {"identity", Function::identity, true, false, false},
    {"hard_sigmoid", Function::hard_sigmoid, false, true, true},
    {"hard_sigmoid_02", Function::hard_sigmoid_02, false, true, true},
};

}  // namespace fastgru
