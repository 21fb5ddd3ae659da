// fastgru._core.Pool: many live sequences in one slab, one call at a time.
#include <pybind11/stl.h>

#include <mutex>

#include "bindings.hpp"
#include "bindings_shortcut.hpp"
#include "pool.hpp"

namespace fastgru {
namespace {

// Holds a pool for one call, unless it is shut down. Whoever waits for it gives up the GIL, so that
// whoever has it can take the GIL back.
class Held {
 public:
  explicit Held(Pool& pool) : lock_(pool.mutex(), std::try_to_lock) {
    if (!lock_) wait();
    if (pool.is_shut_down()) throw std::runtime_error("this pool is shut down");
  }
  void release() { lock_.unlock(); }

 private:
  void wait() {
    const ReleasedGil released;
    lock_.lock();
  }
  std::unique_lock<std::mutex> lock_;
};

std::unique_ptr<Pool> make_pool(const Model& model, std::size_t capacity) {
  if (model.packed->sizes.num_directions != 1)
    throw py::value_error(
        "pool: the model is bidirectional; its reverse direction starts at the end "
        "of a sequence, which a pool has not seen");
  return std::make_unique<Pool>(model.packed, capacity);
}

const float* state_data(const Pool& pool, const char* name, const py::array& state) {
  const ModelSizes& sizes = pool.model().sizes;
  if (!has_shape(state, {sizes.num_layers, sizes.hidden_size}))
    wrong_shape(name, tuple_text({sizes.num_layers, sizes.hidden_size}), state);
  return contiguous(state, name);
}

SessionId open_session(Pool& pool, const std::optional<py::array>& h_0) {
  const float* const state = h_0 ? state_data(pool, "h_0", *h_0) : nullptr;
  const Held held(pool);
  return pool.open(state);
}

void close_session(Pool& pool, SessionId id) {
  const Held held(pool);
  pool.close(id);
}

py::array_t<float> get_state(Pool& pool, SessionId id) {
  const ModelSizes& sizes = pool.model().sizes;
  py::array_t<float> state = new_array({sizes.num_layers, sizes.hidden_size});
  const Held held(pool);
  pool.get_state(id, state.mutable_data());
  return state;
}

void set_state(Pool& pool, SessionId id, const py::array& state) {
  const float* const data = state_data(pool, "state", state);
  const Held held(pool);
  pool.set_state(id, data);
}

const SessionId* ids_data(const py::array& ids) {
  if (ids.ndim() != 1) throw ShapeError("ids: expected (n,), got " + shape_text(ids));
  if (is_plain<SessionId>(ids.ptr())) return static_cast<const SessionId*>(ids.data());
  check_type<SessionId>(ids, "ids");
  if (!(ids.flags() & py::array::c_style))
    throw py::value_error("ids: expected a C-contiguous array");
  return static_cast<const SessionId*>(ids.data());
}

py::array_t<float> step(Pool& pool, const py::array& ids, const py::array& x,
                        const std::optional<py::array>& out, std::size_t num_threads) {
  const ModelSizes& sizes = pool.model().sizes;
  const std::size_t hidden = sizes.hidden_size;
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  check_view(x, "x");
  if (!has_shape(x, {n, sizes.input_size})) wrong_shape("x", tuple_text({n, sizes.input_size}), x);
  py::array_t<float> y = output(
      out, x, [&](const py::array& a) { return has_shape(a, {n, hidden}); },
      [&] { return new_array({n, hidden}); });
  const SequenceView<const float> from{static_cast<const float*>(x.data()), 0, stride(x, 0)};
  const SequenceView<float> to{y.mutable_data(), 0, static_cast<std::ptrdiff_t>(hidden)};
  const double microseconds = estimate_microseconds(sizes, 1, n);
  const std::size_t threads = threads_for(microseconds, num_threads);
  Held held(pool);
  compute(microseconds, [&] {
    pool.step(sessions, n, from, to, threads);
    held.release();  // before waiting for the GIL
  });
  return y;
}

// Note [Shortcut] for fastgru.Pool.step, whose `self` holds its _core.Pool as `_core`.
PyObject* plain_step(PyObject* const* args, std::size_t count, PyObject* names) try {
  static PyObject* const core_name = PyUnicode_InternFromString("_core");
  static PyObject* const out_name = PyUnicode_InternFromString("out");
  const py::ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  if (count != 3 || named > 1 || !is_plain<SessionId>(args[1]) || !is_plain(args[2]))
    return nullptr;
  std::optional<py::array> out;
  if (named == 1) {
    if (PyTuple_GET_ITEM(names, 0) != out_name || !is_plain(args[3])) return nullptr;
    out = py::reinterpret_borrow<py::array>(args[3]);
  }
  const auto core = py::reinterpret_steal<py::object>(PyObject_GetAttr(args[0], core_name));
  auto* const pool = plain_object<Pool>(core.ptr());
  const auto ids = py::reinterpret_borrow<py::array>(args[1]);
  // The number of threads is Python's: a step that may use several goes there.
  if (!pool || estimate_microseconds(pool->model().sizes, 1,
                                     static_cast<std::size_t>(ids.size())) >= kParallelFrom)
    return nullptr;
  return step(*pool, ids, py::reinterpret_borrow<py::array>(args[2]), out, 1).release().ptr();
} catch (const std::exception&) {  // nothing has changed: the Python function raises it again
  return nullptr;
}

py::array_t<SessionId> to_array(const std::vector<SessionId>& ids) {
  return py::array_t<SessionId>(static_cast<py::ssize_t>(ids.size()), ids.data());
}

py::array_t<SessionId> session_ids(Pool& pool) {
  const Held held(pool);
  return to_array(pool.ids());
}

py::array_t<float> get_states(Pool& pool, const py::array& ids) {
  const ModelSizes& sizes = pool.model().sizes;
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  py::array_t<float> states = new_array({n, sizes.num_layers, sizes.hidden_size});
  const Held held(pool);
  pool.get_states(sessions, n, states.mutable_data());
  return states;
}

const float* states_data(const Pool& pool, std::size_t n, const py::array& states) {
  const ModelSizes& sizes = pool.model().sizes;
  if (!has_shape(states, {n, sizes.num_layers, sizes.hidden_size}))
    wrong_shape("states", tuple_text({n, sizes.num_layers, sizes.hidden_size}), states);
  return contiguous(states, "states");
}

void set_states(Pool& pool, const py::array& ids, const py::array& states) {
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  const float* const data = states_data(pool, n, states);
  const Held held(pool);
  pool.set_states(sessions, n, data);
}

py::tuple snapshot(Pool& pool) {
  const ModelSizes& sizes = pool.model().sizes;
  const Held held(pool);
  const std::vector<SessionId> ids = pool.ids();
  py::array_t<float> states = new_array({ids.size(), sizes.num_layers, sizes.hidden_size});
  pool.get_states(ids.data(), ids.size(), states.mutable_data());
  return py::make_tuple(pool.next_serial(), to_array(ids), states);
}

void restore(Pool& pool, std::int64_t next_serial, const py::array& ids, const py::array& states) {
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  const float* const data = states_data(pool, n, states);
  const Held held(pool);
  pool.restore(next_serial, sessions, n, data);
}

void shut_down(Pool& pool) {
  const Held held(pool);
  pool.shut_down();
}

std::size_t size(Pool& pool) {
  const Held held(pool);
  return pool.size();
}

}  // namespace

void bind_pool(py::module_& m) {
  py::class_<Pool>(m, "Pool")
      .def(py::init(&make_pool), py::arg("model"), py::arg("capacity"))
      .def("open", &open_session, py::arg("h_0"))
      .def("close", &close_session, py::arg("session"))
      .def("get_state", &get_state, py::arg("session"))
      .def("set_state", &set_state, py::arg("session"), py::arg("state"))
      .def("get_states", &get_states, py::arg("ids"))
      .def("set_states", &set_states, py::arg("ids"), py::arg("states"))
      .def("step", &step, py::arg("ids"), py::arg("x"), py::arg("out"), py::arg("num_threads"))
      .def("ids", &session_ids)
      .def("snapshot", &snapshot)
      .def("restore", &restore, py::arg("next_serial"), py::arg("ids"), py::arg("states"))
      .def("shutdown", &shut_down)
      .def("__len__", &size)
      .def_property_readonly("capacity", &Pool::capacity);
  bind_shortcut(m, "shortcut_pool_step", &plain_step);
}

}  // namespace fastgru
