#include "run/layers.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/dispatch.hpp"
#include "system/float_mode.hpp"

namespace fastgru {
namespace {

constexpr std::size_t kPanelOutputs = kGates * kPanel;
// Rows whose products are partial_sums at once: several tiles, so that each panel of weights is
// read once for many rows, and for 100 outputs 37 KB, which L2 has.
constexpr std::size_t kRowBlock = 64;
// Terms of one sum block. A GRU's 256 were up to 3 times less accurate than PyTorch for few rows
// (K = 1024, O = 500, 13 rows), where its sums are in many parts. Largest errors of 64, 32 and 16
// are 0.35 to 0.9, 0.3 to 0.7 and 0.2 to 0.7 times those of 256; they cost 0 to 2%, 3% and 8%
// (Emerald Rapids, AVX-512 and AVX2).
constexpr std::size_t kLinearSumBlock = 32;

std::size_t output_panels(const PackedLinear& layer) {
  return (layer.outputs + kPanelOutputs - 1) / kPanelOutputs;
}

// Counts (in no block) or places the layer's arrays.
void carve(PackedLinear& layer, Carver& carver) {
  const std::size_t width = checked_product(output_panels(layer), kPanelOutputs);
  layer.weights = carver.take<float>(checked_product(width, layer.inputs));
  layer.bias = carver.take<float>(width);
}

// Calls move(packed, weight) for each weight.
template <class Packed, class Weight, class Move>
void for_each_weight(const PackedLinear& layer, Packed* packed, Weight* weight, Move move) {
  const std::size_t K = layer.inputs;
  for (std::size_t first = 0; first < layer.outputs; first += kPanelOutputs) {
    const std::size_t count = std::min(kPanelOutputs, layer.outputs - first);
    for (std::size_t k = 0; k < K; ++k)
      for (std::size_t o = 0; o < count; ++o)
        move(packed[first * K + k * kPanelOutputs + o], weight[(first + o) * K + k]);
  }
}

// term(0) + ... + term(n - 1) in double: eight sums of every eighth term, then in pairs.
template <class Term>
double sum_of(std::size_t n, Term term) {
  constexpr std::size_t kSums = 8;
  double sums[kSums] = {};
  std::size_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (std::size_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
  for (std::size_t j = 0; i < n; ++i, ++j) sums[j] += term(i);
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// NaN is passed over: exp(NaN - maximum) is NaN all the same.
float maximum_of(const float* x, std::size_t n) {
  float most[kPanel];
  std::fill_n(most, kPanel, -std::numeric_limits<float>::infinity());
  std::size_t i = 0;
  for (; i + kPanel <= n; i += kPanel)
    for (std::size_t j = 0; j < kPanel; ++j) most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
  for (std::size_t j = 0; i < n; ++i, ++j) most[j] = x[i] > most[j] ? x[i] : most[j];
  return *std::max_element(most, most + kPanel);
}

// kernel(x, y, n) for whole panels; the rest of [n] goes through a panel of its own, filled up.
template <class Kernel>
void in_panels(const float* x, float* y, std::size_t n, float filling, Kernel kernel) {
  const std::size_t whole = n / kPanel * kPanel, rest = n - whole;
  if (whole > 0) kernel(x, y, whole);
  if (rest == 0) return;
  alignas(kAlignment) float panel[kPanel];
  std::copy_n(x + whole, rest, panel);
  std::fill(panel + rest, panel + kPanel, filling);
  kernel(panel, panel, kPanel);
  std::copy_n(panel, rest, y + whole);
}

// y = exp(x - maximum of x), whose sum is returned. In double: a vocabulary of 50,000 would cost a
// float's sum three digits.
double exponentials(const KernelTable& kernels, const float* x, float maximum, float* y,
                    std::size_t n) {
  in_panels(x, y, n, maximum, [&](const float* from, float* to, std::size_t count) {
    kernels.exponentials(from, maximum, to, count);
  });
  return sum_of(n, [&](std::size_t i) { return static_cast<double>(y[i]); });
}

// Calls row(pointer to the first of [width], pointer to its result, length) for each sequence.
template <class Row>
void for_each_row(const OverTime& call, Row row) {
  for (std::size_t b = 0; b < call.B; ++b)
    row(call.x.data + static_cast<std::ptrdiff_t>(b) * call.x.row_stride, call.y + b * call.width,
        call.lengths ? static_cast<std::size_t>(call.lengths[b]) : call.T);
}

// Calls step(pointer to [width]) for the steps [first, length).
template <class Step>
void for_each_step(const OverTime& call, const float* x, std::size_t first, std::size_t length,
                   Step step) {
  for (std::size_t t = first; t < length; ++t)
    step(x + static_cast<std::ptrdiff_t>(t) * call.x.time_stride);
}

}  // namespace

PackedLinear pack_linear(const float* weight, const float* bias, std::size_t outputs,
                         std::size_t inputs, const KernelTable* kernels) {
  PackedLinear layer;
  layer.inputs = inputs;
  layer.outputs = outputs;
  layer.has_bias = bias != nullptr;
  layer.kernels = kernels;
  Carver counter({});
  carve(layer, counter);
  layer.storage = Buffer(counter.used());
  Carver carver({layer.storage.data(), layer.storage.size()});
  carve(layer, carver);
  for_each_weight(layer, layer.weights, weight, [](float& to, float from) { to = from; });
  if (bias) std::copy_n(bias, outputs, layer.bias);
  return layer;
}

void unpack_linear(const PackedLinear& layer, float* weight, float* bias) {
  for_each_weight(layer, layer.weights, weight, [](float from, float& to) { to = from; });
  if (bias) std::copy_n(layer.bias, layer.outputs, bias);
}

void linear(const PackedLinear& layer, const float* x, float* y, std::size_t rows) {
  const FlushDenormals flush;
  const std::size_t width = output_panels(layer) * kPanelOutputs;
  const std::size_t block = std::min(rows, kRowBlock);
  const float** x_rows = nullptr;
  float* products = nullptr;
  const auto place = [&](Carver& carver) {
    x_rows = carver.take<const float*>(block);
    products = carver.take<float>(checked_product(block, width));
  };
  Carver counter({});
  place(counter);
  Carver carver(arena_of(counter.used()));
  place(carver);

  InputProduct product{};
  product.weights.matrix = {layer.weights, kPanelOutputs * layer.inputs * sizeof(float), nullptr,
                            nullptr};
  product.multiplier.product = &own_product(*layer.kernels, Precision::float32);
  product.weights.bias = layer.bias;
  product.x = x_rows;
  product.out = products;
  product.weights.reduction = layer.inputs;
  product.weights.block_terms = kLinearSumBlock;
  // Of the last panel only as many as its first gate has: the chunks behind them are all zeros.
  product.units = width / kGates - kPanel + std::min(kPanel, layer.outputs + kPanelOutputs - width);
  for (std::size_t row = 0; row < rows; row += block) {
    product.rows = std::min(block, rows - row);
    for (std::size_t i = 0; i < product.rows; ++i) x_rows[i] = x + (row + i) * layer.inputs;
    layer.kernels->input_product(product);
    for (std::size_t i = 0; i < product.rows; ++i)
      std::copy_n(products + i * width, layer.outputs, y + (row + i) * layer.outputs);
  }
  release_arena();
}

void activate(const KernelTable& kernels, Function function, const float* x, float* y,
              std::size_t n) {
  const FlushDenormals flush;
  in_panels(x, y, n, 0.0f, [&](const float* from, float* to, std::size_t count) {
    kernels.activate(function, from, to, count);
  });
}

void softmax(const KernelTable& kernels, const float* x, float* y, std::size_t rows,
             std::size_t n) {
  const FlushDenormals flush;
  for (; rows > 0; --rows, x += n, y += n) {
    const auto sum = static_cast<float>(exponentials(kernels, x, maximum_of(x, n), y, n));
    for (std::size_t i = 0; i < n; ++i) y[i] /= sum;
  }
}

void log_softmax(const KernelTable& kernels, const float* x, float* y, std::size_t rows,
                 std::size_t n) {
  const FlushDenormals flush;
  for (; rows > 0; --rows, x += n, y += n) {
    const float maximum = maximum_of(x, n);
    const double log_sum = std::log(exponentials(kernels, x, maximum, y, n));
    for (std::size_t i = 0; i < n; ++i)
      y[i] = static_cast<float>((static_cast<double>(x[i]) - maximum) - log_sum);
  }
}

void layer_norm(const float* weight, const float* bias, double eps, const float* x, float* y,
                std::size_t rows, std::size_t n) {
  const FlushDenormals flush;
  const auto count = static_cast<double>(n);
  for (; rows > 0; --rows, x += n, y += n) {
    const double mean = sum_of(n, [&](std::size_t i) { return static_cast<double>(x[i]); }) / count;
    const double squares = sum_of(n, [&](std::size_t i) {
      const double difference = x[i] - mean;
      return difference * difference;
    });
    const double scale = 1 / std::sqrt(squares / count + eps);
    for (std::size_t i = 0; i < n; ++i) {
      double value = (x[i] - mean) * scale;
      if (weight) value *= weight[i];
      if (bias) value += bias[i];
      y[i] = static_cast<float>(value);
    }
  }
}

std::optional<std::int64_t> embed(const float* table, std::size_t entries, std::size_t width,
                                  const std::int64_t* indices, std::size_t n, float* y) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t index = indices[i];  // read once: the array is the user's
    if (index < 0 || static_cast<std::uint64_t>(index) >= entries) return index;
    std::copy_n(table + static_cast<std::size_t>(index) * width, width, y + i * width);
  }
  return std::nullopt;
}

std::optional<std::int64_t> one_hot(std::size_t classes, const std::int64_t* indices, std::size_t n,
                                    float* y) {
  std::memset(y, 0, n * classes * sizeof(float));
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t index = indices[i];
    if (index < 0 || static_cast<std::uint64_t>(index) >= classes) return index;
    y[i * classes + static_cast<std::size_t>(index)] = 1.0f;
  }
  return std::nullopt;
}

void mean_over_time(const OverTime& call) {
  const FlushDenormals flush;
  auto* const sums =
      reinterpret_cast<double*>(arena_of(checked_product(call.width, sizeof(double))).data);
  for_each_row(call, [&](const float* x, float* y, std::size_t length) {
    std::fill_n(sums, call.width, 0.0);
    for_each_step(call, x, 0, length, [&](const float* values) {
      for (std::size_t i = 0; i < call.width; ++i) sums[i] += static_cast<double>(values[i]);
    });
    for (std::size_t i = 0; i < call.width; ++i)
      y[i] = static_cast<float>(sums[i] / static_cast<double>(length));
  });
  release_arena();
}

void max_over_time(const OverTime& call) {
  const FlushDenormals flush;
  for_each_row(call, [&](const float* x, float* y, std::size_t length) {
    std::copy_n(x, call.width, y);
    for_each_step(call, x, 1, length, [&](const float* values) {
      const float* __restrict from = values;
      float* __restrict to = y;
      // NaN must win, from either side; no branch, for the compiler's vectors.
      for (std::size_t i = 0; i < call.width; ++i) {
        const bool keep = (from[i] <= to[i]) | (to[i] != to[i]);
        to[i] = keep ? to[i] : from[i];
      }
    });
  });
}

void last_of_time(const OverTime& call) {
  for_each_row(call, [&](const float* x, float* y, std::size_t length) {
    std::copy_n(x + static_cast<std::ptrdiff_t>(length - 1) * call.x.time_stride, call.width, y);
  });
}

}  // namespace fastgru
