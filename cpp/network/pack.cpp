// Note [Gate order]: this file alone reorders gates. A packed panel holds, for each k, the weights
// of 16 units for gate r, then z, then n; reset before keeps [r, z] and [n] apart, because r * h
// must be known for all units before the first product of n.
#include "network/pack.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "plan/cost.hpp"

namespace fastgru {
namespace {

// Visits every panel's gates of a matrix [kGates * H, reduction] from gate `first_gate` on:
// visit(where the gate is packed, the first of its rows, its units).
template <class Visit>
void for_each_panel_gate(const Format& format, const PackedMatrix& matrix, std::size_t hidden,
                         std::size_t first_gate, Visit visit) {
  const std::size_t gate_bytes = kPanel * format.terms * format.element_bytes;
  for (std::size_t unit = 0, panel = 0; unit < hidden; unit += kPanel, ++panel)
    for (std::size_t g = 0; g < matrix.gates; ++g) {
      const std::size_t values = (panel * matrix.gates + g) * kPanel;
      visit(PanelGate{matrix.data + panel * matrix.panel_bytes + g * gate_bytes,
                      matrix.gates * gate_bytes, matrix.scales ? matrix.scales + values : nullptr,
                      matrix.offsets ? matrix.offsets + values : nullptr},
            (first_gate + g) * hidden + unit, std::min(hidden - unit, kPanel));
    }
}

// Visits a layer's matrices: visit(matrix, reduction, first gate, whether it is the input's).
template <class Visit>
void for_each_matrix(const GruSizes& sizes, std::size_t layer, const PackedLayer& packed,
                     Visit visit) {
  visit(packed.input, sizes.layer_input(layer), 0, true);
  visit(packed.recurrent, sizes.hidden_size, 0, false);
  if (!sizes.reset_after) visit(packed.candidate, sizes.hidden_size, 2, false);
}

// Visits a layer's biases: visit(element of the packed bias, index in the user's, whether that
// exists).
template <class Visit>
void for_each_bias(std::size_t hidden, float* packed, Visit visit) {
  for (std::size_t panel = 0; panel * kPanel < hidden; ++panel)
    for (std::size_t g = 0; g < kGates; ++g)
      for (std::size_t lane = 0; lane < kPanel; ++lane) {
        const std::size_t unit = panel * kPanel + lane;
        visit(packed[(panel * kGates + g) * kPanel + lane], g * hidden + unit, unit < hidden);
      }
}

void carve_matrix(PackedMatrix& matrix, Carver& carver, const Format& format, std::size_t panels,
                  std::size_t gates, std::size_t reduction) {
  matrix.gates = gates;
  matrix.panel_bytes =
      checked_product(round_up(reduction, format.terms), gates * kPanel * format.element_bytes);
  matrix.data = carver.take<std::byte>(checked_product(panels, matrix.panel_bytes));
  if (!format.has_scales) return;
  matrix.scales = carver.take<float>(checked_product(panels, gates * kPanel));
  matrix.offsets = carver.take<std::int32_t>(checked_product(panels, gates * kPanel));
}

// Counts (in no block) or places every array of the GRU.
void carve(PackedGru& gru, Carver& carver) {
  const GruSizes& sizes = gru.sizes;
  for (std::size_t i = 0; i < gru.layers.size(); ++i) {
    PackedLayer& layer = gru.layers[i];
    const auto matrix = [&](PackedMatrix& to, std::size_t gates, std::size_t reduction) {
      carve_matrix(to, carver, layer.format(), sizes.panels(), gates, reduction);
    };
    // Recurrent weights first: they are read every step, and neighbours share huge pages.
    matrix(layer.recurrent, sizes.reset_after ? kGates : kGates - 1, sizes.hidden_size);
    if (!sizes.reset_after) matrix(layer.candidate, 1, sizes.hidden_size);
    matrix(layer.input, kGates, sizes.layer_input(i / sizes.num_directions));
    const std::size_t biases = checked_product(sizes.panels(), kGates * kPanel);
    layer.input_bias = carver.take<float>(biases);
    layer.recurrent_bias = carver.take<float>(biases);
  }
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
  gru.machine = machine_for(*kernels);
  gru.layers.resize(spec.layers.size());
  for (std::size_t i = 0; i < gru.layers.size(); ++i) {
    PackedLayer& layer = gru.layers[i];
    layer.precision = spec.layers[i].precision;
    layer.products = choose_products(runnable_products(*kernels, layer.precision));
    layer.fine_states = kUnitsPerInput * spec.sizes.input_size <= spec.sizes.hidden_size;
    const std::size_t terms =
        std::max(spec.sizes.hidden_size, spec.sizes.layer_input(i / spec.sizes.num_directions));
    const std::size_t most = layer.format().most_terms;
    if (terms > most)
      throw std::invalid_argument(std::string(name_of(layer.precision)) +
                                  ": a layer may have at most " + std::to_string(most) +
                                  " inputs or units, got " + std::to_string(terms));
  }
  gru.facts = facts_of(gru);
  Carver counter({});
  carve(gru, counter);
  gru.storage = Buffer(counter.used(), Buffer::Contents::as_found);
  Carver carver({gru.storage.data(), gru.storage.size()});
  carve(gru, carver);
  const std::size_t hidden = spec.sizes.hidden_size;
  for (std::size_t i = 0; i < gru.layers.size(); ++i) {
    const PackedLayer& to = gru.layers[i];
    const LayerTensors& from = spec.layers[i];
    const Format& format = to.format();
    for_each_matrix(
        spec.sizes, i / spec.sizes.num_directions, to,
        [&](const PackedMatrix& matrix, std::size_t reduction, std::size_t first_gate, bool input) {
          const float* const weights = input ? from.weight_ih : from.weight_hh;
          const float* const scales = input ? from.scale_ih : from.scale_hh;
          for_each_panel_gate(format, matrix, hidden, first_gate,
                              [&](const PanelGate& gate, std::size_t row, std::size_t units) {
                                format.encode({weights + row * reduction,
                                               scales ? scales + row : nullptr, units, reduction},
                                              gate);
                              });
        });
    const auto pack_bias = [&](float* packed, const float* bias) {
      for_each_bias(hidden, packed, [&](float& element, std::size_t at, bool exists) {
        element = bias && exists ? bias[at] : 0.0f;
      });
    };
    pack_bias(to.input_bias, from.bias_ih);
    pack_bias(to.recurrent_bias, from.bias_hh);
  }
  return gru;
}

void unpack(const PackedGru& gru, std::size_t index, const UnpackedLayer& to) {
  const PackedLayer& from = gru.layers[index];
  const Format& format = from.format();
  const std::size_t hidden = gru.sizes.hidden_size;
  for_each_matrix(
      gru.sizes, index / gru.sizes.num_directions, from,
      [&](const PackedMatrix& matrix, std::size_t reduction, std::size_t first_gate, bool input) {
        float* const weights = input ? to.weight_ih : to.weight_hh;
        float* const scales = input ? to.scale_ih : to.scale_hh;
        for_each_panel_gate(format, matrix, hidden, first_gate,
                            [&](const PanelGate& gate, std::size_t row, std::size_t units) {
                              format.decode(gate,
                                            {weights ? weights + row * reduction : nullptr,
                                             scales ? scales + row : nullptr, units, reduction});
                            });
      });
  const auto unpack_bias = [&](float* packed, float* bias) {
    for_each_bias(hidden, packed, [&](float& element, std::size_t at, bool exists) {
      if (bias && exists) bias[at] = element;
    });
  };
  unpack_bias(from.input_bias, to.bias_ih);
  unpack_bias(from.recurrent_bias, to.bias_hh);
}

}  // namespace fastgru
