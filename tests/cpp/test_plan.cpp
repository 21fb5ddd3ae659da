// Plans: where weights count as far, and for what work threads are started.
#include <utility>

#include "plan/plan.hpp"
#include "support.hpp"

using namespace fastgru;

// Far weights: where they begin follows the cache, and one step counts the input's as well.
TEST(far_weights) {
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

TEST(threads_are_used_where_they_pay) {
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
