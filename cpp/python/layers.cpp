// The layers around a GRU in Python: each an immutable object with run(), float32 arrays in and
// out, C-contiguous, the last axis its own and any axes before it. Each is a network of one layer.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "kernels/dispatch.hpp"
#include "python/bindings.hpp"

namespace fastgru {
namespace {

constexpr Named<OverTime::Kind> kOverTime[] = {{"last", OverTime::Kind::last},
                                               {"mean", OverTime::Kind::mean},
                                               {"max", OverTime::Kind::max},
                                               {"reverse", OverTime::Kind::reverse}};

template <class T>
std::unique_ptr<T> make_layer(NetworkLayer layer, std::size_t input_size) {
  return std::make_unique<T>(T{{make_network({std::move(layer)}, input_size)}});
}

std::size_t axis(const py::array& a, py::ssize_t index) {
  return static_cast<std::size_t>(a.shape(index));
}

// ---- weights ----

void check_shape(const py::array& a, const char* name, std::initializer_list<std::size_t> shape) {
  if (!has_shape(a, shape)) wrong_shape(name, tuple_text(shape), a);
}

const float* data_of(const std::optional<py::array>& a, const char* name) {
  return a ? contiguous(*a, name) : nullptr;
}

std::unique_ptr<LinearLayer> make_linear(const py::array& weight,
                                         const std::optional<py::array>& bias,
                                         const std::optional<std::string>& isa) {
  if (weight.ndim() != 2 || weight.size() == 0) wrong_shape("weight", "(O, K), not empty", weight);
  if (bias) check_shape(*bias, "bias", {axis(weight, 0)});
  const std::size_t outputs = axis(weight, 0), inputs = axis(weight, 1);
  auto packed = std::make_shared<const PackedLinear>(
      pack_linear(contiguous(weight, "weight"), data_of(bias, "bias"), outputs, inputs,
                  choose_kernels(isa.value_or(""))));
  return make_layer<LinearLayer>(std::move(packed), inputs);
}

const PackedLinear& packed_of(const LinearLayer& layer) {
  return *layer_of<std::shared_ptr<const PackedLinear>>(layer);
}

std::pair<py::array_t<float>, std::optional<py::array_t<float>>> linear_tensors(
    const LinearLayer& layer) {
  const PackedLinear& packed = packed_of(layer);
  py::array_t<float> weight = new_array({packed.outputs, packed.inputs});
  std::optional<py::array_t<float>> bias;
  if (packed.has_bias) bias = new_array({packed.outputs});
  unpack_linear(packed, weight.mutable_data(), bias ? bias->mutable_data() : nullptr);
  return {weight, bias};
}

std::unique_ptr<LayerNormLayer> make_layer_norm(const std::optional<py::array>& weight,
                                                const std::optional<py::array>& bias, double eps) {
  PackedLayerNorm norm;
  norm.has_weight = weight.has_value();
  norm.has_bias = bias.has_value();
  norm.eps = eps;
  for (const auto* given : {&weight, &bias})
    if (*given) norm.size = static_cast<std::size_t>((*given)->size());
  const std::size_t size = norm.size;
  if (weight) check_shape(*weight, "weight", {size});
  if (bias) check_shape(*bias, "bias", {size});
  norm.storage = Buffer(2 * size * sizeof(float));
  if (weight) std::copy_n(contiguous(*weight, "weight"), size, norm.weight());
  if (bias) std::copy_n(contiguous(*bias, "bias"), size, norm.bias());
  return make_layer<LayerNormLayer>(std::make_shared<const PackedLayerNorm>(std::move(norm)), size);
}

std::pair<std::optional<py::array_t<float>>, std::optional<py::array_t<float>>> norm_tensors(
    const LayerNormLayer& layer) {
  const PackedLayerNorm& norm = *layer_of<std::shared_ptr<const PackedLayerNorm>>(layer);
  const auto copy = [&](const float* from) -> std::optional<py::array_t<float>> {
    if (!from) return std::nullopt;
    py::array_t<float> array = new_array({norm.size});
    std::copy_n(from, norm.size, array.mutable_data());
    return array;
  };
  return {copy(norm.weight()), copy(norm.bias())};
}

std::unique_ptr<EmbeddingLayer> make_embedding(const py::array& weight) {
  if (weight.ndim() != 2 || weight.size() == 0) wrong_shape("weight", "(N, I), not empty", weight);
  PackedEmbedding embedding;
  embedding.entries = axis(weight, 0);
  embedding.width = axis(weight, 1);
  const auto count = static_cast<std::size_t>(weight.size());
  embedding.storage = Buffer(count * sizeof(float), Buffer::Contents::as_found);
  std::copy_n(contiguous(weight, "weight"), count, embedding.table());
  return make_layer<EmbeddingLayer>(std::make_shared<const PackedEmbedding>(std::move(embedding)),
                                    0);
}

py::array_t<float> embedding_tensor(const EmbeddingLayer& layer) {
  const PackedEmbedding& embedding = *layer_of<std::shared_ptr<const PackedEmbedding>>(layer);
  py::array_t<float> table = new_array({embedding.entries, embedding.width});
  std::copy_n(embedding.table(), embedding.entries * embedding.width, table.mutable_data());
  return table;
}

// ---- run ----

// Each row of the last axis by itself, or each index: as one step of so many sequences.
py::array_t<float> run_rows(const Layer& layer, const py::array& x) {
  const PackedNetwork& network = *layer.packed;
  const bool indices = network.takes_indices, scalar = x.ndim() == 0;
  Call call;
  call.T = 1;
  if (indices) {
    call.B = static_cast<std::size_t>(x.size());
    set_step(call, network, x, false);
  } else {
    const std::size_t size = network.input_size;
    const bool is_activation = network.nodes.front().kind == Node::Kind::activation;
    if ((scalar && !is_activation) || (size != 0 && axis(x, x.ndim() - 1) != size))
      wrong_shape("x", size ? "(..., " + std::to_string(size) + ")" : "(..., n)", x);
    call.width = scalar ? 1 : axis(x, x.ndim() - 1);
    call.B = call.width == 0 ? 0 : static_cast<std::size_t>(x.size()) / call.width;
    call.x = {contiguous(x, "x"), 0, static_cast<std::ptrdiff_t>(call.width)};
  }
  const std::size_t out = network.output_size(call.width);
  py::array_t<float> y =
      scalar && !indices ? new_array({}) : new_array_like(x, x.ndim() - (indices ? 0 : 1), out);
  if (y.size() == 0) return y;
  call.y = {y.mutable_data(), 0, static_cast<std::ptrdiff_t>(out)};
  estimate(network, call);
  call.max_threads = 0;
  compute(call, nullptr, [&](const Call& c) { return run(network, c); });
  return y;
}

}  // namespace

void bind_layers(py::module_& m) {
  py::class_<LinearLayer, Layer>(m, "Linear")
      .def(py::init(&make_linear), py::arg("weight"), py::arg("bias"), py::arg("isa"))
      .def("run", &run_rows, py::arg("x"))
      .def("tensors", &linear_tensors)
      .def_property_readonly(
          "isa", [](const LinearLayer& layer) { return packed_of(layer).kernels->name; })
      .def_property_readonly(
          "nbytes", [](const LinearLayer& layer) { return packed_of(layer).storage.size(); });
  py::class_<ActivationLayer, Layer>(m, "Activation")
      .def(py::init([](const std::string& name, const std::optional<std::string>& isa) {
             return make_layer<ActivationLayer>(
                 PackedActivation{choose_kernels(isa.value_or("")),
                                  function_named(&NamedFunction::layer, "name", name)},
                 0);
           }),
           py::arg("name"), py::arg("isa"))
      .def("run", &run_rows, py::arg("x"));
  py::class_<SoftmaxLayer, Layer>(m, "Softmax")
      .def(py::init([](bool log, const std::optional<std::string>& isa) {
             return make_layer<SoftmaxLayer>(PackedSoftmax{choose_kernels(isa.value_or("")), log},
                                             0);
           }),
           py::arg("log"), py::arg("isa"))
      .def("run", &run_rows, py::arg("x"));
  py::class_<LayerNormLayer, Layer>(m, "LayerNorm")
      .def(py::init(&make_layer_norm), py::arg("weight"), py::arg("bias"), py::arg("eps"))
      .def("run", &run_rows, py::arg("x"))
      .def("tensors", &norm_tensors);
  py::class_<EmbeddingLayer, Layer>(m, "Embedding")
      .def(py::init(&make_embedding), py::arg("weight"))
      .def("run", &run_rows, py::arg("x"))
      .def("tensor", &embedding_tensor);
  py::class_<OneHotLayer, Layer>(m, "OneHot")
      .def(
          py::init([](std::size_t classes) { return make_layer<OneHotLayer>(OneHot{classes}, 0); }),
          py::arg("classes"))
      .def("run", &run_rows, py::arg("x"));
  // run(x, lengths, batch_first, num_threads) is a network's.
  py::class_<OverTimeLayer, Layer>(m, "OverTime")
      .def(py::init([](const std::string& name, bool bidirectional) {
             return make_layer<OverTimeLayer>(
                 OverTime{from_name(kOverTime, "name", name), bidirectional}, 0);
           }),
           py::arg("name"), py::arg("bidirectional"));
}

}  // namespace fastgru
