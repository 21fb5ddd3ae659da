// All kernels of one ISA as the table that its isa_*.cpp exports. Include a vec_*.hpp first.
//
// What the templates of kernels/ ask of their parameters:
//
// Vec (isa/vec_*.hpp): the vector of an ISA, a struct around a register.
//   lanes             floats in it; divides kPanel
//   fuses             whether fma() rounds once
//   max_accumulators  registers that sums may take: three weights and an input need room beside
//   max_rows          the most rows of a tile: max_accumulators / kGates
//   group             vectors whose gates are computed side by side
//   load, broadcast, set, store, store_first(p, n); load_quarters and store_quarters, which move
//   four floats of each of lanes / 4 rows; widen(pairs, half), which makes floats of bfloat16
//   and for a Vec: fma, + - * /, at_least, at_most, abs, with_sign_of, pow2_of_rounded,
//   transpose_quarters, and pin(), which keeps a value in a register
//
// Dot (isa/vec_*.hpp, product/dot_*.hpp): how four int8 terms of every lane are added at once.
//   flip                       an operand's stored byte is its integer XOR this
//   Sum, Weights, Input        registers; Sum and Weights are one type
//   start(offsets)             the sums of no terms
//   load(p), broadcast(p)      weights of all lanes; one input for all of them
//   add(sum, weights, input)   exact: Note [int8]
//   pin(sum), to_floats(sum)
//
// Pairs (product/reduced.hpp, product/dot_bf16.hpp): how two bfloat16 terms are added at once.
//   Element                                    of an operand
//   prepare(row, reduction, operands, index)   makes an operand
//   add<R, C, G>(sums, weights, inputs)        two terms, for all sums of a tile
//
// Operand (product/reduced.hpp): what multiply() makes a precision's functions of.
//   Tile<G, Planes>  multiplies operands: a Tile of G gates, whose args are a ProductBlock
//
// Tile (product/tiling.hpp runs them): what becomes of R rows by C strips, whose sums are in
// registers at once.
//   gates                                                 G
//   run<V, R, C>(args, offset, row, strip, partial_sums)  offset: of this step's output;
//                                                         partial_sums: a buffer. Not all use both
// Tiles of the kernels with units in the lanes have instead what WholeTile::run() and far.hpp call:
//   bias(args), weights(args), reduction(args)        of their product
//   inputs(args, row, pointers)                       the R rows that are multiplied
//   finish<V, R, C>(args, offset, row, strip, sums)   what becomes of the products
//   matrix(args)                                      the weights, where the product takes operands
#pragma once

#include "kernels/check.hpp"
#include "kernels/gru/rows.hpp"
#include "kernels/gru/units.hpp"
#include "kernels/product/reduced.hpp"

namespace fastgru {
namespace {

template <class V>
void activate(Function function, const float* x, float* y, size_t n) {
  check_elements(x, y, n);
  for (size_t i = 0; i < n; i += V::lanes) apply(function, V::load(x + i)).store(y + i);
}

template <class V>
void exponentials(const float* x, float maximum, float* y, size_t n) {
  check_elements(x, y, n);
  for (size_t i = 0; i < n; i += V::lanes)
    exp_at_most_1(V::load(x + i) - V::set(maximum)).store(y + i);
}

// A table with one product for each precision, in the order of levels.inc.
template <class... Products>
constexpr KernelTable with_products(KernelTable table, Products... products) {
  static_assert(sizeof...(products) == kPrecisions,
                "levels.inc lists another number of precisions: make a product for each");
  const Product all[] = {products...};
  for (std::size_t i = 0; i < kPrecisions; ++i) table.products[i] = all[i];
  return table;
}

template <class V>
constexpr KernelTable kernels(const char* name) {
  return with_products(
      {name,
       V::lanes,
       V::fuses,
       input_product<V>,
       steps_reset_after<V>,
       steps_reset_before<V>,
       rows_reset_after<V>,
       rows_reset_before<V>,
       activate<V>,
       exponentials<V>,
       {}},
      float32_product<V>(name),
      bfloat16_product<V, WidenedPairs<V>>(name, V::fuses ? Sums::chains : Sums::own),
      int8_product<V, Dot>(name));
}

}  // namespace
}  // namespace fastgru
