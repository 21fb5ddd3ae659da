// Runs a packed GRU over sequences: the loops over rows, time blocks, layers and directions, and
// nothing else. Shapes are checked by the caller; allocates nothing on a shape it has seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "network/pack.hpp"
#include "plan/plan.hpp"

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
  std::size_t max_threads = 1;
  // The layers to run: all, or one of them for a trace.
  std::size_t first_layer = 0;
  std::size_t end_layer = 0;
  // Trace: each direction's hidden state goes to y.data + direction * direction_stride, and the
  // gates r, z, n to 1, 2 and 3 times trace_stride behind it. 0: no trace, directions side by side.
  std::ptrdiff_t trace_stride = 0;
  std::ptrdiff_t direction_stride = 0;
};

void run(const PackedGru& gru, const Call& call);
// The same by a given plan, B > 0. Returns the long waits of its barriers; nothing, and has done
// nothing, where the runtime gave fewer threads.
std::optional<std::size_t> run(const PackedGru& gru, const Call& call, const Plan& plan);

}  // namespace fastgru
