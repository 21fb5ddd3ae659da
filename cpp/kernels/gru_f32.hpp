// The float32 GRU kernels with units in the lanes: one source for every ISA. Include a vec_*.hpp
// first. gates.hpp has the equations, product.hpp the products and Note [Same bits].
//
// Everything runs in one thread (Steps::meet waits for others), allocates nothing and computes
// whole vectors: panels are padded with zeros, and only what exists is written to the user's array.
#pragma once

#include <cstddef>

#include "gates.hpp"
#include "group.hpp"
#include "inline.hpp"
#include "product.hpp"
#include "table.hpp"

namespace fastgru {
namespace {

// Floats between the gates of neighbouring rows.
FASTGRU_INLINE size_t gates_stride(size_t units) {
  return (units + kPanel - 1) / kPanel * (3 * kPanel);
}
// Where a chunk's gates stand in a row's.
template <class V>
FASTGRU_INLINE size_t gates_at(size_t chunk) {
  return panel_of<V>(chunk) * (3 * kPanel) + lane_in_panel<V>(chunk);
}

// Writes the units of a chunk that exist: the share may end inside it.
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

// ---- tiles: what for_each_tile() runs; kGates is G, weights and reduction those of its product
// ----

struct InputTile {
  static constexpr int kGates = 3;
  static const float* weights(const InputProduct& a) { return a.weights; }
  static size_t reduction(const InputProduct& a) { return a.reduction; }

  template <class V, int R, int C>
  static void run(const InputProduct& a, std::ptrdiff_t, size_t row, size_t chunk, Ahead ahead) {
    const float* in[R];
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) in[r] = a.x[row + r];
    const auto acc = product<V, R, C, 3>(a.bias, a.weights, in, a.reduction, a.chain, chunk, ahead);
    FASTGRU_UNROLL
    for (int r = 0; r < R; ++r) {
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c) {
        float* out = a.out + (row + r) * gates_stride(a.units) + gates_at<V>(chunk + c);
        FASTGRU_UNROLL
        for (int g = 0; g < 3; ++g) acc.v[(r * C + c) * 3 + g].store(out + g * kPanel);
      }
    }
  }
};

// The vectors [First, First + N) of a tile: vector i is row i / C and chunk i % C.
template <class V, int C, int G, int First, int N>
struct Part {
  using Vs = Group<V, N>;
  static constexpr int kSize = N;

  const Steps& a;
  size_t row, chunk;  // of the tile

  size_t row_of(int i) const { return row + static_cast<size_t>((First + i) / C); }
  size_t chunk_of(int i) const { return chunk + static_cast<size_t>((First + i) % C); }
  size_t unit_of(int i) const { return chunk_of(i) * V::lanes; }  // within the share
  // Where vector i stands in an array of states.
  size_t state_of(int i) const { return row_of(i) * a.state_stride + a.first_unit + unit_of(i); }
  FASTGRU_INLINE Vs input(int gate) const {
    return Vs::each([&](int i) FASTGRU_INLINE_LAMBDA {
      return V::load(a.gates + row_of(i) * gates_stride(a.units) + gates_at<V>(chunk_of(i)) +
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
    for (int i = 0; i < N; ++i) store_units(x.v[i], a.out[row_of(i)] + offset, unit_of(i), a.units);
  }
  FASTGRU_INLINE void trace(const Vs& x, int gate, std::ptrdiff_t offset) const {
    if (a.trace_stride != 0) output(x, offset + gate * a.trace_stride);
  }
};

// body(Part) for the Count vectors of a tile, cut into parts of about equal size.
template <class V, int C, int G, int Count, int First, class Body>
FASTGRU_INLINE void parts_from(const Steps& a, size_t row, size_t chunk, Body body) {
  constexpr int kParts = (Count - First + V::group - 1) / V::group;
  constexpr int kSize = (Count - First + kParts - 1) / kParts;
  body(Part<V, C, G, First, kSize>{a, row, chunk});
  if constexpr (First + kSize < Count)
    parts_from<V, C, G, Count, First + kSize>(a, row, chunk, body);
}
// body(Part, Int<plain>)
template <class V, int C, int G, int Count, class Body>
FASTGRU_INLINE void for_each_part(const Steps& a, size_t row, size_t chunk, Body body) {
  is_plain(a) ? parts_from<V, C, G, Count, 0>(
                    a, row, chunk, [&](auto part) FASTGRU_INLINE_LAMBDA { body(part, Int<1>()); })
              : parts_from<V, C, G, Count, 0>(
                    a, row, chunk, [&](auto part) FASTGRU_INLINE_LAMBDA { body(part, Int<0>()); });
}

struct ResetAfterTile {
  static constexpr int kGates = 3;
  static const float* weights(const Steps& a) { return a.weights; }
  static size_t reduction(const Steps& a) { return a.hidden; }

  template <class V, int R, int C>
  static void run(const Steps& a, std::ptrdiff_t offset, size_t row, size_t chunk, Ahead ahead) {
    const float* h[R];
    rows_of(a.state, a.state_stride, row, h);
    const auto acc = product<V, R, C, 3>(a.bias, a.weights, h, a.hidden, a.chain, chunk, ahead);
    for_each_part<V, C, 3, R * C>(a, row, chunk, [&](auto part, auto plain) FASTGRU_INLINE_LAMBDA {
      constexpr bool kPlain = decltype(plain)::value != 0;
      const auto u = reset_after_update<kPlain>(
          a, [&](int gate) FASTGRU_INLINE_LAMBDA { return part.input(gate); },
          part.recurrent(acc, 0), part.recurrent(acc, 1), part.recurrent(acc, 2),
          part.state(a.state));
      part.set_state(a.next, u.h);
      part.output(u.h, offset);
      if (!kPlain) {
        part.trace(u.r, 1, offset);
        part.trace(u.z, 2, offset);
        part.trace(u.n, 3, offset);
      }
    });
  }
};

// Reset before, first pass: r and z of every unit, before any candidate can be computed.
struct ResetBeforeGates {
  static constexpr int kGates = 2;
  static const float* weights(const Steps& a) { return a.weights; }
  static size_t reduction(const Steps& a) { return a.hidden; }

  template <class V, int R, int C>
  static void run(const Steps& a, std::ptrdiff_t offset, size_t row, size_t chunk, Ahead ahead) {
    const float* h[R];
    rows_of(a.state, a.state_stride, row, h);
    const auto acc = product<V, R, C, 2>(a.bias, a.weights, h, a.hidden, a.chain, chunk, ahead);
    for_each_part<V, C, 2, R * C>(a, row, chunk, [&](auto part, auto plain) FASTGRU_INLINE_LAMBDA {
      constexpr bool kPlain = decltype(plain)::value != 0;
      const auto r = gate<kPlain>(a, part.input(0) + part.recurrent(acc, 0));
      const auto z = gate<kPlain>(a, part.input(1) + part.recurrent(acc, 1));
      part.set_state(a.reset_state, r * part.state(a.state));
      part.set_state(a.update, z);
      if (!kPlain) {
        part.trace(r, 1, offset);
        part.trace(z, 2, offset);
      }
    });
  }
};

// Reset before, second pass: the candidate from r * h, and the new state.
struct ResetBeforeCandidate {
  static constexpr int kGates = 1;
  static const float* weights(const Steps& a) { return a.candidate_weights; }
  static size_t reduction(const Steps& a) { return a.hidden; }

  template <class V, int R, int C>
  static void run(const Steps& a, std::ptrdiff_t offset, size_t row, size_t chunk, Ahead ahead) {
    const float* rh[R];
    rows_of(a.reset_state, a.state_stride, row, rh);
    const auto acc = product<V, R, C, 1>(a.bias + 2 * kPanel, a.candidate_weights, rh, a.hidden,
                                         a.chain, chunk, ahead);
    for_each_part<V, C, 1, R * C>(a, row, chunk, [&](auto part, auto plain) FASTGRU_INLINE_LAMBDA {
      constexpr bool kPlain = decltype(plain)::value != 0;
      const auto n = candidate<kPlain>(a, part.input(2) + part.recurrent(acc, 0));
      const auto h = blend(part.state(a.update), part.state(a.state), n);
      part.set_state(a.next, h);
      part.output(h, offset);
      if (!kPlain) part.trace(n, 3, offset);
    });
  }
};

// ---- from a call to tiles ----

// Chunks per tile of R rows: one row takes four, for 12 concurrent streams of weights (24 were up
// to twice slower where weights come from beyond L2, on Zen 4); more rows take two while the
// accumulators fit.
template <class V, int R, class Tile>
constexpr int chunks_per_tile() {
  const int by_registers = V::max_accumulators / (R * Tile::kGates);
  const int wanted = R == 1 ? 4 : 2;
  return by_registers < 1 ? 1 : by_registers < wanted ? by_registers : wanted;
}

// All chunks of rows [row, row + R): groups of C and then what is left, one size smaller each.
template <class Tile, class V, int R, int C, class Args>
FASTGRU_INLINE void run_chunks(const Args& a, std::ptrdiff_t offset, size_t row, size_t chunk,
                               size_t count, Ahead ahead) {
  if (count == C) return Tile::template run<V, R, C>(a, offset, row, chunk, ahead);
  if constexpr (C > 1) run_chunks<Tile, V, R, C - 1>(a, offset, row, chunk, count, ahead);
}

template <class Tile, class V, int R, class Args>
void run_rows(const Args& a, std::ptrdiff_t offset, size_t row, size_t chunk, size_t count,
              size_t rows, Ahead ahead) {
  constexpr int kMost = chunks_per_tile<V, R, Tile>();
  if (rows != R) {
    if constexpr (R > 1) run_rows<Tile, V, R - 1>(a, offset, row, chunk, count, rows, ahead);
    return;
  }
  const size_t tiles = (count + kMost - 1) / kMost;
  size_t tile = 0;
  for (; count > kMost; chunk += kMost, count -= kMost)
    Tile::template run<V, R, kMost>(a, offset, row, chunk, ahead.part(tile++, tiles));
  run_chunks<Tile, V, R, kMost>(a, offset, row, chunk, count, ahead.part(tile, tiles));
}

// n things in parts of even size (9 rows are 5 + 4, not 8 + 1: a small tile costs nearly as much as
// a large one): the first `larger` parts have size + 1, the others size.
struct Cut {
  FASTGRU_INLINE Cut(size_t n, size_t most)
      : parts((n + most - 1) / most), size(n / parts), larger(n % parts) {}
  FASTGRU_INLINE size_t size_of(size_t part) const { return size + (part < larger ? 1 : 0); }
  size_t parts, size, larger;
};

// How a call's rows and chunks are cut into tiles: the same for every step.
template <class V>
struct Tiling {
  // Chunks in groups as wide as the widest tile, one row's; tiles of more rows cut them further.
  // Where it fetches ahead, a panel or two: those in use must stay in L2 beside those to come.
  static constexpr size_t kChunks = 4, kFetchedChunks = 2;
  // Weights that few tiles use are better fetched by the hardware alone (3 to 8 rows in up to two
  // tiles were 1.1 to 1.4 times as slow with it, Zen 1), and many tiles hardly wait.
  static constexpr size_t kFewTiles = 4, kManyTiles = 8;
  FASTGRU_INLINE Tiling(size_t rows_, size_t units, bool far)
      : rows(rows_, V::max_rows),
        fetch_ahead(far && rows.parts >= kFewTiles && rows.parts <= kManyTiles),
        chunks((units + V::lanes - 1) / V::lanes, fetch_ahead ? kFetchedChunks : kChunks) {}
  Cut rows;
  bool fetch_ahead;
  Cut chunks;
};

// Note [Fetching ahead]
// The tiles of a group of chunks use the same weights one after the other. Where these come from
// memory the first tile waits for it, and it idles while the others find them in L2. So each tile
// fetches its part of the next group's weights, the last group's tiles of the first one's, which
// the next step needs.
template <class Tile, class V, class Args>
FASTGRU_INLINE Ahead ahead_of(const Args& a, const Tiling<V>& tiling, size_t group, size_t chunk,
                              size_t row_tile) {
  if (!tiling.fetch_ahead) return {};
  const bool last = group + 1 == tiling.chunks.parts;
  const size_t next = last ? 0 : chunk + tiling.chunks.size_of(group);
  const size_t chunk_bytes =
      Tile::reduction(a) * static_cast<size_t>(Tile::kGates * V::lanes) * sizeof(float);
  const Ahead whole{reinterpret_cast<const char*>(Tile::weights(a)) + next * chunk_bytes,
                    tiling.chunks.size_of(last ? 0 : group + 1) * chunk_bytes};
  return whole.part(row_tile, tiling.rows.parts);
}

// One pass over the tiles of a call or a step: of Tile, and before each the input product where it
// is due. Chunks outermost, so that a panel read from far away serves all rows while it is in L1 or
// L2.
template <class Tile, class V, class Args>
FASTGRU_INLINE void pass(const Args& a, const InputProduct* input, const Tiling<V>& tiling,
                         std::ptrdiff_t offset) {
  for (size_t g = 0, chunk = 0; g < tiling.chunks.parts; ++g) {
    const size_t chunks = tiling.chunks.size_of(g);
    for (size_t t = 0, row = 0; t < tiling.rows.parts; ++t) {
      const size_t rows = tiling.rows.size_of(t);
      if (input)
        run_rows<InputTile, V, V::max_rows>(*input, 0, row, chunk, chunks, rows,
                                            ahead_of<InputTile>(*input, tiling, g, chunk, t));
      run_rows<Tile, V, V::max_rows>(a, offset, row, chunk, chunks, rows,
                                     ahead_of<Tile>(a, tiling, g, chunk, t));
      row += rows;
    }
    chunk += chunks;
  }
}

template <class V>
void input_product(const InputProduct& a) {
  pass<InputTile>(a, nullptr, Tiling<V>(a.rows, a.units, a.far), 0);
}

FASTGRU_INLINE void meet(const Steps& a) {
  if (a.meet) a.meet(a.team);
}

// Calls step(args, offset of this step's output) for each step, swapping the states between.
template <class Step>
FASTGRU_INLINE void for_each_step(Steps a, Step step) {
  const size_t gates_step = a.rows * gates_stride(a.units);
  std::ptrdiff_t offset = 0;
  for (size_t s = 0; s < a.steps; ++s) {
    step(a, offset);
    meet(a);  // before anyone reads `next`, and before anyone overwrites `state`
    float* const swap = a.state;
    a.state = a.next;
    a.next = swap;
    a.gates += gates_step;
    offset += a.out_step;
  }
}

template <class V>
void steps_reset_after(const Steps& a) {
  const Tiling<V> tiling(a.rows, a.units, a.far);
  for_each_step(a, [&](const Steps& s, std::ptrdiff_t offset)
                       FASTGRU_INLINE_LAMBDA { pass<ResetAfterTile>(s, a.input, tiling, offset); });
}

template <class V>
void steps_reset_before(const Steps& a) {
  const Tiling<V> tiling(a.rows, a.units, a.far);
  for_each_step(a, [&](const Steps& s, std::ptrdiff_t offset) FASTGRU_INLINE_LAMBDA {
    pass<ResetBeforeGates>(s, a.input, tiling, offset);
    meet(a);  // before anyone reads r * h
    pass<ResetBeforeCandidate>(s, nullptr, tiling, offset);
  });
}

}  // namespace
}  // namespace fastgru
