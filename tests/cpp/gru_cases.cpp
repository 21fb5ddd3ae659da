#include "gru_cases.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "run/run.hpp"

namespace fastgru {

TestGru::TestGru(const GruSizes& sizes) {
  spec.sizes = sizes;
  const std::size_t H = sizes.hidden_size;
  const float scale = 1.0f / std::sqrt(static_cast<float>(H));
  const std::size_t count = sizes.num_layers * sizes.num_directions;
  for (std::size_t i = 0; i < count; ++i) {
    tensors.push_back(random_floats(3 * H * sizes.layer_input(i / sizes.num_directions), scale));
    tensors.push_back(random_floats(3 * H * H, scale));
    tensors.push_back(random_floats(3 * H, scale));
    tensors.push_back(random_floats(3 * H, scale));
  }
  for (std::size_t i = 0; i < count; ++i) {
    const Floats* t = &tensors[4 * i];
    spec.layers.push_back({t[0].data(), t[1].data(), t[2].data(), t[3].data()});
  }
}

namespace {

// To what a precision without scales can write.
void round_to(Precision precision, Floats& weights) {
  const Format& format = format_of(precision);
  std::vector<char> panel(round_up(weights.size(), format.terms) * kPanel * format.element_bytes);
  const PanelGate gate{panel.data(), kPanel * format.terms * format.element_bytes, nullptr,
                       nullptr};
  format.encode({weights.data(), nullptr, 1, weights.size()}, gate);
  format.decode(gate, {weights.data(), nullptr, 1, weights.size()});
}

}  // namespace

std::vector<Precision> reduced_precisions() {
  std::vector<Precision> all;
  for (std::size_t p = 0; p < kPrecisions; ++p)
    if (static_cast<Precision>(p) != Precision::float32) all.push_back(static_cast<Precision>(p));
  return all;
}

ReducedGru::ReducedGru(const GruSizes& sizes, Precision precision) : gru(sizes) {
  for (std::size_t i = 0; i < gru.spec.layers.size(); ++i) {
    LayerTensors& layer = gru.spec.layers[i];
    layer.precision = precision;
    for (const std::size_t t : {4 * i, 4 * i + 1}) {
      Floats& weights = gru.tensors[t];
      if (!format_of(precision).has_scales) {
        round_to(precision, weights);
        continue;
      }
      const std::size_t rows = 3 * sizes.hidden_size, columns = weights.size() / rows;
      scales.emplace_back(rows);
      for (std::size_t row = 0; row < rows; ++row) {
        float most = 0;
        for (std::size_t k = 0; k < columns; ++k)
          most = std::max(most, std::abs(weights[row * columns + k]));
        scales.back()[row] = most / 127;
        for (std::size_t k = 0; k < columns; ++k)
          weights[row * columns + k] = std::round(weights[row * columns + k] * 127 / most);
      }
    }
  }
  for (std::size_t i = 0; !scales.empty() && i < gru.spec.layers.size(); ++i) {
    gru.spec.layers[i].scale_ih = scales[2 * i].data();
    gru.spec.layers[i].scale_hh = scales[2 * i + 1].data();
  }
}

TestGru ReducedGru::in_float32() const {
  TestGru same(gru.spec.sizes);
  same.tensors = gru.tensors;
  const std::size_t rows = 3 * gru.spec.sizes.hidden_size;
  for (std::size_t i = 0; i < scales.size(); ++i) {
    Floats& weights = same.tensors[4 * (i / 2) + i % 2];
    for (std::size_t at = 0; at < weights.size(); ++at)
      weights[at] *= scales[i][at / (weights.size() / rows)];
  }
  for (std::size_t i = 0; i < same.spec.layers.size(); ++i) {
    const Floats* t = &same.tensors[4 * i];
    same.spec.layers[i] = {t[0].data(), t[1].data(), t[2].data(), t[3].data()};
  }
  return same;
}

GruSizes default_gru(std::size_t input_size, std::size_t hidden_size, std::size_t num_layers,
                     std::size_t num_directions, bool reset_after) {
  return {input_size, hidden_size, num_layers,     num_directions,
          true,       reset_after, Function::tanh, Function::sigmoid};
}

namespace {

double in_double(Function function, double x) {
  switch (function) {
    case Function::relu:
      return std::max(x, 0.0);
    case Function::identity:
      return x;
    case Function::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Function::hard_sigmoid:
      return std::clamp(x / 6 + 0.5, 0.0, 1.0);
    case Function::hard_sigmoid_02:
      return std::clamp(0.2 * x + 0.5, 0.0, 1.0);
    case Function::tanh:
      break;
  }
  return std::tanh(x);
}

}  // namespace

Result reference(const TestGru& gru, const Case& c) {
  const GruSizes& s = gru.spec.sizes;
  const std::size_t H = s.hidden_size, D = s.num_directions, T = c.T, B = c.B;
  Result result{Floats(T * B * D * H), Floats(s.num_layers * D * B * H)};
  for (std::size_t b = 0; b < B; ++b) {
    const auto length = static_cast<std::size_t>(c.lengths[b]);
    std::vector<std::vector<double>> in(length);
    for (std::size_t t = 0; t < length; ++t)
      in[t].assign(&c.x[(t * B + b) * s.input_size],
                   &c.x[(t * B + b) * s.input_size] + s.input_size);
    for (std::size_t l = 0; l < s.num_layers; ++l) {
      std::vector<std::vector<double>> out(length, std::vector<double>(D * H));
      for (std::size_t d = 0; d < D; ++d) {
        const LayerTensors& w = gru.spec.layers[l * D + d];
        const float* first = &c.h_0[((l * D + d) * B + b) * H];
        std::vector<double> h(first, first + H);
        for (std::size_t step = 0; step < length; ++step) {
          const std::size_t t = d == 0 ? step : length - 1 - step;
          const auto input = [&](std::size_t row) {
            double sum = w.bias_ih[row];
            for (std::size_t k = 0; k < in[t].size(); ++k)
              sum += static_cast<double>(w.weight_ih[row * in[t].size() + k]) * in[t][k];
            return sum;
          };
          const auto state = [&](std::size_t row, const std::vector<double>& v) {
            double sum = w.bias_hh[row];
            for (std::size_t k = 0; k < H; ++k)
              sum += static_cast<double>(w.weight_hh[row * H + k]) * v[k];
            return sum;
          };
          std::vector<double> r(H), z(H), rh(H), next(H);
          for (std::size_t u = 0; u < H; ++u) {
            r[u] = in_double(s.recurrent_activation, input(u) + state(u, h));
            z[u] = in_double(s.recurrent_activation, input(H + u) + state(H + u, h));
            rh[u] = r[u] * h[u];
          }
          for (std::size_t u = 0; u < H; ++u) {
            const std::size_t row = 2 * H + u;
            const double sum =
                s.reset_after ? input(row) + r[u] * state(row, h) : input(row) + state(row, rh);
            next[u] = z[u] * h[u] + (1 - z[u]) * in_double(s.activation, sum);
          }
          h = next;
          std::copy(h.begin(), h.end(), out[t].begin() + static_cast<std::ptrdiff_t>(d * H));
        }
        for (std::size_t u = 0; u < H; ++u)
          result.h_n[((l * D + d) * B + b) * H + u] = static_cast<float>(h[u]);
      }
      in = out;
    }
    for (std::size_t t = 0; t < length; ++t)
      for (std::size_t u = 0; u < D * H; ++u)
        result.y[(t * B + b) * D * H + u] = static_cast<float>(in[t][u]);
  }
  return result;
}

PackedNetwork network_of(const PackedGru& gru) {
  const std::shared_ptr<const PackedGru> not_owned(&gru, [](const PackedGru*) {});
  return pack_network({not_owned}, gru.sizes.input_size);
}

Result engine(const PackedGru& gru, const Case& c, const Plan* plan, bool ragged) {
  const PackedNetwork network = network_of(gru);
  const GruSizes& s = gru.sizes;
  const std::size_t width = s.num_directions * s.hidden_size;
  Result result{Floats(c.T * c.B * width, -7.0f), Floats(c.h_0.size(), -7.0f)};
  Call call;
  call.T = c.T;
  call.B = c.B;
  call.x = {c.x.data(), static_cast<std::ptrdiff_t>(c.B * s.input_size),
            static_cast<std::ptrdiff_t>(s.input_size)};
  call.y = {result.y.data(), static_cast<std::ptrdiff_t>(c.B * width),
            static_cast<std::ptrdiff_t>(width)};
  const GruStates states{c.h_0.data(), result.h_n.data()};
  call.states = &states;
  call.width = s.input_size;
  call.lengths = ragged ? c.lengths.data() : nullptr;
  if (plan)
    check(run(network, call, {plan->grid, plan->row_block, plan->time_block, plan->patience, plan})
              .has_value(),
          "the runtime gives the threads of a plan");
  else
    run(network, call);
  return result;
}

Case random_case(const GruSizes& s, std::size_t T, std::size_t B, bool ragged) {
  Case c{T,
         B,
         random_floats(T * B * s.input_size, 1.0f),
         random_floats(s.num_layers * s.num_directions * B * s.hidden_size, 0.9f),
         {}};
  std::uniform_int_distribution<std::int64_t> length(0, static_cast<std::int64_t>(T));
  for (std::size_t b = 0; b < B; ++b)
    c.lengths.push_back(ragged ? length(generator) : static_cast<std::int64_t>(T));
  return c;
}

Case row_of(const GruSizes& s, const Case& c, std::size_t b) {
  Case row{c.T, 1, {}, {}, {c.lengths[b]}};
  for (std::size_t t = 0; t < c.T; ++t)
    row.x.insert(row.x.end(), &c.x[(t * c.B + b) * s.input_size],
                 &c.x[(t * c.B + b) * s.input_size] + s.input_size);
  for (std::size_t l = 0; l < s.num_layers * s.num_directions; ++l)
    row.h_0.insert(row.h_0.end(), &c.h_0[(l * c.B + b) * s.hidden_size],
                   &c.h_0[(l * c.B + b) * s.hidden_size] + s.hidden_size);
  return row;
}

std::string describe(const GruSizes& s, const Case& c, const char* isa) {
  return std::string(isa) + " T=" + std::to_string(c.T) + " B=" + std::to_string(c.B) +
         " I=" + std::to_string(s.input_size) + " H=" + std::to_string(s.hidden_size) +
         " L=" + std::to_string(s.num_layers) + " D=" + std::to_string(s.num_directions) +
         (s.reset_after ? " after" : " before");
}

}  // namespace fastgru
