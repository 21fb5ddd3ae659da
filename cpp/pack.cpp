// Note [Gate order]: this file alone reorders gates. A packed panel holds, for each k, the weights
// of 16 units for gate r, then z, then n; reset before keeps [r, z] and [n] apart, because r * h
// must be known for all units before the first product of n.
#include "pack.hpp"

namespace fastgru {
namespace {

// One direction of moving a matrix between PyTorch's rows and panels: `copy(packed, row-major)` is
// called for every element that exists. Walks the panel in order, 16 rows at a time.
template <class Packed, class Rows, class Copy>
void for_each_weight(Packed* packed, Rows* rows, std::size_t hidden, std::size_t reduction,
                     std::size_t first_gate, std::size_t gates, Copy copy) {
  for (std::size_t unit = 0; unit < hidden; unit += kPanel) {
    const std::size_t lanes = hidden - unit < kPanel ? hidden - unit : kPanel;
    Packed* panel = packed + unit * reduction * gates;
    for (std::size_t g = 0; g < gates; ++g) {
      Rows* gate = rows + ((first_gate + g) * hidden + unit) * reduction;
      for (std::size_t k = 0; k < reduction; ++k)
        for (std::size_t lane = 0; lane < lanes; ++lane)
          copy(panel[(k * gates + g) * kPanel + lane], gate[lane * reduction + k]);
    }
  }
}

template <class Packed, class Rows, class Copy>
void for_each_bias(Packed* packed, Rows* rows, std::size_t hidden, Copy copy) {
  for (std::size_t g = 0; g < 3; ++g)
    for (std::size_t unit = 0; unit < hidden; ++unit)
      copy(packed[(unit / kPanel * 3 + g) * kPanel + unit % kPanel], rows[g * hidden + unit]);
}

// Every tensor of a layer, once, in the direction that `copy` moves; null tensors are passed over.
template <class Tensors, class Copy>
void for_each_element(const ModelSizes& sizes, std::size_t layer, const PackedLayer& packed,
                      const Tensors& tensors, Copy copy) {
  const std::size_t hidden = sizes.hidden_size;
  if (tensors.weight_ih)
    for_each_weight(packed.input_weights, tensors.weight_ih, hidden, sizes.layer_input(layer), 0, 3,
                    copy);
  if (tensors.weight_hh) {
    const std::size_t gates = sizes.reset_after ? 3 : 2;
    for_each_weight(packed.recurrent_weights, tensors.weight_hh, hidden, hidden, 0, gates, copy);
    if (!sizes.reset_after)
      for_each_weight(packed.candidate_weights, tensors.weight_hh, hidden, hidden, 2, 1, copy);
  }
  if (tensors.bias_ih) for_each_bias(packed.input_bias, tensors.bias_ih, hidden, copy);
  if (tensors.bias_hh) for_each_bias(packed.recurrent_bias, tensors.bias_hh, hidden, copy);
}

// Counts (without a block) or places every array of the model.
void carve(PackedModel& model, Carver& carver) {
  const ModelSizes& sizes = model.sizes;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::size_t input = sizes.layer_input(i / sizes.num_directions);
    const auto weights = [&](std::size_t gates, std::size_t reduction) {
      return carver.take<float>(
          checked_product(checked_product(sizes.panels(), gates * kPanel), reduction));
    };
    PackedLayer& layer = model.layers[i];
    // Recurrent weights first: they are read every step, and neighbours share huge pages.
    layer.recurrent_weights = weights(sizes.reset_after ? 3 : 2, sizes.hidden_size);
    layer.candidate_weights = sizes.reset_after ? nullptr : weights(1, sizes.hidden_size);
    layer.input_weights = weights(3, input);
    layer.input_bias = weights(3, 1);
    layer.recurrent_bias = weights(3, 1);
  }
}

}  // namespace

PackedModel pack(const ModelSpec& spec, const KernelTable* kernels) {
  PackedModel model;
  model.sizes = spec.sizes;
  model.kernels = kernels;
  model.layers.resize(spec.layers.size());
  Carver counter;
  carve(model, counter);
  model.storage = Buffer(counter.used());
  Carver carver(model.storage.data());
  carve(model, carver);
  for (std::size_t i = 0; i < spec.layers.size(); ++i)
    for_each_element(spec.sizes, i / spec.sizes.num_directions, model.layers[i], spec.layers[i],
                     [](float& packed, const float& weight) { packed = weight; });
  return model;
}

void unpack(const PackedModel& model, std::size_t index, const UnpackedLayer& to) {
  for_each_element(model.sizes, index / model.sizes.num_directions, model.layers[index], to,
                   [](const float& packed, float& weight) { weight = packed; });
}

}  // namespace fastgru
