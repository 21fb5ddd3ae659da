// What surrounds a GRU in a model: embeddings, linear layers, layer norm, activations, softmax and
// reductions over time. float32, on the calling thread. Refuses to know about shapes: arrays here
// are rows, C-contiguous unless a view says otherwise, checked by the caller. A row's result
// depends on nothing but the row (Note [Same bits]): sums are in one order for every ISA.
// Only linear() needs scratch, from the arena; none allocates on a shape it has seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "run/run.hpp"
#include "system/buffer.hpp"

namespace fastgru {

// A linear layer is an input product: three panels' worth of neighbouring outputs stand in the
// places of a panel's three gates, so that input_product() writes a row's outputs in their order.
// It needs no kernel of its own, and has the same bits on every ISA with FMAs, in any batch.
struct PackedLinear {
  std::size_t inputs = 0;   // K
  std::size_t outputs = 0;  // O
  bool has_bias = false;
  const KernelTable* kernels = nullptr;
  float* weights = nullptr;  // [P][K][3][kPanel], P = ceil(O / (3 kPanel)); zeros beyond O
  float* bias = nullptr;     // [P][3][kPanel]
  Buffer storage;
};

// weight: [O, K]; bias: [O] or null. Throws std::length_error or std::bad_alloc where the sizes are
// too large.
PackedLinear pack_linear(const float* weight, const float* bias, std::size_t outputs,
                         std::size_t inputs, const KernelTable* kernels);
// The inverse, to the bit. weight: [O, K]; bias: [O], or null where there is none.
void unpack_linear(const PackedLinear& layer, float* weight, float* bias);

// Below, y is never x.

// y = x weight^T + bias; x: [rows, K], y: [rows, O].
void linear(const PackedLinear& layer, const float* x, float* y, std::size_t rows);

// x, y: [n].
void activate(const KernelTable& kernels, Function function, const float* x, float* y,
              std::size_t n);

// exp(x) / sum(exp(x)), or its logarithm, over each row; x, y: [rows, n]. NaN or +infinity in a
// row, or nothing but -infinity, makes the whole row NaN.
void softmax(const KernelTable& kernels, const float* x, float* y, std::size_t rows, std::size_t n);
void log_softmax(const KernelTable& kernels, const float* x, float* y, std::size_t rows,
                 std::size_t n);

// (x - mean) / sqrt(variance + eps) * weight + bias over each row, the variance that of n values
// (not n - 1); x, y: [rows, n]; weight, bias: [n], or null: 1 and 0.
void layer_norm(const float* weight, const float* bias, double eps, const float* x, float* y,
                std::size_t rows, std::size_t n);

// Rows of a table by number. Returns the first index outside 0..entries-1, and has then not filled
// y. table: [entries, width], y: [n, width].
std::optional<std::int64_t> embed(const float* table, std::size_t entries, std::size_t width,
                                  const std::int64_t* indices, std::size_t n, float* y);
// The same with the rows of an identity matrix [classes, classes].
std::optional<std::int64_t> one_hot(std::size_t classes, const std::int64_t* indices, std::size_t n,
                                    float* y);

// Sequences whose steps become one row: x (T, B, width), y [B, width].
struct OverTime {
  std::size_t T = 0, B = 0, width = 0;
  SequenceView<const float> x;
  const std::int64_t* lengths = nullptr;  // [B], 1 <= length <= T, or null: T, which is then >= 1
  float* y = nullptr;
};
void mean_over_time(const OverTime& call);
void max_over_time(const OverTime& call);  // NaN if any of a row's values is
void last_of_time(const OverTime& call);

}  // namespace fastgru
