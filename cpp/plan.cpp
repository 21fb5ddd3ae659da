#include "plan.hpp"

#include <algorithm>

#include "buffer.hpp"

namespace fastgru {
namespace {

// The input product of a block (time_block x row_block) should stay in L2 beside the panels that
// stream through it: a quarter of Zen 4's 1 MiB. Derived, not yet tuned.
constexpr std::size_t kGatesBytes = std::size_t{256} << 10;

// Rows that share one pass over the recurrent weights. More rows amortise weights that come from
// beyond L2; fewer keep states and gates in L1. Derived, not yet tuned.
constexpr std::size_t kMaxRowBlock = 64;
constexpr std::size_t kMinRowBlock = 8;

// Full-length layer outputs of a bidirectional stack (two take turns) stay below this, so that the
// arena keeps them between calls, as long as kMinRowBlock rows allow.
constexpr std::size_t kSequenceBytes = std::size_t{48} << 20;

std::size_t even_blocks(std::size_t n, std::size_t most) {
  const std::size_t blocks = (n + most - 1) / most;
  return blocks == 0 ? 1 : (n + blocks - 1) / blocks;
}

}  // namespace

// 60 GFLOP/s, and 0.1 us for the latency of a step.
double estimate_microseconds(const ModelSizes& s, std::size_t T, std::size_t B) {
  const double hidden = static_cast<double>(s.panels() * kPanel);
  double terms = 0;
  for (std::size_t l = 0; l < s.num_layers; ++l)
    terms += static_cast<double>(s.layer_input(l)) + hidden;
  const double steps = static_cast<double>(s.num_directions) * static_cast<double>(T);
  return steps * (6.0 * static_cast<double>(B) * hidden * terms / 60e3 +
                  0.1 * static_cast<double>(s.num_layers));
}

Plan make_plan(const ModelSizes& sizes, const CallShape& shape) {
  Plan plan;
  // One line more than the row: at H = 1024 rows would otherwise share one set of L1.
  plan.state_stride = sizes.panels() * kPanel + kPanel;

  const bool small = estimate_microseconds(sizes, shape.T, shape.B) < kParallelFrom;
  const std::size_t threads = small ? 1 : shape.max_threads;
  // Few rows: one direction each, which also halves the weights that a core reads.
  if (sizes.num_directions == 2 && threads >= 2 && shape.B < 8 * threads) plan.direction_groups = 2;
  // A second row costs little where weights decide, so a thread gets at least two.
  plan.row_groups =
      std::max<std::size_t>(1, std::min(threads / plan.direction_groups, shape.B / 2));

  const std::size_t row_bytes = sizes.panels() * 3 * kPanel * sizeof(float);
  const std::size_t rows = (shape.B + plan.row_groups - 1) / plan.row_groups;
  std::size_t most = std::clamp(kGatesBytes / row_bytes, kMinRowBlock, kMaxRowBlock);
  if (sizes.num_directions == 2 && sizes.num_layers > 1) {
    const std::size_t sequence = shape.T * 2 * sizes.hidden_size * sizeof(float);
    most = std::min(most, std::max(kMinRowBlock, kSequenceBytes / (2 * sequence + 1)));
  }
  plan.row_block = even_blocks(rows, most);
  plan.time_block = std::clamp<std::size_t>(kGatesBytes / (row_bytes * plan.row_block), 1,
                                            std::max<std::size_t>(1, shape.T));
  return plan;
}

}  // namespace fastgru
