// Packed weights: the tensors of a spec in the layout that the kernels read (Note [Packed layout]
// in cpp/README.md), made once, never changed, shared by all threads.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/dispatch.hpp"
#include "network/spec.hpp"
#include "plan/machine.hpp"
#include "system/buffer.hpp"

namespace fastgru {

// A matrix that this network owns: a Matrix as packing writes it.
struct PackedMatrix {
  std::byte* data = nullptr;
  float* scales = nullptr;
  std::int32_t* offsets = nullptr;
  std::size_t gates = 0;
  std::size_t panel_bytes = 0;

  // The part of it that begins with a panel; an empty matrix stays empty.
  Matrix from_panel(std::size_t panel) const {
    const std::size_t values = panel * gates * kPanel;
    return {data ? data + panel * panel_bytes : nullptr, panel_bytes,
            scales ? scales + values : nullptr, offsets ? offsets + values : nullptr};
  }
};

// All 64-byte aligned. Padding units and terms hold zeros throughout.
struct PackedLayer {
  std::vector<ProductChoice> products;  // not empty, best first: choose_products()
  Precision precision = Precision::float32;
  bool fine_states = false;         // Note [int8]
  PackedMatrix input;               // r, z, n
  PackedMatrix recurrent;           // reset after: r, z, n; before: r, z
  PackedMatrix candidate;           // reset before: n; after: empty
  float* input_bias = nullptr;      // [P][kGates][kPanel]
  float* recurrent_bias = nullptr;  // [P][kGates][kPanel]

  // What all its products have in common.
  const Format& format() const { return products.front().product->format; }
  bool takes_operands() const { return products.front().product->takes_operands; }
};

// What every plan asks of a packed GRU: found once, by facts_of() in plan/cost.hpp.
struct GruFacts {
  std::size_t weight_bytes = 0;      // of all packed weights
  std::size_t recurrent_bytes = 0;   // of the largest matrix of recurrent weights
  std::size_t operand_bytes = 0;     // of the longest row that reduced precision multiplies with
  double row_step_microseconds = 0;  // estimated cost of one step of one row
};

struct PackedGru {
  GruSizes sizes;
  const KernelTable* kernels = nullptr;
  Machine machine;
  GruFacts facts;
  std::vector<PackedLayer> layers;  // [layer * num_directions + direction]
  Buffer storage;
};

// Throws std::length_error or std::bad_alloc where the sizes are too large, std::invalid_argument
// where a layer has more terms than its precision can sum.
PackedGru pack(const GruSpec& spec, const KernelTable* kernels);

// The inverse for one layer, to the bit. Any may be null.
struct UnpackedLayer {
  float* weight_ih;  // [kGates * H, K]
  float* weight_hh;  // [kGates * H, H]
  float* bias_ih;    // [kGates * H]
  float* bias_hh;    // [kGates * H]
  float* scale_ih;   // [kGates * H]
  float* scale_hh;   // [kGates * H]
};
void unpack(const PackedGru& gru, std::size_t index, const UnpackedLayer& to);

}  // namespace fastgru
