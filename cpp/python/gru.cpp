// fastgru._core.GRU: a stack of GRU layers, which is also a network of one layer.
#include <pybind11/stl.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/dispatch.hpp"
#include "python/bindings.hpp"
#include "python/shortcut.hpp"

namespace fastgru {
namespace {

const PackedGru& packed_of(const Gru& gru) {
  return *layer_of<std::shared_ptr<const PackedGru>>(gru);
}

constexpr Named<Precision> kPrecisionsByName[] = {
#define FASTGRU_PRECISION(name) {#name, Precision::name},
#include "kernels/levels.inc"
};

// The four tensors of every layer and direction, in the flat order of GRU's constructor.
// visit(name, index of the layer and direction, member, shape)
template <class Visit>
void for_each_tensor(const GruSizes& sizes, Visit visit) {
  const std::size_t rows = checked_product(kGates, sizes.hidden_size);
  for (std::size_t i = 0; i < sizes.num_layers * sizes.num_directions; ++i) {
    visit("weight_ih", i, &LayerTensors::weight_ih, &UnpackedLayer::weight_ih,
          {rows, sizes.layer_input(i / sizes.num_directions)});
    visit("weight_hh", i, &LayerTensors::weight_hh, &UnpackedLayer::weight_hh,
          {rows, sizes.hidden_size});
    if (!sizes.bias) continue;
    visit("bias_ih", i, &LayerTensors::bias_ih, &UnpackedLayer::bias_ih, {rows});
    visit("bias_hh", i, &LayerTensors::bias_hh, &UnpackedLayer::bias_hh, {rows});
  }
}

// The scales of every layer and direction whose precision has them, in the same order.
// visit(name, index of the layer and direction, member, shape)
template <class Visit>
void for_each_scale(const GruSizes& sizes, const std::vector<Precision>& precisions, Visit visit) {
  const std::size_t rows = checked_product(kGates, sizes.hidden_size);
  for (std::size_t i = 0; i < sizes.num_layers * sizes.num_directions; ++i) {
    if (!format_of(precisions[i / sizes.num_directions]).has_scales) continue;
    visit("scale_ih", i, &LayerTensors::scale_ih, &UnpackedLayer::scale_ih, {rows});
    visit("scale_hh", i, &LayerTensors::scale_hh, &UnpackedLayer::scale_hh, {rows});
  }
}

std::unique_ptr<Gru> make_gru(const std::vector<py::array>& tensors,
                              const std::vector<py::array>& scales,
                              const std::vector<std::string>& precisions, std::size_t input_size,
                              std::size_t hidden_size, std::size_t num_layers, bool bidirectional,
                              bool reverse, bool bias, bool reset_after,
                              const std::string& activation,
                              const std::string& recurrent_activation,
                              const std::optional<std::string>& isa) {
  GruSpec spec;
  GruSizes& sizes = spec.sizes;
  sizes.input_size = input_size;
  sizes.hidden_size = hidden_size;
  sizes.num_layers = num_layers;
  sizes.num_directions = bidirectional ? 2 : 1;
  sizes.reverse = reverse;
  sizes.bias = bias;
  sizes.reset_after = reset_after;
  sizes.activation = function_named(&NamedFunction::candidate, "activation", activation);
  sizes.recurrent_activation =
      function_named(&NamedFunction::gate, "recurrent_activation", recurrent_activation);
  if (bidirectional && reverse)
    throw py::value_error("reverse: expected False for a bidirectional model");
  if (input_size < 1 || hidden_size < 1 || num_layers < 1)
    throw py::value_error("input_size, hidden_size and num_layers: expected at least 1, got " +
                          tuple_text({input_size, hidden_size, num_layers}));
  const std::size_t count =
      checked_product(checked_product(num_layers, sizes.num_directions), bias ? 4 : 2);
  if (tensors.size() != count)
    throw py::value_error("tensors: expected " + std::to_string(count) + ", got " +
                          std::to_string(tensors.size()));
  spec.layers.resize(num_layers * sizes.num_directions);
  if (precisions.size() != num_layers)
    throw py::value_error("precisions: expected one a layer, got " +
                          std::to_string(precisions.size()));
  std::vector<Precision> parsed;
  for (const std::string& name : precisions)
    parsed.push_back(from_name(kPrecisionsByName, "precision", name));
  for (std::size_t i = 0; i < spec.layers.size(); ++i)
    spec.layers[i].precision = parsed[i / sizes.num_directions];
  auto next = tensors.begin(), end = tensors.end();
  const auto take = [&](const char* name, std::size_t i, auto member, auto,
                        std::initializer_list<std::size_t> shape) {
    if (next == end) throw py::value_error(std::string(name) + ": missing");
    const py::array& tensor = *next++;
    if (!has_shape(tensor, shape)) wrong_shape(name, tuple_text(shape), tensor);
    spec.layers[i].*member = contiguous(tensor, name);
  };
  for_each_tensor(sizes, take);
  next = scales.begin();
  end = scales.end();
  for_each_scale(sizes, parsed, take);
  const KernelTable* kernels = choose_kernels(isa.value_or(""));
  const ReleasedGil released;
  auto packed = std::make_shared<const PackedGru>(pack(spec, kernels));
  return std::make_unique<Gru>(Gru{{make_network({std::move(packed)}, input_size)}});
}

// Tensors and scales.
std::pair<std::vector<py::array_t<float>>, std::vector<py::array_t<float>>> gru_tensors(
    const Gru& gru) {
  const PackedGru& packed = packed_of(gru);
  std::vector<py::array_t<float>> tensors, scales;
  std::vector<UnpackedLayer> layers(packed.layers.size(), UnpackedLayer{});
  std::vector<Precision> precisions;
  for (std::size_t i = 0; i < layers.size(); i += packed.sizes.num_directions)
    precisions.push_back(packed.layers[i].precision);
  const auto to = [&](std::vector<py::array_t<float>>& list) {
    return [&](const char*, std::size_t i, auto, auto member,
               std::initializer_list<std::size_t> shape) {
      list.push_back(new_array(shape));
      layers[i].*member = list.back().mutable_data();
    };
  };
  for_each_tensor(packed.sizes, to(tensors));
  for_each_scale(packed.sizes, precisions, to(scales));
  for (std::size_t i = 0; i < layers.size(); ++i) unpack(packed, i, layers[i]);
  return {tensors, scales};
}

// Each layer's kernels, for tests: the level's own name in float32.
std::vector<std::string> gru_kernels(const Gru& gru) {
  std::vector<std::string> names;
  const PackedGru& packed = packed_of(gru);
  for (std::size_t i = 0; i < packed.layers.size(); i += packed.sizes.num_directions)
    names.push_back(names_of(packed.layers[i].products));
  return names;
}

py::tuple run_gru(const Gru& gru, const py::array& x, const std::optional<py::array>& h_0,
                  const std::optional<py::array>& lengths, bool batch_first,
                  std::size_t num_threads) {
  const GruSizes& sizes = packed_of(gru).sizes;
  const std::size_t hidden = sizes.hidden_size;
  const std::size_t layers = sizes.num_layers * sizes.num_directions;
  const Sequences s = sequences_of(x, "x", sizes.input_size, batch_first);
  Call call;
  call.T = s.T;
  call.B = s.B;
  GruStates states{initial_state(h_0, s, layers, hidden), nullptr};
  const std::vector<std::int64_t> checked = checked_lengths(lengths, s);
  call.lengths = lengths ? checked.data() : nullptr;
  py::array_t<float> y = s.make(sizes.num_directions * hidden);
  py::array_t<float> h_n =
      s.batched ? new_array({layers, s.B, hidden}) : new_array({layers, hidden});
  set_input(call, *gru.packed, x, s);
  call.y = s.view(y.mutable_data(), y);
  states.h_n = h_n.mutable_data();
  call.states = &states;
  estimate(*gru.packed, call);
  call.max_threads = num_threads;
  compute(call, nullptr, [&](const Call& c) { return run(*gru.packed, c); });
  return py::make_tuple(std::move(y), std::move(h_n));
}

// Note [Shortcut] for fastgru.GRU.__call__, whose `self` holds its _core.GRU as `_core`.
PyObject* fast_call(PyObject* const* args, std::size_t count, PyObject* names) {
  static PyObject* const core_name = PyUnicode_InternFromString("_core");
  static PyObject* const batch_first_name = PyUnicode_InternFromString("_batch_first");
  static PyObject* const h_0_name = PyUnicode_InternFromString("h_0");
  const std::size_t named = names ? static_cast<std::size_t>(PyTuple_GET_SIZE(names)) : 0;
  if (count < 2 || count + named > 3 || !is_array_of(args[1])) return nullptr;
  if (named && PyTuple_GET_ITEM(names, 0) != h_0_name) return nullptr;
  std::optional<py::array> h_0;
  if (count + named == 3 && args[2] != Py_None) {
    if (!is_array_of(args[2])) return nullptr;
    h_0 = py::reinterpret_borrow<py::array>(args[2]);
  }
  const auto attribute = [&](PyObject* name) {
    return py::reinterpret_steal<py::object>(PyObject_GetAttr(args[0], name));
  };
  const py::object held = attribute(core_name), batch_first = attribute(batch_first_name);
  const auto* const gru = object_of<Gru>(held.ptr());
  if (!gru || !batch_first) return nullptr;
  const auto x = py::reinterpret_borrow<py::array>(args[1]);
  const GruSizes& sizes = packed_of(*gru).sizes;
  // As many steps of one row would cost at least as much.
  const std::size_t steps = static_cast<std::size_t>(x.size()) / sizes.input_size;
  const double microseconds = estimate_microseconds(packed_of(*gru), steps, 1);
  return run_gru(*gru, x, h_0, std::nullopt, batch_first.ptr() == Py_True,
                 threads_of(args[0], microseconds, true))
      .release()
      .ptr();
}

py::array_t<float> trace_layer(const Gru& gru, std::size_t layer, const py::array& x,
                               const std::optional<py::array>& h_0) {
  const GruSizes& sizes = packed_of(gru).sizes;
  const std::size_t hidden = sizes.hidden_size, directions = sizes.num_directions;
  if (layer >= sizes.num_layers)
    throw py::index_error("layer: expected less than " + std::to_string(sizes.num_layers) +
                          ", got " + std::to_string(layer));
  const Sequences s = sequences_of(x, "x", sizes.layer_input(layer), false);
  if (!s.batched) wrong_shape("x", "(T, B, " + std::to_string(sizes.layer_input(layer)) + ")", x);
  py::array_t<float> gates = new_array({4, directions, s.T, s.B, hidden});
  py::array_t<float> h_n = new_array({directions, s.B, hidden});
  const GruStates states{initial_state(h_0, s, directions, hidden), h_n.mutable_data()};
  Call call;
  call.T = s.T;
  call.B = s.B;
  call.first_node = layer;
  call.end_node = layer + 1;
  call.states = &states;
  call.x = s.view(static_cast<const float*>(x.data()), x);
  call.width = sizes.layer_input(layer);
  call.y = {gates.mutable_data(), stride(gates, 2), stride(gates, 3)};
  call.direction_stride = stride(gates, 1);
  call.trace_stride = stride(gates, 0);
  estimate(*gru.packed, call);
  compute(call, nullptr, [&](const Call& c) { return run(*gru.packed, c); });
  return gates;
}

// The kernels that a new layer would get, for each precision.
std::map<std::string, std::string> default_kernels() {
  const KernelTable& level = *choose_kernels("");
  std::map<std::string, std::string> names;
  for (const auto& [name, precision] : kPrecisionsByName)
    names[name] = names_of(choose_products(runnable_products(level, precision)));
  return names;
}

// Every product that this build has: kernels/levels.inc.
py::list list_products() {
  constexpr const char* kSums[] = {"exact", "chains", "own"};
  py::list products;
  for (const ListedProduct& listed : listed_products()) {
    py::dict d;
    d["name"] = listed.name;
    d["level"] = listed.level;
    d["precision"] = name_of(listed.precision);
    d["preference"] = listed.preference;
    d["min_rows"] = listed.min_rows;
    d["sums"] =
        listed.product ? py::cast(kSums[static_cast<int>(listed.product->sums)]) : py::none();
    products.append(d);
  }
  return products;
}

}  // namespace

void bind_gru(py::module_& m) {
  py::class_<Gru, Layer>(m, "GRU")
      .def(py::init(&make_gru), py::arg("tensors"), py::arg("scales"), py::arg("precisions"),
           py::kw_only(), py::arg("input_size"), py::arg("hidden_size"), py::arg("num_layers"),
           py::arg("bidirectional"), py::arg("reverse"), py::arg("bias"), py::arg("reset_after"),
           py::arg("activation"), py::arg("recurrent_activation"), py::arg("isa"))
      .def_property_readonly("isa", [](const Gru& gru) { return packed_of(gru).kernels->name; })
      .def_property_readonly("nbytes", [](const Gru& gru) { return packed_of(gru).storage.size(); })
      .def("tensors", &gru_tensors)
      .def_property_readonly("kernels", &gru_kernels)
      .def("run", &run_gru, py::arg("x"), py::arg("h_0"), py::arg("lengths"),
           py::arg("batch_first"), py::arg("num_threads"))
      .def("trace_layer", &trace_layer, py::arg("layer"), py::arg("x"), py::arg("h_0"));
  bind_shortcut(m, "shortcut_call", &fast_call);
  m.def("default_kernels", &default_kernels);
  m.def("products", &list_products);
}

}  // namespace fastgru
