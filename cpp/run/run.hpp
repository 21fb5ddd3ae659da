// The loops over row blocks and threads of one planned call, and nothing else. Allocates nothing on
// a shape it has seen.
#pragma once

#include <cstddef>
#include <optional>

#include "plan/plan.hpp"
#include "run/call.hpp"

namespace fastgru {

// Runs a call of B > 0 rows by a given plan. Returns the long waits of its barriers; nothing, and
// has done nothing, where the runtime gave fewer threads.
std::optional<std::size_t> run(const PackedNetwork& network, const Call& call,
                               const NetworkPlan& plan);

}  // namespace fastgru
