// All kernels of one ISA as the table that its isa_*.cpp exports. Include a vec_*.hpp first.
#pragma once

#include "kernels/check.hpp"
#include "kernels/gru/rows.hpp"
#include "kernels/gru/units.hpp"
#include "kernels/product/reduced.hpp"

namespace fastgru {
namespace {

template <class V>
V pointwise(Pointwise kind, V x) {
  switch (kind) {
    case Pointwise::tanh:
      return tanh(x);
    case Pointwise::relu:
      return relu(x);
    case Pointwise::hard_sigmoid:
      return hard_sigmoid(x, 1.0f / 6.0f);
    case Pointwise::hard_sigmoid_02:
      return hard_sigmoid(x, 0.2f);
    case Pointwise::sigmoid:
      break;
  }
  return sigmoid(x);
}

template <class V>
void activate(Pointwise kind, const float* x, float* y, size_t n) {
  check_elements(x, y, n);
  for (size_t i = 0; i < n; i += V::lanes) pointwise(kind, V::load(x + i)).store(y + i);
}

template <class V>
void exponentials(const float* x, float maximum, float* y, size_t n) {
  check_elements(x, y, n);
  for (size_t i = 0; i < n; i += V::lanes)
    exp_at_most_1(V::load(x + i) - V::set(maximum)).store(y + i);
}

template <class V>
constexpr KernelTable kernels(const char* name) {
  return {name,
          V::lanes,
          V::fuses,
          input_product<V>,
          steps_reset_after<V>,
          steps_reset_before<V>,
          rows_reset_after<V>,
          rows_reset_before<V>,
          activate<V>,
          exponentials<V>,
          {float32_product<V>(name),
           bfloat16_product<V, Bfloat16<V>>(name, V::fuses ? Sums::chains : Sums::own),
           int8_product<V, Dot>(name)}};
}

}  // namespace
}  // namespace fastgru
