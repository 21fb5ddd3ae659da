// The layers around a GRU as the engine holds them: packed weights and options, made once, never
// changed, shared by all threads. Refuses to run anything: run/layers.hpp does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/contract.hpp"
#include "system/buffer.hpp"

namespace fastgru {

// A linear layer is an input product: three panels' worth of neighbouring outputs stand in the
// places of a panel's three gates, so that input_product() writes a row's outputs in their order.
// It needs no kernel of its own, and has the same bits on every ISA with FMAs, in any batch.
struct PackedLinear {
  static constexpr std::size_t kPanelOutputs = kGates * kPanel;

  std::size_t inputs = 0;   // K
  std::size_t outputs = 0;  // O
  bool has_bias = false;
  const KernelTable* kernels = nullptr;
  float* weights = nullptr;  // [P][K][3][kPanel], P = panels(); zeros beyond O
  float* bias = nullptr;     // [P][3][kPanel]
  Buffer storage;

  std::size_t panels() const { return (outputs + kPanelOutputs - 1) / kPanelOutputs; }
};

// weight: [O, K]; bias: [O] or null. Throws std::length_error or std::bad_alloc where the sizes are
// too large.
PackedLinear pack_linear(const float* weight, const float* bias, std::size_t outputs,
                         std::size_t inputs, const KernelTable* kernels);
// The inverse, to the bit. weight: [O, K]; bias: [O], or null where there is none.
void unpack_linear(const PackedLinear& layer, float* weight, float* bias);

struct PackedLayerNorm {
  std::size_t size = 0;  // 0: any
  bool has_weight = false, has_bias = false;
  double eps = 0;
  Buffer storage;  // weight [size], bias [size]

  float* weight() const { return has_weight ? values() : nullptr; }
  float* bias() const { return has_bias ? values() + size : nullptr; }
  float* values() const { return reinterpret_cast<float*>(storage.data()); }
};

struct PackedEmbedding {
  std::size_t entries = 0, width = 0;
  Buffer storage;  // [entries, width]

  float* table() const { return reinterpret_cast<float*>(storage.data()); }
};

struct OneHot {
  std::size_t classes = 0;
};

struct PackedActivation {
  const KernelTable* kernels = nullptr;
  Function function = Function::sigmoid;
};

struct PackedSoftmax {
  const KernelTable* kernels = nullptr;
  bool log = false;
};

// What becomes of a sequence of rows.
struct OverTime {
  enum class Kind { last, mean, max, reverse };
  Kind kind = Kind::last;
  bool bidirectional = false;  // last: the second half of the features is taken at step 0
};

}  // namespace fastgru
