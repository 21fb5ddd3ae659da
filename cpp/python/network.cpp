// fastgru._core.Network: a chain of layers, called on whole sequences.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "python/bindings.hpp"
#include "python/shortcut.hpp"
#include "run/listed.hpp"

namespace fastgru {
namespace {

// Names of the axes behind T and B, for messages.
std::string features_text(const PackedNetwork& network) {
  if (network.takes_indices) return "";
  return network.input_size ? std::to_string(network.input_size) : "I";
}
std::string axes_text(std::initializer_list<std::string> axes) {
  std::string text;
  std::size_t count = 0;
  for (const std::string& axis : axes)
    if (!axis.empty()) text += (count++ ? ", " : "") + axis;
  return "(" + text + (count == 1 ? ",)" : ")");
}

// Copies indices to where nobody else writes; IndexError names those that are out of range.
const std::int64_t* checked_indices(const PackedNetwork& network, const py::array& x) {
  thread_local std::vector<std::int64_t> copy;
  const auto* const indices = contiguous<std::int64_t>(x, "x");
  copy.assign(indices, indices + x.size());
  const auto is_outside = [&](std::int64_t index) {
    return index < 0 || static_cast<std::uint64_t>(index) >= network.classes;
  };
  if (std::none_of(copy.begin(), copy.end(), is_outside)) return copy.data();
  Listed outside;
  for (const std::int64_t index : copy)
    if (is_outside(index)) outside.add(index);
  throw py::index_error("x: expected 0 <= index < " + std::to_string(network.classes) + ", got " +
                        outside.text());
}

// Whether the last axis of x is one that the network takes.
bool has_features(const PackedNetwork& network, const py::array& x) {
  return network.takes_indices || network.input_size == 0 ||
         static_cast<std::size_t>(x.shape(x.ndim() - 1)) == network.input_size;
}

// T, B and the layout of x (T, B, I), (B, T, I) with batch_first, or (T, I); of indices without I.
Sequences sequences_for(const PackedNetwork& network, const char* name, const py::array& x,
                        bool batch_first) {
  const py::ssize_t axes = x.ndim() + (network.takes_indices ? 1 : 0);
  if (!network.takes_indices) check_view(x, name);
  const auto size = [&](py::ssize_t axis) { return static_cast<std::size_t>(x.shape(axis)); };
  if (axes == 2 && has_features(network, x)) return {size(0), 1, false, batch_first};
  if (axes == 3 && has_features(network, x))
    return batch_first ? Sequences{size(1), size(0), true, true}
                       : Sequences{size(0), size(1), true, false};
  const std::string features = features_text(network);
  wrong_shape(name,
              axes_text({batch_first ? "B" : "T", batch_first ? "T" : "B", features}) + " or " +
                  axes_text({"T", features}),
              x);
}

py::array_t<float> run_network(const Network& held, const py::array& x,
                               const std::optional<py::array>& lengths, bool batch_first,
                               std::size_t num_threads) {
  const PackedNetwork& network = *held.packed;
  const Sequences s = sequences_for(network, "x", x, batch_first);
  Call call;
  call.T = s.T;
  call.B = s.B;
  if (network.gives_rows && s.T == 0 && s.B > 0)
    throw ShapeError("x: expected at least one time step, got T = 0");
  const std::vector<std::int64_t> checked = checked_lengths(lengths, s, network.gives_rows ? 1 : 0);
  call.lengths = lengths ? checked.data() : nullptr;
  set_input(call, network, x, s);
  const std::size_t size = network.output_size(call.width);
  py::array_t<float> y = !network.gives_rows ? s.make(size)
                         : s.batched         ? new_array({s.B, size})
                                             : new_array({size});
  call.y = network.gives_rows
               ? SequenceView<float>{y.mutable_data(), 0, static_cast<std::ptrdiff_t>(size)}
               : s.view(y.mutable_data(), y);
  if (y.size() == 0) return y;
  estimate(network, call);
  call.max_threads = num_threads;
  compute(call, nullptr, [&](const Call& c) { return run(network, c); });
  return y;
}

Network network_of(const std::vector<const Layer*>& layers, std::size_t input_size) {
  std::vector<NetworkLayer> all;
  for (const Layer* layer : layers) all.push_back(layer->packed->layers.front());
  return make_network(std::move(all), input_size);
}

}  // namespace

Network make_network(std::vector<NetworkLayer> layers, std::size_t input_size) {
  Network network;
  network.packed =
      std::make_shared<const PackedNetwork>(pack_network(std::move(layers), input_size));
  PackedNetwork by_steps = without_last(*network.packed);
  if (by_steps.only_forwards())
    network.by_steps = by_steps.nodes.size() == network.packed->nodes.size()
                           ? network.packed
                           : std::make_shared<const PackedNetwork>(std::move(by_steps));
  return network;
}

void set_input(Call& call, const PackedNetwork& network, const py::array& x, const Sequences& s) {
  if (!network.takes_indices) {
    call.x = s.view(static_cast<const float*>(x.data()), x);
    call.width = static_cast<std::size_t>(x.shape(x.ndim() - 1));
    return;
  }
  const auto T = static_cast<std::ptrdiff_t>(s.T), B = static_cast<std::ptrdiff_t>(s.B);
  call.indices.data = checked_indices(network, x);
  call.indices.time_stride = s.batched && !s.batch_first ? B : 1;
  call.indices.row_stride = s.batched ? (s.batch_first ? T : 1) : 0;
}

void set_step(Call& call, const PackedNetwork& network, const py::array& x, bool single) {
  if (network.takes_indices) {
    call.indices = {checked_indices(network, x), 0, single ? 0 : 1};
  } else {
    call.x = {static_cast<const float*>(x.data()), 0, single ? 0 : stride(x, 0)};
    call.width = static_cast<std::size_t>(x.shape(x.ndim() - 1));
  }
}

int step_rows(const PackedNetwork& network, const py::array& x, std::size_t B) {
  const py::ssize_t axes = x.ndim() + (network.takes_indices ? 1 : 0);
  if (axes == 2 && static_cast<std::size_t>(x.shape(0)) == B && has_features(network, x)) return 1;
  return axes == 1 && B == 1 && has_features(network, x) ? 2 : 0;
}

std::string step_text(const PackedNetwork& network, std::size_t B, bool may_be_single) {
  const std::string features = features_text(network);
  const std::string rows = axes_text({std::to_string(B), features});
  return may_be_single && B == 1 ? rows + " or " + axes_text({features}) : rows;
}

Sequences sequences_of(const PackedNetwork& network, const char* name, const py::array& x,
                       bool batch_first) {
  return sequences_for(network, name, x, batch_first);
}

void bind_networks(py::module_& m) {
  py::class_<Network>(m, "Network")
      .def(py::init(&network_of), py::arg("layers"), py::arg("input_size"))
      .def("run", &run_network, py::arg("x"), py::arg("lengths"), py::arg("batch_first"),
           py::arg("num_threads"));
  py::class_<Layer, Network>(m, "Layer");
}

}  // namespace fastgru
