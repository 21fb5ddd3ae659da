// Note [Gate order]: this file alone reorders gates. A packed panel holds, for each k, the weights
// of 16 units for gate r, then z, then n; reset before keeps [r, z] and [n] apart, because r * h
// must be known for all units before the first product of n.
#include "network/pack.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/dispatch.hpp"

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
void for_each_panel(const GruSizes& sizes, std::size_t layer, const PackedLayer& packed,
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

// Neighbouring terms of a unit that are stored together.
std::size_t terms_together(Precision precision) { return precision == Precision::int8 ? 4 : 2; }

void carve_matrix(PackedMatrix& matrix, Carver& carver, Precision precision, std::size_t panels,
                  std::size_t gates, std::size_t reduction) {
  const bool int8 = precision == Precision::int8;
  const std::size_t together = terms_together(precision);
  matrix.gates = gates;
  matrix.panel_bytes =
      checked_product(round_up(reduction, together), gates * kPanel * (int8 ? 1 : 2));
  matrix.weights = carver.take<std::byte>(checked_product(panels, matrix.panel_bytes));
  if (!int8) return;
  matrix.scales = carver.take<float>(checked_product(panels, gates * kPanel));
  matrix.offsets = carver.take<std::int32_t>(checked_product(panels, gates * kPanel));
}

// Counts (in no block) or places every array of the GRU.
void carve(PackedGru& gru, Carver& carver) {
  const GruSizes& sizes = gru.sizes;
  for (std::size_t i = 0; i < gru.layers.size(); ++i) {
    const std::size_t input = sizes.layer_input(i / sizes.num_directions);
    const auto weights = [&](std::size_t gates, std::size_t reduction) {
      return carver.take<float>(
          checked_product(checked_product(sizes.panels(), gates * kPanel), reduction));
    };
    PackedLayer& layer = gru.layers[i];
    const std::size_t gates = sizes.reset_after ? 3 : 2;
    // Recurrent weights first: they are read every step, and neighbours share huge pages.
    if (layer.reduced) {
      const auto matrix = [&](PackedMatrix& to, std::size_t n, std::size_t reduction) {
        carve_matrix(to, carver, layer.precision, sizes.panels(), n, reduction);
      };
      matrix(layer.recurrent, gates, sizes.hidden_size);
      if (!sizes.reset_after) matrix(layer.candidate, 1, sizes.hidden_size);
      matrix(layer.input, 3, input);
    } else {
      layer.recurrent_weights = weights(gates, sizes.hidden_size);
      layer.candidate_weights = sizes.reset_after ? nullptr : weights(1, sizes.hidden_size);
      layer.input_weights = weights(3, input);
    }
    layer.input_bias = weights(3, 1);
    layer.recurrent_bias = weights(3, 1);
  }
}

// Zeros where there may be no tensor: biases, and last panels that are not full.
void clear_padding(const GruSizes& sizes, std::size_t layer, const PackedLayer& packed) {
  const std::size_t hidden = sizes.hidden_size, panels = sizes.panels();
  std::fill_n(packed.input_bias, panels * 3 * kPanel, 0.0f);
  std::fill_n(packed.recurrent_bias, panels * 3 * kPanel, 0.0f);
  if (hidden % kPanel == 0 || packed.reduced) return;
  const auto clear_last = [&](float* weights, std::size_t gates, std::size_t reduction) {
    const std::size_t panel = gates * kPanel * reduction;
    std::fill_n(weights + (panels - 1) * panel, panel, 0.0f);
  };
  clear_last(packed.input_weights, 3, sizes.layer_input(layer));
  clear_last(packed.recurrent_weights, sizes.reset_after ? 3 : 2, hidden);
  if (!sizes.reset_after) clear_last(packed.candidate_weights, 1, hidden);
}

// Calls move(index of a value in packed weights, index of a unit's value, the same in rows) for all
// weights of a matrix: rows [3H, reduction] from gate `first_gate` on.
template <class Move>
void for_each_weight(std::size_t hidden, std::size_t reduction, std::size_t first_gate,
                     std::size_t gates, std::size_t together, Move move) {
  const std::size_t blocks = (reduction + together - 1) / together;
  for (std::size_t g = 0; g < gates; ++g)
    for (std::size_t unit = 0; unit < hidden; ++unit) {
      const std::size_t panel = unit / kPanel, lane = unit % kPanel;
      const std::size_t row = (first_gate + g) * hidden + unit;
      for (std::size_t k = 0; k < reduction; ++k)
        move((((panel * blocks + k / together) * gates + g) * kPanel + lane) * together +
                 k % together,
             (panel * gates + g) * kPanel + lane, row, row * reduction + k);
    }
}

std::uint16_t upper_half(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);
}
float from_upper_half(std::uint16_t half) {
  const std::uint32_t bits = std::uint32_t{half} << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

void fill_matrix(const PackedMatrix& matrix, Precision precision, std::size_t panels,
                 std::size_t hidden, std::size_t reduction, std::size_t first_gate,
                 const float* rows, const float* scales) {
  std::memset(matrix.weights, 0, panels * matrix.panel_bytes);
  const auto for_all = [&](auto move) {
    for_each_weight(hidden, reduction, first_gate, matrix.gates, terms_together(precision), move);
  };
  if (precision == Precision::bfloat16) {
    auto* const to = reinterpret_cast<std::uint16_t*>(matrix.weights);
    for_all([&](std::size_t at, std::size_t, std::size_t, std::size_t from) {
      to[at] = upper_half(rows[from]);
    });
    return;
  }
  std::fill_n(matrix.scales, panels * matrix.gates * kPanel, 0.0f);
  std::fill_n(matrix.offsets, panels * matrix.gates * kPanel, 0);
  auto* const to = reinterpret_cast<std::int8_t*>(matrix.weights);
  for_all([&](std::size_t at, std::size_t unit, std::size_t row, std::size_t from) {
    to[at] = static_cast<std::int8_t>(rows[from]);
    matrix.offsets[unit] -= 128 * to[at];
    matrix.scales[unit] = scales[row];
  });
}

void read_matrix(const PackedMatrix& matrix, Precision precision, std::size_t hidden,
                 std::size_t reduction, std::size_t first_gate, float* rows, float* scales) {
  for_each_weight(
      hidden, reduction, first_gate, matrix.gates, terms_together(precision),
      [&](std::size_t at, std::size_t unit, std::size_t row, std::size_t to) {
        if (precision == Precision::int8) {
          if (rows) rows[to] = reinterpret_cast<const std::int8_t*>(matrix.weights)[at];
          if (scales) scales[row] = matrix.scales[unit];
        } else if (rows) {
          rows[to] = from_upper_half(reinterpret_cast<const std::uint16_t*>(matrix.weights)[at]);
        }
      });
}

// Calls visit(matrix, reduction, first gate, whether it is the input's) for a layer's matrices.
template <class Visit>
void for_each_matrix(const GruSizes& sizes, std::size_t layer, const PackedLayer& packed,
                     Visit visit) {
  visit(packed.input, sizes.layer_input(layer), 0, true);
  visit(packed.recurrent, sizes.hidden_size, 0, false);
  if (!sizes.reset_after) visit(packed.candidate, sizes.hidden_size, 2, false);
}

// Networks with at least so many units for each input keep their states fine: Note [int8]. Largest
// errors over those of PyTorch's dynamic int8 (random weights, 100 steps): 0.44 -> 0.24 for one
// layer of 256 units and 10 inputs, 0.36 -> 0.25 for two of 128 and 10; networks with more inputs,
// whose weights decide, are at 0.15 to 0.27 without.
constexpr std::size_t kUnitsPerInput = 4;

}  // namespace

PackedGru pack(const GruSpec& spec, const KernelTable* kernels) {
  PackedGru gru;
  gru.sizes = spec.sizes;
  gru.kernels = kernels;
  gru.layers.resize(spec.layers.size());
  for (std::size_t i = 0; i < gru.layers.size(); ++i) {
    PackedLayer& layer = gru.layers[i];
    layer.precision = spec.layers[i].precision;
    layer.reduced = choose_reduced(*kernels, layer.precision);
    layer.fine_states = kUnitsPerInput * spec.sizes.input_size <= spec.sizes.hidden_size;
    const std::size_t most =
        std::max(spec.sizes.hidden_size, spec.sizes.layer_input(i / spec.sizes.num_directions));
    if (layer.precision == Precision::int8 && most > kMostInt8Terms)
      throw std::invalid_argument("int8: a layer may have at most " +
                                  std::to_string(kMostInt8Terms) + " inputs or units, got " +
                                  std::to_string(most));
  }
  Carver counter({});
  carve(gru, counter);
  gru.storage = Buffer(counter.used(), Buffer::Contents::as_found);
  Carver carver({gru.storage.data(), gru.storage.size()});
  carve(gru, carver);
  for (std::size_t i = 0; i < gru.layers.size(); ++i) {
    const std::size_t layer = i / spec.sizes.num_directions;
    const PackedLayer& to = gru.layers[i];
    LayerTensors tensors = spec.layers[i];
    clear_padding(spec.sizes, layer, to);
    if (to.reduced) {
      for_each_matrix(spec.sizes, layer, to,
                      [&](const PackedMatrix& matrix, std::size_t reduction, std::size_t first_gate,
                          bool input) {
                        fill_matrix(matrix, to.precision, spec.sizes.panels(),
                                    spec.sizes.hidden_size, reduction, first_gate,
                                    input ? tensors.weight_ih : tensors.weight_hh,
                                    input ? tensors.scale_ih : tensors.scale_hh);
                      });
      tensors.weight_ih = tensors.weight_hh = nullptr;  // that was all of them
    }
    for_each_panel(spec.sizes, layer, to, tensors,
                   [](float* packed, std::size_t packed_stride, const float* rows,
                      std::size_t rows_stride, std::size_t lanes, std::size_t reduction) {
                     transpose(rows, rows_stride, packed, packed_stride, lanes, reduction);
                   });
  }
  return gru;
}

void unpack(const PackedGru& gru, std::size_t index, const UnpackedLayer& where) {
  const std::size_t layer = index / gru.sizes.num_directions;
  const PackedLayer& from = gru.layers[index];
  UnpackedLayer to = where;
  if (from.reduced) {
    for_each_matrix(
        gru.sizes, layer, from,
        [&](const PackedMatrix& matrix, std::size_t reduction, std::size_t first_gate, bool input) {
          read_matrix(matrix, from.precision, gru.sizes.hidden_size, reduction, first_gate,
                      input ? to.weight_ih : to.weight_hh, input ? to.scale_ih : to.scale_hh);
        });
    to.weight_ih = to.weight_hh = nullptr;
  }
  for_each_panel(gru.sizes, layer, from, to,
                 [](const float* packed, std::size_t packed_stride, float* rows,
                    std::size_t rows_stride, std::size_t lanes, std::size_t reduction) {
                   transpose(packed, packed_stride, rows, rows_stride, reduction, lanes);
                 });
}

}  // namespace fastgru
