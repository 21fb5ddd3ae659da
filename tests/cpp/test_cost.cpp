// What calls cost and how plans use it: precision counts, short calls are decided as long ones
// would be, and threads are used where they promise enough.
#include <algorithm>
#include <string>

#include "gru_cases.hpp"
#include "plan/cost.hpp"
#include "plan/plan.hpp"
#include "plan/thread_cost.hpp"
#include "system/parallel.hpp"

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace fastgru;

namespace {

// A GRU as a plan sees it, without weights, on a machine like a Zen 4 core.
PackedGru gru_of(std::size_t input, std::size_t hidden, std::size_t layers, std::size_t directions,
                 Precision precision) {
  PackedGru gru;
  gru.sizes.input_size = input;
  gru.sizes.hidden_size = hidden;
  gru.sizes.num_layers = layers;
  gru.sizes.num_directions = directions;
  gru.machine.gflops = 96;
  gru.machine.lanes = 16;
  gru.machine.l1 = std::size_t{32} << 10;
  gru.machine.l2 = std::size_t{1} << 20;
  gru.machine.near = std::size_t{32} << 20;
  gru.machine.term_cost[static_cast<std::size_t>(Precision::bfloat16)] = 0.5;
  gru.machine.term_cost[static_cast<std::size_t>(Precision::int8)] = 0.4;
  gru.layers.resize(layers * directions);
  for (PackedLayer& layer : gru.layers) layer.precision = precision;
  gru.facts = facts_of(gru);
  return gru;
}

constexpr Precision kAll[] = {Precision::float32, Precision::bfloat16, Precision::int8};

}  // namespace

// The short way to an estimate says more than the long way, but never on the other side of kShort.
TEST(short_estimates_are_bounds) {
  for (const Precision precision : kAll)
    for (const std::size_t H : {1, 16, 17, 64, 256, 1024})
      for (const std::size_t L : {1, 3})
        for (const std::size_t D : {1, 2}) {
          const PackedGru gru = gru_of(H / 2 + 1, H, L, D, precision);
          for (const std::size_t T : {0, 1, 2, 10, 100})
            for (const std::size_t B : {1, 2, 7, 64, 300}) {
              const double exact = part_microseconds(gru, T, {B, gru.sizes.panels(), D, 0});
              const double estimate = estimate_microseconds(gru, T, B);
              check((estimate < kShort) == (exact < kShort) && estimate >= exact * (1 - 1e-12),
                    "H=" + std::to_string(H) + " T=" + std::to_string(T) +
                        " B=" + std::to_string(B) + ": a short estimate is a bound");
            }
        }
}

// Weights in fewer bytes are read sooner and multiplied at their own cost; float32 is the dearest.
TEST(precisions_count) {
  const auto cost = [](Precision precision, std::size_t T, std::size_t B) {
    return estimate_microseconds(gru_of(256, 256, 1, 1, precision), T, B);
  };
  for (const std::size_t T : {1, 100})
    for (const std::size_t B : {1, 64}) {
      check(cost(Precision::bfloat16, T, B) < 0.7 * cost(Precision::float32, T, B),
            "bfloat16 costs about half");
      check(cost(Precision::int8, T, B) < cost(Precision::bfloat16, T, B), "int8 costs less");
    }
  // Two threads save 0.45 of 19 us in float32, and less than waking them costs in int8.
  const CallShape step{1, 1, 2, 2, 0.2};
  const auto threads = [&](Precision precision) {
    const PackedGru gru = gru_of(256, 256, 1, 1, precision);
    return choose_grid(network_of(gru), step).threads();
  };
  check(threads(Precision::float32) == 2, "a step in float32 is worth two threads");
  check(threads(Precision::int8) == 1, "the same step in int8 is not");
}

// Layers around a GRU are counted by the same function: for few rows by their weights' bytes, for
// many by their products.
TEST(work) {
  const Machine machine = gru_of(1, 1, 1, 1, Precision::float32).machine;
  const Work linear = product_work(machine, Precision::float32, 10000, 256);
  const double one = work_microseconds(machine, linear, 1, linear.weight_bytes);
  const double two = work_microseconds(machine, linear, 2, linear.weight_bytes);
  const double many = work_microseconds(machine, linear, 128, linear.weight_bytes);
  check(one == two, "two rows cost what reading the weights costs");
  check(many > 10 * one, "many rows cost their products");
  Work copy;
  copy.row_bytes = 4096;
  check(work_microseconds(machine, copy, 10, 0) > work_microseconds(machine, copy, 1, 0),
        "bytes of rows count");
}

// Nothing is asked of the system for a call that no grid of threads can divide.
TEST(can_share) {
  const auto can = [](std::size_t hidden, std::size_t directions, std::size_t B) {
    const PackedGru gru = gru_of(16, hidden, 2, directions, Precision::float32);
    const PackedNetwork network = network_of(gru);
    const bool said = can_share(network, B);
    const Grid grid = choose_grid(network, {100000, B, 64, 0, 0});
    check(said == (grid.threads() > 1), "can_share says what a grid can");
    return said;
  };
  check(!can(16, 1, 1), "one row, one direction, one panel");
  check(can(17, 1, 1) && can(16, 2, 1) && can(16, 1, 2), "two of something");
}

// In a forked child, where regions are handed over to another thread, they cost more, and the steps
// that are worth two threads in the parent are not there; long calls are in both. Also after the
// child has measured what it costs.
static bool right_in_child(double in_parent) {
  const PackedGru gru = gru_of(256, 256, 1, 1, Precision::float32);
  const auto threads = [&](std::size_t T, std::size_t B, double region) {
    return choose_grid(network_of(gru), {T, B, 2, region, 0.2}).threads();
  };
  const auto in_a_row = [] {
    double cost = 0;
    for (int i = 0; i < 10; ++i) {
      cost = region_microseconds();
      call_ended(false, 0);
    }
    return cost;
  };
  const double before = in_a_row();
  bool right = before > in_parent + 5 && threads(1, 1, in_parent) == 2 &&
               threads(1, 1, before) == 1 && threads(1000, 64, before) == 2;
  if (!parallel(2, [](std::size_t) {})) return right;  // no threads, nothing to measure
  call_ended(true, 0);
  const double measured = in_a_row();
  return right && measured > in_parent && threads(1000, 64, measured) == 2;
}

#if defined(__unix__)
// CTest runs it in a process of its own, in which nothing has had threads.
TEST(forked_children) {
  for (int i = 0; i < 10; ++i) {
    region_microseconds();
    call_ended(false, 0);
  }
  const double in_parent = region_microseconds();  // of a call in a row
  for (const bool parent_has_regions : {false, true}) {
    if (parent_has_regions) parallel(2, [](std::size_t) {});
    const pid_t child = fork();
    if (child == 0) _exit(right_in_child(in_parent) ? 0 : 1);
    int status = -1;
    waitpid(child, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "a region costs a forked child more than its parent");
  }
}
#endif
