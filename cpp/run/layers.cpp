#include "run/layers.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/dispatch.hpp"

namespace fastgru {
namespace {

// Terms of one sum block. A GRU's 256 were up to 3 times less accurate than PyTorch for few rows
// (K = 1024, O = 500, 13 rows), where its sums are in many parts. Largest errors of 64, 32 and 16
// are 0.35 to 0.9, 0.3 to 0.7 and 0.2 to 0.7 times those of 256; they cost 0 to 2%, 3% and 8%
// (Emerald Rapids, AVX-512 and AVX2).
constexpr std::size_t kLinearSumBlock = 32;

// Products are made for so many panels at once that they are still in cache when they are copied to
// the rows of the result.
constexpr std::size_t kProductFloats = kLinearScratch;
static_assert(kLinearRows * PackedLinear::kPanelOutputs <= kProductFloats,
              "a panel's products of kLinearRows rows must fit");

std::size_t panels_at_once(const PackedLinear& layer, std::size_t rows) {
  return std::clamp<std::size_t>(kProductFloats / (rows * PackedLinear::kPanelOutputs), 1,
                                 layer.panels());
}

// Eight sums in double, of every eighth term; total() adds them in pairs.
struct RunningSums {
  static constexpr std::size_t kSums = 8;
  double sums[kSums] = {};

  // term(i) for i in [0, n); where it is called several times, all n but the last are multiples of
  // kSums.
  template <class Term>
  void add(std::size_t n, Term term) {
    std::size_t i = 0;
    for (; i + kSums <= n; i += kSums)
      for (std::size_t j = 0; j < kSums; ++j) sums[j] += term(i + j);
    for (std::size_t j = 0; i < n; ++i, ++j) sums[j] += term(i);
  }
  double total() const {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
};

template <class Term>
double sum_of(std::size_t n, Term term) {
  RunningSums sums;
  sums.add(n, term);
  return sums.total();
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

void exponentials(const KernelTable& kernels, const float* x, float maximum, float* y,
                  std::size_t n) {
  in_panels(x, y, n, maximum, [&](const float* from, float* to, std::size_t count) {
    kernels.exponentials(from, maximum, to, count);
  });
}

}  // namespace

void linear_rows(const PackedLinear& layer, const float* const* x, const RowTargets& y,
                 std::size_t begin, std::size_t end, std::size_t first_panel, std::size_t end_panel,
                 float* scratch) {
  constexpr std::size_t kOutputs = PackedLinear::kPanelOutputs;
  const std::size_t at_once = panels_at_once(layer, std::min(end - begin, kLinearRows));
  InputProduct product{};
  product.out = scratch;
  product.multiplier.product = &own_product(*layer.kernels, Precision::float32);
  product.weights.matrix.panel_bytes = kOutputs * layer.inputs * sizeof(float);
  product.weights.reduction = layer.inputs;
  product.weights.block_terms = kLinearSumBlock;
  for (std::size_t panel = first_panel; panel < end_panel; panel += at_once) {
    const std::size_t panels = std::min(at_once, end_panel - panel), width = panels * kOutputs;
    const std::size_t first = panel * kOutputs;  // output
    const std::size_t outputs = std::min(width, layer.outputs - first);
    product.weights.matrix.data = layer.weights + first * layer.inputs;
    product.weights.bias = layer.bias + first;
    // Of the last panel only as many as its first gate has: the strips behind them are all zeros.
    product.units = width / kGates - kPanel + std::min(kPanel, outputs + kOutputs - width);
    for (std::size_t row = begin; row < end; row += product.rows) {
      product.rows = std::min(kLinearRows, end - row);
      product.x = x + row;
      layer.kernels->input_product(product);
      for (std::size_t i = 0; i < product.rows; ++i)
        std::copy_n(scratch + i * width, outputs, y[row + i] + first);
    }
  }
}

void activate_row(const KernelTable& kernels, Function function, const float* x, float* y,
                  std::size_t n) {
  in_panels(x, y, n, 0.0f, [&](const float* from, float* to, std::size_t count) {
    kernels.activate(function, from, to, count);
  });
}

void softmax_row(const KernelTable& kernels, const float* x, float* y, std::size_t n) {
  exponentials(kernels, x, maximum_of(x, n), y, n);
  // In double: a vocabulary of 50,000 would cost a float's sum three digits.
  const auto sum =
      static_cast<float>(sum_of(n, [&](std::size_t i) { return static_cast<double>(y[i]); }));
  for (std::size_t i = 0; i < n; ++i) y[i] /= sum;
}

void log_softmax_row(const KernelTable& kernels, const float* x, float* y, std::size_t n) {
  constexpr std::size_t kAtOnce = 256;
  static_assert(kAtOnce % RunningSums::kSums == 0 && kAtOnce % kPanel == 0,
                "the sums must be those of one pass");
  alignas(kAlignment) float values[kAtOnce];
  const float maximum = maximum_of(x, n);
  RunningSums sums;
  for (std::size_t first = 0; first < n; first += kAtOnce) {
    const std::size_t count = std::min(kAtOnce, n - first);
    exponentials(kernels, x + first, maximum, values, count);
    sums.add(count, [&](std::size_t i) { return static_cast<double>(values[i]); });
  }
  const double log_sum = std::log(sums.total());
  for (std::size_t i = 0; i < n; ++i)
    y[i] = static_cast<float>((static_cast<double>(x[i]) - maximum) - log_sum);
}

void layer_norm_row(const PackedLayerNorm& layer, const float* x, float* y, std::size_t n) {
  const auto count = static_cast<double>(n);
  const float *const weight = layer.weight(), *const bias = layer.bias();
  const double mean = sum_of(n, [&](std::size_t i) { return static_cast<double>(x[i]); }) / count;
  const double squares = sum_of(n, [&](std::size_t i) {
    const double difference = x[i] - mean;
    return difference * difference;
  });
  const double scale = 1 / std::sqrt(squares / count + layer.eps);
  for (std::size_t i = 0; i < n; ++i) {
    double value = (x[i] - mean) * scale;
    if (weight) value *= weight[i];
    if (bias) value += bias[i];
    y[i] = static_cast<float>(value);
  }
}

void keep_maximum(const float* x, float* y, std::size_t n) {
  const float* __restrict from = x;
  float* __restrict to = y;
  // NaN must win, from either side; no branch, for the compiler's vectors.
  for (std::size_t i = 0; i < n; ++i) {
    const bool keep = (from[i] <= to[i]) | (to[i] != to[i]);
    to[i] = keep ? to[i] : from[i];
  }
}

}  // namespace fastgru
