// All kernels of one ISA as the table that its isa_*.cpp exports. Include a vec_*.hpp first.
#pragma once

#include "gru_f32.hpp"
#include "gru_rows_f32.hpp"
#include "reduced.hpp"

namespace fastgru {
namespace {

template <class V>
V test_activation(TestActivation kind, V x) {
  switch (kind) {
    case TestActivation::tanh:
      return tanh(x);
    case TestActivation::relu:
      return relu(x);
    case TestActivation::hard_sigmoid:
      return hard_sigmoid(x, 1.0f / 6.0f);
    case TestActivation::hard_sigmoid_02:
      return hard_sigmoid(x, 0.2f);
    case TestActivation::sigmoid:
      break;
  }
  return sigmoid(x);
}

template <class V>
void activate(TestActivation kind, const float* x, float* y, size_t n) {
  for (size_t i = 0; i < n; i += V::lanes) test_activation(kind, V::load(x + i)).store(y + i);
}

template <class V>
constexpr KernelTable kernels(const char* name) {
  return {name,
          V::lanes,
          input_product<V>,
          steps_reset_after<V>,
          steps_reset_before<V>,
          rows_reset_after<V>,
          rows_reset_before<V>,
          activate<V>,
          bfloat16_kernels<V, Bfloat16<V>>(name),
          int8_kernels<V, Dot>(name)};
}

}  // namespace
}  // namespace fastgru
