// What to run for one call: how rows are cut into blocks, time into blocks, and work into threads.
// A pure function of the packed GRU, the shape of the call and the costs of the moment; takes well
// under a microsecond and is never cached.
#pragma once

#include <cstddef>

#include "plan/cost.hpp"

namespace fastgru {

struct CallShape {
  std::size_t T = 0;
  std::size_t B = 0;
  std::size_t max_threads = 1;
  // What starting threads costs now, and what threads that share units lose in each step by telling
  // each other: see thread_cost.hpp.
  double region_microseconds = 0;
  double barrier_microseconds = 0;
  bool traced = false;
  std::size_t width = 0;  // the features of x, for a network that takes any
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

// What to run for a call of a network: what all its layers have in common, and a plan for each GRU
// stack, of which grid, row_block, time_block and patience are these.
struct NetworkPlan {
  Grid grid;
  std::size_t row_block = 1;
  std::size_t time_block = 1;
  double patience = 0;
  const Plan* grus = nullptr;
};

// The grid of at most shape.max_threads threads that promises most.
Grid choose_grid(const PackedNetwork& network, const CallShape& shape);
// Whether any grid of several threads can run a call of B rows: cheap, asked first.
bool can_share(const PackedNetwork& network, std::size_t B);

// By a given grid. plans: memory for a plan of each stack, which must live as long as the result.
NetworkPlan make_plan(const PackedNetwork& network, const CallShape& shape, const Grid& grid,
                      Plan* plans, RowsInLanes rows_in_lanes = RowsInLanes::where_they_fit);

// One stack by itself, with at most so many rows in a block. Rows in lanes needs a grid whose units
// are not shared.
Plan make_plan(const PackedGru& gru, const CallShape& shape, const Grid& grid,
               RowsInLanes rows_in_lanes, std::size_t most_rows = kMaxRowBlock);

// Whether `rows` rows are better in the lanes than the units are.
bool rows_fit_lanes(const GruSizes& sizes, std::size_t lanes, std::size_t rows);

}  // namespace fastgru
