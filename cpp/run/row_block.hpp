// The rows [begin, begin + count) of the sorted batch, run through a network by one thread, which
// has its share of the work; the other threads of its row group run the same rows beside it.
#pragma once

#include <cstddef>

#include "run/interrupt.hpp"
#include "run/workspace.hpp"

namespace fastgru {

// Everything that the threads of one call share.
struct Job {
  const PackedNetwork& network;
  const Call& call;
  const NetworkPlan& plan;
  const Workspace& space;
  bool backwards;  // whether the first step begins with the last weights: Note [There and back]
  Interruption& interruption;
};

// What one thread does.
struct Share {
  Range rows;         // of the sorted batch
  Range directions;   // of layers that have two
  std::size_t unit;   // its index among the unit groups of its directions
  std::size_t index;  // and among the threads of its row group
  const Scratch& scratch;
  Barrier row_barrier;   // for the threads of this row group
  Barrier unit_barrier;  // for those of them that have the same directions
};

void run_row_block(const Job& job, Share& share, std::size_t begin, std::size_t count);

}  // namespace fastgru
