#include "run/call.hpp"

#include <cstdint>
#include <optional>
#include <vector>

#include "plan/plan.hpp"
#include "plan/thread_cost.hpp"
#include "run/run.hpp"
#include "system/arena.hpp"
#include "system/parallel.hpp"

namespace fastgru {
namespace {

// The grid of a call that is long enough for threads. The cores are asked for only where as many
// threads as one likes would be worth it, since that is a system call.
Grid threaded_grid(const PackedNetwork& network, const Call& call, CallShape& shape) {
  shape.region_microseconds = region_microseconds();
  if (network.facts.most_panels > 1) shape.barrier_microseconds = barrier_microseconds();
  shape.max_threads = call.max_threads > 0 ? call.max_threads : SIZE_MAX;
  const Grid grid = choose_grid(network, shape);
  if (grid.threads() == 1) return grid;
  const std::size_t wanted = shape.max_threads;
  shape.max_threads = threads_to_use(call.max_threads);
  return shape.max_threads == wanted ? grid : choose_grid(network, shape);
}

// The plans of the calling thread's call: as many as the longest network that it has run has
// stacks.
Plan* plans_for(const PackedNetwork& network) {
  thread_local std::vector<Plan> plans;
  if (plans.size() < network.grus.size()) plans.resize(network.grus.size());
  return plans.data();
}

}  // namespace

bool run(const PackedNetwork& network, const Call& call) {
  if (call.B == 0) return true;
  CallShape shape;
  shape.T = call.T;
  shape.B = call.B;
  shape.width = call.width;
  shape.traced = call.trace_stride != 0;
  const double estimate = call.estimate > 0
                              ? call.estimate
                              : estimate_microseconds(network, call.T, call.B, call.width);
  const bool may_share =
      call.max_threads != 1 && estimate >= kParallelFrom && can_share(network, call.B);
  const Grid grid = may_share ? threaded_grid(network, call, shape) : Grid{};
  Plan* const plans = plans_for(network);
  std::optional<RunResult> result = run(network, call, make_plan(network, shape, grid, plans));
  const bool as_planned = result.has_value();
  if (!as_planned) result = run(network, call, make_plan(network, shape, Grid{}, plans));
  if (may_share) call_ended(as_planned && grid.threads() > 1, result->long_waits);
  release_arena();
  return !result->interrupted;
}

}  // namespace fastgru
