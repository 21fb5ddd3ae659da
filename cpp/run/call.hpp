// The front door: what a call of a packed network is, and the one function that runs it. It
// estimates, plans, runs, runs again on one thread where the runtime gave fewer threads than were
// planned, and reports what threads cost. Shapes are checked by the caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "network/network.hpp"
#include "plan/cost.hpp"
#include "run/interrupt.hpp"

namespace fastgru {

// Element (t, b, i) is data[t * time_stride + b * row_stride + i]; strides in elements.
template <class T>
struct SequenceView {
  T* data = nullptr;
  std::ptrdiff_t time_stride = 0;
  std::ptrdiff_t row_stride = 0;
};

// The states of one GRU stack.
struct GruStates {
  const float* h_0 = nullptr;  // [L * D, B, H] or null: zeros
  float* h_n = nullptr;        // [L * D, B, H]; may be h_0 itself; null: not asked for
};

// Where each stack's states are, for whoever keeps them between calls.
using States = std::vector<const float*>;

struct Call {
  std::size_t T = 0;
  std::size_t B = 0;
  SequenceView<const float> x;               // (T, B, I), unless the network takes indices
  SequenceView<const std::int64_t> indices;  // (T, B), each below the network's classes
  std::size_t width = 0;                     // I
  SequenceView<float> y;                     // (T, B, O); also written past a row's length. (B, O),
                          // by row_stride, where the network gives one row for each
                          // sequence
  const GruStates* states = nullptr;      // one for each stack; null: from zeros, not asked for
  const std::int64_t* lengths = nullptr;  // [B], 0 <= length <= T, or null: T
  // Row b's states are row slots[b] of h_0 and h_n, which have state_rows rows a layer instead of
  // B; no slot twice. Null: row b itself. h_n_in_rows: h_n has B rows all the same.
  const std::uint32_t* slots = nullptr;
  std::size_t state_rows = 0;
  bool h_n_in_rows = false;
  // Most threads: of this call, or 0 for the process's default. Never more than the cores.
  std::size_t max_threads = 1;
  // What estimate_microseconds() says of this call, where the caller has asked before (about the
  // GIL, say); else 0, and run() asks.
  double estimate = 0;
  // The nodes to run: all, or the one GRU layer of a trace.
  std::size_t first_node = 0;
  std::size_t end_node = SIZE_MAX;
  // Trace: each direction's hidden state goes to y.data + direction * direction_stride, and the
  // gates r, z, n to 1, 2 and 3 times trace_stride behind it. 0: no trace, directions side by side.
  std::ptrdiff_t trace_stride = 0;
  std::ptrdiff_t direction_stride = 0;
  // Null: the call runs to its end. Where it is interrupted y and every h_n hold anything: whoever
  // must keep the states gives an h_n that is not h_0.
  const Interrupt* interrupt = nullptr;
};

// False where the call was interrupted. Throws std::bad_alloc where there is no memory for scratch,
// and std::invalid_argument where the environment asks for a number of threads that is none; then
// nothing has changed.
bool run(const PackedNetwork& network, const Call& call);

}  // namespace fastgru
