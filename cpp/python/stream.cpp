// fastgru._core.Stream: live sequences, one user at a time.
#include <pybind11/stl.h>

#include <memory>

#include "python/bindings.hpp"
#include "python/shortcut.hpp"
#include "run/listed.hpp"
#include "run/stream.hpp"

namespace fastgru {
namespace {

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

using Arrays = std::vector<py::array>;

// Where each stack's states are, checked: [L, batch_size, H].
States states_data(const PackedNetwork& network, std::size_t batch_size, const char* name,
                   const Arrays& states) {
  if (states.size() != network.grus.size())
    throw ShapeError(std::string(name) + ": expected " + std::to_string(network.grus.size()) +
                     " arrays, got " + std::to_string(states.size()));
  States data;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const GruSizes& sizes = network.grus[i]->sizes;
    const std::string label = states.size() == 1 ? name : name + ("[" + std::to_string(i) + "]");
    if (!has_shape(states[i], {sizes.num_layers, batch_size, sizes.hidden_size}))
      wrong_shape(label.c_str(), tuple_text({sizes.num_layers, batch_size, sizes.hidden_size}),
                  states[i]);
    data.push_back(contiguous(states[i], label.c_str()));
  }
  return data;
}

std::unique_ptr<Stream> make_stream(const Network& network, std::size_t batch_size,
                                    const std::optional<Arrays>& h_0) {
  if (!network.by_steps)
    throw py::value_error(
        "stream: the network needs the end of a sequence, which a stream has not seen");
  const States states = h_0 ? states_data(*network.by_steps, batch_size, "h_0", *h_0) : States();
  return std::make_unique<Stream>(network.by_steps, batch_size, states);
}

// Computes, lets handlers of signals run, and commits.
py::array_t<float> advance(Stream& stream, Call call, py::array_t<float> y,
                           std::size_t num_threads) {
  estimate(stream.network(), call);
  call.max_threads = num_threads;
  const Busy busy(stream);
  compute(call, nullptr, [&](const Call& c) { return stream.advance(c); });
  run_signal_handlers();
  stream.commit();
  return y;
}

py::array_t<float> step(Stream& stream, const py::array& x, const std::optional<py::array>& out,
                        std::size_t num_threads) {
  const PackedNetwork& network = stream.network();
  const std::size_t B = stream.batch_size();
  if (!network.takes_indices) check_view(x, "x_t");
  const int rows = step_rows(network, x, B);
  if (rows == 0) wrong_shape("x_t", step_text(network, B, true), x);
  const bool single = rows == 2;
  Call call;
  call.T = 1;
  call.B = B;
  set_step(call, network, x, single);
  const std::size_t size = network.output_size(call.width);
  const auto make = [&] { return single ? new_array({size}) : new_array({B, size}); };
  const auto fits = [&](const py::array& a) {
    return single ? has_shape(a, {size}) : has_shape(a, {B, size});
  };
  py::array_t<float> y = output(out, x, fits, make);
  call.y = {y.mutable_data(), 0, static_cast<std::ptrdiff_t>(size)};
  return advance(stream, call, std::move(y), num_threads);
}

// Note [Shortcut] for the step of fastgru's streams, whose `self` holds its _core.Stream as
// `_core`.
PyObject* fast_step(PyObject* const* args, std::size_t count, PyObject* names) {
  static PyObject* const core_name = PyUnicode_InternFromString("_core");
  static PyObject* const out_name = PyUnicode_InternFromString("out");
  const py::ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  if (count != 2 || named > 1) return nullptr;
  std::optional<py::array> out;
  if (named == 1) {
    if (PyTuple_GET_ITEM(names, 0) != out_name || !is_array_of(args[2])) return nullptr;
    out = py::reinterpret_borrow<py::array>(args[2]);
  }
  const auto core = py::reinterpret_steal<py::object>(PyObject_GetAttr(args[0], core_name));
  auto* const stream = object_of<Stream>(core.ptr());
  if (!stream) return nullptr;
  const PackedNetwork& network = stream->network();
  if (network.takes_indices ? !is_array_of<std::int64_t>(args[1]) : !is_array_of(args[1]))
    return nullptr;
  const auto x = py::reinterpret_borrow<py::array>(args[1]);
  const double microseconds =
      estimate_microseconds(network, 1, stream->batch_size(), network.input_size);
  return step(*stream, x, out, threads_of(args[0], microseconds, false)).release().ptr();
}

py::array_t<float> run_stream(Stream& stream, const py::array& x,
                              const std::optional<py::array>& out, bool batch_first,
                              std::size_t num_threads) {
  const PackedNetwork& network = stream.network();
  const Sequences s = sequences_of(network, "chunk", x, batch_first);
  if (s.B != stream.batch_size() || (!s.batched && stream.batch_size() != 1)) {
    const std::string b = std::to_string(stream.batch_size());
    const std::string i = network.takes_indices ? ""
                          : network.input_size  ? ", " + std::to_string(network.input_size)
                                                : ", I";
    wrong_shape("chunk", batch_first ? "(" + b + ", T" + i + ")" : "(T, " + b + i + ")", x);
  }
  Call call;
  call.T = s.T;
  call.B = s.B;
  set_input(call, network, x, s);
  const std::size_t size = network.output_size(call.width);
  py::array_t<float> y = output(
      out, x, [&](const py::array& a) { return s.fits(a, size); }, [&] { return s.make(size); });
  call.y = s.view(y.mutable_data(), y);
  return advance(stream, call, std::move(y), num_threads);
}

std::vector<py::array_t<float>> get_state(Stream& stream) {
  std::vector<py::array_t<float>> states;
  const Busy busy(stream);
  for (std::size_t i = 0; i < stream.network().grus.size(); ++i) {
    const GruSizes& sizes = stream.network().grus[i]->sizes;
    py::array_t<float> state =
        new_array({sizes.num_layers, stream.batch_size(), sizes.hidden_size});
    std::copy_n(stream.state(i), state.size(), state.mutable_data());
    states.push_back(std::move(state));
  }
  return states;
}

void set_state(Stream& stream, const Arrays& states) {
  const States data = states_data(stream.network(), stream.batch_size(), "state", states);
  const Busy busy(stream);
  stream.set_states(data);
}

void reset(Stream& stream, const std::optional<std::vector<std::int64_t>>& rows) {
  const Busy busy(stream);
  if (!rows) return stream.reset();
  Listed outside;
  for (const std::int64_t row : *rows)
    if (row < 0 || static_cast<std::uint64_t>(row) >= stream.batch_size()) outside.add(row);
  if (!outside.empty())
    throw py::index_error("rows: expected 0 <= row < " + std::to_string(stream.batch_size()) +
                          ", got " + outside.text());
  for (const std::int64_t row : *rows) stream.reset_row(static_cast<std::size_t>(row));
}

std::unique_ptr<Stream> copy_stream(Stream& stream) {
  const Busy busy(stream);
  return std::make_unique<Stream>(stream);
}

}  // namespace

void bind_stream(py::module_& m) {
  py::class_<Stream>(m, "Stream")
      .def(py::init(&make_stream), py::arg("network"), py::arg("batch_size"), py::arg("h_0"))
      .def("step", &step, py::arg("x"), py::arg("out"), py::arg("num_threads") = 0)
      .def("run", &run_stream, py::arg("x"), py::arg("out"), py::arg("batch_first"),
           py::arg("num_threads"))
      .def("get_state", &get_state)
      .def("set_state", &set_state, py::arg("states"))
      .def("reset", &reset, py::arg("rows"))
      .def("copy", &copy_stream)
      .def_property_readonly("batch_size", &Stream::batch_size);
  bind_shortcut(m, "shortcut_step", &fast_step);
}

}  // namespace fastgru
