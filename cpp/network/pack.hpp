// Packed weights: the tensors of a spec in the layout that the kernels read (Note [Packed layout]
// in cpp/README.md), made once, never changed, shared by all threads.
#pragma once

#include <cstdint>
#include <vector>

#include "network/spec.hpp"
#include "system/buffer.hpp"

namespace fastgru {

// ReducedMatrix, as it is written.
struct PackedMatrix {
  std::byte* weights = nullptr;
  float* scales = nullptr;
  std::int32_t* offsets = nullptr;
  std::size_t gates = 0;
  std::size_t panel_bytes = 0;

  ReducedMatrix from_panel(std::size_t panel) const {
    const std::size_t values = panel * gates * kPanel;
    return {weights ? weights + panel * panel_bytes : nullptr, scales ? scales + values : nullptr,
            offsets ? offsets + values : nullptr};
  }
};

// All 64-byte aligned; P panels, K the layer's input size. Padding units hold zeros throughout.
struct PackedLayer {
  const ReducedKernels* reduced = nullptr;  // null: float32
  Precision precision = Precision::float32;
  bool fine_states = false;  // int8: Note [int8]
  // In float32, else null:
  float* input_weights = nullptr;      // [P][K][3][kPanel]
  float* recurrent_weights = nullptr;  // reset after: [P][H][3][kPanel]; before: [P][H][2][kPanel]
  float* candidate_weights = nullptr;  // reset before: [P][H][1][kPanel]; after: null
  float* input_bias = nullptr;         // [P][3][kPanel]
  float* recurrent_bias = nullptr;     // [P][3][kPanel]
  // In reduced precision; gates as above.
  PackedMatrix input, recurrent, candidate;
};

struct PackedGru {
  GruSizes sizes;
  const KernelTable* kernels = nullptr;
  std::vector<PackedLayer> layers;  // [layer * num_directions + direction]
  Buffer storage;
};

// Throws std::length_error or std::bad_alloc where the sizes are too large, std::invalid_argument
// where a layer has more terms than its precision can sum.
PackedGru pack(const GruSpec& spec, const KernelTable* kernels);

// The inverse for one layer, to the bit. Any may be null.
struct UnpackedLayer {
  float* weight_ih;  // [3H, K]
  float* weight_hh;  // [3H, H]
  float* bias_ih;    // [3H]
  float* bias_hh;    // [3H]
  float* scale_ih;   // [3H]
  float* scale_hh;   // [3H]
};
void unpack(const PackedGru& gru, std::size_t index, const UnpackedLayer& to);

}  // namespace fastgru
