// What the kernels of every ISA compute by themselves, and how their loops are cut. Promises 1
// and 2.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <tuple>

#include "gru_cases.hpp"
#include "kernels/product/tiling.hpp"

using namespace fastgru;

// The sums of int8 are exact, at the largest weights and operands and where they differ in sign.
TEST(sums_of_int8_are_exact) {
  constexpr std::size_t K = 1001, kLanes = 16;
  std::uniform_int_distribution<int> any(-127, 127);
  for (const KernelTable* kernels : runnable()) {
    for (const int kind : {0, 1, 2}) {
      GruSizes sizes;
      sizes.input_size = K;
      sizes.hidden_size = kLanes;
      sizes.num_layers = 1;
      TestGru gru(sizes);
      Floats& weights = gru.tensors[0];
      for (std::size_t i = 0; i < weights.size(); ++i)
        weights[i] = static_cast<float>(kind == 0   ? 127
                                        : kind == 1 ? (i % 2 ? 127 : -127)
                                                    : any(generator));
      for (float& w : gru.tensors[1]) w = 0;
      const Floats scale(3 * kLanes, 1.0f), none(3 * kLanes, 0.0f);
      LayerTensors& layer = gru.spec.layers[0];
      layer.precision = Precision::int8;
      layer.bias_ih = none.data();
      layer.scale_ih = layer.scale_hh = scale.data();
      const PackedGru packed = pack(gru.spec, kernels);
      std::vector<char> rows(2 * operand_stride(K) + 64);
      float scales[1];
      void* at = rows.data();
      std::size_t room = rows.size();
      const Operands operands{static_cast<char*>(std::align(64, operand_stride(K), at, room)),
                              operand_stride(K), scales};
      // States of +-1 and in between are the integers +-127 and their like.
      Floats state(K), input(K);
      for (std::size_t k = 0; k < K; ++k) {
        state[k] = (kind == 0 ? 127.0f : static_cast<float>(any(generator))) / 127;
        input[k] = kind == 0 ? 32512.0f : static_cast<float>(any(generator) * 255 - 127);
      }
      input[0] = 32512.0f;
      const Matrix matrix = packed.layers[0].input.from_panel(0);
      for (const ProductChoice& listed : runnable_products(*kernels, Precision::int8)) {
        const Product* const choice = listed.product;
        for (const auto& [prepare, multiply, is_state, most] :
             {std::tuple(choice->prepare_state, choice->multiply_state, true, 127),
              std::tuple(choice->prepare_fine_state, choice->multiply_input, true, 32512),
              std::tuple(choice->prepare_input, choice->multiply_input, false, 32512)}) {
          const Floats& values = is_state ? state : input;
          prepare(values.data(), K, operands, 0);
          alignas(64) float sums[3 * kLanes];
          for (std::size_t chunk = 0; chunk < kLanes / kernels->lanes; ++chunk) {
            multiply({matrix, packed.layers[0].input_bias, operands, 3, K, 256, 0, 1, chunk, 1,
                      sums, 3 * kLanes});
            for (std::size_t g = 0; g < 3; ++g)
              for (std::size_t lane = 0; lane < kernels->lanes; ++lane) {
                const std::size_t row = g * kLanes + chunk * kernels->lanes + lane;
                double exact = 0;
                for (std::size_t k = 0; k < K; ++k)
                  exact += static_cast<double>(weights[row * K + k]) *
                           std::round(static_cast<double>(values[k]) * (is_state ? most : 1));
                const double got = static_cast<double>(sums[row]) / static_cast<double>(scales[0]);
                check(std::abs(got - exact) <= 2e-7 * std::abs(exact) + (most == 127 ? 0.01 : 1.0),
                      std::string(choice->name) + ": sums of int8 are exact");
              }
          }
        }
      }
    }
  }
}

TEST(activations) {
  Floats x;
  for (std::uint32_t bits = 0; bits < 0xff800000u; bits += 65521) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isfinite(value)) x.push_back(value);
  }
  x.insert(x.end(), {INFINITY, -INFINITY, 0.0f, -0.0f, 1e-3f, -1e-3f});
  x.resize(round_up(x.size(), kPanel), 0.5f);
  Floats nan(kPanel, NAN), y(x.size());
  for (const KernelTable* kernels : runnable()) {
    kernels->activate(Function::sigmoid, x.data(), y.data(), x.size());
    double error = 0;
    bool bounded = true;
    for (std::size_t i = 0; i < x.size(); ++i) {
      error = std::max(error, std::abs(y[i] - 1 / (1 + std::exp(-static_cast<double>(x[i])))));
      bounded &= y[i] >= 0 && y[i] <= 1;
    }
    check(error < 2e-7 && bounded,
          std::string(kernels->name) + " sigmoid: " + std::to_string(error));
    kernels->activate(Function::tanh, x.data(), y.data(), x.size());
    error = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      error = std::max(error, std::abs(y[i] - std::tanh(static_cast<double>(x[i]))));
      bounded &= std::abs(y[i]) <= 1;
    }
    check(error < 2e-7 && bounded, std::string(kernels->name) + " tanh: " + std::to_string(error));
    for (const Function kind : {Function::sigmoid, Function::tanh, Function::relu,
                                Function::hard_sigmoid, Function::hard_sigmoid_02}) {
      kernels->activate(kind, nan.data(), y.data(), kPanel);
      check(std::isnan(y[0]) && std::isnan(y[kPanel - 1]), "NaN in gives NaN out");
    }
  }
}

// Even parts, larger ones first, without a gap.
TEST(even_parts) {
  for (std::size_t n = 1; n < 40; ++n)
    for (std::size_t most = 1; most < 9; ++most) {
      const EvenParts cut(n, most);
      std::size_t begin = 0;
      bool right = cut.parts == (n + most - 1) / most;
      for (std::size_t part = 0; part < cut.parts; ++part) {
        right = right && cut.begin_of(part) == begin && cut.size_of(part) <= most &&
                cut.size_of(part) + 1 >= cut.size_of(0) && cut.size_of(part) <= cut.size_of(0);
        begin += cut.size_of(part);
      }
      check(right && begin == n, "parts of " + std::to_string(n));
    }
}

TEST(an_unknown_isa_is_refused) {
  check_throws<std::invalid_argument>([] { choose_kernels("sse9"); }, "an unknown ISA is refused");
}
