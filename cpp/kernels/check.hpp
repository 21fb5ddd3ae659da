// The contract of the kernels as assertions, one check() for each argument struct, called at the
// top of each function of a table. They are compiled into developer and sanitizer builds
// (CMakeLists.txt), and catch our own bugs: what a user can get wrong is refused long before.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>

#include "kernels/contract.hpp"
#include "kernels/inline.hpp"

namespace fastgru {
namespace {

FASTGRU_INLINE bool is_aligned(const void* p) {
  return p && reinterpret_cast<std::uintptr_t>(p) % 64 == 0;
}
// Whether a matrix is what a format says, for so many gates and terms.
FASTGRU_INLINE bool has_format(const Matrix& m, const Format& f, int gates, std::size_t reduction) {
  const std::size_t blocks = (reduction + f.terms - 1) / f.terms;
  return is_aligned(m.data) && reduction > 0 && reduction <= f.most_terms &&
         m.panel_bytes ==
             blocks * f.terms * f.element_bytes * static_cast<std::size_t>(gates) * kPanel &&
         f.has_scales == (m.scales != nullptr) && f.has_scales == (m.offsets != nullptr);
}

FASTGRU_INLINE void check(const Weights& w, const Format& format, int gates) {
  assert(has_format(w.matrix, format, gates, w.reduction));
  assert(is_aligned(w.bias));
  assert(w.block_terms > 0 && w.block_terms % format.terms == 0);
}

FASTGRU_INLINE void check(const Operands& operands, std::size_t reduction) {
  assert(is_aligned(operands.rows) && operands.scales);
  assert(operands.stride >= operand_stride(reduction) && operands.stride % 64 == 0);
}

FASTGRU_INLINE void check(const Multiplier& m, std::size_t reduction) {
  assert(m.product);
  const Product& p = *m.product;
  assert(p.takes_operands == (p.prepare_input != nullptr));
  assert(p.takes_operands == (p.prepare_state != nullptr));
  assert(p.takes_operands == (p.prepare_fine_state != nullptr));
  assert(p.takes_operands == (p.multiply_input != nullptr));
  assert(p.takes_operands == (p.multiply_state != nullptr));
  if (p.takes_operands) check(m.operands, reduction);
}

FASTGRU_INLINE void check(const Output& output, std::size_t rows) {
  assert(output.rows && output.rows[0] && output.rows[rows - 1]);
}

FASTGRU_INLINE void check(const Units& units) {
  assert(units.first % kPanel == 0 && units.count > 0);
  assert(units.first + units.count <= units.hidden);
  assert(units.count % kPanel == 0 || units.first + units.count == units.hidden);
}

FASTGRU_INLINE void check(const ProductBlock& a) {
  assert(is_aligned(a.matrix.data) && a.bias);
  assert(a.gates >= 1 && a.gates <= kGates);
  assert(a.rows > 0 && a.strips > 0);
  assert(a.block_terms > 0);
  check(a.operands, a.reduction);
  assert(is_aligned(a.sums) && a.stride >= static_cast<std::size_t>(a.gates) * kPanel);
}

FASTGRU_INLINE void check(const InputProduct& a) {
  check(a.multiplier, a.weights.reduction);
  check(a.weights, a.multiplier.product->format, kGates);
  assert(a.rows > 0 && a.units > 0);
  assert(a.x && a.x[0] && a.x[a.rows - 1]);
  assert(is_aligned(a.out));
}

FASTGRU_INLINE void check(const UnitSteps& a, bool reset_after) {
  const Units& units = a.units;
  check(units);
  check(a.multiplier, units.hidden);
  const Product& product = *a.multiplier.product;
  assert(a.weights.reduction == units.hidden);
  check(a.weights, product.format, reset_after ? kGates : kGates - 1);
  assert(reset_after || has_format(a.weights.candidate, product.format, 1, units.hidden));
  assert(a.rows > 0 && a.steps > 0);
  assert(is_aligned(a.gates));
  assert(is_aligned(a.state.current) && is_aligned(a.state.next));
  assert(a.state.current != a.state.next);
  assert(a.state.stride % kPanel == 0 && a.state.stride >= units.hidden);
  assert(reset_after || (is_aligned(a.reset_state) && is_aligned(a.update)));
  assert(a.others.wait ? a.others.barrier != nullptr : units.count == units.hidden);
  check(a.output, a.rows);
  if (!a.input) return;
  check(*a.input);
  assert(a.steps == 1 && !product.takes_operands);
  assert(a.input->out == a.gates && a.input->rows == a.rows && a.input->units == units.count);
}

FASTGRU_INLINE void check(const RowSteps& a, bool reset_after) {
  assert(a.input);
  check(*a.input);
  const Product& product = *a.input->multiplier.product;
  assert(!product.takes_operands);
  assert(a.weights.reduction == a.hidden);
  check(a.weights, product.format, reset_after ? kGates : kGates - 1);
  assert(reset_after || has_format(a.weights.candidate, product.format, 1, a.hidden));
  assert(a.rows > 0 && a.steps > 0 && a.input->rows == a.steps * a.rows);
  assert(a.input->units == a.hidden);
  assert(is_aligned(a.scratch));
  assert(a.state.current && a.state.next && a.state.stride >= a.hidden);
  check(a.output, a.rows);
  assert(a.output.trace == 0);
}

FASTGRU_INLINE void check_elements(const float* x, const float* y, std::size_t n) {
  assert(n % kPanel == 0 && (n == 0 || (x && y)));
}

}  // namespace
}  // namespace fastgru
