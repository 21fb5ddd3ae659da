// What work costs: one function for every layer, precision and number of rows, and every constant
// that an estimate needs. Microseconds throughout. The estimates are rough: they decide whether a
// call is worth threads and how these divide it, and never what is computed.
#pragma once

#include <cstddef>

#include "network/network.hpp"
#include "plan/machine.hpp"

namespace fastgru {

// What a layer does to some rows at once. Layers around a GRU are counted like its products.
struct Work {
  double flops = 0;         // of each row; a term in reduced precision counts as it costs
  double weight_bytes = 0;  // read once for all rows
  double row_bytes = 0;     // of each row: read or written in memory
};

// Microseconds that one thread takes for `rows` rows of `work`, when the weights that it reads over
// and over, these among them, have `resident_bytes` in all.
double work_microseconds(const Machine& machine, const Work& work, double rows,
                         double resident_bytes);

// A matrix of so many outputs for rows of `terms` values.
Work product_work(const Machine& machine, Precision precision, std::size_t outputs,
                  std::size_t terms);

// One thread's part of a GRU: of each layer `panels` panels of units, for `rows` rows, in
// `directions` directions.
struct GruPart {
  std::size_t rows = 0;
  std::size_t panels = 0;
  std::size_t directions = 1;
  double barrier_microseconds = 0;  // what it costs to wait for the threads with the other units
};
double part_microseconds(const PackedGru& gru, std::size_t T, const GruPart& part);

// A whole call on one thread: what decides about releasing the GIL, and whether threads are worth a
// thought. Where as many steps of one row would cost less than kShort, which is more than the call
// does, that is the answer: a multiplication, for calls that have no time for more.
double estimate_microseconds(const PackedGru& gru, std::size_t T, std::size_t B);

// What is known of a GRU before a call, from its sizes, precisions and machine.
GruFacts facts_of(const PackedGru& gru);

// The layers of a network around its GRUs: for T steps of `rows` rows, on one thread. width: the
// features of x, for a network that takes any.
double other_layers_microseconds(const PackedNetwork& network, std::size_t T, std::size_t rows,
                                 std::size_t width);
// A whole call of a network on one thread; of a short one a bound, as above.
double estimate_microseconds(const PackedNetwork& network, std::size_t T, std::size_t B,
                             std::size_t width);
NetworkFacts facts_of(const PackedNetwork& network);

constexpr double kShort = 8.0;

// Most rows that share one pass over the recurrent weights. More rows amortise weights that come
// from beyond L2; fewer keep states and gates in L1. Derived, not tuned.
constexpr std::size_t kMaxRowBlock = 64;

// The input product of a block (time_block x row_block) should stay in L2 beside the panels that
// stream through it: a quarter of Zen 4's 1 MiB, half of Zen 1's. 64 and 128 KiB give 0.98 to 1.01
// of the speed (H = 64 to 512, all precisions, Zen 4).
constexpr std::size_t kGatesBytes = std::size_t{256} << 10;

// Cheaper calls stay on the calling thread, whatever a plan would say. Calls back to back on a Zen
// 4 guest, one thread against two: 16 rows of H = 64 take 8.9 and 6.7 us, one row of H = 256 17.5
// and 11.0. Asking for the affinity costs 0.4 us where there is one core.
constexpr double kParallelFrom = 8.0;

// Several threads must promise to take less than this part of the time, since estimates are rough
// and one thread disturbs nobody.
constexpr double kWorthThreads = 0.85;

}  // namespace fastgru
