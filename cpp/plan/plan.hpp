// What to run for one call: how rows are cut into blocks, time into blocks, and work into threads.
// A pure function of the shape and the machine, well under a microsecond, never cached.
#pragma once

#include <cstddef>

#include "network/spec.hpp"

namespace fastgru {

// What an estimate of a cost needs to know of the machine: see machine_with().
struct Machine {
  double gflops = 0;      // one core's peak, roughly
  std::size_t lanes = 1;  // floats per vector
  std::size_t l1 = 0;     // bytes of one core's caches
  std::size_t l2 = 0;
  std::size_t near = 0;  // of the last cache that is much faster than memory: L2, or all of L3
};

// The machine with kernels of so many lanes. Asks the system for the caches once.
Machine machine_with(std::size_t lanes);

struct CallShape {
  std::size_t T = 0;
  std::size_t B = 0;
  std::size_t max_threads = 1;
  // What starting threads costs now, and what threads that share units lose in each step by telling
  // each other: see thread_cost.hpp.
  double region_microseconds = 0;
  double barrier_microseconds = 0;
  bool traced = false;
  std::size_t operand_bytes = 0;  // of an input row in reduced precision
};

// How a call's work is divided among threads: into groups of rows, within these into directions,
// within these into groups of a layer's units. Each thread has one of the resulting shares.
struct Grid {
  std::size_t row_groups = 1;
  std::size_t directions = 1;  // 1 or 2
  std::size_t unit_groups = 1;

  std::size_t threads_per_row_group() const { return directions * unit_groups; }
  std::size_t threads() const { return row_groups * threads_per_row_group(); }
};

// Where the rows_* kernels run, which compute input product and steps in one.
enum class RowsInLanes { never, where_they_fit, always };

struct Plan {
  Grid grid;
  RowsInLanes rows_in_lanes = RowsInLanes::never;
  bool fused = false;            // T = 1: steps_* kernels compute the input product on the way
  std::size_t row_block = 1;     // most rows that advance together
  std::size_t time_block = 1;    // most steps whose input product is done at once
  std::size_t state_stride = 0;  // floats between the states of neighbouring rows
  double patience = 0;           // of a barrier, see parallel.hpp
  // Whether the weights of the input products, and of the recurrent ones, come from far away:
  // from memory, or a cache as slow.
  bool far_input = false, far_recurrent = false;

  // Panels of the widest share of units.
  std::size_t share_panels(const GruSizes& sizes) const {
    return (sizes.panels() + grid.unit_groups - 1) / grid.unit_groups;
  }
};

Plan make_plan(const GruSizes& sizes, const Machine& machine, const CallShape& shape);
// The two decisions that make_plan takes first, taken otherwise. Rows in lanes needs one unit
// group.
Plan make_plan(const GruSizes& sizes, const Machine& machine, const CallShape& shape,
               const Grid& grid, RowsInLanes rows_in_lanes);

// Whether `rows` rows are better in the lanes than the units are.
bool rows_fit_lanes(const GruSizes& sizes, std::size_t lanes, std::size_t rows);

// Rough cost of a call on one thread: what decides about releasing the GIL and whether threads are
// worth a thought.
double estimate_microseconds(const GruSizes& sizes, std::size_t T, std::size_t B);

// Cheaper calls stay on the calling thread whatever the plan would say. One step of one row at
// H = 256 (13 by the estimate) is 1.5 to 1.7 times as fast with two threads, calls back to back, on
// a Zen 4 guest; asking for the affinity costs it 0.4 us where there is one core.
constexpr double kParallelFrom = 12.0;  // microseconds

}  // namespace fastgru
