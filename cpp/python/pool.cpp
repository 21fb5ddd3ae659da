// fastgru._core.Pool: many live sequences in slabs, one call at a time.
#include <pybind11/stl.h>

#include <mutex>

#include "python/bindings.hpp"
#include "python/shortcut.hpp"
#include "run/pool.hpp"

namespace fastgru {
namespace {

// Holds a pool for one call, unless it is shut down. Whoever waits for it gives up the GIL, so that
// whoever has it can take the GIL back. While it is held no Python object is made: that may collect
// garbage, and with it run a __del__ that closes a session.
class Held {
 public:
  explicit Held(Pool& pool) : lock_(pool.mutex(), std::try_to_lock) {
    if (!lock_) wait(pool);
    pool.taken_after_forks = forks_so_far();
    if (pool.is_shut_down()) throw std::runtime_error("this pool is shut down");
  }

  // Runs work(), estimated at this many microseconds: the last use of the pool in this call.
  template <class Work>
  void compute(double microseconds, Work work) {
    if (microseconds < kReleaseGilFrom) return work();
    const ReleasedGil released(&lock_);
    work();
    lock_.unlock();  // before waiting for the GIL
  }

 private:
  void wait(Pool& pool) {
    // A thread that had it at the fork is not in this process.
    if (pool.taken_after_forks != forks_so_far())
      throw std::runtime_error(
          "another thread was using this pool when the process forked: make a new one");
    const ReleasedGil released(&lock_);
    lock_.lock();
  }
  std::unique_lock<std::mutex> lock_;
};

// Roughly, of copying states: 5 GB/s.
double copy_microseconds(const Pool& pool, std::size_t n) {
  double bytes = 0;
  for (const auto& gru : pool.grus())
    bytes += static_cast<double>(4 * n * gru->sizes.num_layers * gru->sizes.hidden_size);
  return bytes / 5e3;
}

std::unique_ptr<Pool> make_pool(const std::vector<const Gru*>& grus, std::size_t capacity) {
  Pool::Grus packed;
  if (grus.empty()) throw py::value_error("pool: expected a model");
  for (const Gru* gru : grus) {
    if (gru->packed->sizes.num_directions != 1)
      throw py::value_error(
          "pool: the model is bidirectional; its reverse direction starts at the end "
          "of a sequence, which a pool has not seen");
    if (gru->packed->sizes.reverse)
      throw py::value_error("pool: the model runs from the end of a sequence to its start");
    packed.push_back(gru->packed);
  }
  return std::make_unique<Pool>(std::move(packed), capacity);
}

using Arrays = std::vector<py::array>;

// Where each GRU's states are, checked: (L, n, H), or (L, H) of one session.
std::vector<const float*> states_data(const Pool& pool, const char* name,
                                      const std::optional<std::size_t>& n, const Arrays& states) {
  if (states.size() != pool.grus().size())
    throw ShapeError(std::string(name) + ": expected " + std::to_string(pool.grus().size()) +
                     " arrays, got " + std::to_string(states.size()));
  std::vector<const float*> data;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const GruSizes& sizes = pool.grus()[i]->sizes;
    const std::string label = states.size() == 1 ? name : name + ("[" + std::to_string(i) + "]");
    const auto check = [&](std::initializer_list<std::size_t> shape) {
      if (!has_shape(states[i], shape)) wrong_shape(label.c_str(), tuple_text(shape), states[i]);
    };
    n ? check({sizes.num_layers, *n, sizes.hidden_size})
      : check({sizes.num_layers, sizes.hidden_size});
    data.push_back(contiguous(states[i], label.c_str()));
  }
  return data;
}

// New arrays for the states of n sessions, or of one.
std::pair<std::vector<py::array_t<float>>, std::vector<float*>> new_states(
    const Pool& pool, const std::optional<std::size_t>& n) {
  std::vector<py::array_t<float>> states;
  std::vector<float*> data;
  for (const auto& gru : pool.grus()) {
    const GruSizes& sizes = gru->sizes;
    states.push_back(n ? new_array({sizes.num_layers, *n, sizes.hidden_size})
                       : new_array({sizes.num_layers, sizes.hidden_size}));
    data.push_back(states.back().mutable_data());
  }
  return {std::move(states), std::move(data)};
}

SessionId open_session(Pool& pool, const std::optional<Arrays>& h_0) {
  std::vector<const float*> states;
  if (h_0) states = states_data(pool, "h_0", std::nullopt, *h_0);
  const Held held(pool);
  return pool.open(h_0 ? states.data() : nullptr);
}

void close_session(Pool& pool, SessionId id) {
  const Held held(pool);
  pool.close(id);
}

std::vector<py::array_t<float>> get_state(Pool& pool, SessionId id) {
  auto [states, data] = new_states(pool, std::nullopt);
  {
    const Held held(pool);
    pool.read(&id, 1, data.data(), nullptr);
  }
  return std::move(states);
}

void set_state(Pool& pool, SessionId id, const Arrays& states) {
  const std::vector<const float*> data = states_data(pool, "state", std::nullopt, states);
  const Held held(pool);
  pool.write(&id, 1, data.data(), nullptr);
}

const SessionId* ids_data(const py::array& ids) {
  if (ids.ndim() != 1) throw ShapeError("ids: expected (n,), got " + shape_text(ids));
  return contiguous<SessionId>(ids, "ids");
}

// Throws what a call with these ids would.
void check_ids(Pool& pool, const py::array& ids) {
  const SessionId* const sessions = ids_data(ids);
  const Held held(pool);
  pool.check(sessions, static_cast<std::size_t>(ids.shape(0)));
}

// States and versions.
std::pair<std::vector<py::array_t<float>>, py::array_t<std::uint64_t>> read(Pool& pool,
                                                                            const py::array& ids) {
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  auto [states, data] = new_states(pool, n);
  py::array_t<std::uint64_t> versions(static_cast<py::ssize_t>(n));
  std::uint64_t* const to = versions.mutable_data();
  Held held(pool);
  held.compute(copy_microseconds(pool, n),
               [&, &data = data] { pool.read(sessions, n, data.data(), to); });
  return {std::move(states), std::move(versions)};
}

void write(Pool& pool, const py::array& ids, const Arrays& states, const py::array& versions) {
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  const std::vector<const float*> data = states_data(pool, "states", n, states);
  if (!has_shape(versions, {n})) wrong_shape("versions", tuple_text({n}), versions);
  const auto* const expected = contiguous<std::uint64_t>(versions, "versions");
  Held held(pool);
  held.compute(copy_microseconds(pool, n), [&] { pool.write(sessions, n, data.data(), expected); });
}

py::array_t<float> step(Pool& pool, const py::array& ids, const py::array& x,
                        const std::optional<py::array>& out, std::size_t num_threads) {
  if (pool.grus().size() != 1) throw py::value_error("step: this pool has several GRUs");
  const GruSizes& sizes = pool.grus()[0]->sizes;
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
  held.compute(microseconds, [&] { pool.step(sessions, n, from, to, threads); });
  return y;
}

// Note [Shortcut] for fastgru.Pool.step, whose `self` holds its _core.Pool as `_core`.
PyObject* fast_step(PyObject* const* args, std::size_t count, PyObject* names) try {
  static PyObject* const core_name = PyUnicode_InternFromString("_core");
  static PyObject* const out_name = PyUnicode_InternFromString("out");
  const py::ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  if (count != 3 || named > 1 || !is_array_of<SessionId>(args[1]) || !is_array_of(args[2]))
    return nullptr;
  std::optional<py::array> out;
  if (named == 1) {
    if (PyTuple_GET_ITEM(names, 0) != out_name || !is_array_of(args[3])) return nullptr;
    out = py::reinterpret_borrow<py::array>(args[3]);
  }
  const auto core = py::reinterpret_steal<py::object>(PyObject_GetAttr(args[0], core_name));
  auto* const pool = object_of<Pool>(core.ptr());
  const auto ids = py::reinterpret_borrow<py::array>(args[1]);
  if (!pool) return nullptr;
  const double microseconds =
      estimate_microseconds(pool->grus()[0]->sizes, 1, static_cast<std::size_t>(ids.size()));
  return step(*pool, ids, py::reinterpret_borrow<py::array>(args[2]), out,
              threads_of(args[0], microseconds, false))
      .release()
      .ptr();
} catch (const std::exception&) {  // nothing has changed: the Python function raises it again
  return nullptr;
}

std::size_t size(Pool& pool) {
  const Held held(pool);
  return pool.size();
}

// Calls take(ids) with the pool held and the GIL not, for an array as long as there are sessions.
template <class Make, class Take>
py::array_t<SessionId> all_ids(Pool& pool, Make make, Take take) {
  while (true) {
    const std::size_t n = size(pool);
    py::array_t<SessionId> ids(static_cast<py::ssize_t>(n));
    SessionId* const to = ids.mutable_data();
    make(n);
    Held held(pool);
    if (pool.size() != n) continue;  // meanwhile
    held.compute(copy_microseconds(pool, n), [&] {
      pool.ids(to);
      take(to, n);
    });
    return ids;
  }
}

py::array_t<SessionId> session_ids(Pool& pool) {
  return all_ids(pool, [](std::size_t) {}, [](const SessionId*, std::size_t) {});
}

py::tuple snapshot(Pool& pool) {
  std::vector<py::array_t<float>> states;
  std::vector<float*> data;
  const auto ids = all_ids(
      pool, [&](std::size_t n) { std::tie(states, data) = new_states(pool, n); },
      [&](const SessionId* all, std::size_t n) { pool.read(all, n, data.data(), nullptr); });
  return py::make_tuple(ids, states);
}

void restore(Pool& pool, const py::array& ids, const Arrays& states) {
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  const std::vector<const float*> data = states_data(pool, "states", n, states);
  Held held(pool);
  held.compute(copy_microseconds(pool, n), [&] { pool.restore(sessions, n, data.data()); });
}

void shut_down(Pool& pool) {
  const Held held(pool);
  pool.shut_down();
}

}  // namespace

void bind_pool(py::module_& m) {
  py::class_<Pool>(m, "Pool")
      .def(py::init(&make_pool), py::arg("grus"), py::arg("capacity"))
      .def("open", &open_session, py::arg("h_0"))
      .def("close", &close_session, py::arg("session"))
      .def("get_state", &get_state, py::arg("session"))
      .def("set_state", &set_state, py::arg("session"), py::arg("state"))
      .def("check", &check_ids, py::arg("ids"))
      .def("read", &read, py::arg("ids"))
      .def("write", &write, py::arg("ids"), py::arg("states"), py::arg("versions"))
      .def("step", &step, py::arg("ids"), py::arg("x"), py::arg("out"), py::arg("num_threads"))
      .def("ids", &session_ids)
      .def("snapshot", &snapshot)
      .def("restore", &restore, py::arg("ids"), py::arg("states"))
      .def("shutdown", &shut_down)
      .def("__len__", &size)
      .def_property_readonly("capacity", &Pool::capacity);
  bind_shortcut(m, "shortcut_pool_step", &fast_step);
}

}  // namespace fastgru
