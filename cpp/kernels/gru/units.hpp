// The float32 GRU kernels with units in the lanes: one source for every ISA. Include a vec_*.hpp
// first. gates.hpp has the equations, product.hpp the products and Note [Same bits].
//
// Everything runs in one thread (OtherShares waits for others), allocates nothing and
// computes whole vectors: panels are padded with zeros, and only what exists is written to the
// user's array.
#pragma once

#include <cstddef>

#include "kernels/check.hpp"
#include "kernels/contract.hpp"
#include "kernels/group.hpp"
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

// One sum block of the products of a group of tiles.
template <class Args>
struct SumBlock {
  const Args& args;
  size_t begin, end;                 // the terms
  size_t rows, first_strip, strips;  // of the group
  Prefetch prefetch;                 // the weights of the next sum block, for all tiles together
};
template <class Tile>
struct SumBlockTile {
  static constexpr int gates = Tile::gates;

  template <class V, int R, int C, class Args>
  static void run(const SumBlock<Args>& block, std::ptrdiff_t, size_t row, size_t strip,
                  const PartialSums* partial_sums) {
    const Args& a = block.args;
    const float *in[R], *w[C], *bias[C];
    float* sums[R * C];
    Tile::inputs(a, row, in);
    for (int c = 0; c < C; ++c) {
      w[c] = weights_of<V, gates>(Tile::weights(a), Tile::reduction(a), strip + c);
      bias[c] = bias_of<V>(Tile::bias(a), strip + c);
    }
    for (int i = 0; i < R * C; ++i)
      sums[i] = partial_sums->at<V, gates>(row + i / C, strip + i % C);
    // This tile's share of the prefetch, in proportion to its vectors (one a row and strip).
    const size_t before = row * block.strips + R * (strip - block.first_strip);
    const size_t vectors = block.rows * block.strips, lines = block.prefetch.bytes / kLine;
    const size_t from = lines * before / vectors * kLine;
    const size_t to = lines * (before + R * C) / vectors * kLine;
    add_sum_block<V, R, C, gates>(w, bias, in, block.begin, block.end, sums,
                                  {block.prefetch.from + from, to - from});
  }
};

// A tile from its first product to its results; partial_sums: the products where they are known
// already.
template <class Tile>
struct WholeTile {
  static constexpr int gates = Tile::gates;

  template <class V, int R, int C, class Args>
  static void run(const Args& a, std::ptrdiff_t offset, size_t row, size_t strip,
                  const PartialSums* partial_sums) {
    Accumulators<V, R * C * gates> acc;
    if (partial_sums) {
      acc = partial_sums->load<V, R, C, gates>(row, strip);
    } else {
      const float* in[R];
      Tile::inputs(a, row, in);
      acc = product<V, R, C, gates>(Tile::bias(a), Tile::weights(a), in, Tile::reduction(a),
                                    a.weights.block_terms, strip);
    }
    Tile::template finish<V, R, C>(a, offset, row, strip, acc);
  }
};

// How a call's rows and strips are cut into tiles: the same for every step.
template <class V>
struct Tiling {
  // Strips in groups as wide as the widest tile, one row's; tiles of more rows cut them further.
  static constexpr size_t kStrips = 4;
  static constexpr size_t kPanelStrips = kPanel / V::lanes;

  FASTGRU_INLINE Tiling(size_t rows_, size_t units, bool far_)
      : rows(rows_, V::max_rows),
        far(far_),
        by_sum_blocks(far_ && rows_ * kPanelStrips * kGates > V::max_accumulators &&
                      rows_ <= PartialSums::kMostRows),
        strips((units + V::lanes - 1) / V::lanes, by_sum_blocks ? kPanelStrips : kStrips,
               by_sum_blocks ? kPanelStrips : 1) {}
  // Whether these strips of two rows are two panels.
  FASTGRU_INLINE bool two_streams(size_t rows_of_call, size_t strip, size_t count) const {
    return kPanelStrips == 2 && far && rows_of_call == 2 && strip % 2 == 0 && count == 4;
  }
  EvenParts rows;
  bool far, by_sum_blocks;
  EvenParts strips;
};

// Note [Block by block]
// Several tiles use the same weights one after the other: those of other rows, and where a panel is
// wider than a tile those of its other strips. Where weights come from far away the first tile
// would wait for them, and memory would idle while the others find them in a cache. So the tiles of
// a panel take turns at each sum block, and each prefetches its part of the next block's weights,
// which follow the block's own, and after the last block begin where `next` does.
template <class Tile, class V, class Args>
void run_by_sum_blocks(const Args& a, const Tiling<V>& tiling, std::ptrdiff_t offset, size_t rows,
                       size_t strip, size_t strips, size_t next) {
  alignas(64) float sums[PartialSums::kMostRows * Tile::gates * kPanel];
  const PartialSums partial_sums{sums, Tile::gates * kPanel, 0, panel_of<V>(strip)};
  constexpr size_t kTerm = Tile::gates * kPanel * sizeof(float);
  const size_t reduction = Tile::reduction(a);
  const char* const weights = reinterpret_cast<const char*>(Tile::weights(a));
  const auto term = [&](size_t of_strip, size_t k) FASTGRU_INLINE_LAMBDA {
    return weights + (panel_of<V>(of_strip) * reduction + k) * kTerm;
  };
  for (size_t k = 0, end; k < reduction; k = end) {
    end = reduction - k < a.weights.block_terms ? reduction : k + a.weights.block_terms;
    const char* const next_weights = end < reduction ? term(strip, end) : term(next, 0);
    run_group<SumBlockTile<Tile>, V>(
        SumBlock<Args>{a, k, end, rows, strip, strips, {next_weights, (end - k) * kTerm}},
        tiling.rows, offset, 0, strip, strips, &partial_sums);
  }
  run_group<WholeTile<Tile>, V>(a, tiling.rows, offset, 0, strip, strips, &partial_sums);
}

// Two rows, and strips that are half a panel: one tile of both halves would read a single stream
// from memory, where two at once come 1.13 times as fast (Zen 1, H = 1024). So a tile has the same
// half of two panels, and finds the other one in L2 afterwards.
template <class Tile, class V, class Args>
void run_two_streams(const Args& a, std::ptrdiff_t offset, size_t strip, size_t strips) {
  constexpr int kG = Tile::gates;
  alignas(64) float sums[2 * Tiling<V>::kStrips * kG * V::lanes];
  const PartialSums partial_sums{sums, Tiling<V>::kStrips * kG * V::lanes, 0, panel_of<V>(strip)};
  const float* in[2];
  Tile::inputs(a, 0, in);
  const size_t reduction = Tile::reduction(a);
  for (size_t k = 0, end; k < reduction; k = end) {
    end = reduction - k < a.weights.block_terms ? reduction : k + a.weights.block_terms;
    for (size_t half = strip; half < strip + 2; ++half) {
      const float *w[2], *bias[2];
      float* to[4];
      for (int panel = 0; panel < 2; ++panel) {
        const size_t at = half + 2 * static_cast<size_t>(panel);
        w[panel] = weights_of<V, kG>(Tile::weights(a), reduction, at);
        bias[panel] = bias_of<V>(Tile::bias(a), at);
        for (size_t row = 0; row < 2; ++row)
          to[2 * row + static_cast<size_t>(panel)] = partial_sums.at<V, kG>(row, at);
      }
      add_sum_block<V, 2, 2, kG, false>(w, bias, in, k, end, to, {});
    }
  }
  run_rows<WholeTile<Tile>, V, V::max_rows>(a, offset, 0, strip, strips, 2, &partial_sums);
}

// Note [There and back]
// A step reads the same weights as the one before. Where a cache holds a part of them only, going
// from the first to the last each time finds none of them: each is driven out by those read after
// it. So every other step goes backwards, and what was read last is found; also by the next call,
// which run.cpp tells where the last one ended.
enum class Order { forwards, backwards };
// The part that comes i-th.
FASTGRU_INLINE size_t in_order(const EvenParts& cut, size_t i, Order order) {
  return order == Order::forwards ? i : cut.parts - 1 - i;
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
    if (tiling.by_sum_blocks) {
      const size_t next =
          i + 1 < parts ? tiling.strips.begin_of(in_order(tiling.strips, i + 1, order)) : strip;
      if (input) run_by_sum_blocks<InputTile, V>(*input, tiling, 0, a.rows, strip, strips, next);
      run_by_sum_blocks<Tile, V>(a, tiling, offset, a.rows, strip, strips, next);
    } else if (tiling.two_streams(a.rows, strip, strips)) {
      if constexpr (Tiling<V>::kPanelStrips == 2) {
        if (input) run_two_streams<InputTile, V>(*input, 0, strip, strips);
        run_two_streams<Tile, V>(a, offset, strip, strips);
      }
    } else {
      if (input)
        run_group<WholeTile<InputTile>, V>(*input, tiling.rows, 0, 0, strip, strips, nullptr);
      run_group<WholeTile<Tile>, V>(a, tiling.rows, offset, 0, strip, strips, nullptr);
    }
  }
}

// ---- the same where the product takes operands ----

// work(first row, rows, first strip, strips): all of a call, in groups of rows whose products L1
// holds and of whole panels, more than one of them where one tile has all rows.
template <class V, class Work>
FASTGRU_INLINE void for_each_operand_group(size_t all_rows, size_t units, Order order, Work work) {
  constexpr size_t kPanelStrips = Tiling<V>::kPanelStrips;
  const size_t most = all_rows <= V::max_rows ? Tiling<V>::kStrips : kPanelStrips;
  const EvenParts groups((units + V::lanes - 1) / V::lanes, most, kPanelStrips);
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
  static_assert(
      V::max_rows * (Tiling<V>::kStrips / Tiling<V>::kPanelStrips) <= PartialSums::kMostRows,
      "the products of a group of rows and panels do not fit the buffer that its tiles "
      "read: let kMostRows grow, or kStrips shrink");
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
