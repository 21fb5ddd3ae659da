// The loops over row blocks and threads of one planned call, and nothing else. Allocates nothing on
// a shape it has seen.
#pragma once

#include <cstddef>
#include <optional>

#include "plan/plan.hpp"
#include "run/call.hpp"

namespace fastgru {

struct RunResult {
  std::size_t long_waits = 0;  // of the barriers of threads with equal work
  bool interrupted = false;
};

// Runs a call of B > 0 rows by a given plan. Returns nothing, and has done nothing, where the
// runtime gave fewer threads.
std::optional<RunResult> run(const PackedNetwork& network, const Call& call,
                             const NetworkPlan& plan);

// Bytes of scratch memory that this call takes from the calling thread's arena.
std::size_t scratch_bytes(const PackedNetwork& network, const Call& call, const NetworkPlan& plan);

}  // namespace fastgru
