// The float32 GRU kernels with rows in the lanes: for narrow layers (H = 4 fills a quarter of a
// panel) and many rows. Two vectors of rows go through all steps, input product included, before
// the next two: their states, and the few weights, stay in L1. Products are summed as Note [Same
// bits] says, so the results are those of gru_f32.hpp.
//
// A block holds arrays [n][kWidth]: value i of every row of the tile.
#pragma once

#include <cstddef>

#include "gates.hpp"
#include "group.hpp"
#include "inline.hpp"
#include "product.hpp"
#include "table.hpp"

namespace fastgru {
namespace {

constexpr int kRowVectors = 2;
template <class V>
constexpr size_t kWidth = static_cast<size_t>(kRowVectors) * V::lanes;

// Rows' values [0, count) into a block. Rows beyond the last one repeat it: nobody reads them.
template <class V>
FASTGRU_NOINLINE void read_rows(const float* const* rows, size_t active, size_t count,
                                float* block) {
  for (size_t v = 0; v < kRowVectors; ++v)
    for (size_t i = 0; i < count; i += V::lanes) {
      const size_t n = count - i < V::lanes ? count - i : V::lanes;
      V m[V::lanes];
      FASTGRU_UNROLL
      for (int j = 0; j < V::lanes; ++j) {
        const size_t row = v * V::lanes + static_cast<size_t>(j);
        const float* from = rows[row < active ? row : active - 1] + i;
        m[j] = n == V::lanes ? V::load(from) : V::load_first(from, n);
      }
      transpose(m);
      for (size_t j = 0; j < n; ++j) m[j].store(block + (i + j) * kWidth<V> + v * V::lanes);
    }
}

// The inverse, for the rows that exist: rows[r] + offset. The block has room for whole vectors of
// values.
template <class V>
FASTGRU_NOINLINE void write_rows(const float* block, size_t active, size_t count,
                                 float* const* rows, std::ptrdiff_t offset) {
  for (size_t v = 0; v < kRowVectors; ++v)
    for (size_t i = 0; i < count && v * V::lanes < active; i += V::lanes) {
      const size_t n = count - i < V::lanes ? count - i : V::lanes;
      V m[V::lanes];
      FASTGRU_UNROLL
      for (int j = 0; j < V::lanes; ++j)
        m[j] = V::load(block + (i + static_cast<size_t>(j)) * kWidth<V> + v * V::lanes);
      transpose(m);
      FASTGRU_UNROLL
      for (int j = 0; j < V::lanes; ++j) {
        const size_t row = v * V::lanes + static_cast<size_t>(j);
        if (row >= active) break;
        float* const to = rows[row] + offset + i;
        n == V::lanes ? m[j].store(to) : m[j].store_first(to, n);
      }
    }
}

// Units in groups whose accumulators fit the registers.
template <class V, int G>
constexpr int kUnits =
    V::max_accumulators / (kRowVectors * G) < 4 ? V::max_accumulators / (kRowVectors * G) : 4;

// Accumulator (u * G + g) * kRowVectors + v: bias + W in for units [unit, unit + U).
// bias: [P][3][kPanel] from the first of the G gates on; weights: [P][K][G][kPanel]; in:
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
            V::broadcast(bias + panel * (3 * kPanel) + g * kPanel + lane);
    }
  }
  sum_chains(acc, reduction, terms,
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

// The scratch of a call, cut into blocks; see Steps::gates.
template <class V>
struct RowBlocks {
  FASTGRU_INLINE explicit RowBlocks(const Steps& a) {
    const size_t size = a.hidden * kWidth<V>;
    // write_rows reads whole vectors of values of a state: what follows it is there.
    state = a.gates;
    next = state + size;
    for (int g = 0; g < 3; ++g) gates[g] = next + static_cast<size_t>(g + 1) * size;
    reset_state = gates[2] + size;
    update = reset_state + size;
    x = update + size;
  }
  float *state, *next, *gates[3], *reset_state, *update, *x;
};

template <class V>
FASTGRU_NOINLINE void input_gates(const InputProduct& in, const RowBlocks<V>& block, size_t units) {
  for_each_unit<kUnits<V, 3>>(0, units, [&](auto count, size_t unit) FASTGRU_INLINE_LAMBDA {
    constexpr int U = decltype(count)::value;
    const auto acc =
        row_product<V, U, 3>(in.bias, in.weights, block.x, in.reduction, in.chain, unit);
    FASTGRU_UNROLL
    for (int g = 0; g < 3; ++g) store_block<V, U>(block.gates[g], unit, gate_of<V, U, 3>(acc, g));
  });
}

template <class V, bool Plain>
FASTGRU_NOINLINE void reset_after_step(const Steps& a, const RowBlocks<V>& block) {
  for_each_unit<kUnits<V, 3>>(0, a.hidden, [&](auto count, size_t unit) FASTGRU_INLINE_LAMBDA {
    constexpr int U = decltype(count)::value;
    const auto acc = row_product<V, U, 3>(a.bias, a.weights, block.state, a.hidden, a.chain, unit);
    const auto u = reset_after_update<Plain>(
        a, [&](int g) FASTGRU_INLINE_LAMBDA { return load_units<V, U>(block.gates[g], unit); },
        gate_of<V, U, 3>(acc, 0), gate_of<V, U, 3>(acc, 1), gate_of<V, U, 3>(acc, 2),
        load_units<V, U>(block.state, unit));
    store_block<V, U>(block.next, unit, u.h);
  });
}

template <class V, bool Plain>
FASTGRU_NOINLINE void reset_before_step(const Steps& a, const RowBlocks<V>& block) {
  for_each_unit<kUnits<V, 2>>(0, a.hidden, [&](auto count, size_t unit) FASTGRU_INLINE_LAMBDA {
    constexpr int U = decltype(count)::value;
    const auto acc = row_product<V, U, 2>(a.bias, a.weights, block.state, a.hidden, a.chain, unit);
    const auto r =
        gate<Plain>(a, load_units<V, U>(block.gates[0], unit) + gate_of<V, U, 2>(acc, 0));
    const auto z =
        gate<Plain>(a, load_units<V, U>(block.gates[1], unit) + gate_of<V, U, 2>(acc, 1));
    store_block<V, U>(block.reset_state, unit, r * load_units<V, U>(block.state, unit));
    store_block<V, U>(block.update, unit, z);
  });
  for_each_unit<kUnits<V, 1>>(0, a.hidden, [&](auto count, size_t unit) FASTGRU_INLINE_LAMBDA {
    constexpr int U = decltype(count)::value;
    const auto acc = row_product<V, U, 1>(a.bias + 2 * kPanel, a.candidate_weights,
                                          block.reset_state, a.hidden, a.chain, unit);
    const auto n =
        candidate<Plain>(a, load_units<V, U>(block.gates[2], unit) + gate_of<V, U, 1>(acc, 0));
    store_block<V, U>(
        block.next, unit,
        blend(load_units<V, U>(block.update, unit), load_units<V, U>(block.state, unit), n));
  });
}

// step(args, blocks) computes block.next.
template <class V>
void for_each_row_tile(const Steps& a, void (*step)(const Steps&, const RowBlocks<V>&)) {
  for (size_t row = 0; row < a.rows; row += kWidth<V>) {
    const size_t active = a.rows - row < kWidth<V> ? a.rows - row : kWidth<V>;
    RowBlocks<V> block(a);
    float* states[kWidth<V>];
    for (size_t r = 0; r < active; ++r) states[r] = a.state + (row + r) * a.state_stride;
    read_rows<V>(states, active, a.hidden, block.state);
    for (size_t s = 0; s < a.steps; ++s) {
      read_rows<V>(a.input->x + s * a.rows + row, active, a.input->reduction, block.x);
      input_gates<V>(*a.input, block, a.hidden);
      step(a, block);
      const std::ptrdiff_t offset = static_cast<std::ptrdiff_t>(s) * a.out_step;
      write_rows<V>(block.next, active, a.hidden, a.out + row, offset);
      float* const swap = block.state;
      block.state = block.next;
      block.next = swap;
    }
    float* const last = a.steps % 2 ? a.next : a.state;
    for (size_t r = 0; r < active; ++r) states[r] = last + (row + r) * a.state_stride;
    write_rows<V>(block.state, active, a.hidden, states, 0);
  }
}

template <class V>
void rows_reset_after(const Steps& a) {
  for_each_row_tile<V>(a, is_plain(a) ? reset_after_step<V, true> : reset_after_step<V, false>);
}

template <class V>
void rows_reset_before(const Steps& a) {
  for_each_row_tile<V>(a, is_plain(a) ? reset_before_step<V, true> : reset_before_step<V, false>);
}

}  // namespace
}  // namespace fastgru
