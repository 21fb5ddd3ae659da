// The front door: what a call of a packed GRU is, and the one function that runs it. It estimates,
// plans, runs, runs again on one thread where the runtime gave fewer threads than were planned, and
// reports what threads cost. Shapes are checked by the caller.
#pragma once

#include <cstddef>
#include <cstdint>

#include "network/pack.hpp"
#include "plan/cost.hpp"
#include "run/interrupt.hpp"

namespace fastgru {

// Element (t, b, i) is data[t * time_stride + b * row_stride + i]; strides in floats.
template <class T>
struct SequenceView {
  T* data = nullptr;
  std::ptrdiff_t time_stride = 0;
  std::ptrdiff_t row_stride = 0;
};

struct Call {
  std::size_t T = 0;
  std::size_t B = 0;
  SequenceView<const float> x;            // (T, B, input)
  SequenceView<float> y;                  // (T, B, D * H); also written past a row's length (0)
  const float* h_0 = nullptr;             // [layers run * D, B, H] or null: zeros
  float* h_n = nullptr;                   // [layers run * D, B, H]; may be h_0 itself
  const std::int64_t* lengths = nullptr;  // [B], 0 <= length <= T, or null: T
  // Row b's states are row slots[b] of h_0 and h_n, which have state_rows rows a layer instead of
  // B; no slot twice. Null: row b itself.
  const std::uint32_t* slots = nullptr;
  std::size_t state_rows = 0;
  // Most threads: of this call, or 0 for the process's default. Never more than the cores.
  std::size_t max_threads = 1;
  // What estimate_microseconds() says of this call, where the caller has asked before (about the
  // GIL, say); else 0, and run() asks.
  double estimate = 0;
  // The layers to run: all, or one of them for a trace.
  std::size_t first_layer = 0;
  std::size_t end_layer = 0;
  // Trace: each direction's hidden state goes to y.data + direction * direction_stride, and the
  // gates r, z, n to 1, 2 and 3 times trace_stride behind it. 0: no trace, directions side by side.
  std::ptrdiff_t trace_stride = 0;
  std::ptrdiff_t direction_stride = 0;
  // Null: the call runs to its end. Else h_n is written when all is done, and not at all where the
  // call is interrupted, so that h_0 and h_n are as before also where they are one array; y holds
  // anything then. Costs a copy of h_n.
  const Interrupt* interrupt = nullptr;
};

// False where the call was interrupted. Throws std::bad_alloc where there is no memory for scratch,
// and std::invalid_argument where the environment asks for a number of threads that is none; then
// nothing has changed.
bool run(const PackedGru& gru, const Call& call);

}  // namespace fastgru
