// bias + W in for a tile of rows and units, in registers.
//
// A tile is R rows (sequences) by C strips of V::lanes units, with G gates side by side in the
// packed panel; its R * C * G accumulators stay in registers from the bias to the new state.
//
// Note [Same bits]
// A row's result may depend on nothing but the row: not on the tile, the ISA's lanes, the batch,
// the threads or where the sequence was cut. So each unit's products are summed in one order, fixed
// here for all kernels: the input product and the recurrent product apart; within each, k ascending
// in sum blocks of `block_terms` terms. A sum block is one chain of fused multiply-adds; the first
// one starts from the bias, the others from zero; the sums of the blocks are added in order.
// `block_terms` depends on the layer alone (sum_block_terms() in spec.hpp says how it was chosen).
// FMAs are written (the compiler may not contract), and no operation is used whose result differs
// between ISAs. One thing is left open: which NaN a NaN is. Where two NaNs of different sign meet
// (the user's, and the negative one that x86 makes of inf - inf), an instruction keeps one of them
// by the order of its operands, which is the compiler's choice. To settle it would cost two
// instructions for every vector that is stored. So a NaN is a NaN everywhere, and its sign and
// payload are nobody's promise.
#pragma once

#include <cstddef>

#include "kernels/contract.hpp"
#include "kernels/inline.hpp"

namespace fastgru {
namespace {

using std::size_t;

// N accumulators and how they are summed; plain arrays so that full unrolling makes registers.
template <class V, int N>
struct Accumulators {
  V v[N];
};

// acc = the sum of `reduction` terms in sum blocks: add(acc, begin, end) adds terms [begin, end).
template <class V, int N, class Add>
FASTGRU_INLINE void sum_in_blocks(Accumulators<V, N>& acc, size_t reduction, size_t terms,
                                  Add add) {
  add(acc, 0, reduction < terms ? reduction : terms);
  if (reduction <= terms) return;
  Accumulators<V, N> total = acc;
  for (size_t k = terms; k < reduction; k += terms) {
    FASTGRU_UNROLL
    for (int i = 0; i < N; ++i) acc.v[i] = V::set(0.0f);
    add(acc, k, reduction - k < terms ? reduction : k + terms);
    FASTGRU_UNROLL
    for (int i = 0; i < N; ++i) total.v[i] = total.v[i] + acc.v[i];
  }
  acc = total;
}

// A strip is V::lanes neighbouring units; a panel holds kPanel / V::lanes of them.
template <class V>
FASTGRU_INLINE size_t panel_of(size_t strip) {
  return strip * V::lanes / kPanel;
}
template <class V>
FASTGRU_INLINE size_t lane_in_panel(size_t strip) {
  return strip * V::lanes % kPanel;
}

// The weights of a matrix in float32.
FASTGRU_INLINE const float* floats_of(const Matrix& matrix) {
  return static_cast<const float*>(matrix.data);
}
// Where a strip's weights begin; weights: [P][K][G][kPanel].
template <class V, int G>
FASTGRU_INLINE const float* weights_of(const float* weights, size_t reduction, size_t strip) {
  return weights + panel_of<V>(strip) * reduction * (G * kPanel) + lane_in_panel<V>(strip);
}

// Where a strip's biases begin; bias: [P][kGates][kPanel] from the first of the G gates on.
template <class V>
FASTGRU_INLINE const float* bias_of(const float* bias, size_t strip) {
  return bias + panel_of<V>(strip) * (kGates * kPanel) + lane_in_panel<V>(strip);
}

// Accumulator (r * C + c) * G + g belongs to row r, strip c and gate g.
template <class V, int R, int C, int G>
FASTGRU_INLINE Accumulators<V, R * C * G> biases(const float* bias, size_t strip) {
  Accumulators<V, R * C * G> acc;
  FASTGRU_UNROLL
  for (int c = 0; c < C; ++c) {
    FASTGRU_UNROLL
    for (int g = 0; g < G; ++g) {
      const V b = V::load(bias_of<V>(bias, strip + c) + g * kPanel);
      FASTGRU_UNROLL
      for (int r = 0; r < R; ++r) acc.v[(r * C + c) * G + g] = b;
    }
  }
  return acc;
}

// sum += one term: weight(c, g) by x(r), by an fma() of any three types.
template <class S, int R, int C, int G, class Weight, class Input>
FASTGRU_INLINE void add_term(Accumulators<S, R * C * G>& sum, Weight weight, Input x) {
  using W = decltype(weight(0, 0));
  using X = decltype(x(0));
  const auto pinned = [&](int c, int g) FASTGRU_INLINE_LAMBDA {
    W v = weight(c, g);
    if (R > 1) pin(v);
    return v;
  };
  const auto add = [&](int r, int c, int g, const W& v, const X& in) FASTGRU_INLINE_LAMBDA {
    S& a = sum.v[(r * C + c) * G + g];
    a = fma(v, in, a);
  };
  // The smaller set of operands stays in registers, the larger one is loaded as it is needed.
  if constexpr (R <= C * G) {
    X in[R];
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) in[r] = x(r);
    FASTGRU_UNROLL
    for (int c = 0; c < C; ++c) {
      FASTGRU_UNROLL
      for (int g = 0; g < G; ++g) {
        const W v = pinned(c, g);
        FASTGRU_UNROLL
        for (int r = 0; r < R; ++r) add(r, c, g, v, in[r]);
      }
    }
  } else {
    W v[C][G];
    FASTGRU_UNROLL
    for (int c = 0; c < C; ++c) {
      FASTGRU_UNROLL
      for (int g = 0; g < G; ++g) v[c][g] = pinned(c, g);
    }
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) {
      const X in = x(r);
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        FASTGRU_UNROLL
        for (int g = 0; g < G; ++g) add(r, c, g, v[c][g], in);
      }
    }
  }
}

// sum += the terms [begin, end) of a sum block; in: R pointers to [K].
template <class V, int R, int C, int G>
FASTGRU_INLINE void add_terms(Accumulators<V, R * C * G>& sum, const float* const (&w)[C],
                              const float* const (&in)[R], size_t begin, size_t end) {
  for (size_t k = begin; k < end; ++k)
    add_term<V, R, C, G>(
        sum,
        [&](int c, int g)
            FASTGRU_INLINE_LAMBDA { return V::load(w[c] + k * (G * kPanel) + g * kPanel); },
        [&](int r) FASTGRU_INLINE_LAMBDA { return V::broadcast(in[r] + k); });
}

// A tile's products, all at once.
template <class V, int R, int C, int G>
FASTGRU_INLINE Accumulators<V, R * C * G> product(const float* bias, const float* weights,
                                                  const float* const (&in)[R], size_t reduction,
                                                  size_t terms, size_t strip) {
  auto acc = biases<V, R, C, G>(bias, strip);
  const float* w[C];
  FASTGRU_UNROLL
  for (int c = 0; c < C; ++c) w[c] = weights_of<V, G>(weights, reduction, strip + c);
  sum_in_blocks(acc, reduction, terms,
                [&](Accumulators<V, R * C * G>& sum, size_t begin, size_t end)
                    FASTGRU_INLINE_LAMBDA { add_terms<V, R, C, G>(sum, w, in, begin, end); });
  return acc;
}

}  // namespace
}  // namespace fastgru
