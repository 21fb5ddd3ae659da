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

// The grid of at most shape.max_threads threads that promises most.
Grid choose_grid(const GruSizes& sizes, const Machine& machine, const CallShape& shape) {
  Grid grid;
  if (shape.max_threads <= 1) return grid;
  const std::size_t P = sizes.panels(), D = sizes.num_directions;
  const double alone = thread_microseconds(sizes, machine, shape.T, shape.B, P, D, 0);
  double best = alone * kWorthThreads - shape.region_microseconds;
  for (std::size_t directions = 1; directions <= D; ++directions)
    for (std::size_t units = 1; units <= std::min(P, kMostUnitGroups); ++units) {
      const std::size_t rows = std::min(shape.max_threads / (directions * units), shape.B);
      if (rows * directions * units <= 1) continue;
      const double cost = thread_microseconds(sizes, machine, shape.T, divided_up(shape.B, rows),
                                              divided_up(P, units), D / directions,
                                              units > 1 ? shape.barrier_microseconds : 0);
      if (cost >= best) continue;
      best = cost;
      grid = {rows, directions, units};
    }
  return grid;
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

Plan make_plan(const GruSizes& sizes, const Machine& machine, const CallShape& shape) {
  const Grid grid = choose_grid(sizes, machine, shape);
  const bool fit = !shape.traced && grid.unit_groups == 1 &&
                   rows_fit_lanes(sizes, machine.lanes, divided_up(shape.B, grid.row_groups));
  return make_plan(sizes, machine, shape, grid,
                   fit ? RowsInLanes::where_they_fit : RowsInLanes::never);
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
  // More rows than a tile or two would read both matrices' panels by turns, again and again.
  plan.fused = shape.T == 1 && units_only && plan.row_block <= kMinRowBlock;
  const std::size_t longest =
      kGatesBytes / (std::max(row_bytes, shape.operand_bytes) * plan.row_block);
  plan.time_block = std::clamp<std::size_t>(longest, 1, std::max<std::size_t>(1, shape.T));
  // Input weights are read once a block of time, and so all others in between.
  const double far_from = kFarFrom * static_cast<double>(machine.near);
  plan.far_input = weight_bytes(sizes) > far_from;
  plan.far_recurrent =
      plan.time_block == 1 ? plan.far_input : matrix_bytes(sizes, sizes.hidden_size) > far_from;
  return plan;
}

}  // namespace fastgru
