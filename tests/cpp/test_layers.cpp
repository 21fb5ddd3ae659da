// What surrounds a GRU, without Python, on every ISA this CPU has: made to run under
// AddressSanitizer and UndefinedBehaviorSanitizer. Arrays are exact-size heap allocations, so
// reading or writing one float beyond a user's array is caught.
#include "run/layers.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "run/call.hpp"
#include "support.hpp"

using namespace fastgru;

namespace {

// The absolute half of promise 1, relative to max(1, |exact|).
constexpr double kTolerance = 5e-7;
// Sums of 600 products have as much in float32; that it is at most twice what PyTorch has is
// tests/test_layers.py's.
constexpr double kSumTolerance = 1e-6;

bool close(const Floats& a, const std::vector<double>& exact, double tolerance = kTolerance) {
  bool ok = a.size() == exact.size();
  for (std::size_t i = 0; ok && i < a.size(); ++i)
    ok = std::abs(a[i] - exact[i]) <= tolerance * std::max(1.0, std::abs(exact[i]));
  return ok;
}

// One layer by itself, for rows of `width` features, which become rows of `outputs`.
Floats run_rows(NetworkLayer layer, const float* x, std::size_t rows, std::size_t width,
                std::size_t outputs) {
  const PackedNetwork network = pack_network({std::move(layer)}, 0);
  Floats y(rows * outputs);
  Call call;
  call.T = 1;
  call.B = rows;
  call.x = {x, 0, static_cast<std::ptrdiff_t>(width)};
  call.width = width;
  call.y = {y.data(), 0, static_cast<std::ptrdiff_t>(outputs)};
  call.max_threads = rows % 2 ? 1 : 2;
  run(network, call);
  return y;
}

// Sizes around vectors, panels and three panels.
constexpr std::size_t kSizes[] = {1, 15, 16, 17, 47, 48, 49, 97};

// result(kernels) on every ISA: close to `exact`, and the same bits where there are FMAs.
template <class Result>
void check_isas(const std::vector<double>& exact, const std::string& what, Result result,
                double tolerance = kTolerance) {
  Floats fused;
  for (const IsaLevel& level : isa_levels()) {
    if (!level.supported) continue;
    const std::string name = std::string(level.name) + " " + what;
    const Floats y = result(*choose_kernels(level.name));
    check(close(y, exact, tolerance), name + ": far from the definition");
    if (!choose_kernels(level.name)->fuses) continue;
    check(fused.empty() || same_bits(fused, y), name + ": other bits");
    fused = y;
  }
}

void check_linear(std::size_t O, std::size_t K, std::size_t rows, bool has_bias) {
  const float scale = 1 / std::sqrt(static_cast<float>(K));
  const Floats weight = random_floats(O * K, scale), bias = random_floats(O, scale);
  const Floats x = random_floats(rows * K, 1.0f);
  std::vector<double> exact(rows * O);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t o = 0; o < O; ++o) {
      double sum = has_bias ? bias[o] : 0;
      for (std::size_t k = 0; k < K; ++k)
        sum += static_cast<double>(x[r * K + k]) * weight[o * K + k];
      exact[r * O + o] = sum;
    }
  const std::string what =
      "linear O=" + std::to_string(O) + " K=" + std::to_string(K) + " rows=" + std::to_string(rows);
  check_isas(
      exact, what,
      [&](const KernelTable& kernels) {
        const auto layer = std::make_shared<const PackedLinear>(
            pack_linear(weight.data(), has_bias ? bias.data() : nullptr, O, K, &kernels));
        Floats weight_again(O * K), bias_again(O);
        unpack_linear(*layer, weight_again.data(), has_bias ? bias_again.data() : nullptr);
        check(same_bits(weight, weight_again) && (!has_bias || same_bits(bias, bias_again)),
              what + ": unpacking gives other bits");
        const Floats y = run_rows(layer, x.data(), rows, K, O);
        const Floats alone = run_rows(layer, x.data() + (rows - 1) * K, 1, K, O);
        check(std::memcmp(alone.data(), &y[(rows - 1) * O], O * sizeof(float)) == 0,
              what + ": a row alone has other bits");
        return y;
      },
      kSumTolerance);
}

void check_softmax(std::size_t n, std::size_t rows) {
  const Floats x = random_floats(rows * n, 8.0f);
  std::vector<double> exact(rows * n), log_exact(rows * n);
  for (std::size_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[r * n + i]));
    for (std::size_t i = 0; i < n; ++i) {
      exact[r * n + i] = std::exp(static_cast<double>(x[r * n + i])) / sum;
      log_exact[r * n + i] = x[r * n + i] - std::log(sum);
    }
  }
  const std::string size = " n=" + std::to_string(n);
  check_isas(exact, "softmax" + size, [&](const KernelTable& kernels) {
    return run_rows(PackedSoftmax{&kernels, false}, x.data(), rows, n, n);
  });
  check_isas(log_exact, "log_softmax" + size, [&](const KernelTable& kernels) {
    return run_rows(PackedSoftmax{&kernels, true}, x.data(), rows, n, n);
  });
}

// What a row of the largest and smallest numbers gives, in every lane.
void check_special_rows(std::size_t n) {
  for (const IsaLevel& level : isa_levels()) {
    if (!level.supported) continue;
    const KernelTable& kernels = *choose_kernels(level.name);
    for (std::size_t i = 0; i < n; ++i) {
      Floats x(n, -INFINITY), y(n), log_y(n);
      x[i] = -3e38f;
      softmax_row(kernels, x.data(), y.data(), n);
      log_softmax_row(kernels, x.data(), log_y.data(), n);
      bool ok = true;
      for (std::size_t j = 0; j < n; ++j)
        ok &= i == j ? y[j] == 1 && log_y[j] == 0 : y[j] == 0 && log_y[j] == -INFINITY;
      check(ok, std::string(level.name) + ": -infinity counts as nothing");
      x.assign(n, 3e38f);
      x[i] = NAN;
      softmax_row(kernels, x.data(), y.data(), n);
      check(std::all_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }),
            std::string(level.name) + ": NaN spreads in its row");
    }
  }
}

void check_layer_norm(std::size_t n, std::size_t rows, bool affine) {
  const Floats weight = random_floats(n, 1.0f), bias = random_floats(n, 1.0f);
  const Floats x = random_floats(rows * n, 3.0f);
  std::vector<double> exact(rows * n);
  for (std::size_t r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < n; ++i) mean += x[r * n + i] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i)
      variance += std::pow(x[r * n + i] - mean, 2) / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i)
      exact[r * n + i] = (x[r * n + i] - mean) / std::sqrt(variance + 1e-5) *
                             (affine ? static_cast<double>(weight[i]) : 1) +
                         (affine ? static_cast<double>(bias[i]) : 0);
  }
  PackedLayerNorm norm;
  norm.size = n;
  norm.has_weight = norm.has_bias = affine;
  norm.eps = 1e-5;
  norm.storage = Buffer(2 * n * sizeof(float));
  std::copy_n(weight.data(), n, norm.values());
  std::copy_n(bias.data(), n, norm.values() + n);
  const Floats y =
      run_rows(std::make_shared<const PackedLayerNorm>(std::move(norm)), x.data(), rows, n, n);
  check(close(y, exact), "layer_norm n=" + std::to_string(n));
}

void check_activate(std::size_t n) {
  const Floats x = random_floats(n, 8.0f);
  std::vector<double> exact(n);
  for (std::size_t i = 0; i < n; ++i) exact[i] = std::tanh(static_cast<double>(x[i]));
  check_isas(exact, "tanh n=" + std::to_string(n), [&](const KernelTable& kernels) {
    return run_rows(PackedActivation{&kernels, Function::tanh}, x.data(), 1, n, n);
  });
}

void check_over_time(std::size_t width, bool ragged) {
  const std::size_t T = 5, B = 3;
  const Floats x = random_floats(T * B * width, 2.0f);
  const std::vector<std::int64_t> lengths{5, 1, 3};
  std::vector<double> mean(B * width), most(B * width), last(B * width);
  for (std::size_t b = 0; b < B; ++b) {
    const auto length = ragged ? static_cast<std::size_t>(lengths[b]) : T;
    for (std::size_t i = 0; i < width; ++i) {
      const auto at = [&](std::size_t t) {
        return static_cast<double>(x[(t * B + b) * width + i]);
      };
      double sum = 0, largest = at(0);
      for (std::size_t t = 0; t < length; ++t) sum += at(t), largest = std::max(largest, at(t));
      mean[b * width + i] = sum / static_cast<double>(length);
      most[b * width + i] = largest;
      last[b * width + i] = at(length - 1);
    }
  }
  Floats y(B * width);
  Call call;
  call.T = T;
  call.B = B;
  call.width = width;
  call.x = {x.data(), static_cast<std::ptrdiff_t>(B * width), static_cast<std::ptrdiff_t>(width)};
  call.lengths = ragged ? lengths.data() : nullptr;
  call.y = {y.data(), 0, static_cast<std::ptrdiff_t>(width)};
  const auto give = [&](OverTime::Kind kind) {
    run(pack_network({OverTime{kind, false}}, 0), call);
    return y;
  };
  const std::string size = " width=" + std::to_string(width);
  check(close(give(OverTime::Kind::mean), mean), "mean" + size);
  check(close(give(OverTime::Kind::max), most), "max" + size);
  check(close(give(OverTime::Kind::last), last), "last" + size);
}

void check_indices(std::size_t entries, std::size_t width) {
  const Floats table = random_floats(entries * width, 1.0f);
  const std::vector<std::int64_t> indices{static_cast<std::int64_t>(entries) - 1, 0};
  const auto give = [&](NetworkLayer layer, std::size_t outputs) {
    Floats y(2 * outputs);
    Call call;
    call.T = 1;
    call.B = 2;
    call.indices = {indices.data(), 0, 1};
    call.y = {y.data(), 0, static_cast<std::ptrdiff_t>(outputs)};
    run(pack_network({std::move(layer)}, 0), call);
    return y;
  };
  PackedEmbedding embedding;
  embedding.entries = entries;
  embedding.width = width;
  embedding.storage = Buffer(table.size() * sizeof(float));
  std::copy(table.begin(), table.end(), embedding.table());
  const Floats y = give(std::make_shared<const PackedEmbedding>(std::move(embedding)), width);
  check(std::equal(y.begin() + static_cast<std::ptrdiff_t>(width), y.end(), table.begin()) &&
            std::equal(y.begin(), y.begin() + static_cast<std::ptrdiff_t>(width),
                       table.end() - static_cast<std::ptrdiff_t>(width)),
        "an embedding takes rows");
  const Floats ones = give(OneHot{entries}, entries);
  check(ones[entries - 1] == 1 && ones[entries] == 1 &&
            std::count(ones.begin(), ones.end(), 0.0f) ==
                static_cast<std::ptrdiff_t>(2 * entries - 2),
        "one_hot sets one");
}

}  // namespace

TEST(linear) {
  for (const std::size_t O : kSizes)
    for (const std::size_t K : {1, 17, 600})  // 600: more than two blocks
      for (const std::size_t rows : {1, 3, 8, 65, 130}) check_linear(O, K, rows, rows % 2 == 1);
}

TEST(softmax) {
  for (const std::size_t n : kSizes) check_softmax(n, 3);
  check_softmax(50000, 1);
}

TEST(softmax_of_special_rows) {
  for (const std::size_t n : kSizes) check_special_rows(n);
}

TEST(layer_norm) {
  for (const std::size_t n : kSizes)
    for (const bool affine : {true, false}) check_layer_norm(n, 3, affine);
}

TEST(activations) {
  for (const std::size_t n : kSizes) check_activate(n);
}

TEST(over_time) {
  for (const std::size_t n : kSizes)
    for (const bool ragged : {true, false}) check_over_time(n, ragged);
}

TEST(indices) {
  for (const std::size_t n : kSizes) {
    check_indices(n, 7);
    check_indices(3, n);
  }
}
