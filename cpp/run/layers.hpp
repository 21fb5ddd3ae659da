// The layers around a GRU, run on rows: linear layers, layer norm, activations and softmax. A row's
// result depends on nothing but the row (Note [Same bits]): sums are in one order for every ISA.
// Refuses to know about time, threads and shapes: the caller has checked them.
#pragma once

#include <cstddef>

#include "network/layers.hpp"

namespace fastgru {

// Rows whose products are made at once: several tiles, so that each panel of weights is read once
// for many rows.
constexpr std::size_t kLinearRows = 64;
// Floats of scratch that linear_rows() needs.
constexpr std::size_t kLinearScratch = std::size_t{16} << 10;

// Where the results of some rows go: row i of the step s is at rows[i] + s * step.
struct RowTargets {
  float* const* rows = nullptr;  // [rows of a step]
  std::size_t rows_in_step = 1;
  std::ptrdiff_t step = 0;  // floats

  float* operator[](std::size_t position) const {
    return rows[position % rows_in_step] +
           static_cast<std::ptrdiff_t>(position / rows_in_step) * step;
  }
};

// y = x weight^T + bias for the rows [begin, end) and the outputs of the panels [first_panel,
// end_panel). x: pointers to [K]; scratch: [kLinearScratch]. y is never x.
void linear_rows(const PackedLinear& layer, const float* const* x, const RowTargets& y,
                 std::size_t begin, std::size_t end, std::size_t first_panel, std::size_t end_panel,
                 float* scratch);

// Below, y may be x. x, y: [n].
void activate_row(const KernelTable& kernels, Function function, const float* x, float* y,
                  std::size_t n);
// exp(x) / sum(exp(x)), or its logarithm. NaN or +infinity in a row, or nothing but -infinity,
// makes the whole row NaN.
void softmax_row(const KernelTable& kernels, const float* x, float* y, std::size_t n);
void log_softmax_row(const KernelTable& kernels, const float* x, float* y, std::size_t n);
// (x - mean) / sqrt(variance + eps) * weight + bias, the variance that of n values (not n - 1).
void layer_norm_row(const PackedLayerNorm& layer, const float* x, float* y, std::size_t n);

// Running maximum: y = max(x, y), where NaN wins; x, y: [n].
void keep_maximum(const float* x, float* y, std::size_t n);

}  // namespace fastgru
