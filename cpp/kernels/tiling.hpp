// How rows and chunks are cut into tiles, whatever a tile does.
#pragma once

#include <cstddef>

#include "inline.hpp"
#include "table.hpp"

namespace fastgru {
namespace {

using std::size_t;

// Chunks per tile of R rows: one row takes four, for 12 concurrent streams of weights (24 were up
// to twice slower where weights come from beyond L2, on Zen 4); more rows take two while the
// accumulators fit.
template <class V, int R, class Tile>
constexpr int chunks_per_tile() {
  const int by_registers = V::max_accumulators / (R * Tile::kGates);
  const int wanted = R == 1 ? 4 : 2;
  return by_registers < 1 ? 1 : by_registers < wanted ? by_registers : wanted;
}

// Products of the tiles of a group of rows and chunks, where they are not used on the spot.
struct Kept {
  static constexpr size_t kMostRows = 64;

  float* sums;  // [rows x chunks][G vectors], tile after tile
  size_t first_row, first_chunk, chunks;

  // Vectors of units before a tile of R rows, one for each row and chunk.
  template <int R>
  FASTGRU_INLINE size_t before(size_t row, size_t chunk) const {
    return (row - first_row) * chunks + R * (chunk - first_chunk);
  }
  template <class V, int R, int G>
  FASTGRU_INLINE float* of(size_t row, size_t chunk) const {
    return sums + before<R>(row, chunk) * (G * V::lanes);
  }
};

// All chunks of rows [row, row + R): groups of C and then what is left, one size smaller each.
template <class Tile, class V, int R, int C, class Args>
FASTGRU_INLINE void run_chunks(const Args& a, std::ptrdiff_t offset, size_t row, size_t chunk,
                               size_t count, const Kept* kept) {
  if (count == C) return Tile::template run<V, R, C>(a, offset, row, chunk, kept);
  if constexpr (C > 1) run_chunks<Tile, V, R, C - 1>(a, offset, row, chunk, count, kept);
}

template <class Tile, class V, int R, class Args>
void run_rows(const Args& a, std::ptrdiff_t offset, size_t row, size_t chunk, size_t count,
              size_t rows, const Kept* kept) {
  constexpr int kMost = chunks_per_tile<V, R, Tile>();
  if (rows != R) {
    if constexpr (R > 1) run_rows<Tile, V, R - 1>(a, offset, row, chunk, count, rows, kept);
    return;
  }
  for (; count > kMost; chunk += kMost, count -= kMost)
    Tile::template run<V, R, kMost>(a, offset, row, chunk, kept);
  run_chunks<Tile, V, R, kMost>(a, offset, row, chunk, count, kept);
}

// n things in parts of even size (9 rows are 5 + 4, not 8 + 1: a small tile costs nearly as much as
// a large one): the first `larger` parts have size + 1, the others size.
struct Cut {
  FASTGRU_INLINE Cut(size_t n, size_t most)
      : parts((n + most - 1) / most), size(n / parts), larger(n % parts) {}
  FASTGRU_INLINE size_t size_of(size_t part) const { return size + (part < larger ? 1 : 0); }
  FASTGRU_INLINE size_t begin_of(size_t part) const {
    return part * size + (part < larger ? part : larger);
  }
  size_t parts, size, larger;
};

// All tiles of a group of rows, from `row` on, and chunks.
template <class Tile, class V, class Args>
FASTGRU_INLINE void run_group(const Args& a, const Cut& rows, std::ptrdiff_t offset, size_t row,
                              size_t chunk, size_t chunks, const Kept* kept) {
  for (size_t t = 0; t < rows.parts; ++t) {
    run_rows<Tile, V, V::max_rows>(a, offset, row, chunk, chunks, rows.size_of(t), kept);
    row += rows.size_of(t);
  }
}

}  // namespace
}  // namespace fastgru
