// What a GRU is before it is packed: sizes, equation, and where its float32 tensors
// stand. FastPath data; names, files and everything that a user can get wrong are Python's
// business.
#pragma once

#include <cstddef>
#include <vector>

#include "kernels/contract.hpp"

namespace fastgru {

// One layer in one direction, PyTorch's layout. K is the layer's input size.
// bfloat16: weights have bfloat16's values. int8: they are integers in -127..127, and `scale_*`
// what each row is multiplied by.
struct LayerTensors {
  const float* weight_ih = nullptr;  // [kGates * H, K], row-major; gates r, z, n: Note [Gate order]
  const float* weight_hh = nullptr;  // [kGates * H, H], row-major
  const float* bias_ih = nullptr;    // [kGates * H] or null
  const float* bias_hh = nullptr;    // [kGates * H] or null
  Precision precision = Precision::float32;
  const float* scale_ih = nullptr;  // [kGates * H], int8 only
  const float* scale_hh = nullptr;  // [kGates * H], int8 only
};

struct GruSizes {
  std::size_t input_size = 0;
  std::size_t hidden_size = 0;
  std::size_t num_layers = 0;
  std::size_t num_directions = 1;  // 1 or 2
  bool bias = true;
  bool reset_after = true;
  Function activation = Function::tanh;
  Function recurrent_activation = Function::sigmoid;
  bool reverse = false;  // the only direction runs from the end of a sequence to its start

  // K of a layer.
  std::size_t layer_input(std::size_t layer) const {
    return layer == 0 ? input_size : num_directions * hidden_size;
  }
  std::size_t panels() const { return (hidden_size + kPanel - 1) / kPanel; }
};

// Terms of one sum block in a GRU of H units: Note [Same bits] in kernels/product.hpp.
// One block of 1,024 terms was 1.7 to 2.7 times less accurate than PyTorch; blocks of 256 are 0.9
// to 1.3 times on average from H = 4 on, and cost 0 to 3%. Narrower networks have larger weights
// and PyTorch sums their products in 16 and more parts: there blocks of 256 were 2.1 times less
// accurate on average (H = 1, I = 128) and blocks of 16 are 0.5 to 1.4 times, I = 16 to 1024; what
// they cost is lost in such a network's latency.
constexpr std::size_t sum_block_terms(std::size_t hidden) { return hidden < 8 ? 16 : 256; }

struct GruSpec {
  GruSizes sizes;
  std::vector<LayerTensors> layers;  // [layer * num_directions + direction]
};

}  // namespace fastgru
