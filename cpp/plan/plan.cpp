#include "plan/plan.hpp"

#include <algorithm>

#include "system/buffer.hpp"
#include "system/parallel.hpp"

namespace fastgru {
namespace {

constexpr std::size_t kMinRowBlock = 8;

// Between sections stand whole sequences of the rows of a block (two buffers take turns). They stay
// below kSequenceBytes, so that the arena keeps them between calls, but hold kMinRowBlock rows; and
// where sequences are so long that these would need more than kMostSequenceBytes, a block has fewer
// rows, down to one.
constexpr std::size_t kSequenceBytes = std::size_t{48} << 20;
constexpr std::size_t kMostSequenceBytes = std::size_t{512} << 20;

// Weights come from far away where those that are read before they are read again fill more of the
// last fast cache than this: other things are in there too. Going block by block made steps 1.2 to
// 1.4 times as fast for 3 to 8 rows and 1.02 to 1.14 times for 16 to 64 beyond it (H = 768 and 1024
// at T = 100, 384 to 512 at T = 1), and 0.8 to 0.98 times up to 5 MB (H = 400 to 640), on Zen 1
// with 8 MiB; 1.1 to 1.2 times for 16 and more rows at H = 1024 and 1.0 at H = 400 and 512 on
// Emerald Rapids with 2 MiB of L2, 0.9 where they stay in there.
constexpr double kFarFrom = 0.7;
// Rows in the lanes: layers no wider than this, whose weights stay in L1 beside the rows' blocks.
// Derived, not tuned.
constexpr std::size_t kMostUnitsForRows = 32;
constexpr std::size_t kMostInputForRows = 128;

// Threads that share units all wait for each other in every step, and each reads all others' lines.
constexpr std::size_t kMostUnitGroups = 8;

std::size_t divided_up(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

std::size_t even_blocks(std::size_t n, std::size_t most) {
  return n <= most ? std::max<std::size_t>(1, n) : divided_up(n, divided_up(n, most));
}

// Rough microseconds of a call whose work is divided by a grid.
double grid_microseconds(const PackedNetwork& network, const CallShape& shape, const Grid& grid) {
  const std::size_t rows = divided_up(shape.B, grid.row_groups);
  const std::size_t team = grid.threads_per_row_group();
  double microseconds = 0;
  for (const PackedGru* gru : network.grus) {
    const bool both = gru->sizes.num_directions == 2;
    const std::size_t parts = both ? grid.unit_groups : team;
    microseconds += part_microseconds(
        *gru, shape.T,
        {rows, divided_up(gru->sizes.panels(), parts), both ? 2 / grid.directions : 1,
         parts > 1 ? shape.barrier_microseconds : 0});
  }
  if (network.facts.only_grus) return microseconds;
  return microseconds +
         other_layers_microseconds(network, shape.T, rows, shape.width) / static_cast<double>(team);
}

// Bytes of whole sequences that a call keeps for each row of a block.
std::size_t sequence_bytes(const PackedNetwork& network, std::size_t T) {
  return T * network.facts.sequence_width * sizeof(float);
}

// Most rows of a block, by what each of the row groups may keep of whole sequences.
std::size_t most_rows_kept(const PackedNetwork& network, std::size_t T, std::size_t row_groups) {
  const std::size_t kept = sequence_bytes(network, T);
  if (kept == 0) return kMaxRowBlock;
  const std::size_t rows = kMostSequenceBytes / row_groups / kept;
  // Whole tiles, where there is one.
  const std::size_t tiles = rows < kMinRowBlock ? rows : rows / kMinRowBlock * kMinRowBlock;
  return std::max<std::size_t>(
      1, std::min({kMaxRowBlock, tiles, std::max(kMinRowBlock, kSequenceBytes / kept)}));
}

// What rows in time blocks may take: a part of L2, beside the weights that stream through it.
constexpr std::size_t kBlockBytes = std::size_t{256} << 10;

// What follows from a plan's blocks.
void complete(Plan& plan, const PackedGru& gru, const CallShape& shape) {
  // More rows than a tile or two would read both matrices' panels by turns, again and again.
  plan.fused =
      shape.T == 1 && plan.rows_in_lanes == RowsInLanes::never && plan.row_block <= kMinRowBlock;
  // Input weights are read once a block of time, and so all others in between.
  const double far_from = kFarFrom * static_cast<double>(gru.machine.near);
  plan.far_input = static_cast<double>(gru.facts.weight_bytes) > far_from;
  plan.far_recurrent = plan.time_block == 1
                           ? plan.far_input
                           : static_cast<double>(gru.facts.recurrent_bytes) > far_from;
}

}  // namespace

bool can_share(const PackedNetwork& network, std::size_t B) {
  return B > 1 || network.facts.both_directions || network.facts.most_panels > 1;
}

Grid choose_grid(const PackedNetwork& network, const CallShape& shape) {
  const NetworkFacts& facts = network.facts;
  Grid grid;
  if (shape.max_threads <= 1 || !can_share(network, shape.B)) return grid;
  const std::size_t directions_at_most = facts.both_directions ? 2 : 1;
  // Each row group keeps sequences of its own.
  const std::size_t most_row_groups =
      std::max<std::size_t>(1, kMostSequenceBytes / (sequence_bytes(network, shape.T) + 1));
  double best = estimate_microseconds(network, shape.T, shape.B, shape.width) * kWorthThreads -
                shape.region_microseconds;
  for (std::size_t directions = 1; directions <= directions_at_most; ++directions)
    for (std::size_t units = 1; units <= std::min(facts.most_panels, kMostUnitGroups); ++units) {
      const std::size_t rows =
          std::min({shape.max_threads / (directions * units), shape.B, most_row_groups});
      if (rows * directions * units <= 1) continue;
      const Grid wanted{rows, directions, units};
      const double cost = grid_microseconds(network, shape, wanted);
      if (cost >= best) continue;
      best = cost;
      grid = wanted;
    }
  return grid;
}

bool rows_fit_lanes(const GruSizes& sizes, std::size_t lanes, std::size_t rows) {
  const std::size_t hidden = sizes.hidden_size, width = 2 * lanes;
  if (hidden > kMostUnitsForRows || rows < kPanel) return false;
  const std::size_t widest = std::max(sizes.input_size, sizes.layer_input(1));
  if (widest > kMostInputForRows) return false;
  // Rows are rounded up to two vectors, units to one. Where both take as many vectors, rows cost
  // 0.97 to 1.03 of the time on AVX-512 and 0.8 to 1.0 on AVX2 (Zen 4).
  const std::size_t by_rows = round_up(rows, width) * hidden;
  const std::size_t by_units = rows * round_up(hidden, lanes);
  return by_rows <= by_units;
}

Plan make_plan(const PackedGru& gru, const CallShape& shape, const Grid& grid,
               RowsInLanes rows_in_lanes, std::size_t most_rows) {
  const GruSizes& sizes = gru.sizes;
  const Machine& machine = gru.machine;
  Plan plan;
  plan.grid = grid;
  plan.rows_in_lanes = rows_in_lanes;
  // One line more than the row: at H = 1024 rows would otherwise share one set of L1.
  plan.state_stride = sizes.panels() * kPanel + kPanel;
  // Threads that wait for memory together may be a step or two apart (H = 1024, Zen 1: cores that
  // do not share an L3), and a core that is taken is missing for milliseconds.
  if (grid.threads() > 1)
    plan.patience = Barrier::kPatience + 4 * estimate_microseconds(gru, 1, shape.B);

  const std::size_t row_bytes = plan.share_panels(sizes) * 3 * kPanel * sizeof(float);
  // Weights from beyond L2 cost more than gates that spill there: as many rows as may be for each.
  const bool beyond_l2 =
      gru.facts.recurrent_bytes * plan.share_panels(sizes) > machine.l2 * sizes.panels();
  std::size_t most =
      beyond_l2 ? kMaxRowBlock : std::clamp(kGatesBytes / row_bytes, kMinRowBlock, kMaxRowBlock);
  most = std::min(most, most_rows);
  const bool units_only = rows_in_lanes == RowsInLanes::never;
  const std::size_t width = 2 * machine.lanes;
  if (!units_only) most = std::max(width, most / width * width);
  const std::size_t rows = divided_up(shape.B, grid.row_groups);
  plan.row_block = even_blocks(rows, most);
  if (!units_only)
    plan.row_block = round_up(plan.row_block, width);
  else if (plan.row_block < rows && most >= kMinRowBlock)  // full tiles, and a smaller last block
    plan.row_block = round_up(plan.row_block, kMinRowBlock);
  const std::size_t longest =
      kGatesBytes / (std::max(row_bytes, gru.facts.operand_bytes) * plan.row_block);
  plan.time_block = std::clamp<std::size_t>(longest, 1, std::max<std::size_t>(1, shape.T));
  complete(plan, gru, shape);
  return plan;
}

NetworkPlan make_plan(const PackedNetwork& network, const CallShape& shape, const Grid& grid,
                      Plan* plans, RowsInLanes rows_in_lanes) {
  NetworkPlan plan;
  plan.grid = grid;
  plan.grus = plans;
  const std::size_t rows = divided_up(shape.B, grid.row_groups);
  const std::size_t most_rows = most_rows_kept(network, shape.T, grid.row_groups);
  if (network.grus.empty()) {
    plan.row_block = even_blocks(rows, most_rows);
    plan.time_block = std::max<std::size_t>(1, shape.T);
    plan.patience = Barrier::kPatience;
  } else {
    plan.row_block = plan.time_block = SIZE_MAX;
  }
  for (std::size_t i = 0; i < network.grus.size(); ++i) {
    const PackedGru& gru = *network.grus[i];
    const std::size_t parts =
        gru.sizes.num_directions == 2 ? grid.unit_groups : grid.threads_per_row_group();
    RowsInLanes lanes = rows_in_lanes;
    if (shape.traced || parts != 1 || most_rows < 2 * gru.machine.lanes ||
        (lanes == RowsInLanes::where_they_fit &&
         !rows_fit_lanes(gru.sizes, gru.machine.lanes, rows)))
      lanes = RowsInLanes::never;
    plans[i] = make_plan(gru, shape, grid, lanes, most_rows);
    plan.row_block = std::min(plan.row_block, plans[i].row_block);
    plan.time_block = std::min(plan.time_block, plans[i].time_block);
    plan.patience = std::max(plan.patience, plans[i].patience);
  }
  if (const std::size_t width = network.facts.block_width)
    plan.time_block = std::clamp<std::size_t>(
        kBlockBytes / (width * sizeof(float) * plan.row_block), 1, plan.time_block);
  if (network.grus.size() == 1 && plans[0].time_block == plan.time_block) return plan;
  for (std::size_t i = 0; i < network.grus.size(); ++i) {
    plans[i].row_block = plan.row_block;
    plans[i].time_block = plan.time_block;
    complete(plans[i], *network.grus[i], shape);
  }
  return plan;
}

}  // namespace fastgru
