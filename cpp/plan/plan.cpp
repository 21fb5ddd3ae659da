#include "plan/plan.hpp"

#include <algorithm>
#include <fstream>

#include "system/buffer.hpp"
#include "system/parallel.hpp"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace fastgru {
namespace {

// The input product of a block (time_block x row_block) should stay in L2 beside the panels that
// stream through it: a quarter of Zen 4's 1 MiB, half of Zen 1's. 64 and 128 KiB give 0.98 to 1.01
// of the speed (H = 64 to 512, all precisions, Zen 4).
constexpr std::size_t kGatesBytes = std::size_t{256} << 10;

// Rows that share one pass over the recurrent weights. More rows amortise weights that come from
// beyond L2; fewer keep states and gates in L1. Derived, not yet tuned.
constexpr std::size_t kMaxRowBlock = 64;
constexpr std::size_t kMinRowBlock = 8;

// Full-length layer outputs of a bidirectional stack (two take turns) stay below this, so that the
// arena keeps them between calls, as long as kMinRowBlock rows allow.
constexpr std::size_t kSequenceBytes = std::size_t{48} << 20;

// Weights come from far away where those that are read before they are read again fill more of the
// last fast cache than this: other things are in there too. Going block by block made steps 1.2 to
// 1.4 times as fast for 3 to 8 rows and 1.02 to 1.14 times for 16 to 64 beyond it (H = 768 and 1024
// at T = 100, 384 to 512 at T = 1), and 0.8 to 0.98 times up to 5 MB (H = 400 to 640), on Zen 1
// with 8 MiB; 1.1 to 1.2 times for 16 and more rows at H = 1024 and 1.0 at H = 400 and 512 on
// Emerald Rapids with 2 MiB of L2, 0.9 where they stay in there.
constexpr double kFarFrom = 0.7;
// Where the system does not tell.
constexpr std::size_t kUsualL1 = std::size_t{32} << 10, kUsualL2 = std::size_t{512} << 10;
constexpr std::size_t kL3PerL2 = 16;

// Rows in the lanes: layers no wider than this, whose weights stay in L1 beside the rows' blocks.
// Derived, not tuned.
constexpr std::size_t kMostUnitsForRows = 32;
constexpr std::size_t kMostInputForRows = 128;

// A step's cost beyond products and gates.
constexpr double kStepMicroseconds = 0.05;
// Threads that share units all wait for each other in every step, and each reads all others' lines.
constexpr std::size_t kMostUnitGroups = 8;
// What several threads must promise, since the estimate is rough and one thread disturbs nobody.
constexpr double kWorthThreads = 0.85;

std::size_t divided_up(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

std::size_t even_blocks(std::size_t n, std::size_t most) {
  const std::size_t blocks = divided_up(n, most);
  return blocks == 0 ? 1 : divided_up(n, blocks);
}

#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
std::size_t cache_bytes(int name, std::size_t otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : otherwise;
}

// The L3 that one core sees. sysconf() would not do: on AMD it adds up those of a whole package.
std::size_t l3_bytes(std::size_t otherwise) {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  std::size_t kib = 0;
  char unit = 0;
  return file >> kib >> unit && unit == 'K' && kib > 0 ? kib << 10 : otherwise;
}
#endif

// Whether L3 is a mesh over all cores of a server, as slow for one of them as memory is (28 GB/s on
// Emerald Rapids, where L2 gives 128): Intel's with AVX-512 and a large L2, but for the one laptop
// among them. AMD's L3 belongs to a few cores.
bool l3_is_mesh(std::size_t l2) {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") && __builtin_cpu_supports("avx512f") &&
         !__builtin_cpu_is("tigerlake") && l2 >= (std::size_t{1} << 20);
#else
  (void)l2;
  return false;
#endif
}

// GB/s at which one core reads `bytes` again and again: from L1 a vector a cycle; 74 to 88 from
// L2 and 57 from L3 on Zen 1, 105 and 88 on Zen 4; from far away 28 on Emerald Rapids (L3), 10 to
// 20 from memory.
double read_gigabytes(const Machine& machine, double bytes) {
  if (bytes <= static_cast<double>(machine.l1)) return 2 * machine.gflops;
  if (bytes <= static_cast<double>(machine.l2)) return 85;
  return bytes <= static_cast<double>(machine.near) ? 60 : 28;
}

// Rough microseconds of one thread that runs `directions` directions of the whole stack for `rows`
// rows and `panels` panels of units, and waits for others at a cost of `barrier` microseconds.
double thread_microseconds(const GruSizes& s, const Machine& machine, std::size_t T,
                           std::size_t rows, std::size_t panels, std::size_t directions,
                           double barrier) {
  const auto n = static_cast<double>(rows);
  const auto units = static_cast<double>(panels * kPanel);
  const auto hidden = static_cast<double>(s.hidden_size);
  const double flop = 1e-3 / machine.gflops;  // microseconds
  const double bytes = 12 * units * hidden;
  double step = 0;
  for (std::size_t l = 0; l < s.num_layers; ++l) {
    const auto inputs = static_cast<double>(s.layer_input(l));
    const double read = 1e-3 * bytes / read_gigabytes(machine, bytes);
    step += std::max(6 * n * units * hidden * flop, read) + 6 * n * units * inputs * flop +
            150 * n * units * flop + kStepMicroseconds;
    step += barrier * (s.reset_after ? 1 : 2);
  }
  return static_cast<double>(T) * static_cast<double>(directions) * step;
}

// Packed weights of one layer in one direction for `terms` inputs.
double matrix_bytes(const GruSizes& s, std::size_t terms) {
  return static_cast<double>(3 * sizeof(float) * kPanel * s.panels() * terms);
}

// All weights.
double weight_bytes(const GruSizes& s) {
  double bytes = 0;
  for (std::size_t l = 0; l < s.num_layers; ++l)
    bytes += matrix_bytes(s, s.layer_input(l) + s.hidden_size);
  return bytes * static_cast<double>(s.num_directions);
}

// ---- the layers around a GRU ----

// Microseconds of one thread for each feature of a row, roughly: Zen 4, AVX-512.
double row_nanoseconds(Node::Kind kind) {
  switch (kind) {
    case Node::Kind::softmax:
    case Node::Kind::log_softmax:
    case Node::Kind::layer_norm:
      return 1.0;
    case Node::Kind::activation:
      return 0.4;
    default:
      return 0.1;
  }
}
// Rows that one reading of a linear layer's weights serves.
constexpr double kRowsPerReading = 64;

// Rough microseconds of one thread for everything but GRUs, for T steps of `rows` rows.
double other_layers_microseconds(const PackedNetwork& network, double gflops, std::size_t T,
                                 std::size_t rows, std::size_t width) {
  double microseconds = 0, n = static_cast<double>(T) * static_cast<double>(rows);
  for (const Node& node : network.nodes) {
    if (node.is_gru()) continue;
    if (node.linear) {
      const double weights = static_cast<double>(node.inputs) * static_cast<double>(node.outputs);
      microseconds += 1e-3 * std::max(2 * weights * n / gflops,
                                      4 * weights / 28 * std::max(1.0, n / kRowsPerReading));
    } else {
      const std::size_t features = std::max(node.outputs ? node.outputs : width, kPanel);
      microseconds += 1e-3 * row_nanoseconds(node.kind) * static_cast<double>(features) * n;
    }
    if (node.is_over_time()) n = static_cast<double>(rows);
  }
  return microseconds;
}

// A first guess of a network's peak, where it has no GRU.
double gflops_of(const PackedNetwork& network) {
  for (const Node& node : network.nodes)
    if (node.linear) return machine_with(node.linear->kernels->lanes).gflops;
  return machine_with(1).gflops;
}

// Rough microseconds of one thread of a grid.
double grid_microseconds(const PackedNetwork& network, const CallShape& shape, const Grid& grid,
                         double barrier) {
  const std::size_t rows = divided_up(shape.B, grid.row_groups);
  const std::size_t team = grid.threads_per_row_group();
  double microseconds = 0, gflops = 0;
  for (const PackedGru* gru : network.grus) {
    const GruSizes& sizes = gru->sizes;
    const Machine machine = machine_with(gru->kernels->lanes);
    gflops = std::max(gflops, machine.gflops);
    const bool both = sizes.num_directions == 2;
    const std::size_t parts = both ? grid.unit_groups : team;
    microseconds +=
        thread_microseconds(sizes, machine, shape.T, rows, divided_up(sizes.panels(), parts),
                            both ? 2 / grid.directions : 1, parts > 1 ? barrier : 0);
  }
  if (gflops == 0) gflops = gflops_of(network);
  const double others = other_layers_microseconds(network, gflops, shape.T, rows, shape.width);
  return microseconds + others / static_cast<double>(team);
}

// The grid of at most shape.max_threads threads that promises most.
Grid choose_grid(const PackedNetwork& network, const CallShape& shape) {
  Grid grid;
  if (shape.max_threads <= 1) return grid;
  std::size_t panels = 1, most_directions = 1;
  for (const Node& node : network.nodes) {
    if (node.is_gru()) panels = std::max(panels, node.gru->sizes.panels());
    if (node.linear) panels = std::max(panels, node.linear->panels());
    if (node.is_gru() && node.bidirectional) most_directions = 2;
  }
  double best =
      grid_microseconds(network, shape, grid, 0) * kWorthThreads - shape.region_microseconds;
  for (std::size_t directions = 1; directions <= most_directions; ++directions)
    for (std::size_t units = 1; units <= std::min(panels, kMostUnitGroups); ++units) {
      const Grid wanted{std::min(shape.max_threads / (directions * units), shape.B), directions,
                        units};
      if (wanted.threads() <= 1) continue;
      const double cost = grid_microseconds(network, shape, wanted, shape.barrier_microseconds);
      if (cost >= best) continue;
      best = cost;
      grid = wanted;
    }
  return grid;
}

// What rows in time blocks may take: a part of L2, beside the weights that stream through it.
constexpr std::size_t kBlockBytes = std::size_t{256} << 10;

// The widest rows that stand in time blocks, between the nodes of a section.
std::size_t block_width(const PackedNetwork& network) {
  std::size_t widest = 0;
  for (const Section& section : network.sections)
    for (std::size_t i = section.begin; i + 1 < section.end; ++i)
      widest = std::max(widest, network.nodes[i].outputs);
  return widest;
}

// Bytes of the longest operand of a stack's layers in reduced precision; 0 without one.
std::size_t operand_bytes(const PackedGru& gru) {
  std::size_t bytes = 0;
  for (std::size_t l = 0; l < gru.sizes.num_layers; ++l)
    if (gru.layers[l * gru.sizes.num_directions].reduced)
      bytes = std::max(
          {bytes, operand_stride(gru.sizes.layer_input(l)), operand_stride(gru.sizes.hidden_size)});
  return bytes;
}

// What follows from a plan's blocks.
void complete(Plan& plan, const GruSizes& sizes, const Machine& machine, const CallShape& shape) {
  // More rows than a tile or two would read both matrices' panels by turns, again and again.
  plan.fused =
      shape.T == 1 && plan.rows_in_lanes == RowsInLanes::never && plan.row_block <= kMinRowBlock;
  // Input weights are read once a block of time, and so all others in between.
  const double far_from = kFarFrom * static_cast<double>(machine.near);
  plan.far_input = weight_bytes(sizes) > far_from;
  plan.far_recurrent =
      plan.time_block == 1 ? plan.far_input : matrix_bytes(sizes, sizes.hidden_size) > far_from;
}

}  // namespace

Machine machine_with(std::size_t lanes) {
  Machine machine;
  machine.lanes = lanes;
  // A fused multiply-add of a vector per cycle at 3 GHz: Zen 1 has 47 with AVX2, Zen 4 115 with
  // AVX-512.
  machine.gflops = 6.0 * static_cast<double>(lanes);
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
  static const std::size_t l1 = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, kUsualL1);
  static const std::size_t l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE, kUsualL2);
  static const std::size_t l3 = l3_bytes(kL3PerL2 * l2);
  machine.l1 = l1;
  machine.l2 = l2;
#else
  machine.l1 = kUsualL1;
  machine.l2 = kUsualL2;
  constexpr std::size_t l3 = kL3PerL2 * kUsualL2;
#endif
  // Going there and back, a step finds most of what exceeds L2 by little.
  machine.near = l3_is_mesh(machine.l2) ? 2 * machine.l2 : l3;
  return machine;
}

// 60 GFLOP/s, and 0.1 us for the latency of a step.
double estimate_microseconds(const GruSizes& s, std::size_t T, std::size_t B) {
  const double hidden = static_cast<double>(s.panels() * kPanel);
  double terms = 0;
  for (std::size_t l = 0; l < s.num_layers; ++l)
    terms += static_cast<double>(s.layer_input(l)) + hidden;
  const double steps = static_cast<double>(s.num_directions) * static_cast<double>(T);
  return steps * (6.0 * static_cast<double>(B) * hidden * terms / 60e3 +
                  0.1 * static_cast<double>(s.num_layers));
}

double estimate_microseconds(const PackedNetwork& network, std::size_t T, std::size_t B,
                             std::size_t width) {
  double microseconds = 0;
  for (const PackedGru* gru : network.grus) microseconds += estimate_microseconds(gru->sizes, T, B);
  return microseconds + other_layers_microseconds(network, 60, T, B, width);
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

Plan make_plan(const GruSizes& sizes, const Machine& machine, const CallShape& shape,
               const Grid& grid, RowsInLanes rows_in_lanes) {
  Plan plan;
  plan.grid = grid;
  plan.rows_in_lanes = rows_in_lanes;
  // One line more than the row: at H = 1024 rows would otherwise share one set of L1.
  plan.state_stride = sizes.panels() * kPanel + kPanel;
  // Threads that wait for memory together may be a step or two apart (H = 1024, Zen 1: cores that
  // do not share an L3), and a core that is taken is missing for milliseconds.
  plan.patience = Barrier::kPatience + 4 * estimate_microseconds(sizes, 1, shape.B);

  const std::size_t row_bytes = plan.share_panels(sizes) * 3 * kPanel * sizeof(float);
  // Weights from beyond L2 cost more than gates that spill there: as many rows as may be for each.
  const bool beyond_l2 = row_bytes * sizes.hidden_size > machine.l2;
  std::size_t most =
      beyond_l2 ? kMaxRowBlock : std::clamp(kGatesBytes / row_bytes, kMinRowBlock, kMaxRowBlock);
  if (sizes.num_directions == 2 && sizes.num_layers > 1) {
    const std::size_t sequence = shape.T * 2 * sizes.hidden_size * sizeof(float);
    most = std::min(most, std::max(kMinRowBlock, kSequenceBytes / (2 * sequence + 1)));
  }
  const bool units_only = rows_in_lanes == RowsInLanes::never;
  const std::size_t width = 2 * machine.lanes;
  if (!units_only) most = std::max(width, most / width * width);
  const std::size_t rows = divided_up(shape.B, grid.row_groups);
  plan.row_block = even_blocks(rows, most);
  if (!units_only)
    plan.row_block = round_up(plan.row_block, width);
  else if (plan.row_block < rows)  // full tiles, and a smaller last block
    plan.row_block = round_up(plan.row_block, kMinRowBlock);
  const std::size_t longest =
      kGatesBytes / (std::max(row_bytes, shape.operand_bytes) * plan.row_block);
  plan.time_block = std::clamp<std::size_t>(longest, 1, std::max<std::size_t>(1, shape.T));
  complete(plan, sizes, machine, shape);
  return plan;
}

NetworkPlan make_plan(const PackedNetwork& network, const CallShape& shape, const Grid& grid,
                      RowsInLanes rows_in_lanes, Plan* plans) {
  NetworkPlan plan;
  plan.grid = grid;
  plan.grus = plans;
  const std::size_t rows = divided_up(shape.B, grid.row_groups);
  if (network.grus.empty()) {
    plan.row_block = even_blocks(rows, kMaxRowBlock);
    plan.time_block = std::max<std::size_t>(1, shape.T);
    plan.patience = Barrier::kPatience;
  } else {
    plan.row_block = plan.time_block = SIZE_MAX;
  }
  for (std::size_t i = 0; i < network.grus.size(); ++i) {
    const PackedGru& gru = *network.grus[i];
    CallShape own = shape;
    own.operand_bytes = operand_bytes(gru);
    const std::size_t team =
        gru.sizes.num_directions == 2 ? grid.unit_groups : grid.threads_per_row_group();
    RowsInLanes lanes = rows_in_lanes;
    if (shape.traced || team != 1 ||
        (lanes == RowsInLanes::where_they_fit &&
         !rows_fit_lanes(gru.sizes, gru.kernels->lanes, rows)))
      lanes = RowsInLanes::never;
    plans[i] = make_plan(gru.sizes, machine_with(gru.kernels->lanes), own, grid, lanes);
    plan.row_block = std::min(plan.row_block, plans[i].row_block);
    plan.time_block = std::min(plan.time_block, plans[i].time_block);
    plan.patience = std::max(plan.patience, plans[i].patience);
  }
  if (const std::size_t width = block_width(network))
    plan.time_block = std::clamp<std::size_t>(
        kBlockBytes / (width * sizeof(float) * plan.row_block), 1, plan.time_block);
  for (std::size_t i = 0; i < network.grus.size(); ++i) {
    plans[i].row_block = plan.row_block;
    plans[i].time_block = plan.time_block;
    const PackedGru& gru = *network.grus[i];
    complete(plans[i], gru.sizes, machine_with(gru.kernels->lanes), shape);
  }
  return plan;
}

NetworkPlan make_plan(const PackedNetwork& network, const CallShape& shape, Plan* plans) {
  return make_plan(network, shape, choose_grid(network, shape), RowsInLanes::where_they_fit, plans);
}

}  // namespace fastgru
