// Whole sequences through a packed GRU, by every plan, against the equations in double. Promises 1
// and 2. Made to run under AddressSanitizer and UndefinedBehaviorSanitizer (not ThreadSanitizer:
// libgomp is not built for it).
#include <algorithm>
#include <cmath>
#include <utility>

#include "gru_cases.hpp"
#include "run/call.hpp"
#include "system/parallel.hpp"

using namespace fastgru;

namespace {

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
void check_gru(const GruSizes& sizes, std::size_t T, std::size_t B, bool ragged) {
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
        Plan plan = make_plan(packed, {T, B}, grid, lanes);
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

// Near the same weights in float64, and the same bits whatever the plan and the batch.
Result check_reduced_calls(const PackedGru& packed, const Case& c, const Result& expected,
                           const std::string& name) {
  const GruSizes& sizes = packed.sizes;
  const std::size_t T = c.T, B = c.B;
  const Result got = engine(packed, c, nullptr);
  float error = 0;
  for (std::size_t i = 0; i < got.y.size(); ++i)
    error = std::max(error, std::abs(got.y[i] - expected.y[i]));
  check(error <= 0.02f, name + ": error " + std::to_string(error));
  for (const Grid grid : {Grid{1, 1, 1}, Grid{2, 1, 1}, Grid{1, 2, 1}, Grid{1, 1, 2}}) {
    if (grid.row_groups > B || grid.directions > sizes.num_directions ||
        grid.unit_groups > sizes.panels())
      continue;
    if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
    for (const bool far : {false, true}) {
      Plan plan = make_plan(packed, {T, B}, grid, RowsInLanes::never);
      plan.far_input = plan.far_recurrent = far;
      check(engine(packed, c, &plan) == got, name + ": same bits by plan");
    }
  }
  check_rows_alone(packed, c, got, name);
  return got;
}

// Every kernel that the CPU runs, also those that it does not prefer. In int8, and in bfloat16 by
// FMAs, AVX2 and AVX-512 have the same bits.
void check_reduced_gru(const GruSizes& sizes, Precision precision, std::size_t T, std::size_t B) {
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
      const Result got = check_reduced_calls(packed, c, expected, name);
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

// Sizes around vectors and panels, with few rows and, where few units fill a vector, many.
void test_sizes(bool reset_after) {
  for (const std::size_t H : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65}) {
    const GruSizes sizes = default_gru(H % 5 + 1, H, 1 + H % 3, 1 + H % 2, reset_after);
    for (const std::size_t B : {1, 2, 3, 5, 9}) check_gru(sizes, 6, B, B % 2 == 1);
    if (H < 8 || H == 17) check_gru(sizes, 3, 37, true);  // rows in the lanes
  }
}

void test_reduced_sizes(Precision precision) {
  for (const bool reset_after : {true, false}) {
    for (const std::size_t H : {1, 3, 4, 8, 15, 16, 17, 33, 65}) {
      const GruSizes sizes = default_gru(H % 5 + 1, H, 1 + H % 2, 1 + H % 2, reset_after);
      for (const std::size_t B : {1, 2, 3, 9}) check_reduced_gru(sizes, precision, 6, B);
    }
    check_reduced_gru(default_gru(301, 270, 1, 2, reset_after), precision, 4, 19);
    check_reduced_gru(default_gru(24, 48, 2, 1, reset_after), precision, 12, 150);
  }
}

}  // namespace

TEST(sizes_around_vectors_reset_after) { test_sizes(true); }

TEST(sizes_around_vectors_reset_before) { test_sizes(false); }

TEST(sums_longer_than_a_block_and_more_rows_than_a_tile) {
  for (const bool reset_after : {true, false})
    check_gru(default_gru(300, 270, 1, 2, reset_after), 4, 19, true);
}

TEST(several_threads_and_row_blocks) {
  for (const bool reset_after : {true, false})
    check_gru(default_gru(24, 48, 2, 2, reset_after), 40, 70, true);
}

TEST(rows_in_the_lanes_until_few_are_left) {
  for (const bool reset_after : {true, false})
    check_gru(default_gru(8, 4, 2, 2, reset_after), 40, 45, true);
}

TEST(other_activations) {
  for (const bool reset_after : {true, false})
    for (const Function a : {Function::relu, Function::sigmoid, Function::identity})
      for (const Function r : {Function::hard_sigmoid, Function::hard_sigmoid_02})
        check_gru({3, 17, 1, 1, true, reset_after, a, r}, 4, 3, false);
}

TEST(no_time_steps) {
  for (const bool reset_after : {true, false})
    check_gru({3, 17, 1, 1, true, reset_after, Function::identity, Function::hard_sigmoid_02}, 0, 2,
              false);
}

// A trace runs one layer, whose states are all that h_0 and h_n have: also where there is no step.
TEST(a_layer_of_a_stack_by_itself) {
  for (const std::size_t directions : {1, 2}) {
    const GruSizes sizes = default_gru(5, 19, 3, directions, true);
    const std::size_t width = directions * sizes.hidden_size, B = 2;
    for (const KernelTable* kernels : runnable()) {
      const PackedGru packed = pack(TestGru(sizes).spec, kernels);
      const PackedNetwork network = network_of(packed);
      for (const std::size_t T : {0, 1, 4}) {
        const Floats x = random_floats(T * B * width, 1.0f), h_0 = random_floats(B * width, 0.9f);
        Floats y(T * B * width), h_n(h_0.size());
        const GruStates states{h_0.data(), h_n.data()};
        Call call;
        call.T = T;
        call.B = B;
        call.width = width;
        call.x = {x.data(), static_cast<std::ptrdiff_t>(B * width),
                  static_cast<std::ptrdiff_t>(width)};
        call.y = {y.data(), static_cast<std::ptrdiff_t>(B * width),
                  static_cast<std::ptrdiff_t>(width)};
        call.states = &states;
        call.first_node = 2;
        call.end_node = 3;
        run(network, call);
        check(T > 0 || same_bits(h_n, h_0), "no step leaves the states");
        bool last = true;  // of the forward direction: h_n is the last step of y
        for (std::size_t b = 0; T > 0 && b < B; ++b)
          last &= same_bits(&h_n[b * sizes.hidden_size], &y[((T - 1) * B + b) * width],
                            sizes.hidden_size);
        check(last, "h_n is what the layer ends with");
      }
    }
  }
}

TEST(bfloat16) { test_reduced_sizes(Precision::bfloat16); }

TEST(int8) { test_reduced_sizes(Precision::int8); }

// The panels of far weights are passed in turns in both directions: check_gru and check_reduced_gru
// try near and far weights by themselves.
TEST(near_and_far_weights_in_both_orders_of_panels) {
  for (const bool reset_after : {true, false})
    for (const std::size_t T : {1, 2, 5}) {
      const GruSizes sizes = default_gru(301, 270, 1, 1, reset_after);
      for (const std::size_t B : {1, 2, 3, 9}) check_gru(sizes, T, B, false);
      if (T == 1) continue;
      for (const Precision precision : reduced_precisions())
        for (const std::size_t B : {1, 9}) check_reduced_gru(sizes, precision, T, B);
    }
}
