// How rows and strips are cut into tiles, whatever a tile does.
#pragma once

#include <cstddef>

#include "kernels/contract.hpp"
#include "kernels/inline.hpp"
#include "kernels/product/product.hpp"

namespace fastgru {
namespace {

// Strips per tile of R rows: one row takes four, for 12 concurrent streams of weights (24 were up
// to twice slower where weights come from beyond L2, on Zen 4); more rows take two while the
// accumulators fit.
template <class V, int R, class Tile>
constexpr int strips_per_tile() {
  const int by_registers = V::max_accumulators / (R * Tile::gates);
  const int wanted = R == 1 ? 4 : 2;
  return by_registers < 1 ? 1 : by_registers < wanted ? by_registers : wanted;
}

// Strips are run in groups as wide as the widest tile, one row's; tiles of more rows cut them
// further.
constexpr size_t kGroupStrips = 4;
template <class V>
constexpr size_t kPanelStrips = kPanel / V::lanes;

// A buffer with the sums of a group of rows and strips, which are not finished in registers.
struct PartialSums {
  static constexpr size_t kMostRows = 64;

  float* sums;  // from first_row and first_panel on: [rows][stride], a row [P][G][kPanel]
  size_t stride, first_row, first_panel;

  // Of a strip's first gate; the others follow at kPanel.
  template <class V, int G>
  FASTGRU_INLINE float* at(size_t row, size_t strip) const {
    return sums + (row - first_row) * stride + (panel_of<V>(strip) - first_panel) * (G * kPanel) +
           lane_in_panel<V>(strip);
  }
  template <class V, int R, int C, int G>
  FASTGRU_INLINE void store(const Accumulators<V, R * C * G>& acc, size_t row, size_t strip) const {
    FASTGRU_UNROLL
    for (int i = 0; i < R * C; ++i) {
      float* const to = at<V, G>(row + i / C, strip + i % C);
      FASTGRU_UNROLL
      for (int g = 0; g < G; ++g) acc.v[i * G + g].store(to + g * kPanel);
    }
  }
  template <class V, int R, int C, int G>
  FASTGRU_INLINE Accumulators<V, R * C * G> load(size_t row, size_t strip) const {
    Accumulators<V, R * C * G> acc;
    FASTGRU_UNROLL
    for (int i = 0; i < R * C; ++i) {
      const float* const from = at<V, G>(row + i / C, strip + i % C);
      FASTGRU_UNROLL
      for (int g = 0; g < G; ++g) acc.v[i * G + g] = V::load(from + g * kPanel);
    }
    return acc;
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

// All strips of rows [row, row + R): groups of C and then what is left, one size smaller each.
template <class Tile, class V, int R, int C, class Args>
FASTGRU_INLINE void run_strips(const Args& a, std::ptrdiff_t offset, size_t row, size_t strip,
                               size_t count, const PartialSums* partial_sums) {
  if (count == C) return Tile::template run<V, R, C>(a, offset, row, strip, partial_sums);
  if constexpr (C > 1) run_strips<Tile, V, R, C - 1>(a, offset, row, strip, count, partial_sums);
}

template <class Tile, class V, int R, class Args>
void run_rows(const Args& a, std::ptrdiff_t offset, size_t row, size_t strip, size_t count,
              size_t rows, const PartialSums* partial_sums) {
  constexpr int kMost = strips_per_tile<V, R, Tile>();
  if (rows != R) {
    if constexpr (R > 1) run_rows<Tile, V, R - 1>(a, offset, row, strip, count, rows, partial_sums);
    return;
  }
  for (; count > kMost; strip += kMost, count -= kMost)
    Tile::template run<V, R, kMost>(a, offset, row, strip, partial_sums);
  run_strips<Tile, V, R, kMost>(a, offset, row, strip, count, partial_sums);
}

// Divides n things into parts of even size (9 rows are 5 + 4, not 8 + 1: a small tile costs nearly
// as much as a large one). Parts begin at multiples of `grain`, which divides `most`.
struct EvenParts {
  FASTGRU_INLINE EvenParts(size_t n_, size_t most, size_t grain_ = 1) : n(n_), grain(grain_) {
    const size_t grains = (n + grain - 1) / grain;
    parts = (n + most - 1) / most;
    size = grains / parts;
    larger = grains % parts;
  }
  FASTGRU_INLINE size_t begin_of(size_t part) const {
    return part == parts ? n : (part * size + (part < larger ? part : larger)) * grain;
  }
  FASTGRU_INLINE size_t size_of(size_t part) const { return begin_of(part + 1) - begin_of(part); }
  size_t n, grain, parts;
  size_t size, larger;  // the first `larger` parts have size + 1 grains, the others size
};

// All tiles of a group of rows, from `row` on, and strips.
template <class Tile, class V, class Args>
FASTGRU_INLINE void run_group(const Args& a, const EvenParts& rows, std::ptrdiff_t offset,
                              size_t row, size_t strip, size_t strips,
                              const PartialSums* partial_sums) {
  for (size_t t = 0; t < rows.parts; ++t) {
    run_rows<Tile, V, V::max_rows>(a, offset, row, strip, strips, rows.size_of(t), partial_sums);
    row += rows.size_of(t);
  }
}

}  // namespace
}  // namespace fastgru
