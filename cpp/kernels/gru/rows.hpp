// The float32 GRU kernels with rows in the lanes: for narrow layers (H = 4 fills a quarter of a
// panel) and many rows. Two vectors of rows go through all steps, input product included, before
// the next two: their states, and the few weights, stay in L1. Products are summed as Note [Same
// bits] says, so the results are those of units.hpp.
//
// A block holds arrays [n][kWidth]: value i of every row of the tile.
#pragma once

#include <cstddef>

#include "kernels/check.hpp"
#include "kernels/contract.hpp"
#include "kernels/group.hpp"
#include "kernels/gru/gates.hpp"
#include "kernels/inline.hpp"
#include "kernels/product/product.hpp"

namespace fastgru {
namespace {

constexpr int kRowVectors = 2;
template <class V>
constexpr size_t kWidth = static_cast<size_t>(kRowVectors) * V::lanes;

// body(i, n): values [i, i + n) of `count`, four at a time. The last four may overlap those before
// them; only fewer than four in all are fewer.
template <class Body>
FASTGRU_INLINE void for_each_four(size_t count, Body body) {
  if (count < 4) return body(0, count);
  for (size_t i = 0; i + 4 <= count; i += 4) body(i, 4);
  if (count % 4) body(count - 4, 4);
}

// Values [0, count) of a tile's rows, at rows[r] + offset, into a block.
template <class V>
FASTGRU_NOINLINE void read_rows(const float* const* rows, size_t count, std::ptrdiff_t offset,
                                float* block) {
  for_each_four(count, [&](size_t i, size_t n) FASTGRU_INLINE_LAMBDA {
    FASTGRU_UNROLL
    for (int v = 0; v < kRowVectors; ++v) {
      V m[4];
      FASTGRU_UNROLL
      for (int j = 0; j < 4; ++j)
        m[j] =
            V::load_quarters(rows + v * V::lanes + j, offset + static_cast<std::ptrdiff_t>(i), n);
      transpose_quarters(m);
      FASTGRU_UNROLL
      for (size_t j = 0; j < 4; ++j)
        if (j < n) m[j].store(block + (i + j) * kWidth<V> + v * V::lanes);
    }
  });
}

// The inverse. Of fewer than four values it reads what follows the block, and leaves it.
template <class V>
FASTGRU_NOINLINE void write_rows(const float* block, size_t count, float* const* rows,
                                 std::ptrdiff_t offset) {
  for_each_four(count, [&](size_t i, size_t n) FASTGRU_INLINE_LAMBDA {
    FASTGRU_UNROLL
    for (int v = 0; v < kRowVectors; ++v) {
      V m[4];
      FASTGRU_UNROLL
      for (size_t j = 0; j < 4; ++j) m[j] = V::load(block + (i + j) * kWidth<V> + v * V::lanes);
      transpose_quarters(m);
      FASTGRU_UNROLL
      for (int j = 0; j < 4; ++j)
        m[j].store_quarters(rows + v * V::lanes + j, offset + static_cast<std::ptrdiff_t>(i), n);
    }
  });
}

// Units side by side: gates of more would spill what the products left in registers (four on
// AVX-512: 1.05 to 1.12 times as long at H = 4 and 18).
template <int G>
constexpr int kUnits = G == 1 ? 4 : 2;

// Accumulator (u * G + g) * kRowVectors + v: bias + W in for units [unit, unit + U).
// bias: [P][kGates][kPanel] from the first of the G gates on; weights: [P][K][G][kPanel]; in:
// [K][kWidth].
template <class V, int U, int G>
FASTGRU_INLINE Accumulators<V, U * G * kRowVectors> row_product(const float* bias,
                                                                const float* weights,
                                                                const float* in, size_t reduction,
                                                                size_t terms, size_t unit) {
  Accumulators<V, U * G * kRowVectors> acc;
  const float* w[U];
  FASTGRU_UNROLL
  for (int u = 0; u < U; ++u) {
    const size_t panel = (unit + u) / kPanel, lane = (unit + u) % kPanel;
    w[u] = weights + panel * reduction * (G * kPanel) + lane;
    FASTGRU_UNROLL
    for (int g = 0; g < G; ++g) {
      FASTGRU_UNROLL
      for (int v = 0; v < kRowVectors; ++v)
        acc.v[(u * G + g) * kRowVectors + v] =
            V::broadcast(bias + panel * (kGates * kPanel) + g * kPanel + lane);
    }
  }
  sum_in_blocks(acc, reduction, terms,
                [&](Accumulators<V, U * G * kRowVectors>& sum, size_t begin, size_t end)
                    FASTGRU_INLINE_LAMBDA {
                      for (size_t k = begin; k < end; ++k) {
                        V x[kRowVectors];
                        FASTGRU_UNROLL
                        for (int v = 0; v < kRowVectors; ++v)
                          x[v] = V::load(in + k * kWidth<V> + v * V::lanes);
                        FASTGRU_UNROLL
                        for (int u = 0; u < U; ++u) {
                          FASTGRU_UNROLL
                          for (int g = 0; g < G; ++g) {
                            const V weight = V::broadcast(w[u] + k * (G * kPanel) + g * kPanel);
                            FASTGRU_UNROLL
                            for (int v = 0; v < kRowVectors; ++v) {
                              V& s = sum.v[(u * G + g) * kRowVectors + v];
                              s = fma(weight, x[v], s);
                            }
                          }
                        }
                      }
                    });
  return acc;
}

// Gate g of U units out of a product.
template <class V, int U, int G>
FASTGRU_INLINE Group<V, U * kRowVectors> gate_of(const Accumulators<V, U * G * kRowVectors>& acc,
                                                 int g) {
  return Group<V, U * kRowVectors>::each([&](int i) FASTGRU_INLINE_LAMBDA {
    return acc.v[(i / kRowVectors * G + g) * kRowVectors + i % kRowVectors];
  });
}
// U units of a block.
template <class V, int U>
FASTGRU_INLINE Group<V, U * kRowVectors> load_units(const float* block, size_t unit) {
  return Group<V, U * kRowVectors>::each([&](int i) FASTGRU_INLINE_LAMBDA {
    return V::load(block + unit * kWidth<V> + static_cast<size_t>(i) * V::lanes);
  });
}
template <class V, int U>
FASTGRU_INLINE void store_block(float* block, size_t unit, const Group<V, U * kRowVectors>& x) {
  FASTGRU_UNROLL
  for (int i = 0; i < U * kRowVectors; ++i)
    x.v[i].store(block + unit * kWidth<V> + static_cast<size_t>(i) * V::lanes);
}

// body(Int<U>, unit): all units, Most at a time and then what is left by halves.
template <int Most, class Body>
FASTGRU_INLINE void for_each_unit(size_t unit, size_t end, Body body) {
  for (; unit + Most <= end; unit += Most) body(Int<Most>(), unit);
  if constexpr (Most > 1) for_each_unit<Most / 2>(unit, end, body);
}

// The scratch of a call, cut into blocks; see RowSteps::scratch.
template <class V>
struct RowBlocks {
  FASTGRU_INLINE explicit RowBlocks(const RowSteps& a) {
    const size_t size = a.hidden * kWidth<V>;
    state = a.scratch;
    next = state + size;
    candidate_input = next + size;
    reset_state = candidate_input + size;
    update = reset_state + size;
    x = update + size;
  }
  float *state, *next, *candidate_input, *reset_state, *update, *x;
};

template <class V, int U>
FASTGRU_INLINE Accumulators<V, U * kGates * kRowVectors> input_gates(const InputProduct& in,
                                                                     const float* x, size_t unit) {
  return row_product<V, U, kGates>(in.weights.bias, floats_of(in.weights.matrix), x,
                                   in.weights.reduction, in.weights.block_terms, unit);
}

template <class V, bool Default>
FASTGRU_NOINLINE void reset_after_step(const RowSteps& a, const RowBlocks<V>& block) {
  for_each_unit<kUnits<kGates>>(0, a.hidden, [&](auto count, size_t unit) FASTGRU_INLINE_LAMBDA {
    constexpr int U = decltype(count)::value;
    const auto in = input_gates<V, U>(*a.input, block.x, unit);
    const auto acc = row_product<V, U, kGates>(a.weights.bias, floats_of(a.weights.matrix),
                                               block.state, a.hidden, a.weights.block_terms, unit);
    const auto u = reset_after_update<Default>(
        a.activations, [&](int g) FASTGRU_INLINE_LAMBDA { return gate_of<V, U, kGates>(in, g); },
        gate_of<V, U, kGates>(acc, 0), gate_of<V, U, kGates>(acc, 1), gate_of<V, U, kGates>(acc, 2),
        load_units<V, U>(block.state, unit));
    store_block<V, U>(block.next, unit, u.h);
  });
}

template <class V, bool Default>
FASTGRU_NOINLINE void reset_before_step(const RowSteps& a, const RowBlocks<V>& block) {
  for_each_unit<kUnits<2>>(0, a.hidden, [&](auto count, size_t unit) FASTGRU_INLINE_LAMBDA {
    constexpr int U = decltype(count)::value;
    const auto in = input_gates<V, U>(*a.input, block.x, unit);
    store_block<V, U>(block.candidate_input, unit, gate_of<V, U, kGates>(in, 2));
    const auto acc = row_product<V, U, 2>(a.weights.bias, floats_of(a.weights.matrix), block.state,
                                          a.hidden, a.weights.block_terms, unit);
    const auto r =
        gate<Default>(a.activations, gate_of<V, U, kGates>(in, 0) + gate_of<V, U, 2>(acc, 0));
    const auto z =
        gate<Default>(a.activations, gate_of<V, U, kGates>(in, 1) + gate_of<V, U, 2>(acc, 1));
    store_block<V, U>(block.reset_state, unit, r * load_units<V, U>(block.state, unit));
    store_block<V, U>(block.update, unit, z);
  });
  for_each_unit<kUnits<1>>(0, a.hidden, [&](auto count, size_t unit) FASTGRU_INLINE_LAMBDA {
    constexpr int U = decltype(count)::value;
    const auto acc =
        row_product<V, U, 1>(a.weights.bias + 2 * kPanel, floats_of(a.weights.candidate),
                             block.reset_state, a.hidden, a.weights.block_terms, unit);
    const auto n = candidate<Default>(
        a.activations, load_units<V, U>(block.candidate_input, unit) + gate_of<V, U, 1>(acc, 0));
    store_block<V, U>(
        block.next, unit,
        blend(load_units<V, U>(block.update, unit), load_units<V, U>(block.state, unit), n));
  });
}

// Pointers to a tile's rows. Where the tile is not full its last row stands in for those that do
// not exist: they read what it reads, compute what it computes and write that over it.
template <class V, class Pointer>
struct TileRows {
  TileRows(const Pointer* rows, size_t active) : at(rows) {
    if (active == kWidth<V>) return;
    for (size_t r = 0; r < kWidth<V>; ++r) padded[r] = rows[r < active ? r : active - 1];
    at = padded;
  }
  const Pointer* at;
  Pointer padded[kWidth<V>];
};

// step(args, blocks) computes block.next.
template <class V>
void for_each_row_tile(const RowSteps& a, void (*step)(const RowSteps&, const RowBlocks<V>&)) {
  for (size_t row = 0; row < a.rows; row += kWidth<V>) {
    const size_t active = a.rows - row < kWidth<V> ? a.rows - row : kWidth<V>;
    RowBlocks<V> block(a);
    float* states[kWidth<V>];
    for (size_t r = 0; r < kWidth<V>; ++r)
      states[r] = a.state.current + (row + (r < active ? r : active - 1)) * a.state.stride;
    const TileRows<V, float*> out(a.output.rows + row, active);
    read_rows<V>(states, a.hidden, 0, block.state);
    for (size_t s = 0; s < a.steps; ++s) {
      const TileRows<V, const float*> x(a.input->x + s * a.rows + row, active);
      read_rows<V>(x.at, a.input->weights.reduction, 0, block.x);
      step(a, block);
      write_rows<V>(block.next, a.hidden, out.at, static_cast<std::ptrdiff_t>(s) * a.output.step);
      float* const swap = block.state;
      block.state = block.next;
      block.next = swap;
    }
    write_rows<V>(block.state, a.hidden, states, a.steps % 2 ? a.state.next - a.state.current : 0);
  }
}

template <class V>
void rows_reset_after(const RowSteps& a) {
  check(a, true);
  for_each_row_tile<V>(a, is_default(a.activations, a.output) ? reset_after_step<V, true>
                                                              : reset_after_step<V, false>);
}

template <class V>
void rows_reset_before(const RowSteps& a) {
  check(a, false);
  for_each_row_tile<V>(a, is_default(a.activations, a.output) ? reset_before_step<V, true>
                                                              : reset_before_step<V, false>);
}

}  // namespace
}  // namespace fastgru
