// The Python module fastgru._core: array views, shape checks, exceptions and the GIL. The only file
// that includes pybind11; it converts and calls, and computes nothing.
//
// Note [GIL]
// Taking the GIL back under contention costs far more than a small step, so it is released only
// around calls estimated at more than 10 us.
#include <cxxabi.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dispatch.hpp"
#include "parallel.hpp"
#include "plan.hpp"
#include "stream.hpp"

namespace py = pybind11;
using namespace fastgru;

namespace {

constexpr double kReleaseGilFrom = 10.0;  // microseconds, see Note [GIL]

struct ShapeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

std::string shape_text(const py::array& a) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) text += (i ? ", " : "") + std::to_string(a.shape(i));
  return text + (a.ndim() == 1 ? ",)" : ")");
}

[[noreturn]] void wrong_shape(const char* name, const std::string& expected, const py::array& got) {
  throw ShapeError(std::string(name) + ": expected " + expected + ", got " + shape_text(got));
}

std::string tuple_text(std::initializer_list<std::size_t> sizes) {
  std::string text = "(";
  for (const std::size_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

bool has_shape(const py::array& a, std::initializer_list<std::size_t> sizes) {
  if (static_cast<std::size_t>(a.ndim()) != sizes.size()) return false;
  py::ssize_t i = 0;
  for (const std::size_t size : sizes)
    if (static_cast<std::size_t>(a.shape(i++)) != size) return false;
  return true;
}

template <class T>
void check_type(const py::array& a, const char* name) {
  if (!py::isinstance<py::array_t<T>>(a))
    throw py::type_error(std::string(name) + ": expected " +
                         py::str(py::dtype::of<T>()).cast<std::string>() + ", got " +
                         py::str(a.dtype()).cast<std::string>());
}

// Aligned float32 whose last axis is contiguous: what a SequenceView can describe.
void check_view(const py::array& a, const char* name) {
  check_type<float>(a, name);
  if (a.size() == 0) return;  // NumPy may give such an array any strides
  const bool aligned = (a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  const py::ssize_t last = a.ndim() - 1;
  if (!aligned || (last >= 0 && a.shape(last) > 1 && a.strides(last) != sizeof(float)))
    throw py::value_error(std::string(name) +
                          ": expected aligned float32 with a contiguous last axis");
}

const float* contiguous(const py::array& a, const char* name) {
  check_type<float>(a, name);
  if (!(a.flags() & py::array::c_style))
    throw py::value_error(std::string(name) + ": expected a C-contiguous array");
  return static_cast<const float*>(a.data());
}

// Uninitialised, C-contiguous. By NumPy itself, which refuses sizes that overflow (pybind11's
// constructor computes strides first, unchecked).
py::array_t<float> new_array(std::initializer_list<std::size_t> sizes) {
  std::array<Py_intptr_t, 5> shape{};
  assert(sizes.size() <= shape.size());
  std::copy(sizes.begin(), sizes.end(), shape.begin());
  const auto& numpy = py::detail::npy_api::get();
  PyObject* array = numpy.PyArray_NewFromDescr_(
      numpy.PyArray_Type_, py::dtype::of<float>().release().ptr(), static_cast<int>(sizes.size()),
      shape.data(), nullptr, nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  return py::reinterpret_steal<py::array_t<float>>(array);
}

std::ptrdiff_t stride(const py::array& a, py::ssize_t axis) {
  return a.strides(axis) / static_cast<std::ptrdiff_t>(sizeof(float));
}

// A batch of sequences in the user's layout: (T, B, width), (B, T, width) or (T, width).
struct Sequences {
  std::size_t T, B;
  bool batched, batch_first;

  template <class T>
  SequenceView<T> view(T* data, const py::array& a) const {
    if (!batched) return {data, stride(a, 0), 0};
    return {data, stride(a, batch_first ? 1 : 0), stride(a, batch_first ? 0 : 1)};
  }
  py::array_t<float> make(std::size_t width) const {
    if (!batched) return new_array({T, width});
    return batch_first ? new_array({B, T, width}) : new_array({T, B, width});
  }
  bool fits(const py::array& a, std::size_t width) const {
    if (!batched) return has_shape(a, {T, width});
    return batch_first ? has_shape(a, {B, T, width}) : has_shape(a, {T, B, width});
  }
};

Sequences sequences_of(const py::array& x, const char* name, std::size_t input, bool batch_first) {
  check_view(x, name);
  const auto size = [&](py::ssize_t axis) { return static_cast<std::size_t>(x.shape(axis)); };
  if (x.ndim() == 2 && size(1) == input) return {size(0), 1, false, batch_first};
  if (x.ndim() == 3 && size(2) == input)
    return batch_first ? Sequences{size(1), size(0), true, true}
                       : Sequences{size(0), size(1), true, false};
  const std::string i = std::to_string(input);
  wrong_shape(name, (batch_first ? "(B, T, " : "(T, B, ") + i + ") or (T, " + i + ")", x);
}

const float* initial_state(const std::optional<py::array>& h_0, const Sequences& s,
                           std::size_t layers, std::size_t hidden) {
  if (!h_0) return nullptr;
  if (s.batched && !has_shape(*h_0, {layers, s.B, hidden}))
    wrong_shape("h_0", tuple_text({layers, s.B, hidden}), *h_0);
  if (!s.batched && !has_shape(*h_0, {layers, hidden}))
    wrong_shape("h_0", tuple_text({layers, hidden}), *h_0);
  return contiguous(*h_0, "h_0");
}

// A copy: the user's array may change while the GIL is released.
std::vector<std::int64_t> checked_lengths(const std::optional<py::array>& lengths,
                                          const Sequences& s) {
  if (!lengths) return {};
  check_type<std::int64_t>(*lengths, "lengths");
  if (!s.batched)
    throw ShapeError("lengths: expected a batch of sequences, got unbatched x (T, I)");
  if (!has_shape(*lengths, {s.B})) wrong_shape("lengths", tuple_text({s.B}), *lengths);
  if (!(lengths->flags() & py::array::c_style))
    throw py::value_error("lengths: expected a C-contiguous array");
  const auto* data = static_cast<const std::int64_t*>(lengths->data());
  const std::vector<std::int64_t> copy(data, data + s.B);
  for (std::size_t b = 0; b < s.B; ++b)
    if (copy[b] < 0 || static_cast<std::uint64_t>(copy[b]) > s.T)
      throw py::value_error("lengths[" + std::to_string(b) + "]: expected 0 <= length <= " +
                            std::to_string(s.T) + ", got " + std::to_string(copy[b]));
  return copy;
}

std::size_t threads_for(const ModelSizes& sizes, std::size_t T, std::size_t B,
                        std::size_t requested) {
  // Asking for the affinity costs a system call: not for calls that stay on one thread.
  return estimate_microseconds(sizes, T, B) < kParallelFrom ? 1 : threads_to_use(requested);
}

// Note [Daemon threads]
// When the interpreter ends, CPython (before 3.14) ends a daemon thread that asks for the GIL with
// pthread_exit(), whose unwinding would meet pybind11's noexcept destructor and abort the process.
// The thread waits for the end instead, as it does from Python 3.14 on.
class ReleasedGil {
 public:
  ReleasedGil() : state_(PyEval_SaveThread()) {}
  ~ReleasedGil() {
#if defined(__GLIBCXX__)  // elsewhere pthread_exit() does not unwind
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));
    }
#else
    PyEval_RestoreThread(state_);
#endif
  }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  PyThreadState* state_;
};

// Runs work() with the GIL released if it is long.
template <class Work>
void compute(const ModelSizes& sizes, std::size_t T, std::size_t B, Work work) {
  if (estimate_microseconds(sizes, T, B) < kReleaseGilFrom) return work();
  const ReleasedGil released;
  work();
}

// ---- Model ----

template <class T>
struct Named {
  const char* name;
  T value;
};
constexpr Named<Activation> kActivations[] = {{"tanh", Activation::tanh},
                                              {"relu", Activation::relu},
                                              {"sigmoid", Activation::sigmoid},
                                              {"identity", Activation::identity}};
constexpr Named<RecurrentActivation> kRecurrentActivations[] = {
    {"sigmoid", RecurrentActivation::sigmoid},
    {"hard_sigmoid", RecurrentActivation::hard_sigmoid},
    {"hard_sigmoid_02", RecurrentActivation::hard_sigmoid_02}};
constexpr Named<TestActivation> kTestActivations[] = {
    {"sigmoid", TestActivation::sigmoid},
    {"tanh", TestActivation::tanh},
    {"relu", TestActivation::relu},
    {"hard_sigmoid", TestActivation::hard_sigmoid},
    {"hard_sigmoid_02", TestActivation::hard_sigmoid_02}};

template <class T, std::size_t N>
T from_name(const Named<T> (&table)[N], const char* what, const std::string& name) {
  std::string choices;
  for (const Named<T>& entry : table) {
    if (name == entry.name) return entry.value;
    choices += (choices.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw py::value_error(std::string(what) + ": expected one of " + choices + ", got '" + name +
                        "'");
}

struct Model {
  std::shared_ptr<const PackedModel> packed;
};

// The four tensors of every layer and direction, in the flat order of Model's constructor.
// visit(name, index of the layer and direction, member, shape)
template <class Visit>
void for_each_tensor(const ModelSizes& sizes, Visit visit) {
  const std::size_t rows = checked_product(3, sizes.hidden_size);
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

Model make_model(const std::vector<py::array>& tensors, std::size_t input_size,
                 std::size_t hidden_size, std::size_t num_layers, bool bidirectional, bool bias,
                 bool reset_after, const std::string& activation,
                 const std::string& recurrent_activation, const std::optional<std::string>& isa) {
  ModelSpec spec;
  ModelSizes& sizes = spec.sizes;
  sizes.input_size = input_size;
  sizes.hidden_size = hidden_size;
  sizes.num_layers = num_layers;
  sizes.num_directions = bidirectional ? 2 : 1;
  sizes.bias = bias;
  sizes.reset_after = reset_after;
  sizes.activation = from_name(kActivations, "activation", activation);
  sizes.recurrent_activation =
      from_name(kRecurrentActivations, "recurrent_activation", recurrent_activation);
  if (input_size < 1 || hidden_size < 1 || num_layers < 1)
    throw py::value_error("input_size, hidden_size and num_layers: expected at least 1, got " +
                          tuple_text({input_size, hidden_size, num_layers}));
  const std::size_t count =
      checked_product(checked_product(num_layers, sizes.num_directions), bias ? 4 : 2);
  if (tensors.size() != count)
    throw py::value_error("tensors: expected " + std::to_string(count) + ", got " +
                          std::to_string(tensors.size()));
  spec.layers.resize(num_layers * sizes.num_directions);
  std::size_t next = 0;
  for_each_tensor(sizes, [&](const char* name, std::size_t i, auto member, auto,
                             std::initializer_list<std::size_t> shape) {
    const py::array& tensor = tensors[next++];
    if (!has_shape(tensor, shape)) wrong_shape(name, tuple_text(shape), tensor);
    spec.layers[i].*member = contiguous(tensor, name);
  });
  const KernelTable* kernels = choose_kernels(isa.value_or(""));
  const ReleasedGil released;
  return {std::make_shared<const PackedModel>(pack(spec, kernels))};
}

std::vector<py::array_t<float>> model_tensors(const Model& model) {
  const PackedModel& packed = *model.packed;
  std::vector<py::array_t<float>> tensors;
  std::vector<UnpackedLayer> layers(packed.layers.size(), UnpackedLayer{});
  for_each_tensor(packed.sizes, [&](const char*, std::size_t i, auto, auto member,
                                    std::initializer_list<std::size_t> shape) {
    tensors.push_back(new_array(shape));
    layers[i].*member = tensors.back().mutable_data();
  });
  for (std::size_t i = 0; i < layers.size(); ++i) unpack(packed, i, layers[i]);
  return tensors;
}

py::tuple run_model(const Model& model, const py::array& x, const std::optional<py::array>& h_0,
                    const std::optional<py::array>& lengths, bool batch_first,
                    std::size_t num_threads) {
  const ModelSizes& sizes = model.packed->sizes;
  const std::size_t hidden = sizes.hidden_size;
  const std::size_t states = sizes.num_layers * sizes.num_directions;
  const Sequences s = sequences_of(x, "x", sizes.input_size, batch_first);
  Call call;
  call.T = s.T;
  call.B = s.B;
  call.h_0 = initial_state(h_0, s, states, hidden);
  const std::vector<std::int64_t> checked = checked_lengths(lengths, s);
  call.lengths = lengths ? checked.data() : nullptr;
  py::array_t<float> y = s.make(sizes.num_directions * hidden);
  py::array_t<float> h_n =
      s.batched ? new_array({states, s.B, hidden}) : new_array({states, hidden});
  call.x = s.view(static_cast<const float*>(x.data()), x);
  call.y = s.view(y.mutable_data(), y);
  call.h_n = h_n.mutable_data();
  call.max_threads = threads_for(sizes, s.T, s.B, num_threads);
  call.end_layer = sizes.num_layers;
  compute(sizes, s.T, s.B, [&] { run(*model.packed, call); });
  return py::make_tuple(std::move(y), std::move(h_n));
}

py::array_t<float> trace_layer(const Model& model, std::size_t layer, const py::array& x,
                               const std::optional<py::array>& h_0) {
  const ModelSizes& sizes = model.packed->sizes;
  const std::size_t hidden = sizes.hidden_size, directions = sizes.num_directions;
  if (layer >= sizes.num_layers)
    throw py::index_error("layer: expected less than " + std::to_string(sizes.num_layers) +
                          ", got " + std::to_string(layer));
  const Sequences s = sequences_of(x, "x", sizes.layer_input(layer), false);
  if (!s.batched) wrong_shape("x", "(T, B, " + std::to_string(sizes.layer_input(layer)) + ")", x);
  py::array_t<float> gates = new_array({4, directions, s.T, s.B, hidden});
  py::array_t<float> h_n = new_array({directions, s.B, hidden});
  Call call;
  call.T = s.T;
  call.B = s.B;
  call.first_layer = layer;
  call.end_layer = layer + 1;
  call.h_0 = initial_state(h_0, s, directions, hidden);
  call.x = s.view(static_cast<const float*>(x.data()), x);
  call.y = {gates.mutable_data(), stride(gates, 2), stride(gates, 3)};
  call.h_n = h_n.mutable_data();
  call.direction_stride = stride(gates, 1);
  call.trace_stride = stride(gates, 0);
  compute(sizes, s.T, s.B, [&] { run(*model.packed, call); });
  return gates;
}

// ---- Stream ----

// Holds a stream for one call.
class Busy {
 public:
  explicit Busy(Stream& stream) : stream_(stream) {
    if (!stream.try_acquire())
      throw std::runtime_error("this stream is running in another thread: use a stream a thread");
  }
  ~Busy() { stream_.release(); }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  Stream& stream_;
};

std::unique_ptr<Stream> make_stream(const Model& model, std::size_t batch_size,
                                    const std::optional<py::array>& h_0) {
  const ModelSizes& sizes = model.packed->sizes;
  if (sizes.num_directions != 1)
    throw py::value_error(
        "stream: the model is bidirectional; its reverse direction starts at the end "
        "of a sequence, which a stream has not seen");
  if (h_0 && !has_shape(*h_0, {sizes.num_layers, batch_size, sizes.hidden_size}))
    wrong_shape("h_0", tuple_text({sizes.num_layers, batch_size, sizes.hidden_size}), *h_0);
  return std::make_unique<Stream>(model.packed, batch_size,
                                  h_0 ? contiguous(*h_0, "h_0") : nullptr);
}

// The bytes [first, second) that an array's elements lie in.
std::pair<const char*, const char*> extent(const py::array& a) {
  const char* low = static_cast<const char*>(a.data());
  const char* high = low + a.itemsize();
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    if (a.shape(i) == 0) return {low, low};
    (a.strides(i) < 0 ? low : high) += (a.shape(i) - 1) * a.strides(i);
  }
  return {low, high};
}

// The user's `out`, checked, or a new array. text: the shape expected, for the message.
template <class Fits, class Make>
py::array_t<float> output(const std::optional<py::array>& out, const py::array& x, Fits fits,
                          Make make) {
  if (!out) return make();
  const auto refuse = [](const std::string& why) { throw py::value_error("out: " + why); };
  if (!fits(*out)) refuse("expected " + shape_text(make()) + ", got " + shape_text(*out));
  if (!py::isinstance<py::array_t<float>>(*out))
    refuse("expected float32, got " + py::str(out->dtype()).cast<std::string>());
  if (!(out->flags() & py::array::c_style) ||
      !(out->flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_))
    refuse("expected an aligned C-contiguous array");
  if (!out->writeable()) refuse("expected a writable array, got a read-only one");
  const auto a = extent(*out), b = extent(x);
  if (a.first < b.second && b.first < a.second) refuse("overlaps the input");
  return py::reinterpret_borrow<py::array_t<float>>(*out);
}

py::array_t<float> advance(Stream& stream, const Sequences& s, SequenceView<const float> from,
                           SequenceView<float> to, py::array_t<float> y, std::size_t num_threads) {
  const ModelSizes& sizes = stream.model().sizes;
  const std::size_t threads = threads_for(sizes, s.T, s.B, num_threads);
  const Busy busy(stream);
  compute(sizes, s.T, s.B, [&] { stream.advance(s.T, from, to, threads); });
  return y;
}

py::array_t<float> step(Stream& stream, const py::array& x, const std::optional<py::array>& out,
                        std::size_t num_threads) {
  const ModelSizes& sizes = stream.model().sizes;
  const std::size_t B = stream.batch_size(), input = sizes.input_size, hidden = sizes.hidden_size;
  check_view(x, "x_t");
  const bool single = B == 1 && has_shape(x, {input});
  if (!single && !has_shape(x, {B, input}))
    wrong_shape("x_t", tuple_text({B, input}) + (B == 1 ? " or " + tuple_text({input}) : ""), x);
  const auto make = [&] { return single ? new_array({hidden}) : new_array({B, hidden}); };
  const auto fits = [&](const py::array& a) {
    return single ? has_shape(a, {hidden}) : has_shape(a, {B, hidden});
  };
  py::array_t<float> y = output(out, x, fits, make);
  float* const data = y.mutable_data();
  return advance(stream, {1, B, true, false},
                 {static_cast<const float*>(x.data()), 0, single ? 0 : stride(x, 0)},
                 {data, 0, static_cast<std::ptrdiff_t>(hidden)}, std::move(y), num_threads);
}

py::array_t<float> run_stream(Stream& stream, const py::array& x,
                              const std::optional<py::array>& out, bool batch_first,
                              std::size_t num_threads) {
  const ModelSizes& sizes = stream.model().sizes;
  const Sequences s = sequences_of(x, "chunk", sizes.input_size, batch_first);
  if (s.B != stream.batch_size() || (!s.batched && stream.batch_size() != 1)) {
    const std::string b = std::to_string(stream.batch_size()), i = std::to_string(sizes.input_size);
    wrong_shape("chunk", batch_first ? "(" + b + ", T, " + i + ")" : "(T, " + b + ", " + i + ")",
                x);
  }
  py::array_t<float> y = output(
      out, x, [&](const py::array& a) { return s.fits(a, sizes.hidden_size); },
      [&] { return s.make(sizes.hidden_size); });
  const SequenceView<float> to = s.view(y.mutable_data(), y);
  return advance(stream, s, s.view(static_cast<const float*>(x.data()), x), to, std::move(y),
                 num_threads);
}

py::array_t<float> get_state(Stream& stream) {
  const ModelSizes& sizes = stream.model().sizes;
  const Busy busy(stream);
  py::array_t<float> state = new_array({sizes.num_layers, stream.batch_size(), sizes.hidden_size});
  std::copy_n(stream.state(), state.size(), state.mutable_data());
  return state;
}

void set_state(Stream& stream, const py::array& state) {
  const ModelSizes& sizes = stream.model().sizes;
  if (!has_shape(state, {sizes.num_layers, stream.batch_size(), sizes.hidden_size}))
    wrong_shape("state", tuple_text({sizes.num_layers, stream.batch_size(), sizes.hidden_size}),
                state);
  const float* data = contiguous(state, "state");
  const Busy busy(stream);
  stream.set_state(data);
}

void reset(Stream& stream, const std::optional<std::vector<std::int64_t>>& rows) {
  const Busy busy(stream);
  if (!rows) return stream.reset();
  for (const std::int64_t row : *rows)
    if (row < 0 || static_cast<std::uint64_t>(row) >= stream.batch_size())
      throw py::index_error("rows: expected 0 <= row < " + std::to_string(stream.batch_size()) +
                            ", got " + std::to_string(row));
  for (const std::int64_t row : *rows) stream.reset_row(static_cast<std::size_t>(row));
}

std::unique_ptr<Stream> copy_stream(Stream& stream) {
  const Busy busy(stream);
  return std::make_unique<Stream>(stream);
}

// ---- module ----

py::array_t<float> apply_activation(const std::string& name,
                                    const py::array_t<float, py::array::c_style>& x,
                                    const std::string& isa) {
  const TestActivation kind = from_name(kTestActivations, "name", name);
  const KernelTable* kernels = choose_kernels(isa);
  const auto n = static_cast<std::size_t>(x.size());
  const std::size_t padded = round_up(n, kPanel);
  std::vector<float> in(padded, 0.0f), out(padded);
  std::copy_n(x.data(), n, in.begin());
  kernels->activate(kind, in.data(), out.data(), padded);
  py::array_t<float> y = new_array({n});
  std::copy_n(out.begin(), n, y.mutable_data());
  return y;
}

std::size_t checked_threads(py::ssize_t n) {
  if (n < 1) throw py::value_error("num_threads: expected at least 1, got " + std::to_string(n));
  return static_cast<std::size_t>(n);
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled engine of fastgru (private).";
  m.attr("__version__") = FASTGRU_VERSION;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ShapeError& e) {
      const py::object type = py::module_::import("fastgru.errors").attr("ShapeError");
      PyErr_SetString(type.ptr(), e.what());
    }
  });

  py::class_<Model>(m, "Model")
      .def(py::init(&make_model), py::arg("tensors"), py::kw_only(), py::arg("input_size"),
           py::arg("hidden_size"), py::arg("num_layers"), py::arg("bidirectional"), py::arg("bias"),
           py::arg("reset_after"), py::arg("activation"), py::arg("recurrent_activation"),
           py::arg("isa"))
      .def_property_readonly("isa", [](const Model& model) { return model.packed->kernels->name; })
      .def_property_readonly("nbytes",
                             [](const Model& model) { return model.packed->storage.size(); })
      .def("tensors", &model_tensors)
      .def("run", &run_model, py::arg("x"), py::arg("h_0"), py::arg("lengths"),
           py::arg("batch_first"), py::arg("num_threads"))
      .def("trace_layer", &trace_layer, py::arg("layer"), py::arg("x"), py::arg("h_0"));

  py::class_<Stream>(m, "Stream")
      .def(py::init(&make_stream), py::arg("model"), py::arg("batch_size"), py::arg("h_0"))
      .def("step", &step, py::arg("x"), py::arg("out"), py::arg("num_threads") = 0)
      .def("run", &run_stream, py::arg("x"), py::arg("out"), py::arg("batch_first"),
           py::arg("num_threads"))
      .def("get_state", &get_state)
      .def("set_state", &set_state, py::arg("state"))
      .def("reset", &reset, py::arg("rows"))
      .def("copy", &copy_stream)
      .def_property_readonly("batch_size", &Stream::batch_size);

  m.def("isa_levels", [] {
    std::vector<std::pair<std::string, bool>> levels;
    for (const IsaLevel& level : isa_levels()) levels.emplace_back(level.name, level.supported);
    return levels;
  });
  m.def("default_isa", [] { return choose_kernels("")->name; });
  m.def("apply_activation", &apply_activation, py::arg("name"), py::arg("x"), py::arg("isa"));
  m.def(
      "set_num_threads", [](py::ssize_t n) { set_default_num_threads(checked_threads(n)); },
      py::arg("n"));
  m.def("get_num_threads", &default_num_threads);
  m.def("set_core_limit", [](py::ssize_t n) { set_core_limit(checked_threads(n)); }, py::arg("n"));
  m.def("openmp_runtime", &openmp_runtime);
}
