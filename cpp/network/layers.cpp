#include "network/layers.hpp"

#include <algorithm>

namespace fastgru {
namespace {

constexpr std::size_t kPanelOutputs = PackedLinear::kPanelOutputs;

// Counts (in no block) or places the layer's arrays.
void carve(PackedLinear& layer, Carver& carver) {
  const std::size_t width = checked_product(layer.panels(), kPanelOutputs);
  layer.weights = carver.take<float>(checked_product(width, layer.inputs));
  layer.bias = carver.take<float>(width);
}

// Calls move(packed, weight) for each weight.
template <class Packed, class Weight, class Move>
void for_each_weight(const PackedLinear& layer, Packed* packed, Weight* weight, Move move) {
  const std::size_t K = layer.inputs;
  for (std::size_t first = 0; first < layer.outputs; first += kPanelOutputs) {
    const std::size_t count = std::min(kPanelOutputs, layer.outputs - first);
    for (std::size_t k = 0; k < K; ++k)
      for (std::size_t o = 0; o < count; ++o)
        move(packed[first * K + k * kPanelOutputs + o], weight[(first + o) * K + k]);
  }
}

}  // namespace

PackedLinear pack_linear(const float* weight, const float* bias, std::size_t outputs,
                         std::size_t inputs, const KernelTable* kernels) {
  PackedLinear layer;
  layer.inputs = inputs;
  layer.outputs = outputs;
  layer.has_bias = bias != nullptr;
  layer.kernels = kernels;
  Carver counter({});
  carve(layer, counter);
  layer.storage = Buffer(counter.used());
  Carver carver({layer.storage.data(), layer.storage.size()});
  carve(layer, carver);
  for_each_weight(layer, layer.weights, weight, [](float& to, float from) { to = from; });
  if (bias) std::copy_n(bias, outputs, layer.bias);
  return layer;
}

void unpack_linear(const PackedLinear& layer, float* weight, float* bias) {
  for_each_weight(layer, layer.weights, weight, [](float from, float& to) { to = from; });
  if (bias) std::copy_n(layer.bias, layer.outputs, bias);
}

}  // namespace fastgru
