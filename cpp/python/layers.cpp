// The layers around a GRU in Python: each an immutable object with run(), float32 arrays in and
// out, C-contiguous, the last axis its own and any axes before it.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>

#include "kernels/dispatch.hpp"
#include "python/bindings.hpp"
#include "run/layers.hpp"
#include "run/listed.hpp"

namespace fastgru {
namespace {

// Rough costs, for Note [GIL].
double microseconds_of(py::ssize_t elements) { return static_cast<double>(elements) / 1e3; }

struct ActivationLayer {
  const KernelTable* kernels;
  Function function;
};
struct Softmax {
  const KernelTable* kernels;
  bool log;
};
struct LayerNorm {
  std::size_t size;  // 0: any
  bool has_weight, has_bias;
  double eps;
  Buffer storage;  // weight [size], bias [size]

  float* weight() const { return has_weight ? values() : nullptr; }
  float* bias() const { return has_bias ? values() + size : nullptr; }
  float* values() const { return reinterpret_cast<float*>(storage.data()); }
};
struct Embedding {
  std::size_t entries, width;
  Buffer storage;  // [entries, width]

  float* table() const { return reinterpret_cast<float*>(storage.data()); }
};
struct OneHot {
  std::size_t classes;
};

std::size_t axis(const py::array& a, py::ssize_t index) {
  return static_cast<std::size_t>(a.shape(index));
}

// x's rows: all axes but the last, which has `size` elements (0: any number). `run(rows, size)`.
template <class Run>
py::array_t<float> by_rows(const py::array& x, std::size_t size, std::size_t out_size, double each,
                           Run run) {
  if (x.ndim() < 1 || (size != 0 && axis(x, x.ndim() - 1) != size))
    wrong_shape("x", size ? "(..., " + std::to_string(size) + ")" : "(..., n)", x);
  const float* from = contiguous(x, "x");
  const std::size_t n = axis(x, x.ndim() - 1);
  const std::size_t rows = n == 0 ? 0 : static_cast<std::size_t>(x.size()) / n;
  py::array_t<float> y = new_array_like(x, x.ndim() - 1, size ? out_size : n);
  float* const to = y.mutable_data();
  compute(each * static_cast<double>(rows), [&] { run(from, to, rows, n); });
  return y;
}

// ---- weights ----

void check_shape(const py::array& a, const char* name, std::initializer_list<std::size_t> shape) {
  if (!has_shape(a, shape)) wrong_shape(name, tuple_text(shape), a);
}

const float* data_of(const std::optional<py::array>& a, const char* name) {
  return a ? contiguous(*a, name) : nullptr;
}

PackedLinear make_linear(const py::array& weight, const std::optional<py::array>& bias,
                         const std::optional<std::string>& isa) {
  if (weight.ndim() != 2 || weight.size() == 0) wrong_shape("weight", "(O, K), not empty", weight);
  if (bias) check_shape(*bias, "bias", {axis(weight, 0)});
  return pack_linear(contiguous(weight, "weight"), data_of(bias, "bias"), axis(weight, 0),
                     axis(weight, 1), choose_kernels(isa.value_or("")));
}

std::pair<py::array_t<float>, std::optional<py::array_t<float>>> linear_tensors(
    const PackedLinear& layer) {
  py::array_t<float> weight = new_array({layer.outputs, layer.inputs});
  std::optional<py::array_t<float>> bias;
  if (layer.has_bias) bias = new_array({layer.outputs});
  unpack_linear(layer, weight.mutable_data(), bias ? bias->mutable_data() : nullptr);
  return {weight, bias};
}

LayerNorm make_layer_norm(const std::optional<py::array>& weight,
                          const std::optional<py::array>& bias, double eps) {
  LayerNorm layer{0, weight.has_value(), bias.has_value(), eps, {}};
  for (const auto* given : {&weight, &bias})
    if (*given) layer.size = static_cast<std::size_t>((*given)->size());
  if (weight) check_shape(*weight, "weight", {layer.size});
  if (bias) check_shape(*bias, "bias", {layer.size});
  layer.storage = Buffer(2 * layer.size * sizeof(float));
  if (weight) std::copy_n(contiguous(*weight, "weight"), layer.size, layer.weight());
  if (bias) std::copy_n(contiguous(*bias, "bias"), layer.size, layer.bias());
  return layer;
}

std::pair<std::optional<py::array_t<float>>, std::optional<py::array_t<float>>> norm_tensors(
    const LayerNorm& layer) {
  const auto copy = [&](const float* from) -> std::optional<py::array_t<float>> {
    if (!from) return std::nullopt;
    py::array_t<float> array = new_array({layer.size});
    std::copy_n(from, layer.size, array.mutable_data());
    return array;
  };
  return {copy(layer.weight()), copy(layer.bias())};
}

Embedding make_embedding(const py::array& weight) {
  if (weight.ndim() != 2 || weight.size() == 0) wrong_shape("weight", "(N, I), not empty", weight);
  Embedding layer{axis(weight, 0), axis(weight, 1), {}};
  const auto count = static_cast<std::size_t>(weight.size());
  layer.storage = Buffer(count * sizeof(float), Buffer::Contents::as_found);
  std::copy_n(contiguous(weight, "weight"), count, layer.table());
  return layer;
}

// ---- run ----

py::array_t<float> run_linear(const PackedLinear& layer, const py::array& x) {
  const double terms = static_cast<double>(layer.inputs) * static_cast<double>(layer.outputs);
  return by_rows(x, layer.inputs, layer.outputs, 2 * terms / 60e3,
                 [&](const float* from, float* to, std::size_t rows, std::size_t) {
                   linear(layer, from, to, rows);
                 });
}

py::array_t<float> run_activation(const ActivationLayer& layer, const py::array& x) {
  const float* from = contiguous(x, "x");
  py::array_t<float> y =
      x.ndim() == 0 ? new_array({}) : new_array_like(x, x.ndim() - 1, axis(x, x.ndim() - 1));
  float* const to = y.mutable_data();
  const auto n = static_cast<std::size_t>(x.size());
  compute(microseconds_of(x.size()),
          [&] { activate(*layer.kernels, layer.function, from, to, n); });
  return y;
}

py::array_t<float> run_softmax(const Softmax& layer, const py::array& x) {
  return by_rows(x, 0, 0, microseconds_of(x.ndim() ? x.shape(x.ndim() - 1) : 0),
                 [&](const float* from, float* to, std::size_t rows, std::size_t n) {
                   (layer.log ? log_softmax : softmax)(*layer.kernels, from, to, rows, n);
                 });
}

py::array_t<float> run_layer_norm(const LayerNorm& layer, const py::array& x) {
  return by_rows(x, layer.size, layer.size, microseconds_of(x.ndim() ? x.shape(x.ndim() - 1) : 0),
                 [&](const float* from, float* to, std::size_t rows, std::size_t n) {
                   layer_norm(layer.weight(), layer.bias(), layer.eps, from, to, rows, n);
                 });
}

// An axis of `width` behind x's. take(indices, n, y) returns an index outside 0..count-1.
template <class Take>
py::array_t<float> by_index(const py::array& x, std::size_t count, std::size_t width, Take take) {
  const auto* indices = contiguous<std::int64_t>(x, "x");
  const auto n = static_cast<std::size_t>(x.size());
  py::array_t<float> y = new_array_like(x, x.ndim(), width);
  float* const to = y.mutable_data();
  std::optional<std::int64_t> outside;
  compute(microseconds_of(y.size()), [&] { outside = take(indices, n, to); });
  if (outside) {
    Listed all;
    all.add(*outside);  // first: another thread may have mended the array meanwhile
    for (std::size_t i = 0; i < n; ++i) {
      const std::int64_t index = indices[i];
      if (index < 0 || static_cast<std::uint64_t>(index) >= count) all.add(index);
    }
    throw py::index_error("x: expected 0 <= index < " + std::to_string(count) + ", got " +
                          all.text());
  }
  return y;
}

py::array_t<float> run_embedding(const Embedding& layer, const py::array& x) {
  return by_index(x, layer.entries, layer.width,
                  [&](const std::int64_t* indices, std::size_t n, float* y) {
                    return embed(layer.table(), layer.entries, layer.width, indices, n, y);
                  });
}

py::array_t<float> run_one_hot(const OneHot& layer, const py::array& x) {
  return by_index(x, layer.classes, layer.classes,
                  [&](const std::int64_t* indices, std::size_t n, float* y) {
                    return one_hot(layer.classes, indices, n, y);
                  });
}

// ---- over time ----

constexpr Named<void (*)(const OverTime&)> kOverTime[] = {
    {"last", last_of_time}, {"mean", mean_over_time}, {"max", max_over_time}};

// x (T, B, n), (B, T, n) with batch_first, or (T, n) -> (B, n) or (n,).
py::array_t<float> over_time(const std::string& name, const py::array& x,
                             const std::optional<py::array>& lengths, bool batch_first) {
  const auto reduce = from_name(kOverTime, "name", name);
  if (x.ndim() != 2 && x.ndim() != 3)
    wrong_shape("x", batch_first ? "(B, T, n) or (T, n)" : "(T, B, n) or (T, n)", x);
  const std::size_t width = axis(x, x.ndim() - 1);
  const Sequences s = sequences_of(x, "x", width, batch_first);
  if (s.T == 0 && s.B > 0) throw ShapeError("x: expected at least one time step, got T = 0");
  const std::vector<std::int64_t> checked = checked_lengths(lengths, s, 1);
  py::array_t<float> y = s.batched ? new_array({s.B, width}) : new_array({width});
  OverTime call;
  call.T = s.T;
  call.B = s.B;
  call.width = width;
  call.x = s.view(static_cast<const float*>(x.data()), x);
  call.lengths = lengths ? checked.data() : nullptr;
  call.y = y.mutable_data();
  compute(microseconds_of(x.size()), [&] { reduce(call); });
  return y;
}

}  // namespace

void bind_layers(py::module_& m) {
  py::class_<PackedLinear>(m, "Linear")
      .def(py::init(&make_linear), py::arg("weight"), py::arg("bias"), py::arg("isa"))
      .def("run", &run_linear, py::arg("x"))
      .def("tensors", &linear_tensors)
      .def_property_readonly("isa", [](const PackedLinear& layer) { return layer.kernels->name; })
      .def_property_readonly("nbytes",
                             [](const PackedLinear& layer) { return layer.storage.size(); });
  py::class_<ActivationLayer>(m, "Activation")
      .def(py::init([](const std::string& name, const std::optional<std::string>& isa) {
             return ActivationLayer{choose_kernels(isa.value_or("")),
                                    function_named(&NamedFunction::layer, "name", name)};
           }),
           py::arg("name"), py::arg("isa"))
      .def("run", &run_activation, py::arg("x"));
  py::class_<Softmax>(m, "Softmax")
      .def(py::init([](bool log, const std::optional<std::string>& isa) {
             return Softmax{choose_kernels(isa.value_or("")), log};
           }),
           py::arg("log"), py::arg("isa"))
      .def("run", &run_softmax, py::arg("x"));
  py::class_<LayerNorm>(m, "LayerNorm")
      .def(py::init(&make_layer_norm), py::arg("weight"), py::arg("bias"), py::arg("eps"))
      .def("run", &run_layer_norm, py::arg("x"))
      .def("tensors", &norm_tensors);
  py::class_<Embedding>(m, "Embedding")
      .def(py::init(&make_embedding), py::arg("weight"))
      .def("run", &run_embedding, py::arg("x"))
      .def("tensor", [](const Embedding& layer) {
        py::array_t<float> table = new_array({layer.entries, layer.width});
        std::copy_n(layer.table(), layer.entries * layer.width, table.mutable_data());
        return table;
      });
  py::class_<OneHot>(m, "OneHot")
      .def(py::init([](std::size_t classes) { return OneHot{classes}; }), py::arg("classes"))
      .def("run", &run_one_hot, py::arg("x"));
  m.def("over_time", &over_time, py::arg("name"), py::arg("x"), py::arg("lengths"),
        py::arg("batch_first"));
}

}  // namespace fastgru
