// The contract of kernels: arguments that break it are caught by assertions.
#include <algorithm>
#include <string>

#include "gru_cases.hpp"
#include "system/buffer.hpp"

#if defined(__linux__)
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#endif

using namespace fastgru;

namespace {

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

}  // namespace

// Arguments that break the contract are caught at the top of a function of the table, in builds
// with assertions: this one, where developers and sanitizers build it.
TEST(arguments_that_break_the_contract_are_caught) {
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
