// The equations of a GRU, over groups of vectors: what happens between the products and the new
// state. The same for every layout and tile.
//
// clang-format off
//   r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
//   z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
//   n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))       reset after
//   n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)       reset before
//   h' = z * h + (1 - z) * n
// clang-format on
#pragma once

#include "kernels/contract.hpp"
#include "kernels/group.hpp"
#include "kernels/inline.hpp"
#include "kernels/math.hpp"

namespace fastgru {
namespace {

// Default: sigmoid, tanh and no trace, the case that must be fast; otherwise as the call says.
FASTGRU_INLINE bool is_default(const Activations& a, const Output& output) {
  return a.candidate == Function::tanh && output.trace == 0 && a.gates == Function::sigmoid;
}
// Out of line and a vector at a time: calls that are not so need not be fast, and code has a
// size.
template <class V>
FASTGRU_NOINLINE V any_function(Function function, V x) {
  return apply(function, x);
}
template <bool Default, class V, int N>
FASTGRU_INLINE Group<V, N> gate(const Activations& a, const Group<V, N>& x) {
  if (Default) return sigmoid(x);
  return Group<V, N>::each([&](int i)
                               FASTGRU_INLINE_LAMBDA { return any_function(a.gates, x.v[i]); });
}
template <bool Default, class V, int N>
FASTGRU_INLINE Group<V, N> candidate(const Activations& a, const Group<V, N>& x) {
  if (Default) return tanh(x);
  return Group<V, N>::each([&](int i)
                               FASTGRU_INLINE_LAMBDA { return any_function(a.candidate, x.v[i]); });
}

// z = 1 keeps h and z = 0 gives n, both to the bit.
template <class V>
FASTGRU_INLINE V blend(V z, V h, V n) {
  return fma(z, h, (V::set(1.0f) - z) * n);
}

// Gates, candidate and new state of a step.
template <class V>
struct Update {
  V r, z, n, h;
};
// x(g): the input product of gate g; hr, hz, hn: the recurrent ones; h: the old state.
template <bool Default, class V, class Input>
FASTGRU_INLINE Update<V> reset_after_update(const Activations& a, Input x, V hr, V hz, V hn, V h) {
  const V r = gate<Default>(a, x(0) + hr);
  const V z = gate<Default>(a, x(1) + hz);
  const V n = candidate<Default>(a, fma(r, hn, x(2)));
  return {r, z, n, blend(z, h, n)};
}

}  // namespace
}  // namespace fastgru
