// What to run for one call: how rows are cut into blocks, time into blocks, and work into threads.
// A pure function of the shape, well under a microsecond, never cached.
#pragma once

#include <cstddef>

#include "spec.hpp"

namespace fastgru {

struct CallShape {
  std::size_t T = 0;
  std::size_t B = 0;
  std::size_t max_threads = 1;
};

struct Plan {
  // Threads form a grid: groups of rows, each of one thread or of one thread per direction.
  std::size_t row_groups = 1;
  std::size_t direction_groups = 1;  // 1 or 2
  std::size_t row_block = 1;         // most rows that advance together
  std::size_t time_block = 1;        // most steps whose input product is done at once
  std::size_t state_stride = 0;      // floats between the states of neighbouring rows

  std::size_t threads() const { return row_groups * direction_groups; }
};

Plan make_plan(const ModelSizes& sizes, const CallShape& shape);

// Rough cost of a call on one thread: what decides about threads and about releasing the GIL.
double estimate_microseconds(const ModelSizes& sizes, std::size_t T, std::size_t B);

// Cheaper calls stay on the calling thread: a region costs 1 us between back-to-back calls and 35
// to 55 us after idleness (measured with libgomp, GOMP_SPINCOUNT=500, Zen 4).
constexpr double kParallelFrom = 100.0;  // microseconds

}  // namespace fastgru
