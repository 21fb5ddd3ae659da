// Note [Gate order]: this file alone reorders gates. A packed panel holds, for each k, the weights
// of 16 units for gate r, then z, then n; reset before keeps [r, z] and [n] apart, because r * h
// must be known for all units before the first product of n.
#include "pack.hpp"

#include <algorithm>
#include <cstring>

namespace fastgru {
namespace {

// to[c][r] = from[r][c], where neighbouring rows are that many floats apart. In blocks of 4 x 4,
// which compilers keep in registers: 17 GB/s from L2 on Zen 1 against 8 element by element, where
// memory gives 3 to 6.
void transpose(const float* __restrict from, std::size_t from_stride, float* __restrict to,
               std::size_t to_stride, std::size_t rows, std::size_t columns) {
  constexpr std::size_t n = 4;
  for (std::size_t c = 0; c < columns; c += n)
    for (std::size_t r = 0; r < rows; r += n) {
      if (columns - c >= n && rows - r >= n) {
        float block[n][n];
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t j = 0; j < n; ++j) block[j][i] = from[(r + i) * from_stride + c + j];
        for (std::size_t j = 0; j < n; ++j)
          std::memcpy(to + (c + j) * to_stride + r, block[j], sizeof block[j]);
      } else {
        for (std::size_t j = c; j < std::min(columns, c + n); ++j)
          for (std::size_t i = r; i < std::min(rows, r + n); ++i)
            to[j * to_stride + i] = from[i * from_stride + j];
      }
    }
}

// Calls move(packed, packed_stride, rows, rows_stride, lanes, reduction) for each gate of a panel:
// element k of unit `lane` is packed[k * packed_stride + lane] and rows[lane * rows_stride + k].
template <class Rows, class Move>
void for_each_panel(float* packed, Rows* rows, std::size_t hidden, std::size_t reduction,
                    std::size_t first_gate, std::size_t gates, Move move) {
  for (std::size_t unit = 0; unit < hidden; unit += kPanel)
    for (std::size_t g = 0; g < gates; ++g)
      move(packed + unit * reduction * gates + g * kPanel, gates * kPanel,
           rows + ((first_gate + g) * hidden + unit) * reduction, reduction,
           std::min(hidden - unit, kPanel), reduction);
}

// All that exists of a layer, once; null tensors are passed over. A bias is a matrix of one column.
template <class Tensors, class Move>
void for_each_panel(const ModelSizes& sizes, std::size_t layer, const PackedLayer& packed,
                    const Tensors& tensors, Move move) {
  const std::size_t hidden = sizes.hidden_size;
  if (tensors.weight_ih)
    for_each_panel(packed.input_weights, tensors.weight_ih, hidden, sizes.layer_input(layer), 0, 3,
                   move);
  if (tensors.weight_hh) {
    const std::size_t gates = sizes.reset_after ? 3 : 2;
    for_each_panel(packed.recurrent_weights, tensors.weight_hh, hidden, hidden, 0, gates, move);
    if (!sizes.reset_after)
      for_each_panel(packed.candidate_weights, tensors.weight_hh, hidden, hidden, 2, 1, move);
  }
  if (tensors.bias_ih) for_each_panel(packed.input_bias, tensors.bias_ih, hidden, 1, 0, 3, move);
  if (tensors.bias_hh)
    for_each_panel(packed.recurrent_bias, tensors.bias_hh, hidden, 1, 0, 3, move);
}

// Counts (in no block) or places every array of the model.
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

// Zeros where there may be no tensor: biases, and last panels that are not full.
void clear_padding(const ModelSizes& sizes, std::size_t layer, const PackedLayer& packed) {
  const std::size_t hidden = sizes.hidden_size, panels = sizes.panels();
  std::fill_n(packed.input_bias, panels * 3 * kPanel, 0.0f);
  std::fill_n(packed.recurrent_bias, panels * 3 * kPanel, 0.0f);
  if (hidden % kPanel == 0) return;
  const auto clear_last = [&](float* weights, std::size_t gates, std::size_t reduction) {
    const std::size_t panel = gates * kPanel * reduction;
    std::fill_n(weights + (panels - 1) * panel, panel, 0.0f);
  };
  clear_last(packed.input_weights, 3, sizes.layer_input(layer));
  clear_last(packed.recurrent_weights, sizes.reset_after ? 3 : 2, hidden);
  if (!sizes.reset_after) clear_last(packed.candidate_weights, 1, hidden);
}

}  // namespace

PackedModel pack(const ModelSpec& spec, const KernelTable* kernels) {
  PackedModel model;
  model.sizes = spec.sizes;
  model.kernels = kernels;
  model.layers.resize(spec.layers.size());
  Carver counter({});
  carve(model, counter);
  model.storage = Buffer(counter.used(), Buffer::Contents::as_found);
  Carver carver({model.storage.data(), model.storage.size()});
  carve(model, carver);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::size_t layer = i / spec.sizes.num_directions;
    clear_padding(spec.sizes, layer, model.layers[i]);
    for_each_panel(spec.sizes, layer, model.layers[i], spec.layers[i],
                   [](float* packed, std::size_t packed_stride, const float* rows,
                      std::size_t rows_stride, std::size_t lanes, std::size_t reduction) {
                     transpose(rows, rows_stride, packed, packed_stride, lanes, reduction);
                   });
  }
  return model;
}

void unpack(const PackedModel& model, std::size_t index, const UnpackedLayer& to) {
  for_each_panel(model.sizes, index / model.sizes.num_directions, model.layers[index], to,
                 [](const float* packed, std::size_t packed_stride, float* rows,
                    std::size_t rows_stride, std::size_t lanes, std::size_t reduction) {
                   transpose(packed, packed_stride, rows, rows_stride, reduction, lanes);
                 });
}

}  // namespace fastgru
