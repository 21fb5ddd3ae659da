// The GRU kernels with units in the lanes, in every precision: one source for every ISA. Include a
// vec_*.hpp first. gates.hpp has the equations, product.hpp the products and Note [Same bits].
//
// Everything runs in one thread (OtherShares waits for others), allocates nothing and
// computes whole vectors: panels are padded with zeros, and only what exists is written to the
// user's array.
#pragma once

#include <cstddef>

#include "kernels/check.hpp"
#include "kernels/contract.hpp"
#include "kernels/group.hpp"
#include "kernels/gru/far.hpp"
#include "kernels/gru/gates.hpp"
#include "kernels/inline.hpp"
#include "kernels/product/product.hpp"
#include "kernels/product/tiling.hpp"

namespace fastgru {
namespace {

// Floats between the gates of neighbouring rows.
FASTGRU_INLINE size_t gates_stride(size_t units) {
  return (units + kPanel - 1) / kPanel * (kGates * kPanel);
}
// Where a strip's gates stand in a row's.
template <class V>
FASTGRU_INLINE size_t gates_at(size_t strip) {
  return panel_of<V>(strip) * (kGates * kPanel) + lane_in_panel<V>(strip);
}

// Writes the units of a strip that exist: the share may end inside it.
template <class V>
FASTGRU_INLINE void store_units(V x, float* out, size_t unit, size_t units) {
  if (unit + V::lanes <= units)
    x.store(out + unit);
  else
    x.store_first(out + unit, units - unit);
}

template <int R>
FASTGRU_INLINE void rows_of(const float* base, size_t stride, size_t row, const float* (&in)[R]) {
  FASTGRU_UNROLL
  for (int r = 0; r < R; ++r) in[r] = base + (row + r) * stride;
}

// ---- tiles: the operands of a product, its gates (G), and what becomes of it ----

struct InputTile {
  static constexpr int gates = kGates;
  static const float* bias(const InputProduct& a) { return a.weights.bias; }
  static const float* weights(const InputProduct& a) { return floats_of(a.weights.matrix); }
  static size_t reduction(const InputProduct& a) { return a.weights.reduction; }
  template <int R>
  static FASTGRU_INLINE void inputs(const InputProduct& a, size_t row, const float* (&in)[R]) {
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) in[r] = a.x[row + r];
  }
  template <class V, int R, int C>
  static FASTGRU_INLINE void finish(const InputProduct& a, std::ptrdiff_t, size_t row, size_t strip,
                                    const Accumulators<V, R * C * gates>& acc) {
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        float* out = a.out + (row + r) * gates_stride(a.units) + gates_at<V>(strip + c);
        FASTGRU_UNROLL
        for (int g = 0; g < gates; ++g) acc.v[(r * C + c) * gates + g].store(out + g * kPanel);
      }
    }
  }
};

// The vectors [First, First + N) of a tile: vector i is row i / C and strip i % C.
template <class V, int C, int G, int First, int N>
struct TilePart {
  using Vs = Group<V, N>;
  static constexpr int kSize = N;

  const UnitSteps& a;
  size_t row, strip;  // of the tile

  size_t row_of(int i) const { return row + static_cast<size_t>((First + i) / C); }
  size_t strip_of(int i) const { return strip + static_cast<size_t>((First + i) % C); }
  size_t unit_of(int i) const { return strip_of(i) * V::lanes; }  // within the share
  // Where vector i stands in an array of states.
  size_t state_of(int i) const { return row_of(i) * a.state.stride + a.units.first + unit_of(i); }
  FASTGRU_INLINE Vs input(int gate) const {
    return Vs::each([&](int i) FASTGRU_INLINE_LAMBDA {
      return V::load(a.gates + row_of(i) * gates_stride(a.units.count) + gates_at<V>(strip_of(i)) +
                     gate * kPanel);
    });
  }
  template <class Products>
  FASTGRU_INLINE Vs recurrent(const Products& acc, int gate) const {
    return Vs::each([&](int i) FASTGRU_INLINE_LAMBDA { return acc.v[(First + i) * G + gate]; });
  }
  FASTGRU_INLINE Vs state(const float* states) const {
    return Vs::each([&](int i) FASTGRU_INLINE_LAMBDA { return V::load(states + state_of(i)); });
  }
  FASTGRU_INLINE void set_state(float* states, const Vs& x) const {
    FASTGRU_UNROLL
    for (int i = 0; i < N; ++i) x.v[i].store(states + state_of(i));
  }
  // To the user's array: h, or what a trace records of it.
  FASTGRU_INLINE void output(const Vs& x, std::ptrdiff_t offset) const {
    FASTGRU_UNROLL
    for (int i = 0; i < N; ++i)
      store_units(x.v[i], a.output.rows[row_of(i)] + offset, unit_of(i), a.units.count);
  }
  FASTGRU_INLINE void trace(const Vs& x, int gate, std::ptrdiff_t offset) const {
    if (a.output.trace != 0) output(x, offset + gate * a.output.trace);
  }
};

// body(TilePart) for the Count vectors of a tile, cut into parts of about equal size.
template <class V, int C, int G, int Count, int First, class Body>
FASTGRU_INLINE void parts_from(const UnitSteps& a, size_t row, size_t strip, Body body) {
  constexpr int kParts = (Count - First + V::group - 1) / V::group;
  constexpr int kSize = (Count - First + kParts - 1) / kParts;
  body(TilePart<V, C, G, First, kSize>{a, row, strip});
  if constexpr (First + kSize < Count)
    parts_from<V, C, G, Count, First + kSize>(a, row, strip, body);
}
// body(TilePart, Int<plain>)
template <class V, int C, int G, int Count, class Body>
FASTGRU_INLINE void for_each_part(const UnitSteps& a, size_t row, size_t strip, Body body) {
  is_default(a.activations, a.output)
      ? parts_from<V, C, G, Count, 0>(
            a, row, strip, [&](auto part) FASTGRU_INLINE_LAMBDA { body(part, Int<1>()); })
      : parts_from<V, C, G, Count, 0>(
            a, row, strip, [&](auto part) FASTGRU_INLINE_LAMBDA { body(part, Int<0>()); });
}

struct ResetAfterTile {
  static constexpr int gates = kGates;
  static const float* bias(const UnitSteps& a) { return a.weights.bias; }
  static const float* weights(const UnitSteps& a) { return floats_of(a.weights.matrix); }
  static const Matrix& matrix(const UnitSteps& a) { return a.weights.matrix; }
  static size_t reduction(const UnitSteps& a) { return a.weights.reduction; }
  template <int R>
  static FASTGRU_INLINE void inputs(const UnitSteps& a, size_t row, const float* (&in)[R]) {
    rows_of(a.state.current, a.state.stride, row, in);
  }
  template <class V, int R, int C>
  static FASTGRU_INLINE void finish(const UnitSteps& a, std::ptrdiff_t offset, size_t row,
                                    size_t strip, const Accumulators<V, R * C * gates>& acc) {
    for_each_part<V, C, gates, R * C>(
        a, row, strip, [&](auto part, auto plain) FASTGRU_INLINE_LAMBDA {
          constexpr bool kDefault = decltype(plain)::value != 0;
          const auto u = reset_after_update<kDefault>(
              a.activations, [&](int gate) FASTGRU_INLINE_LAMBDA { return part.input(gate); },
              part.recurrent(acc, 0), part.recurrent(acc, 1), part.recurrent(acc, 2),
              part.state(a.state.current));
          part.set_state(a.state.next, u.h);
          part.output(u.h, offset);
          if (!kDefault) {
            part.trace(u.r, 1, offset);
            part.trace(u.z, 2, offset);
            part.trace(u.n, 3, offset);
          }
        });
  }
};

// Reset before, first pass: r and z of every unit, before any candidate can be computed.
struct ResetBeforeGates {
  static constexpr int gates = 2;
  static const float* bias(const UnitSteps& a) { return a.weights.bias; }
  static const float* weights(const UnitSteps& a) { return floats_of(a.weights.matrix); }
  static const Matrix& matrix(const UnitSteps& a) { return a.weights.matrix; }
  static size_t reduction(const UnitSteps& a) { return a.weights.reduction; }
  template <int R>
  static FASTGRU_INLINE void inputs(const UnitSteps& a, size_t row, const float* (&in)[R]) {
    rows_of(a.state.current, a.state.stride, row, in);
  }
  template <class V, int R, int C>
  static FASTGRU_INLINE void finish(const UnitSteps& a, std::ptrdiff_t offset, size_t row,
                                    size_t strip, const Accumulators<V, R * C * gates>& acc) {
    for_each_part<V, C, gates, R * C>(
        a, row, strip, [&](auto part, auto plain) FASTGRU_INLINE_LAMBDA {
          constexpr bool kDefault = decltype(plain)::value != 0;
          const auto r = gate<kDefault>(a.activations, part.input(0) + part.recurrent(acc, 0));
          const auto z = gate<kDefault>(a.activations, part.input(1) + part.recurrent(acc, 1));
          part.set_state(a.reset_state, r * part.state(a.state.current));
          part.set_state(a.update, z);
          if (!kDefault) {
            part.trace(r, 1, offset);
            part.trace(z, 2, offset);
          }
        });
  }
};

// Reset before, second pass: the candidate from r * h, and the new state.
struct ResetBeforeCandidate {
  static constexpr int gates = 1;
  static const float* bias(const UnitSteps& a) { return a.weights.bias + 2 * kPanel; }
  static const float* weights(const UnitSteps& a) { return floats_of(a.weights.candidate); }
  static const Matrix& matrix(const UnitSteps& a) { return a.weights.candidate; }
  static size_t reduction(const UnitSteps& a) { return a.weights.reduction; }
  template <int R>
  static FASTGRU_INLINE void inputs(const UnitSteps& a, size_t row, const float* (&in)[R]) {
    rows_of(a.reset_state, a.state.stride, row, in);
  }
  template <class V, int R, int C>
  static FASTGRU_INLINE void finish(const UnitSteps& a, std::ptrdiff_t offset, size_t row,
                                    size_t strip, const Accumulators<V, R * C * gates>& acc) {
    for_each_part<V, C, gates, R * C>(
        a, row, strip, [&](auto part, auto plain) FASTGRU_INLINE_LAMBDA {
          constexpr bool kDefault = decltype(plain)::value != 0;
          const auto n = candidate<kDefault>(a.activations, part.input(2) + part.recurrent(acc, 0));
          const auto h = blend(part.state(a.update), part.state(a.state.current), n);
          part.set_state(a.state.next, h);
          part.output(h, offset);
          if (!kDefault) part.trace(n, 3, offset);
        });
  }
};

// ---- from a call to tiles ----

// How a call's rows and strips are cut into tiles: the same for every step.
template <class V>
struct Tiling {
  FASTGRU_INLINE Tiling(size_t rows_, size_t units, bool far)
      : traversal(traversal_of<V>(rows_, far)),
        rows(rows_, V::max_rows),
        strips((units + V::lanes - 1) / V::lanes,
               traversal == Traversal::by_sum_blocks ? kPanelStrips<V> : kGroupStrips,
               traversal == Traversal::by_sum_blocks ? kPanelStrips<V> : 1) {}
  Traversal traversal;
  EvenParts rows;
  EvenParts strips;  // groups of them
};

// The tiles of all rows and a group of strips. next: the first strip of the group that follows.
template <class Tile, class V, class Args>
FASTGRU_INLINE void run_strip_group(const Args& a, const Tiling<V>& tiling, std::ptrdiff_t offset,
                                    size_t rows, size_t strip, size_t strips, size_t next) {
  if (tiling.traversal == Traversal::by_sum_blocks)
    return run_by_sum_blocks<Tile, V>(a, tiling.rows, offset, rows, strip, strips, next);
  if constexpr (kPanelStrips<V> == 2)
    if (tiling.traversal == Traversal::two_streams && are_two_panels<V>(strip, strips))
      return run_two_streams<Tile, V>(a, offset, strip, strips);
  run_group<WholeTile<Tile>, V>(a, tiling.rows, offset, 0, strip, strips, nullptr);
}

// One pass over the tiles of a call or a step: of Tile, and before each the input product where it
// is due. Strips outermost, so that a panel read from far away serves all rows while it is in L1 or
// L2.
template <class Tile, class V, class Args>
FASTGRU_INLINE void pass(const Args& a, const InputProduct* input, const Tiling<V>& tiling,
                         std::ptrdiff_t offset, Order order) {
  const size_t parts = tiling.strips.parts;
  for (size_t i = 0; i < parts; ++i) {
    const size_t g = in_order(tiling.strips, i, order);
    const size_t strip = tiling.strips.begin_of(g), strips = tiling.strips.size_of(g);
    const size_t next =
        i + 1 < parts ? tiling.strips.begin_of(in_order(tiling.strips, i + 1, order)) : strip;
    if (input) run_strip_group<InputTile>(*input, tiling, 0, a.rows, strip, strips, next);
    run_strip_group<Tile>(a, tiling, offset, a.rows, strip, strips, next);
  }
}

// ---- the same where the product takes operands ----

// work(first row, rows, first strip, strips): all of a call, in groups of rows whose products L1
// holds and of whole panels, more than one of them where one tile has all rows.
template <class V, class Work>
FASTGRU_INLINE void for_each_operand_group(size_t all_rows, size_t units, Order order, Work work) {
  const size_t most = all_rows <= V::max_rows ? kGroupStrips : kPanelStrips<V>;
  const EvenParts groups((units + V::lanes - 1) / V::lanes, most, kPanelStrips<V>);
  for (size_t row = 0; row < all_rows; row += PartialSums::kMostRows) {
    const size_t rows =
        all_rows - row < PartialSums::kMostRows ? all_rows - row : PartialSums::kMostRows;
    for (size_t i = 0; i < groups.parts; ++i) {
      const size_t g = in_order(groups, i, order);
      work(row, rows, groups.begin_of(g), groups.size_of(g));
    }
  }
}

// The input product, straight to where the gates read it.
template <class V>
void operand_input_product(const InputProduct& a) {
  for (size_t row = 0; row < a.rows; ++row)
    a.multiplier.product->prepare_input(a.x[row], a.weights.reduction, a.multiplier.operands, row);
  const size_t stride = gates_stride(a.units);
  for_each_operand_group<V>(
      a.rows, a.units, Order::forwards,
      [&](size_t row, size_t rows, size_t strip, size_t strips) FASTGRU_INLINE_LAMBDA {
        float* const gates = a.out + row * stride + panel_of<V>(strip) * (kGates * kPanel);
        a.multiplier.product->multiply_input(
            {a.weights.matrix, a.weights.bias, a.multiplier.operands, kGates, a.weights.reduction,
             a.weights.block_terms, row, rows, strip, strips, gates, stride});
      });
}

// Writes the recurrent products of a few rows and panels to a buffer, from which the tiles read
// them.
template <class Tile, class V>
void operand_pass(const UnitSteps& a, std::ptrdiff_t offset, Order order) {
  const auto multiply = a.multiplier.fine_states ? a.multiplier.product->multiply_input
                                                 : a.multiplier.product->multiply_state;
  // Many rows of one panel, or a tile's rows of several.
  static_assert(V::max_rows * (kGroupStrips / kPanelStrips<V>) <= PartialSums::kMostRows,
                "the products of a group of rows and panels do not fit the buffer that its tiles "
                "read: let kMostRows grow, or kGroupStrips shrink");
  alignas(64) float sums[PartialSums::kMostRows * Tile::gates * kPanel];
  for_each_operand_group<V>(
      a.rows, a.units.count, order,
      [&](size_t row, size_t rows, size_t strip, size_t strips) FASTGRU_INLINE_LAMBDA {
        const size_t panels = panel_of<V>(strip + strips - 1) - panel_of<V>(strip) + 1;
        const PartialSums partial_sums{sums, panels * (Tile::gates * kPanel), row,
                                       panel_of<V>(strip)};
        multiply({Tile::matrix(a), Tile::bias(a), a.multiplier.operands, Tile::gates,
                  Tile::reduction(a), a.weights.block_terms, row, rows, strip, strips, sums,
                  partial_sums.stride});
        run_group<WholeTile<Tile>, V>(a, EvenParts(rows, V::max_rows), offset, row, strip, strips,
                                      &partial_sums);
      });
}

template <class V>
void input_product(const InputProduct& a) {
  check(a);
  if (a.multiplier.product->takes_operands) return operand_input_product<V>(a);
  pass<InputTile>(a, nullptr, Tiling<V>(a.rows, a.units, a.weights.far), 0, Order::forwards);
}

// Makes operands of the states, multiplies them, and applies the gates to the products.
template <class Tile, class V>
FASTGRU_INLINE void operand_step(const UnitSteps& a, const float* states, std::ptrdiff_t offset,
                                 Order order) {
  const auto prepare = a.multiplier.fine_states ? a.multiplier.product->prepare_fine_state
                                                : a.multiplier.product->prepare_state;
  for (size_t row = 0; row < a.rows; ++row)
    prepare(states + row * a.state.stride, a.weights.reduction, a.multiplier.operands, row);
  operand_pass<Tile, V>(a, offset, order);
}

// Returns when the threads with the layer's other units have come as far as this one.
FASTGRU_INLINE void wait_for_shares(const UnitSteps& a) {
  if (a.others.wait) a.others.wait(a.others.barrier);
}

// Calls step(args, offset of this step's output, order) for each step, swapping the states between.
template <class Step>
FASTGRU_INLINE void for_each_step(UnitSteps a, Step step) {
  const size_t gates_step = a.rows * gates_stride(a.units.count);
  std::ptrdiff_t offset = 0;
  for (size_t s = 0; s < a.steps; ++s) {
    step(a, offset, (s % 2 == 0) != a.backwards ? Order::forwards : Order::backwards);
    wait_for_shares(a);  // before anyone reads `next`, and before anyone overwrites `state`
    float* const swap = a.state.current;
    a.state.current = a.state.next;
    a.state.next = swap;
    a.gates += gates_step;
    offset += a.output.step;
  }
}

template <class V>
void steps_reset_after(const UnitSteps& a) {
  check(a, true);
  if (a.multiplier.product->takes_operands)
    return for_each_step(
        a, [&](const UnitSteps& s, std::ptrdiff_t offset, Order order) FASTGRU_INLINE_LAMBDA {
          operand_step<ResetAfterTile, V>(s, s.state.current, offset, order);
        });
  const Tiling<V> tiling(a.rows, a.units.count, a.weights.far);
  for_each_step(
      a, [&](const UnitSteps& s, std::ptrdiff_t offset, Order order)
             FASTGRU_INLINE_LAMBDA { pass<ResetAfterTile>(s, a.input, tiling, offset, order); });
}

template <class V>
void steps_reset_before(const UnitSteps& a) {
  check(a, false);
  if (a.multiplier.product->takes_operands)
    return for_each_step(
        a, [&](const UnitSteps& s, std::ptrdiff_t offset, Order order) FASTGRU_INLINE_LAMBDA {
          operand_step<ResetBeforeGates, V>(s, s.state.current, offset, order);
          wait_for_shares(a);  // before anyone reads r * h
          operand_step<ResetBeforeCandidate, V>(s, s.reset_state, offset, order);
        });
  const Tiling<V> tiling(a.rows, a.units.count, a.weights.far);
  for_each_step(a,
                [&](const UnitSteps& s, std::ptrdiff_t offset, Order order) FASTGRU_INLINE_LAMBDA {
                  pass<ResetBeforeGates>(s, a.input, tiling, offset, order);
                  wait_for_shares(a);  // before anyone reads r * h
                  pass<ResetBeforeCandidate>(s, nullptr, tiling, offset, order);
                });
}

}  // namespace
}  // namespace fastgru
