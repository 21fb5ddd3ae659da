// Weights that a step has to read from far away: from memory, or a cache as slow. How the tiles of
// a pass go through them, and in which order a step does. Refuses to know what a tile computes.
#pragma once

#include <cstddef>

#include "kernels/inline.hpp"
#include "kernels/product/product.hpp"
#include "kernels/product/tiling.hpp"

namespace fastgru {
namespace {

// How the tiles of a pass go through the weights of a group of strips.
enum class Traversal {
  by_tiles,       // each tile from its first product to its results: weights are near, or one tile
                  // uses them all
  by_sum_blocks,  // the tiles of a panel take turns at each sum block: Note [Block by block]
  two_streams     // two rows read two panels at once: run_two_streams()
};
// Of `rows` rows; far: where the plan says that their weights are.
template <class V>
FASTGRU_INLINE Traversal traversal_of(size_t rows, bool far) {
  if (!far) return Traversal::by_tiles;
  const bool several_tiles = rows * kPanelStrips<V> * kGates > V::max_accumulators;
  if (several_tiles && rows <= PartialSums::kMostRows) return Traversal::by_sum_blocks;
  return kPanelStrips<V> == 2 && rows == 2 ? Traversal::two_streams : Traversal::by_tiles;
}

// ---- there and back ----

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

// ---- by sum blocks ----

// Memory to prefetch while products are summed, because it is needed next.
struct Prefetch {
  const char* from = nullptr;
  size_t bytes = 0;
};
constexpr size_t kLine = 64;

// Adds the sum block [begin, end) of a tile's products to the sums of those before it. strips:
// where each strip's weights begin, bias: its biases; sums: where those of row r and strip c,
// number r * C + c, are, gate after gate at kPanel. Fetch: whether to prefetch. Not inline: tiles
// of different kinds share it.
template <class V, int R, int C, int G, bool Fetch = true>
FASTGRU_NOINLINE void add_sum_block(const float* const (&strips)[C], const float* const (&bias)[C],
                                    const float* const (&rows)[R], size_t begin, size_t end,
                                    float* const (&sums)[R * C], Prefetch prefetch) {
  const float *w[C], *in[R];  // copies, for registers
  FASTGRU_UNROLL
  for (int c = 0; c < C; ++c) w[c] = strips[c];
  FASTGRU_UNROLL
  for (int r = 0; r < R; ++r) in[r] = rows[r];
  Accumulators<V, R * C * G> acc;
  FASTGRU_UNROLL
  for (int c = 0; c < C; ++c) {
    FASTGRU_UNROLL
    for (int g = 0; g < G; ++g) {
      const V first = begin == 0 ? V::load(bias[c] + g * kPanel) : V::set(0.0f);
      FASTGRU_UNROLL
      for (int r = 0; r < R; ++r) acc.v[(r * C + c) * G + g] = first;
    }
  }
  // Fewer than 128 bytes a term, since several tiles share a panel's. Into L2: a panel's block
  // fills L1. No loop in the loop: its end, mispredicted, made batches 1.15 times as long (Emerald
  // Rapids).
  constexpr int kLocality = 2;
  const size_t bytes = prefetch.bytes / (end - begin);
  const char* fetch = prefetch.from;
  for (size_t k = begin; k < end; ++k) {
    if constexpr (Fetch) {
      __builtin_prefetch(fetch, 0, kLocality);
      if (G > 1) __builtin_prefetch(fetch + bytes / 2, 0, kLocality);
      fetch += bytes;
    }
    add_terms<V, R, C, G>(acc, w, in, k, k + 1);
  }
  FASTGRU_UNROLL
  for (int i = 0; i < R * C; ++i) {
    FASTGRU_UNROLL
    for (int g = 0; g < G; ++g) {
      V& sum = acc.v[i * G + g];
      float* const to = sums[i] + g * kPanel;
      if (begin != 0) sum = V::load(to) + sum;
      sum.store(to);
    }
  }
}

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

// Note [Block by block]
// Several tiles use the same weights one after the other: those of other rows, and where a panel is
// wider than a tile those of its other strips. Where weights come from far away the first tile
// would wait for them, and memory would idle while the others find them in a cache. So the tiles of
// a panel take turns at each sum block, and each prefetches its part of the next block's weights,
// which follow the block's own, and after the last block begin where `next` does.
template <class Tile, class V, class Args>
void run_by_sum_blocks(const Args& a, const EvenParts& tile_rows, std::ptrdiff_t offset,
                       size_t rows, size_t strip, size_t strips, size_t next) {
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
        tile_rows, offset, 0, strip, strips, &partial_sums);
  }
  run_group<WholeTile<Tile>, V>(a, tile_rows, offset, 0, strip, strips, &partial_sums);
}

// ---- two streams ----

// Two rows, and strips that are half a panel: one tile of both halves would read a single stream
// from memory, where two at once come 1.13 times as fast (Zen 1, H = 1024). So a tile has the same
// half of two panels, and finds the other one in L2 afterwards.
template <class Tile, class V, class Args>
void run_two_streams(const Args& a, std::ptrdiff_t offset, size_t strip, size_t strips) {
  constexpr int kG = Tile::gates;
  alignas(64) float sums[2 * kGroupStrips * kG * V::lanes];
  const PartialSums partial_sums{sums, kGroupStrips * kG * V::lanes, 0, panel_of<V>(strip)};
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
// Whether a group of strips is two whole panels, as run_two_streams() needs them.
template <class V>
FASTGRU_INLINE bool are_two_panels(size_t strip, size_t strips) {
  return strip % kPanelStrips<V> == 0 && strips == 2 * kPanelStrips<V>;
}

}  // namespace
}  // namespace fastgru
