// Plans: where weights count as far, and for what work threads are started.
#include <utility>

#include "gru_cases.hpp"
#include "kernels/dispatch.hpp"
#include "plan/plan.hpp"

using namespace fastgru;

namespace {

// A GRU as a plan sees it, without weights.
PackedGru planned(std::size_t hidden) {
  PackedGru gru;
  gru.sizes.input_size = gru.sizes.hidden_size = hidden;
  gru.sizes.num_layers = 1;
  gru.kernels = choose_kernels("");
  gru.machine = machine_for(*gru.kernels);
  gru.layers.resize(1);
  gru.facts = facts_of(gru);
  return gru;
}

}  // namespace

// Far weights: where they begin follows the cache, and one step counts the input's as well.
TEST(far_weights) {
  PackedGru gru = planned(256);  // 768 KiB a matrix, 1,536 KiB in all
  const auto far = [&](std::size_t T, std::size_t near_kib) {
    gru.machine.near = near_kib << 10;
    const Plan plan = make_plan(gru, {T, 1}, Grid{}, RowsInLanes::never);
    return std::pair(plan.far_input, plan.far_recurrent);
  };
  check(far(100, 4096) == std::pair(false, false), "all weights near");
  check(far(100, 2000) == std::pair(true, false), "input weights, read once a block, far");
  check(far(100, 1000) == std::pair(true, true), "all weights far");
  check(far(1, 2000) == std::pair(true, true), "one step reads both matrices once");
  check(far(1, 4096) == std::pair(false, false), "one step, near");
}

TEST(threads_are_used_where_they_pay) {
  const PackedGru gru = planned(64);
  const PackedNetwork network = network_of(gru);
  check(choose_grid(network, {1, 1, 8, 2, 0.2}).threads() == 1, "a small call stays on one thread");
  check(choose_grid(network, {1000, 64, 2, 2, 0.2}).threads() == 2,
        "a large batch uses the threads it may");
  check(choose_grid(network, {1000, 1, 2, 2, 0.2}).unit_groups == 2,
        "a long sequence is shared by units");
  check(choose_grid(network, {1000, 1, 2, 2, 10}).threads() == 1,
        "where waiting for each other costs more than sharing gains, one thread works");
  check(choose_grid(network, {100, 1, 2, 1000, 0.2}).threads() == 1,
        "where waking threads costs more than it gains, one thread works");
}

// A wide linear layer behind a narrow GRU is reason enough for threads.
TEST(layers_around_a_gru_count) {
  const auto gru = std::make_shared<const PackedGru>(planned(16));
  const Floats weight(10000 * 16);
  const auto linear = std::make_shared<const PackedLinear>(
      pack_linear(weight.data(), nullptr, 10000, 16, gru->kernels));
  const CallShape shape{100, 1, 2, 2, 0.2};
  check(choose_grid(pack_network({gru}, 16), shape).threads() == 1, "the GRU alone is not");
  check(choose_grid(pack_network({gru, linear}, 16), shape).threads() == 2, "the outputs are");
}
