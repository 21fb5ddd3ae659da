// The float32 GRU kernels: one source for every ISA. Include a vec_*.hpp first.
//
// clang-format off
//   r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
//   z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
//   n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))       reset after
//   n  = tanh(W_in x + b_in + W_hn (r * h) + b_hn)       reset before
//   h' = z * h + (1 - z) * n
// clang-format on
//
// A tile is R rows (sequences) by C chunks of V::lanes units, with G gates side by side in the
// packed panel; its R * C * G accumulators stay in registers from the bias to the new state.
// Everything is single-threaded, allocates nothing and has no tails: panels are padded with zeros.
//
// Note [Same bits]
// A row's result may depend on nothing but the row: not on the tile, the ISA's lanes, the batch,
// the threads or where the sequence was cut. So each unit's products are summed in one order, fixed
// here for all kernels: the input product and the recurrent product apart; within each, k ascending
// in chains of `chain` fused multiply-adds; the first chain starts from the bias, the others from
// zero; the chains' sums are added in order. `chain` depends on the model alone (chain_terms() in
// spec.hpp says how it was chosen). FMAs are written (the compiler may not contract), and no
// operation is used whose result differs between ISAs.
#pragma once

#include <cstddef>

#include "inline.hpp"
#include "math.hpp"
#include "table.hpp"

namespace fastgru {
namespace {

using std::size_t;

// R x C x G vectors; plain arrays so that full unrolling turns them into registers.
template <class V, int R, int C, int G>
struct Accumulators {
  V v[R][C][G];
};

// A chunk is V::lanes neighbouring units; a panel holds kPanel / V::lanes of them.
template <class V>
FASTGRU_INLINE size_t panel_of(size_t chunk) {
  return chunk * V::lanes / kPanel;
}
template <class V>
FASTGRU_INLINE size_t lane_in_panel(size_t chunk) {
  return chunk * V::lanes % kPanel;
}
template <class V>
FASTGRU_INLINE size_t chunks_of(size_t hidden) {
  return (hidden + V::lanes - 1) / V::lanes;
}

// One chain of FMAs: acc += W[chunk.., k] * in[row][k] for k in [begin, end).
// w: C pointers to [K][G][kPanel]; in: R pointers to [K].
template <class V, int R, int C, int G>
FASTGRU_INLINE void chain(Accumulators<V, R, C, G>& acc, const float* const (&w)[C],
                          const float* const (&in)[R], size_t begin, size_t end) {
  for (size_t k = begin; k < end; ++k) {
    V weight[C][G];
    FASTGRU_UNROLL
    for (int c = 0; c < C; ++c) {
      FASTGRU_UNROLL
      for (int g = 0; g < G; ++g) {
        weight[c][g] = V::load(w[c] + k * (G * kPanel) + g * kPanel);
        if (R > 1) pin(weight[c][g]);
      }
    }
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) {
      const V x = V::broadcast(in[r] + k);
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        FASTGRU_UNROLL
        for (int g = 0; g < G; ++g) acc.v[r][c][g] = fma(weight[c][g], x, acc.v[r][c][g]);
      }
    }
  }
}

// bias + W in, summed as Note [Same bits] says.
// bias: [P][3][kPanel] from the first of the G gates on; weights: [P][K][G][kPanel].
template <class V, int R, int C, int G>
FASTGRU_INLINE Accumulators<V, R, C, G> product(const float* bias, const float* weights,
                                                const float* const (&in)[R], size_t reduction,
                                                size_t terms, size_t chunk) {
  Accumulators<V, R, C, G> acc;
  const float* w[C];
  FASTGRU_UNROLL
  for (int c = 0; c < C; ++c) {
    const size_t panel = panel_of<V>(chunk + c), lane = lane_in_panel<V>(chunk + c);
    w[c] = weights + panel * reduction * (G * kPanel) + lane;
    FASTGRU_UNROLL
    for (int g = 0; g < G; ++g) {
      const V b = V::load(bias + panel * (3 * kPanel) + g * kPanel + lane);
      FASTGRU_UNROLL
      for (int r = 0; r < R; ++r) acc.v[r][c][g] = b;
    }
  }
  chain<V, R, C, G>(acc, w, in, 0, reduction < terms ? reduction : terms);
  if (reduction <= terms) return acc;

  Accumulators<V, R, C, G> total = acc;
  for (size_t k = terms; k < reduction; k += terms) {
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        FASTGRU_UNROLL
        for (int g = 0; g < G; ++g) acc.v[r][c][g] = V::set(0.0f);
      }
    }
    chain<V, R, C, G>(acc, w, in, k, reduction - k < terms ? reduction : k + terms);
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        FASTGRU_UNROLL
        for (int g = 0; g < G; ++g) total.v[r][c][g] = total.v[r][c][g] + acc.v[r][c][g];
      }
    }
  }
  return total;
}

// h' = z * h + (1 - z) * n: z = 1 keeps h and z = 0 gives n, both to the bit.
template <class V>
FASTGRU_INLINE V blend(V z, V h, V n) {
  return fma(z, h, (V::set(1.0f) - z) * n);
}

// Plain: sigmoid, tanh and no trace, the case that must be fast; otherwise as the call says.
template <class V, bool Plain>
FASTGRU_INLINE V gate(const Steps& a, V x) {
  return Plain ? sigmoid(x) : recurrent_activation(a.recurrent_activation, x);
}
template <class V, bool Plain>
FASTGRU_INLINE V candidate(const Steps& a, V x) {
  return Plain ? tanh(x) : candidate_activation(a.activation, x);
}

// Writes the units of a chunk that exist: hidden may end inside it.
template <class V>
FASTGRU_INLINE void store_units(V x, float* out, size_t unit, size_t hidden) {
  if (unit + V::lanes <= hidden)
    x.store(out + unit);
  else
    x.store_first(out + unit, hidden - unit);
}

template <class V, bool Plain>
FASTGRU_INLINE void store_state(const Steps& a, V h, V n, size_t row, size_t unit,
                                std::ptrdiff_t out_offset) {
  h.store(a.next + row * a.state_stride + unit);
  float* out = a.out[row] + out_offset;
  store_units(h, out, unit, a.hidden);
  if (!Plain && a.trace_stride != 0) store_units(n, out + 3 * a.trace_stride, unit, a.hidden);
}

template <class V, bool Plain>
FASTGRU_INLINE void trace_gates(const Steps& a, V r, V z, size_t row, size_t unit,
                                std::ptrdiff_t out_offset) {
  if (Plain || a.trace_stride == 0) return;
  float* out = a.out[row] + out_offset;
  store_units(r, out + 1 * a.trace_stride, unit, a.hidden);
  store_units(z, out + 2 * a.trace_stride, unit, a.hidden);
}

// ---- tiles: the policies that for_each_tile() runs; kGates is G ----

template <class V>
struct InputTile {
  static constexpr int kGates = 3;
  static constexpr bool kPlain = true;

  template <int R, int C>
  static void run(const InputProduct& a, std::ptrdiff_t, size_t row, size_t chunk) {
    const float* in[R];
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) in[r] = a.x[row + r];
    const auto acc = product<V, R, C, 3>(a.bias, a.weights, in, a.reduction, a.chain, chunk);
    const size_t out_stride = (a.hidden + kPanel - 1) / kPanel * (3 * kPanel);
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        float* out = a.out + (row + r) * out_stride + panel_of<V>(chunk + c) * (3 * kPanel) +
                     lane_in_panel<V>(chunk + c);
        FASTGRU_UNROLL
        for (int g = 0; g < 3; ++g) acc.v[r][c][g].store(out + g * kPanel);
      }
    }
  }
};

template <int R>
FASTGRU_INLINE void rows_of(const float* base, size_t stride, size_t row, const float* (&in)[R]) {
  FASTGRU_UNROLL
  for (int r = 0; r < R; ++r) in[r] = base + (row + r) * stride;
}

// The input product's three gates for one row and chunk.
template <class V>
FASTGRU_INLINE const float* gates_of(const Steps& a, size_t row, size_t chunk) {
  const size_t stride = (a.hidden + kPanel - 1) / kPanel * (3 * kPanel);
  return a.gates + row * stride + panel_of<V>(chunk) * (3 * kPanel) + lane_in_panel<V>(chunk);
}

template <class V, bool Plain>
struct ResetAfterTile {
  static constexpr int kGates = 3;
  static constexpr bool kPlain = Plain;

  template <int R, int C>
  static void run(const Steps& a, std::ptrdiff_t out_offset, size_t row, size_t chunk) {
    const float* h[R];
    rows_of(a.state, a.state_stride, row, h);
    const auto acc = product<V, R, C, 3>(a.bias, a.weights, h, a.hidden, a.chain, chunk);
    FASTGRU_UNROLL
    for (int i = 0; i < R; ++i) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        const float* x = gates_of<V>(a, row + i, chunk + c);
        const size_t unit = (chunk + c) * V::lanes;
        const V r = gate<V, Plain>(a, V::load(x) + acc.v[i][c][0]);
        const V z = gate<V, Plain>(a, V::load(x + kPanel) + acc.v[i][c][1]);
        const V n = candidate<V, Plain>(a, fma(r, acc.v[i][c][2], V::load(x + 2 * kPanel)));
        trace_gates<V, Plain>(a, r, z, row + i, unit, out_offset);
        store_state<V, Plain>(a, blend(z, V::load(h[i] + unit), n), n, row + i, unit, out_offset);
      }
    }
  }
};

// Reset before, first pass: r and z of every unit, before any candidate can be computed.
template <class V, bool Plain>
struct ResetBeforeGates {
  static constexpr int kGates = 2;
  static constexpr bool kPlain = Plain;

  template <int R, int C>
  static void run(const Steps& a, std::ptrdiff_t out_offset, size_t row, size_t chunk) {
    const float* h[R];
    rows_of(a.state, a.state_stride, row, h);
    const auto acc = product<V, R, C, 2>(a.bias, a.weights, h, a.hidden, a.chain, chunk);
    FASTGRU_UNROLL
    for (int i = 0; i < R; ++i) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        const float* x = gates_of<V>(a, row + i, chunk + c);
        const size_t unit = (chunk + c) * V::lanes;
        const size_t at = (row + i) * a.state_stride + unit;
        const V r = gate<V, Plain>(a, V::load(x) + acc.v[i][c][0]);
        const V z = gate<V, Plain>(a, V::load(x + kPanel) + acc.v[i][c][1]);
        trace_gates<V, Plain>(a, r, z, row + i, unit, out_offset);
        (r * V::load(h[i] + unit)).store(a.reset_state + at);
        z.store(a.update + at);
      }
    }
  }
};

// Reset before, second pass: the candidate from r * h, and the new state.
template <class V, bool Plain>
struct ResetBeforeCandidate {
  static constexpr int kGates = 1;
  static constexpr bool kPlain = Plain;

  template <int R, int C>
  static void run(const Steps& a, std::ptrdiff_t out_offset, size_t row, size_t chunk) {
    const float* rh[R];
    rows_of(a.reset_state, a.state_stride, row, rh);
    const auto acc =
        product<V, R, C, 1>(a.bias + 2 * kPanel, a.candidate_weights, rh, a.hidden, a.chain, chunk);
    FASTGRU_UNROLL
    for (int i = 0; i < R; ++i) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        const float* x = gates_of<V>(a, row + i, chunk + c);
        const size_t unit = (chunk + c) * V::lanes;
        const size_t at = (row + i) * a.state_stride + unit;
        const V n = candidate<V, Plain>(a, V::load(x + 2 * kPanel) + acc.v[i][c][0]);
        const V h = blend(V::load(a.update + at), V::load(a.state + at), n);
        store_state<V, Plain>(a, h, n, row + i, unit, out_offset);
      }
    }
  }
};

// ---- from a call to tiles ----

// Chunks per tile of R rows: one row takes four, for 12 concurrent streams of weights (24 were up
// to twice slower where weights come from beyond L2, on Zen 4); more rows take two while the
// accumulators fit. Calls that are not plain take one: they need not be fast and code has a size.
template <class V, int R, class Tile>
constexpr int chunks_per_tile() {
  const int by_registers = V::max_accumulators / (R * Tile::kGates);
  const int wanted = !Tile::kPlain ? 1 : R == 1 ? 4 : 2;
  return by_registers < 1 ? 1 : by_registers < wanted ? by_registers : wanted;
}

// All chunks of rows [row, row + R): groups of C and then what is left, one size smaller each.
template <class Tile, class V, int R, int C, class Args>
FASTGRU_INLINE void run_chunks(const Args& a, std::ptrdiff_t out_offset, size_t row, size_t chunk,
                               size_t count) {
  if (count == C) return Tile::template run<R, C>(a, out_offset, row, chunk);
  if constexpr (C > 1) run_chunks<Tile, V, R, C - 1>(a, out_offset, row, chunk, count);
}

template <class Tile, class V, int R, class Args>
void run_rows(const Args& a, std::ptrdiff_t out_offset, size_t row, size_t chunk, size_t count,
              size_t rows) {
  constexpr int kMost = chunks_per_tile<V, R, Tile>();
  if (rows != R) {
    if constexpr (R > 1) run_rows<Tile, V, R - 1>(a, out_offset, row, chunk, count, rows);
    return;
  }
  for (; count > kMost; chunk += kMost, count -= kMost)
    Tile::template run<R, kMost>(a, out_offset, row, chunk);
  run_chunks<Tile, V, R, kMost>(a, out_offset, row, chunk, count);
}

// Chunks outermost, so that a panel read from far away serves all rows while it is in L1 or L2.
// Rows and chunks are cut into tiles of even size (9 rows are 5 + 4, not 8 + 1): a small tile costs
// nearly as much as a large one.
template <class Tile, class V, class Args>
void for_each_tile(const Args& a, std::ptrdiff_t out_offset, size_t rows) {
  constexpr size_t kRows = V::max_rows;
  const size_t chunks = chunks_of<V>(a.hidden);
  const size_t row_tiles = (rows + kRows - 1) / kRows;
  // Wide enough for the widest tile (one row's); tiles of more rows cut it further.
  constexpr size_t kChunks = chunks_per_tile<V, 1, Tile>();
  const size_t groups = (chunks + kChunks - 1) / kChunks;
  for (size_t g = 0, chunk = 0; g < groups; ++g) {
    const size_t count = (chunks - chunk + (groups - g) - 1) / (groups - g);
    for (size_t t = 0, row = 0; t < row_tiles; ++t) {
      const size_t height = (rows - row + (row_tiles - t) - 1) / (row_tiles - t);
      run_rows<Tile, V, V::max_rows>(a, out_offset, row, chunk, count, height);
      row += height;
    }
    chunk += count;
  }
}

template <class V>
void input_product(const InputProduct& a) {
  for_each_tile<InputTile<V>, V>(a, 0, a.rows);
}

// Calls step(args, offset of this step's output) for each step, swapping the states between.
template <class Step>
FASTGRU_INLINE void for_each_step(Steps a, Step step) {
  const size_t gates_step = a.rows * ((a.hidden + kPanel - 1) / kPanel * (3 * kPanel));
  std::ptrdiff_t out_offset = 0;
  for (size_t s = 0; s < a.steps; ++s) {
    step(a, out_offset);
    float* const swap = a.state;
    a.state = a.next;
    a.next = swap;
    a.gates += gates_step;
    out_offset += a.out_step;
  }
}

FASTGRU_INLINE bool is_plain(const Steps& a) {
  return a.activation == Activation::tanh && a.trace_stride == 0 &&
         a.recurrent_activation == RecurrentActivation::sigmoid;
}

template <class V, bool Plain>
void reset_after(const Steps& a) {
  for_each_step(a, [](const Steps& s, std::ptrdiff_t out_offset) {
    for_each_tile<ResetAfterTile<V, Plain>, V>(s, out_offset, s.rows);
  });
}

template <class V, bool Plain>
void reset_before(const Steps& a) {
  for_each_step(a, [](const Steps& s, std::ptrdiff_t out_offset) {
    for_each_tile<ResetBeforeGates<V, Plain>, V>(s, out_offset, s.rows);
    for_each_tile<ResetBeforeCandidate<V, Plain>, V>(s, out_offset, s.rows);
  });
}

template <class V>
void steps_reset_after(const Steps& a) {
  is_plain(a) ? reset_after<V, true>(a) : reset_after<V, false>(a);
}

template <class V>
void steps_reset_before(const Steps& a) {
  is_plain(a) ? reset_before<V, true>(a) : reset_before<V, false>(a);
}

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
  return {name, input_product<V>, steps_reset_after<V>, steps_reset_before<V>, activate<V>};
}

}  // namespace
}  // namespace fastgru
