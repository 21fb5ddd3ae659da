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

std::unique_ptr<Stream> make_stream(const Gru& gru, std::size_t batch_size,
                                    const std::optional<py::array>& h_0) {
  const GruSizes& sizes = gru.packed->sizes;
  if (sizes.num_directions != 1)
    throw py::value_error(
        "stream: the model is bidirectional; its reverse direction starts at the end "
        "of a sequence, which a stream has not seen");
  if (sizes.reverse)
    throw py::value_error("stream: the model runs from the end of a sequence to its start");
  if (h_0 && !has_shape(*h_0, {sizes.num_layers, batch_size, sizes.hidden_size}))
    wrong_shape("h_0", tuple_text({sizes.num_layers, batch_size, sizes.hidden_size}), *h_0);
  return std::make_unique<Stream>(gru.packed, batch_size, h_0 ? contiguous(*h_0, "h_0") : nullptr);
}

py::array_t<float> advance(Stream& stream, const Sequences& s, SequenceView<const float> from,
                           SequenceView<float> to, py::array_t<float> y, std::size_t num_threads) {
  const double microseconds = estimate_microseconds(stream.gru().sizes, s.T, s.B);
  const std::size_t threads = threads_for(microseconds, num_threads);
  const Busy busy(stream);
  compute(microseconds, [&] { stream.advance(s.T, from, to, threads); });
  return y;
}

py::array_t<float> step(Stream& stream, const py::array& x, const std::optional<py::array>& out,
                        std::size_t num_threads) {
  const GruSizes& sizes = stream.gru().sizes;
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

// Note [Shortcut] for fastgru.Stream.step, whose `self` holds its _core.Stream as `_core`.
PyObject* fast_step(PyObject* const* args, std::size_t count, PyObject* names) try {
  static PyObject* const core_name = PyUnicode_InternFromString("_core");
  static PyObject* const out_name = PyUnicode_InternFromString("out");
  const py::ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  if (count != 2 || named > 1 || !is_array_of(args[1])) return nullptr;
  std::optional<py::array> out;
  if (named == 1) {
    if (PyTuple_GET_ITEM(names, 0) != out_name || !is_array_of(args[2])) return nullptr;
    out = py::reinterpret_borrow<py::array>(args[2]);
  }
  const auto core = py::reinterpret_steal<py::object>(PyObject_GetAttr(args[0], core_name));
  auto* const stream = object_of<Stream>(core.ptr());
  if (!stream) return nullptr;
  const double microseconds = estimate_microseconds(stream->gru().sizes, 1, stream->batch_size());
  return step(*stream, py::reinterpret_borrow<py::array>(args[1]), out,
              threads_of(args[0], microseconds, false))
      .release()
      .ptr();
} catch (const std::exception&) {  // nothing has changed: the Python function raises it again
  return nullptr;
}

py::array_t<float> run_stream(Stream& stream, const py::array& x,
                              const std::optional<py::array>& out, bool batch_first,
                              std::size_t num_threads) {
  const GruSizes& sizes = stream.gru().sizes;
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
  const GruSizes& sizes = stream.gru().sizes;
  const Busy busy(stream);
  py::array_t<float> state = new_array({sizes.num_layers, stream.batch_size(), sizes.hidden_size});
  std::copy_n(stream.state(), state.size(), state.mutable_data());
  return state;
}

void set_state(Stream& stream, const py::array& state) {
  const GruSizes& sizes = stream.gru().sizes;
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
      .def(py::init(&make_stream), py::arg("gru"), py::arg("batch_size"), py::arg("h_0"))
      .def("step", &step, py::arg("x"), py::arg("out"), py::arg("num_threads") = 0)
      .def("run", &run_stream, py::arg("x"), py::arg("out"), py::arg("batch_first"),
           py::arg("num_threads"))
      .def("get_state", &get_state)
      .def("set_state", &set_state, py::arg("state"))
      .def("reset", &reset, py::arg("rows"))
      .def("copy", &copy_stream)
      .def_property_readonly("batch_size", &Stream::batch_size);
  bind_shortcut(m, "shortcut_step", &fast_step);
}

}  // namespace fastgru
