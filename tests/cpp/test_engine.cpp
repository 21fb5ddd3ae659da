// The engine without Python, on every ISA this CPU has: made to run under AddressSanitizer
// and UndefinedBehaviorSanitizer (not ThreadSanitizer: libgomp is not built for it). Arrays are
// exact-size heap allocations, so reading or writing one float beyond a user's array is caught.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/dispatch.hpp"
#include "kernels/product/tiling.hpp"
#include "network/pack.hpp"
#include "plan/plan.hpp"
#include "plan/thread_cost.hpp"
#include "run/pool.hpp"
#include "run/run.hpp"
#include "run/stream.hpp"
#include "system/parallel.hpp"

#if defined(__linux__)
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#endif

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
  return values;
}

struct TestGru {
  GruSpec spec;
  std::vector<Floats> tensors;  // four per layer and direction

  explicit TestGru(const GruSizes& sizes) {
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
};

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

bool same_bits(const float* a, const float* b, std::size_t n) {
  return n == 0 || std::memcmp(a, b, n * sizeof(float)) == 0;
}

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
}

struct Result {
  Floats y, h_n;
  bool operator==(const Result& other) const {
    return same_bits(y, other.y) && same_bits(h_n, other.h_n);
  }
};

struct Case {
  std::size_t T, B;
  Floats x, h_0;                      // [T, B, I], [L * D, B, H]
  std::vector<std::int64_t> lengths;  // [B]
};

// The equations in double, one row at a time.
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

// The case from h_0, with its lengths where `ragged`, by the plan or by the engine's own (null).
Result engine(const PackedGru& gru, const Case& c, const Plan* plan, bool ragged = true) {
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
  call.h_0 = c.h_0.data();
  call.h_n = result.h_n.data();
  call.lengths = ragged ? c.lengths.data() : nullptr;
  call.end_layer = s.num_layers;
  if (plan)
    check(run(gru, call, *plan).has_value(), "the runtime gives the threads of a plan");
  else
    run(gru, call);
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

// One row of a case, as a case.
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

std::vector<const KernelTable*> runnable() {
  std::vector<const KernelTable*> tables;
  for (const IsaLevel& level : isa_levels()) {
    if (level.supported)
      tables.push_back(choose_kernels(level.name));
    else
      std::printf("SKIPPED: %s is not supported by this CPU\n", level.name);
  }
  return tables;
}

// The first and the last row of a case, by themselves, have the bits of the batch's result.
void check_rows_alone(const PackedGru& packed, const Case& c, const Result& batch,
                      const std::string& name) {
  const std::size_t width = packed.sizes.num_directions * packed.sizes.hidden_size;
  for (const std::size_t b : {std::size_t{0}, c.B - 1}) {
    const Result alone = engine(packed, row_of(packed.sizes, c, b), nullptr);
    bool same = true;
    for (std::size_t t = 0; t < c.T; ++t)
      same &= same_bits(&alone.y[t * width], &batch.y[(t * c.B + b) * width], width);
    check(same, name + ": same bits alone and in the batch");
  }
}

// Promise 1 and, inside one ISA, promise 2: alone and in a batch, on one thread and on several.
void test_gru(const GruSizes& sizes, std::size_t T, std::size_t B, bool ragged) {
  const TestGru gru(sizes);
  const Case c = random_case(sizes, T, B, ragged);
  const Result expected = reference(gru, c);
  std::vector<std::pair<const KernelTable*, Result>> results;
  for (const KernelTable* kernels : runnable()) {
    const std::string name = describe(sizes, c, kernels->name);
    const PackedGru packed = pack(gru.spec, kernels);
    const Result got = engine(packed, c, nullptr);
    float error = 0;
    for (std::size_t i = 0; i < got.y.size(); ++i)
      error = std::max(
          error, std::abs(got.y[i] - expected.y[i]) / std::max(1.0f, std::abs(expected.y[i])));
    for (std::size_t i = 0; i < got.h_n.size(); ++i)
      error = std::max(error, std::abs(got.h_n[i] - expected.h_n[i]) /
                                  std::max(1.0f, std::abs(expected.h_n[i])));
    // Promise 1's floor is 5e-7; relu and identity feed rounding back without bound.
    check(error <= (sizes.activation == Function::tanh ? 5e-7f : 2e-5f),
          name + ": error " + std::to_string(error));
    const Machine machine = machine_with(kernels->lanes);
    for (const Grid grid :
         {Grid{1, 1, 1}, Grid{2, 1, 1}, Grid{3, 1, 1}, Grid{1, 2, 1}, Grid{1, 1, 2}, Grid{1, 1, 3},
          Grid{2, 2, 1}, Grid{2, 1, 2}, Grid{1, 2, 2}, Grid{2, 2, 2}})
      for (const RowsInLanes lanes :
           {RowsInLanes::never, RowsInLanes::where_they_fit, RowsInLanes::always}) {
        if (grid.row_groups > B || grid.directions > sizes.num_directions ||
            grid.unit_groups > sizes.panels())
          continue;
        if (lanes != RowsInLanes::never && grid.unit_groups > 1) continue;
        if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
        Plan plan = make_plan(sizes, machine, {T, B}, grid, lanes);
        const std::string by = name + ": same bits by plan " + std::to_string(grid.row_groups) +
                               " x " + std::to_string(grid.directions) + " x " +
                               std::to_string(grid.unit_groups) + ", rows in lanes " +
                               std::to_string(static_cast<int>(lanes));
        check(engine(packed, c, &plan) == got, by);
        if (lanes == RowsInLanes::always) continue;
        plan.far_input = plan.far_recurrent = true;
        check(engine(packed, c, &plan) == got, by + ", weights from memory");
      }
    check_rows_alone(packed, c, got, name);
    results.emplace_back(kernels, got);
  }
  for (const auto& [kernels, result] : results)
    if (kernels->fuses)
      check(result == results.front().second, describe(sizes, c, kernels->name) + ": ISAs agree");
}

// Packing loses nothing, and unpacking writes nothing but the tensors.
void test_unpack(const GruSizes& sizes) {
  const TestGru gru(sizes);
  for (const KernelTable* kernels : runnable()) {
    const PackedGru packed = pack(gru.spec, kernels);
    for (std::size_t i = 0; i < packed.layers.size(); ++i) {
      std::vector<Floats> back;
      for (std::size_t t = 0; t < 4; ++t) back.emplace_back(gru.tensors[4 * i + t].size());
      unpack(packed, i,
             {back[0].data(), back[1].data(), back[2].data(), back[3].data(), nullptr, nullptr});
      for (std::size_t t = 0; t < 4; ++t)
        check(back[t] == gru.tensors[4 * i + t], "unpack returns what was packed");
    }
  }
}

// What no tensor fills is zero, though the storage is not cleared before.
void test_padding(const GruSizes& sizes) {
  TestGru gru(sizes);
  std::size_t values = 0;
  for (std::size_t i = 0; i < gru.spec.layers.size(); ++i) {
    gru.spec.layers[i].bias_ih = gru.spec.layers[i].bias_hh = nullptr;
    values += gru.tensors[4 * i].size() + gru.tensors[4 * i + 1].size();
  }
  const KernelTable* kernels = choose_kernels("portable");
  const std::size_t bytes = pack(gru.spec, kernels).storage.size();
  {
    const Buffer dirt(bytes);  // likely what pack() is given next
    std::memset(dirt.data(), 0xff, bytes);
  }
  const PackedGru packed = pack(gru.spec, kernels);
  const auto* first = reinterpret_cast<const float*>(packed.storage.data());
  const auto zeros = std::count(first, first + bytes / sizeof(float), 0.0f);
  std::size_t zero_values = 0;
  for (std::size_t i = 0; i < gru.tensors.size(); ++i)
    if (i % 4 < 2)
      zero_values +=
          static_cast<std::size_t>(std::count(gru.tensors[i].begin(), gru.tensors[i].end(), 0.0f));
  check(static_cast<std::size_t>(zeros) == bytes / sizeof(float) - values + zero_values,
        "padding and missing biases are zeros");
}

// Sessions in a pool's slab, in any order and by any plan, are rows of a batch.
void test_pool(const GruSizes& sizes, std::size_t B) {
  const TestGru gru(sizes);
  const Case c = random_case(sizes, 1, B, false);
  const std::size_t H = sizes.hidden_size, L = sizes.num_layers, capacity = 2 * B + 1;
  for (const KernelTable* kernels : runnable()) {
    const auto packed = std::make_shared<const PackedGru>(pack(gru.spec, kernels));
    const Result expected = engine(*packed, c, nullptr, false);
    const std::string name = describe(sizes, c, kernels->name);
    std::vector<std::uint32_t> slots(capacity);
    for (std::size_t i = 0; i < capacity; ++i) slots[i] = static_cast<std::uint32_t>(i);
    std::shuffle(slots.begin(), slots.end(), generator);
    const Floats slab = random_floats(L * capacity * H, 1);
    for (const Grid grid : {Grid{1, 1, 1}, Grid{2, 1, 1}, Grid{1, 1, 2}}) {
      if (grid.row_groups > B || grid.unit_groups > sizes.panels()) continue;
      if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
      Floats states = slab, y(B * H);
      for (std::size_t l = 0; l < L; ++l)
        for (std::size_t b = 0; b < B; ++b)
          std::copy_n(&c.h_0[(l * B + b) * H], H, &states[(l * capacity + slots[b]) * H]);
      Floats after = states;
      for (std::size_t l = 0; l < L; ++l)
        for (std::size_t b = 0; b < B; ++b)
          std::copy_n(&expected.h_n[(l * B + b) * H], H, &after[(l * capacity + slots[b]) * H]);
      Call call;
      call.T = 1;
      call.B = B;
      call.x = {c.x.data(), 0, static_cast<std::ptrdiff_t>(sizes.input_size)};
      call.y = {y.data(), 0, static_cast<std::ptrdiff_t>(H)};
      call.h_0 = call.h_n = states.data();
      call.slots = slots.data();
      call.state_rows = capacity;
      call.end_layer = L;
      run(*packed, call,
          make_plan(sizes, machine_with(kernels->lanes), {1, B}, grid, RowsInLanes::never));
      check(same_bits(y, expected.y), name + ": outputs of a pool");
      check(same_bits(states, after), name + ": states of a pool, and nobody else's");
    }
  }
}

// Cutting time into steps changes no bit; a copy goes its own way; reset returns to h_0.
// ---- reduced precision ----

std::vector<Precision> reduced_precisions() {
  std::vector<Precision> all;
  for (std::size_t p = 0; p < kPrecisions; ++p)
    if (static_cast<Precision>(p) != Precision::float32) all.push_back(static_cast<Precision>(p));
  return all;
}

// To what a precision without scales can write.
void round_to(Precision precision, Floats& weights) {
  const Format& format = format_of(precision);
  std::vector<char> panel(round_up(weights.size(), format.terms) * kPanel * format.element_bytes);
  const PanelGate gate{panel.data(), kPanel * format.terms * format.element_bytes, nullptr,
                       nullptr};
  format.encode({weights.data(), nullptr, 1, weights.size()}, gate);
  format.decode(gate, {weights.data(), nullptr, 1, weights.size()});
}

// Weights as Python makes them: values that a precision can write, or integers and scales.
struct ReducedGru {
  TestGru gru;
  std::vector<Floats> scales;  // two a layer and direction

  ReducedGru(const GruSizes& sizes, Precision precision) : gru(sizes) {
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
  // What they stand for.
  TestGru in_float32() const {
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
};

// Near the same weights in float64, and the same bits whatever the plan and the batch.
Result check_reduced(const PackedGru& packed, const Case& c, const Result& expected,
                     const std::string& name) {
  const GruSizes& sizes = packed.sizes;
  const std::size_t T = c.T, B = c.B;
  const Result got = engine(packed, c, nullptr);
  float error = 0;
  for (std::size_t i = 0; i < got.y.size(); ++i)
    error = std::max(error, std::abs(got.y[i] - expected.y[i]));
  check(error <= 0.02f, name + ": error " + std::to_string(error));
  const Machine machine = machine_with(packed.kernels->lanes);
  for (const Grid grid : {Grid{1, 1, 1}, Grid{2, 1, 1}, Grid{1, 2, 1}, Grid{1, 1, 2}}) {
    if (grid.row_groups > B || grid.directions > sizes.num_directions ||
        grid.unit_groups > sizes.panels())
      continue;
    if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
    for (const bool far : {false, true}) {
      Plan plan = make_plan(sizes, machine, {T, B}, grid, RowsInLanes::never);
      plan.far_input = plan.far_recurrent = far;
      check(engine(packed, c, &plan) == got, name + ": same bits by plan");
    }
  }
  check_rows_alone(packed, c, got, name);
  return got;
}

// Every kernel that the CPU runs, also those that it does not prefer. In int8, and in bfloat16 by
// FMAs, AVX2 and AVX-512 have the same bits.
void test_reduced(const GruSizes& sizes, Precision precision, std::size_t T, std::size_t B) {
  const ReducedGru reduced(sizes, precision);
  const Case c = random_case(sizes, T, B, true);
  const Result expected = reference(reduced.in_float32(), c);
  std::vector<std::pair<std::string, Result>> results;
  for (const KernelTable* kernels : runnable()) {
    PackedGru packed = pack(reduced.gru.spec, kernels);
    const auto choices = runnable_products(*kernels, precision);
    check(packed.layers[0].products.front().product == choices.front().product,
          "the best kernels are chosen");
    for (const auto& [choice, preference, min_rows] : choices) {
      for (PackedLayer& layer : packed.layers) layer.products = {{choice, preference, 1}};
      const std::string name = describe(sizes, c, choice->name) + " " + name_of(precision);
      const Result got = check_reduced(packed, c, expected, name);
      if (kernels->fuses && choice->sums != Sums::own) results.emplace_back(name, got);
    }
    for (std::size_t i = 0; i < packed.layers.size(); ++i) {
      const std::string name = describe(sizes, c, kernels->name);
      Floats back[6];
      for (std::size_t t = 0; t < 4; ++t) back[t].resize(reduced.gru.tensors[4 * i + t].size());
      back[4].resize(3 * sizes.hidden_size);
      back[5].resize(3 * sizes.hidden_size);
      unpack(packed, i,
             {back[0].data(), back[1].data(), back[2].data(), back[3].data(), back[4].data(),
              back[5].data()});
      for (std::size_t t = 0; t < 4; ++t)
        check(back[t] == reduced.gru.tensors[4 * i + t], name + ": unpack");
      for (std::size_t t = 0; !reduced.scales.empty() && t < 2; ++t)
        check(back[4 + t] == reduced.scales[2 * i + t], name + ": scales");
    }
  }
  for (const auto& [name, result] : results)
    check(result == results.front().second, name + ": kernels agree");
}

// A precision's format is the same for every ISA and product, to the byte: zeros where a panel has
// no unit or term, and back to the bit.
void test_formats() {
  for (std::size_t p = 0; p < kPrecisions; ++p) {
    const auto precision = static_cast<Precision>(p);
    for (const std::size_t units : {1, 5, 16})
      for (const std::size_t K : {1, 2, 3, 4, 7, 33}) {
        Floats weights(units * K), scales = random_floats(units, 1.0f);
        std::uniform_int_distribution<int> integer(-127, 127);  // what every precision can write
        for (float& w : weights) w = static_cast<float>(integer(generator));
        std::vector<char> first;
        for (const KernelTable* kernels : runnable())
          for (const ProductChoice& listed : runnable_products(*kernels, precision)) {
            const Product* product = listed.product;
            const std::string name = std::string(product->name) + " " + name_of(precision);
            const Format& format = product->format;
            constexpr std::size_t G = 2;  // gates, of which the second is written
            const std::size_t row = kPanel * format.terms * format.element_bytes;
            std::vector<char> panel(round_up(K, format.terms) / format.terms * G * row, 'x');
            Floats panel_scales(kPanel, -7.0f), back(weights.size()), back_scales(units);
            std::vector<std::int32_t> offsets(kPanel, -7);
            const PanelGate gate{panel.data() + row, G * row,
                                 format.has_scales ? panel_scales.data() : nullptr,
                                 format.has_scales ? offsets.data() : nullptr};
            format.encode({weights.data(), scales.data(), units, K}, gate);
            format.decode(gate, {back.data(), back_scales.data(), units, K});
            check(same_bits(back, weights), name + ": written and read again");
            check(!format.has_scales || same_bits(back_scales, scales), name + ": scales again");
            std::size_t not_zero = 0, other = 0;
            for (std::size_t i = 0; i < panel.size(); ++i)
              if (i / row % G == 0)
                other += panel[i] != 'x';
              else
                not_zero += panel[i] != 0;
            check(other == 0, name + ": the other gate is left alone");
            check(not_zero <= units * K * format.element_bytes, name + ": padding is zeros");
            for (std::size_t lane = units; format.has_scales && lane < kPanel; ++lane)
              check(panel_scales[lane] == 0 && offsets[lane] == 0, name + ": units that are not");
            if (first.empty()) first = panel;
            check(first == panel, name + ": the same bytes on every ISA");
          }
      }
  }
}

// The sums of int8 are exact, at the largest weights and operands and where they differ in sign.
void test_exact_sums() {
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
        const Product* choice = listed.product;
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

// ---- products that are chosen by the number of rows, and entered ----

// A product that stands before another one and does what it does, but counts. Its functions are
// plain ones, as a table wants them, so what they count in is global; atomic, since threads call
// them.
struct Fake {
  const Product* behind = nullptr;
  std::atomic<int> entered{0}, left{0}, prepared{0}, multiplied{0}, outside{0}, twice{0};
  void reset() { entered = left = prepared = multiplied = outside = twice = 0; }
};
Fake fake;
thread_local bool inside_fake = false;

void enter_fake(std::size_t rows) {
  if (rows == 0) ++fake.outside;
  ++fake.entered;
  if (inside_fake) ++fake.twice;
  inside_fake = true;
}
void leave_fake() {
  ++fake.left;
  if (!inside_fake) ++fake.outside;
  inside_fake = false;
}
template <auto Member>
void prepare_fake(const float* row, std::size_t reduction, const Operands& to, std::size_t index) {
  ++fake.prepared;
  if (!inside_fake) ++fake.outside;
  (fake.behind->*Member)(row, reduction, to, index);
}
template <auto Member>
void multiply_fake(const ProductBlock& block) {
  ++fake.multiplied;
  if (!inside_fake) ++fake.outside;
  (fake.behind->*Member)(block);
}
Product fake_before(const Product& behind) {
  fake.behind = &behind;
  Product product = behind;
  product.name = "fake";
  product.prepare_input = prepare_fake<&Product::prepare_input>;
  product.prepare_state = prepare_fake<&Product::prepare_state>;
  product.prepare_fine_state = prepare_fake<&Product::prepare_fine_state>;
  product.multiply_input = multiply_fake<&Product::multiply_input>;
  product.multiply_state = multiply_fake<&Product::multiply_state>;
  product.enter = enter_fake;
  product.leave = leave_fake;
  return product;
}

// A layer uses the best product that serves one row, and better ones that want more rows where
// both have the same bits.
void test_choice_of_products() {
  const auto product_with = [](const char* name, Sums sums) {
    Product product{};
    product.name = name;
    product.sums = sums;
    return product;
  };
  const Product exact = product_with("exact", Sums::exact), tiles = product_with("t", Sums::exact),
                large = product_with("large", Sums::exact), own = product_with("own", Sums::own),
                chains = product_with("chains", Sums::chains);
  const auto chosen = [](const std::vector<ProductChoice>& runnable) {
    return names_of(choose_products(runnable));
  };
  check(chosen({{&exact, 0, 1}}) == "exact", "a product alone");
  check(chosen({{&tiles, 10, 8}, {&exact, 0, 1}}) == "exact, from 8 rows t", "better from 8 rows");
  check(chosen({{&large, 20, 64}, {&tiles, 10, 8}, {&exact, 0, 1}}) ==
            "exact, from 8 rows t, from 64 rows large",
        "three by rows");
  check(chosen({{&tiles, 10, 1}, {&exact, 0, 1}}) == "t", "the better of two that serve all rows");
  check(chosen({{&exact, 0, 1}, {&tiles, -10, 8}}) == "exact", "a worse one is not used");
  check(chosen({{&own, 10, 8}, {&exact, 0, 1}}) == "exact", "bits may not depend on the rows");
  check(chosen({{&chains, 10, 8}, {&own, 0, 1}}) == "own", "nor where chains meet other sums");
  check(chosen({{&own, 10, 1}, {&chains, 0, 1}}) == "own", "a product of its own serves all rows");
  const auto choices = choose_products({{&large, 20, 64}, {&tiles, 10, 8}, {&exact, 0, 1}});
  for (const auto& [rows, product] : {std::pair<std::size_t, const Product*>{1, &exact},
                                      {7, &exact},
                                      {8, &tiles},
                                      {63, &tiles},
                                      {64, &large},
                                      {1000, &large}})
    check(product_for(choices, rows) == product, std::to_string(rows) + " rows: which product");

  // The list itself: what is in it by name, once, and with preferences that differ.
  for (const KernelTable* kernels : runnable())
    for (std::size_t p = 0; p < kPrecisions; ++p) {
      const auto precision = static_cast<Precision>(p);
      const auto products = runnable_products(*kernels, precision);
      const std::string name = std::string(kernels->name) + " " + name_of(precision);
      for (std::size_t i = 1; i < products.size(); ++i)
        check(products[i - 1].preference > products[i].preference, name + ": one order");
      check(choose_products(products).back().min_rows == 1, name + ": any number of rows");
      check(own_product(*kernels, precision).name == std::string(kernels->name), name + ": own");
    }
}

// A call multiplies with the product for its number of rows, and each of its threads enters that
// product once before and leaves it once after; calls with fewer rows leave it alone.
void test_products_by_rows(bool reset_after) {
  GruSizes sizes{24, 48, 2, 1, true, reset_after, Function::tanh, Function::sigmoid};
  for (const std::size_t directions : {1, 2}) {
    sizes.num_directions = directions;
    const ReducedGru reduced(sizes, Precision::int8);
    for (const KernelTable* kernels : runnable()) {
      PackedGru packed = pack(reduced.gru.spec, kernels);
      const PackedGru plain = pack(reduced.gru.spec, kernels);
      const Product behind = *packed.layers[0].products.front().product;
      const Product product = fake_before(behind);
      for (PackedLayer& layer : packed.layers)
        layer.products = {{&product, 100, 8}, {&behind, 0, 1}};
      const auto counted = [&](std::size_t T, std::size_t B, const Plan* plan) {
        const Case c = random_case(sizes, T, B, false);
        const std::string name = describe(sizes, c, kernels->name) + " fake";
        fake.reset();
        const Result got = engine(packed, c, plan);
        check(got == engine(plain, c, plan), name + ": the same bits");
        check(fake.outside == 0 && fake.twice == 0, name + ": entered before it is used, once");
        check(fake.entered == fake.left && !inside_fake, name + ": left after it was used");
      };
      counted(1, 3, nullptr);
      check(fake.multiplied == 0 && fake.prepared == 0 && fake.entered == 0, "too few rows");
      counted(1, 9, nullptr);
      check(fake.multiplied > 0 && fake.prepared > 0, "rows enough");
      // Three rows are too few in each step, but twelve at once are not: input products alone.
      counted(4, 3, nullptr);
      check(fake.entered == 1 && fake.prepared == static_cast<int>(2 * directions * 12),
            "rows enough for input products alone");
      for (const Grid grid : {Grid{2, 1, 1}, Grid{1, directions, 1}, Grid{1, 1, 2}}) {
        if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
        const Plan plan =
            make_plan(sizes, machine_with(kernels->lanes), {5, 20}, grid, RowsInLanes::never);
        counted(5, 20, &plan);
        check(fake.entered == static_cast<int>(grid.threads()), "each thread enters a product");
      }
    }
  }
}

// ---- the contract of kernels ----

// Whether work() ends the process by an assertion. It runs in a process of its own.
template <class Work>
bool asserts(Work work) {
#if defined(__linux__) && !defined(NDEBUG)
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::fclose(stderr);
    work();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
#else
  (void)work;
  return true;
#endif
}

// Arguments that break the contract are caught at the top of a function of the table, in builds
// with assertions: this one, where developers and sanitizers build it.
void test_contract() {
#if !defined(__linux__) || defined(NDEBUG)
  std::printf("SKIPPED: assertions, which this build does not have\n");
#endif
  constexpr std::size_t H = 20, K = 5, rows = 3;
  const GruSizes sizes{K, H, 1, 1, true, true, Function::tanh, Function::sigmoid};
  for (const KernelTable* kernels : runnable()) {
    const PackedGru packed = pack(TestGru(sizes).spec, kernels);
    const PackedLayer& layer = packed.layers[0];
    const Floats x(rows * K, 0.5f);
    const Buffer gates(rows * 2 * kGates * kPanel * sizeof(float)), states(2 * rows * 48 * 4);
    Floats y(rows * H);
    const float* x_rows[rows];
    float* out_rows[rows];
    for (std::size_t r = 0; r < rows; ++r) {
      x_rows[r] = &x[r * K];
      out_rows[r] = &y[r * H];
    }
    InputProduct input{};
    input.weights = {layer.input.from_panel(0), {}, layer.input_bias, K, 256, false};
    input.multiplier = {layer.products.front().product, {}, false};
    input.x = x_rows;
    input.out = reinterpret_cast<float*>(gates.data());
    input.rows = rows;
    input.units = H;
    UnitSteps steps{};
    steps.weights = {layer.recurrent.from_panel(0), {}, layer.recurrent_bias, H, 256, false};
    steps.multiplier = input.multiplier;
    steps.gates = input.out;
    auto* const state = reinterpret_cast<float*>(states.data());
    steps.state = {state, state + rows * 48, 48};
    steps.output = {out_rows, 0, 0};
    steps.units = {0, H, H};
    steps.activations = {Function::tanh, Function::sigmoid};
    steps.rows = rows;
    steps.steps = 1;

    const std::string name = std::string(kernels->name) + " contract: ";
    kernels->input_product(input);
    kernels->steps_reset_after(steps);  // as it should be
    check(std::none_of(y.begin(), y.end(), [](float v) { return v == 0; }), name + "kept");
    const auto input_asserts = [&](auto break_it) {
      InputProduct broken = input;
      break_it(broken);
      return asserts([&] { kernels->input_product(broken); });
    };
    const auto steps_assert = [&](auto break_it) {
      UnitSteps broken = steps;
      break_it(broken);
      return asserts([&] { kernels->steps_reset_after(broken); });
    };
    check(input_asserts([](InputProduct& a) { a.rows = 0; }), name + "no rows");
    check(input_asserts([](InputProduct& a) { a.out += 1; }), name + "alignment");
    check(input_asserts([](InputProduct& a) { a.weights.matrix.panel_bytes += 64; }),
          name + "a matrix of another size");
    check(input_asserts([](InputProduct& a) { a.multiplier.product = nullptr; }), name + "null");
    check(steps_assert([](UnitSteps& a) { a.units.first = 1; }), name + "whole panels");
    check(steps_assert([](UnitSteps& a) { a.units.count = 16; }),
          name + "other shares that nobody waits for");
    check(steps_assert([](UnitSteps& a) { a.state.next = a.state.current; }), name + "two states");
    check(steps_assert([](UnitSteps& a) { a.state.stride = 24; }), name + "stride");
    check(steps_assert([&](UnitSteps& a) { a.weights = input.weights; }), name + "other weights");
    check(asserts([&] { kernels->activate(Function::tanh, x.data(), y.data(), 5); }),
          name + "whole panels of elements");
  }
}

void test_stream(const GruSizes& sizes, std::size_t T, std::size_t B) {
  const TestGru gru(sizes);
  const Case c = random_case(sizes, T, B, false);
  const std::size_t H = sizes.hidden_size, I = sizes.input_size;
  for (const KernelTable* kernels : runnable()) {
    const auto packed = std::make_shared<const PackedGru>(pack(gru.spec, kernels));
    const Result whole = engine(*packed, c, nullptr, false);
    Stream stream(packed, B, c.h_0.data());
    for (int round = 0; round < 2; ++round) {
      Floats y(T * B * H);
      for (std::size_t t = 0; t < T; ++t)
        stream.advance(1, {&c.x[t * B * I], 0, static_cast<std::ptrdiff_t>(I)},
                       {&y[t * B * H], 0, static_cast<std::ptrdiff_t>(H)}, 2);
      check(y == whole.y && std::equal(whole.h_n.begin(), whole.h_n.end(), stream.state()),
            describe(sizes, c, kernels->name) + ": steps give the bits of the sequence");
      const Stream copy(stream);
      stream.reset();
      check(std::equal(c.h_0.begin(), c.h_0.end(), stream.state()), "reset returns to h_0");
      check(std::equal(whole.h_n.begin(), whole.h_n.end(), copy.state()), "a copy is independent");
    }
    check(stream.try_acquire() && !stream.try_acquire(), "a stream has one user at a time");
    stream.release();
  }
}

void test_activations() {
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

// Far weights: where they begin follows the cache, and one step counts the input's as well.
void test_far() {
  GruSizes s;
  s.input_size = s.hidden_size = 256;  // 768 KiB a matrix, 1,536 KiB in all
  s.num_layers = 1;
  Machine machine = machine_with(8);
  const auto far = [&](std::size_t T, std::size_t near_kib) {
    machine.near = near_kib << 10;
    const Plan plan = make_plan(s, machine, {T, 1});
    return std::pair(plan.far_input, plan.far_recurrent);
  };
  check(far(100, 4096) == std::pair(false, false), "all weights near");
  check(far(100, 2000) == std::pair(true, false), "input weights, read once a block, far");
  check(far(100, 1000) == std::pair(true, true), "all weights far");
  check(far(1, 2000) == std::pair(true, true), "one step reads both matrices once");
  check(far(1, 4096) == std::pair(false, false), "one step, near");
}

// Even parts, larger ones first, without a gap.
void test_cut() {
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

template <class Error, class Work>
void check_throws(Work work, const std::string& what) {
  try {
    work();
    check(false, what + ": nothing thrown");
  } catch (const Error&) {
    check(true, what);
  }
}

void test_errors() {
  check_throws<std::invalid_argument>([] { choose_kernels("sse9"); }, "an unknown ISA is refused");
  check_throws<std::length_error>([] { checked_product(SIZE_MAX / 2, 3); }, "overflow is refused");
  GruSizes huge;
  huge.input_size = huge.hidden_size = SIZE_MAX / 4;
  huge.num_layers = 1;
  GruSpec spec{huge, {LayerTensors{}}};
  check_throws<std::length_error>([&] { pack(spec, choose_kernels("")); },
                                  "huge sizes are refused");
}

void test_threads() {
  check(default_num_threads() >= 1 && available_cores() >= 1, "there is a thread");
  check(threads_to_use(1) == 1 && threads_to_use(1000) <= available_cores(), "cores are a ceiling");
  std::vector<int> calls(4);
  Arrival arrivals[4];
  std::atomic<int> ended{0};
  const bool ran = parallel(4, [&](std::size_t index) {
    Barrier barrier(arrivals, index, 4);
    for (int round = 0; round < 100; ++round) {
      calls[index] = round;
      barrier.wait();
      for (const int call : calls)
        if (call != round) std::abort();
      barrier.wait();
    }
    ++ended;
  });
#if defined(__linux__)
  cpu_set_t before, after;
  sched_getaffinity(0, sizeof before, &before);
  int moved = 0, tries = 20;
  for (int i = 0; i < tries; ++i) {
    const int core = current_core();
    leave_core(core);
    moved += current_core() != core;
  }
  sched_getaffinity(0, sizeof after, &after);
  check(CPU_EQUAL(&before, &after), "who leaves a core may run where it might before");
  if (CPU_COUNT(&before) > 1)
    check(moved > tries / 2, "a thread leaves a core");  // the system may move it back at once
  else
    std::printf("SKIPPED: leaving a core, with one only\n");
#endif
  if (openmp_runtime() == std::string("none")) std::printf("SKIPPED: threads, without OpenMP\n");
  check(ended == (ran ? 4 : 0), "a body runs on all threads or not at all");
  check(region_microseconds() < 100, "a region costs something");
  call_ended(true, 100);
  check(std::isinf(region_microseconds()), "no threads while a core is taken");
  GruSizes small;
  small.input_size = small.hidden_size = 64;
  small.num_layers = 1;
  const Machine machine = machine_with(8);
  check(make_plan(small, machine, {1, 1, 8, 2, 0.2}).grid.threads() == 1,
        "a small call stays on one thread");
  check(make_plan(small, machine, {1000, 64, 2, 2, 0.2}).grid.threads() == 2,
        "a large batch uses the threads it may");
  check(make_plan(small, machine, {1000, 1, 2, 2, 0.2}).grid.unit_groups == 2,
        "a long sequence is shared by units");
  check(make_plan(small, machine, {1000, 1, 2, 2, 10}).grid.threads() == 1,
        "where meeting costs more than sharing gains, one thread works");
  check(make_plan(small, machine, {100, 1, 2, 1000, 0.2}).grid.threads() == 1,
        "where waking threads costs more than it gains, one thread works");
}

}  // namespace

int main() {
  GruSizes s;
  for (const bool reset_after : {true, false}) {
    for (const std::size_t H : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65}) {
      s = {H % 5 + 1, H,           1 + H % 3,      1 + H % 2,
           true,      reset_after, Function::tanh, Function::sigmoid};
      for (const std::size_t B : {1, 2, 3, 5, 9}) test_gru(s, 6, B, B % 2 == 1);
      if (H < 8 || H == 17) test_gru(s, 3, 37, true);  // rows in the lanes
      test_unpack(s);
      test_padding(s);
      s.num_directions = 1;
      test_stream(s, 5, H % 4 + 1);
      for (const std::size_t B : {1, 3, 11}) test_pool(s, B);
    }
    s = {300, 270, 1, 2, true, reset_after, Function::tanh, Function::sigmoid};
    test_gru(s, 4, 19, true);  // sums longer than one chain; more rows than a tile
    s = {24, 48, 2, 2, true, reset_after, Function::tanh, Function::sigmoid};
    test_gru(s, 40, 70, true);  // large enough for several threads and row blocks
    s = {8, 4, 2, 2, true, reset_after, Function::tanh, Function::sigmoid};
    test_gru(s, 40, 45, true);  // rows in the lanes, until few are left
    for (const Function a : {Function::relu, Function::sigmoid, Function::identity})
      for (const Function r : {Function::hard_sigmoid, Function::hard_sigmoid_02}) {
        s = {3, 17, 1, 1, true, reset_after, a, r};
        test_gru(s, 4, 3, false);
      }
    test_gru(s, 0, 2, false);
  }
  for (const Precision precision : reduced_precisions())
    for (const bool reset_after : {true, false}) {
      for (const std::size_t H : {1, 3, 4, 8, 15, 16, 17, 33, 65}) {
        s = {H % 5 + 1, H,           1 + H % 2,      1 + H % 2,
             true,      reset_after, Function::tanh, Function::sigmoid};
        for (const std::size_t B : {1, 2, 3, 9}) test_reduced(s, precision, 6, B);
      }
      s = {301, 270, 1, 2, true, reset_after, Function::tanh, Function::sigmoid};
      test_reduced(s, precision, 4, 19);
      s = {24, 48, 2, 1, true, reset_after, Function::tanh, Function::sigmoid};
      test_reduced(s, precision, 12, 150);
    }
  // Both orders of panels, with weights near and far (test_reduced tries both by itself).
  for (const bool reset_after : {true, false})
    for (const std::size_t T : {1, 2, 5}) {
      s = {301, 270, 1, 1, true, reset_after, Function::tanh, Function::sigmoid};
      for (const std::size_t B : {1, 2, 3, 9}) test_gru(s, T, B, false);
      if (T == 1) continue;
      for (const Precision precision : reduced_precisions())
        for (const std::size_t B : {1, 9}) test_reduced(s, precision, T, B);
    }
  test_far();
  test_cut();
  test_formats();
  test_contract();
  test_choice_of_products();
  for (const bool reset_after : {true, false}) test_products_by_rows(reset_after);
  test_exact_sums();
  test_activations();
  test_errors();
  test_threads();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
