// The facts of a machine that decide what a call costs. Asked of the system when a network is
// packed; no call asks again.
#pragma once

#include <cstddef>

#include "kernels/contract.hpp"

namespace fastgru {

struct Machine {
  double gflops = 0;      // the peak of one core in float32, roughly
  std::size_t lanes = 1;  // floats per vector
  std::size_t l1 = 0;     // bytes of the caches of one core
  std::size_t l2 = 0;
  std::size_t near =
      0;  // bytes of the last cache that is much faster than memory: L2, or all of L3
  // What one term of a product costs in each precision, where one in float32 costs 1.
  double term_cost[kPrecisions] = {1, 1, 1};
};

// This machine, for a network that runs on `kernels`.
Machine machine_for(const KernelTable& kernels);

}  // namespace fastgru
