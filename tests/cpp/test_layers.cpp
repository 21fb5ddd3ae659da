// What surrounds a GRU, without Python, on every ISA this CPU has: made to run under
// AddressSanitizer and UndefinedBehaviorSanitizer. Arrays are exact-size heap allocations, so
// reading or writing one float beyond a user's array is caught.
#include "run/layers.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/dispatch.hpp"

using namespace fastgru;

namespace {

int passed = 0, failed = 0;

void check(bool ok, const std::string& what) {
  ok ? ++passed : ++failed;
  if (!ok) std::printf("FAILED: %s\n", what.c_str());
}

using Floats = std::vector<float>;

std::mt19937 generator(20240917);

Floats random_floats(std::size_t n, float scale) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  Floats values(n);
  for (float& v : values) v = uniform(generator);
  values.shrink_to_fit();
  return values;
}

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

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

void test_linear(std::size_t O, std::size_t K, std::size_t rows, bool has_bias) {
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
        const PackedLinear layer =
            pack_linear(weight.data(), has_bias ? bias.data() : nullptr, O, K, &kernels);
        Floats weight_again(O * K), bias_again(O);
        unpack_linear(layer, weight_again.data(), has_bias ? bias_again.data() : nullptr);
        check(same_bits(weight, weight_again) && (!has_bias || same_bits(bias, bias_again)),
              what + ": unpacking gives other bits");
        Floats y(rows * O), alone(O);
        linear(layer, x.data(), y.data(), rows);
        linear(layer, x.data() + (rows - 1) * K, alone.data(), 1);
        check(std::memcmp(alone.data(), &y[(rows - 1) * O], O * sizeof(float)) == 0,
              what + ": a row alone has other bits");
        return y;
      },
      kSumTolerance);
}

void test_softmax(std::size_t n, std::size_t rows) {
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
    Floats y(rows * n);
    softmax(kernels, x.data(), y.data(), rows, n);
    return y;
  });
  check_isas(log_exact, "log_softmax" + size, [&](const KernelTable& kernels) {
    Floats y(rows * n);
    log_softmax(kernels, x.data(), y.data(), rows, n);
    return y;
  });
}

// What a row of the largest and smallest numbers gives, in every lane.
void test_special_rows(std::size_t n) {
  for (const IsaLevel& level : isa_levels()) {
    if (!level.supported) continue;
    const KernelTable& kernels = *choose_kernels(level.name);
    for (std::size_t i = 0; i < n; ++i) {
      Floats x(n, -INFINITY), y(n), log_y(n);
      x[i] = -3e38f;
      softmax(kernels, x.data(), y.data(), 1, n);
      log_softmax(kernels, x.data(), log_y.data(), 1, n);
      bool ok = true;
      for (std::size_t j = 0; j < n; ++j)
        ok &= i == j ? y[j] == 1 && log_y[j] == 0 : y[j] == 0 && log_y[j] == -INFINITY;
      check(ok, std::string(level.name) + ": -infinity counts as nothing");
      x.assign(n, 3e38f);
      x[i] = NAN;
      softmax(kernels, x.data(), y.data(), 1, n);
      check(std::all_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }),
            std::string(level.name) + ": NaN spreads in its row");
    }
  }
}

void test_layer_norm(std::size_t n, std::size_t rows, bool affine) {
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
  Floats y(rows * n);
  layer_norm(affine ? weight.data() : nullptr, affine ? bias.data() : nullptr, 1e-5, x.data(),
             y.data(), rows, n);
  check(close(y, exact), "layer_norm n=" + std::to_string(n));
}

void test_activate(std::size_t n) {
  const Floats x = random_floats(n, 8.0f);
  std::vector<double> exact(n);
  for (std::size_t i = 0; i < n; ++i) exact[i] = std::tanh(static_cast<double>(x[i]));
  check_isas(exact, "tanh n=" + std::to_string(n), [&](const KernelTable& kernels) {
    Floats y(n);
    activate(kernels, Function::tanh, x.data(), y.data(), n);
    return y;
  });
}

void test_over_time(std::size_t width, bool ragged) {
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
  OverTime call;
  call.T = T;
  call.B = B;
  call.width = width;
  call.x = {x.data(), static_cast<std::ptrdiff_t>(B * width), static_cast<std::ptrdiff_t>(width)};
  call.lengths = ragged ? lengths.data() : nullptr;
  call.y = y.data();
  const std::string size = " width=" + std::to_string(width);
  mean_over_time(call);
  check(close(y, mean), "mean_over_time" + size);
  max_over_time(call);
  check(close(y, most), "max_over_time" + size);
  last_of_time(call);
  check(close(y, last), "last_of_time" + size);
}

void test_indices(std::size_t entries, std::size_t width) {
  const Floats table = random_floats(entries * width, 1.0f);
  const std::vector<std::int64_t> indices{static_cast<std::int64_t>(entries) - 1, 0};
  Floats y(2 * width);
  check(!embed(table.data(), entries, width, indices.data(), 2, y.data()) &&
            std::equal(y.begin() + static_cast<std::ptrdiff_t>(width), y.end(), table.begin()),
        "embed takes rows");
  Floats ones(2 * entries);
  check(!one_hot(entries, indices.data(), 2, ones.data()) && ones[entries - 1] == 1 &&
            ones[entries] == 1 &&
            std::count(ones.begin(), ones.end(), 0.0f) ==
                static_cast<std::ptrdiff_t>(2 * entries - 2),
        "one_hot sets one");
  for (const std::int64_t wrong : {std::int64_t{-1}, static_cast<std::int64_t>(entries),
                                   std::int64_t{INT64_MIN}, std::int64_t{INT64_MAX}}) {
    const std::vector<std::int64_t> bad{0, wrong};
    check(embed(table.data(), entries, width, bad.data(), 2, y.data()) == wrong &&
              one_hot(entries, bad.data(), 2, ones.data()) == wrong,
          "an index outside is returned");
  }
}

}  // namespace

int main() {
  for (const std::size_t n : kSizes) {
    for (const std::size_t K : {1, 17, 600})  // 600: more than two chains
      for (const std::size_t rows : {1, 3, 8, 65, 130}) test_linear(n, K, rows, rows % 2 == 1);
    test_softmax(n, 3);
    test_special_rows(n);
    for (const bool affine : {true, false}) test_layer_norm(n, 3, affine);
    test_activate(n);
    for (const bool ragged : {true, false}) test_over_time(n, ragged);
    test_indices(n, 7);
    test_indices(3, n);
  }
  test_softmax(50000, 1);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
