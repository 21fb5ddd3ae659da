// fastgru._core.Pool: many live sequences in slabs; calls that touch states take turns.
#include <pybind11/stl.h>

#include <mutex>

#include "python/bindings.hpp"
#include "python/shortcut.hpp"
#include "run/pool.hpp"

namespace fastgru {
namespace {

// A turn at a pool. Whoever waits for it gives up the GIL, so that whoever has it can take the GIL
// back. A thread that has it and asks for it again (from a signal's handler, or a __del__ that
// garbage collection runs) is refused, since it would wait for itself.
class Turn {
 public:
  explicit Turn(Pool& pool) : pool_(pool), lock_(pool.turns(), std::try_to_lock) {
    if (!lock_) {
      if (holder() == &pool)
        throw std::runtime_error(
            "this pool is in a call of this very thread: a signal's handler "
            "can only open and close its sessions");
      const ReleasedGil released(&lock_);
      lock_.lock();
    }
    outer_ = holder();
    holder() = &pool;
  }
  ~Turn() { holder() = outer_; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  std::unique_lock<ForkAwareMutex>* lock() { return &lock_; }
  // Runs work(), estimated at this many microseconds: the last use of the pool in this call.
  template <class Work>
  void finish(double microseconds, Work work) {
    if (microseconds < kReleaseGilFrom) return work();
    const ReleasedGil released(&lock_);
    work();
    lock_.unlock();  // before waiting for the GIL
  }

 private:
  // The pool that this thread has a turn at.
  static const Pool*& holder() {
    thread_local const Pool* pool = nullptr;
    return pool;
  }
  Pool& pool_;
  std::unique_lock<ForkAwareMutex> lock_;
  const Pool* outer_ = nullptr;
};

// Roughly, of copying states: 5 GB/s.
double copy_microseconds(const Pool& pool, std::size_t n) {
  double bytes = 0;
  for (const PackedGru* gru : pool.network().grus)
    bytes += static_cast<double>(4 * n * gru->sizes.num_layers * gru->sizes.hidden_size);
  return bytes / 5e3;
}

std::unique_ptr<Pool> make_pool(const Network& network, std::size_t capacity) {
  if (!network.by_steps)
    throw py::value_error(
        "pool: the network needs the end of a sequence, which a pool has not seen");
  if (network.by_steps->grus.empty()) throw py::value_error("pool: the network has no GRU");
  return std::make_unique<Pool>(network.by_steps, capacity);
}

using Arrays = std::vector<py::array>;

// Where each stack's states are, checked: (L, n, H), or (L, H) of one session.
States states_data(const Pool& pool, const char* name, const std::optional<std::size_t>& n,
                   const Arrays& states) {
  const auto& grus = pool.network().grus;
  if (states.size() != grus.size())
    throw ShapeError(std::string(name) + ": expected " + std::to_string(grus.size()) +
                     " arrays, got " + std::to_string(states.size()));
  States data;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const GruSizes& sizes = grus[i]->sizes;
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
  for (const PackedGru* gru : pool.network().grus) {
    const GruSizes& sizes = gru->sizes;
    states.push_back(n ? new_array({sizes.num_layers, *n, sizes.hidden_size})
                       : new_array({sizes.num_layers, sizes.hidden_size}));
    data.push_back(states.back().mutable_data());
  }
  return {std::move(states), std::move(data)};
}

SessionId open_session(Pool& pool, const std::optional<Arrays>& h_0) {
  const States states = h_0 ? states_data(pool, "h_0", std::nullopt, *h_0) : States();
  while (true) {
    try {
      return pool.open(states);
    } catch (const PoolFull&) {
      if (!pool.waits_for_slots()) throw;
    }
    const Turn turn(pool);  // when it comes, the turn before has ended
  }
}

std::vector<py::array_t<float>> get_state(Pool& pool, SessionId id) {
  auto [states, data] = new_states(pool, std::nullopt);
  {
    const Turn turn(pool);
    pool.read(&id, 1, data.data());
  }
  return std::move(states);
}

void set_state(Pool& pool, SessionId id, const Arrays& states) {
  const States data = states_data(pool, "state", std::nullopt, states);
  const Turn turn(pool);
  pool.write(&id, 1, data);
}

const SessionId* ids_data(const py::array& ids) {
  if (ids.ndim() != 1) throw ShapeError("ids: expected (n,), got " + shape_text(ids));
  return contiguous<SessionId>(ids, "ids");
}

// Throws what a call with these ids would.
void check_ids(Pool& pool, const py::array& ids) {
  const SessionId* const sessions = ids_data(ids);
  const Turn turn(pool);
  pool.check(sessions, static_cast<std::size_t>(ids.shape(0)));
}

py::array_t<float> step(Pool& pool, const py::array& ids, const py::array& x,
                        const std::optional<py::array>& out, std::size_t num_threads) {
  const PackedNetwork& network = pool.network();
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  if (!network.takes_indices) check_view(x, "x");
  if (step_rows(network, x, n) != 1) wrong_shape("x", step_text(network, n, false), x);
  Call call;
  call.T = 1;
  call.B = n;
  set_step(call, network, x, false);
  const std::size_t size = network.output_size(call.width);
  py::array_t<float> y = output(
      out, x, [&](const py::array& a) { return has_shape(a, {n, size}); },
      [&] { return new_array({n, size}); });
  call.y = {y.mutable_data(), 0, static_cast<std::ptrdiff_t>(size)};
  estimate(network, call);
  call.max_threads = num_threads;
  Turn turn(pool);
  // Whether there is a step to commit or to give up: not where ids are wrong.
  bool computed = false;
  try {
    compute(call, turn.lock(), [&](const Call& c) {
      computed = true;
      try {
        return pool.advance(sessions, n, c);
      } catch (...) {
        computed = false;
        throw;
      }
    });
    run_signal_handlers();
  } catch (...) {
    if (computed) pool.give_up();
    throw;
  }
  turn.finish(copy_microseconds(pool, n), [&] { pool.commit(); });
  return y;
}

// Note [Shortcut] for the step of fastgru's pools, whose `self` holds its _core.Pool as `_core`.
PyObject* fast_step(PyObject* const* args, std::size_t count, PyObject* names) {
  static PyObject* const core_name = PyUnicode_InternFromString("_core");
  static PyObject* const out_name = PyUnicode_InternFromString("out");
  const py::ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  if (count != 3 || named > 1 || !is_array_of<SessionId>(args[1])) return nullptr;
  std::optional<py::array> out;
  if (named == 1) {
    if (PyTuple_GET_ITEM(names, 0) != out_name || !is_array_of(args[3])) return nullptr;
    out = py::reinterpret_borrow<py::array>(args[3]);
  }
  const auto core = py::reinterpret_steal<py::object>(PyObject_GetAttr(args[0], core_name));
  auto* const pool = object_of<Pool>(core.ptr());
  if (!pool) return nullptr;
  const PackedNetwork& network = pool->network();
  if (network.takes_indices ? !is_array_of<std::int64_t>(args[2]) : !is_array_of(args[2]))
    return nullptr;
  const auto ids = py::reinterpret_borrow<py::array>(args[1]);
  const double microseconds =
      estimate_microseconds(network, 1, static_cast<std::size_t>(ids.size()), network.input_size);
  return step(*pool, ids, py::reinterpret_borrow<py::array>(args[2]), out,
              threads_of(args[0], microseconds, false))
      .release()
      .ptr();
}

// The open sessions of one moment, and their states where they are asked for.
std::pair<py::array_t<SessionId>, std::vector<py::array_t<float>>> all_sessions(Pool& pool,
                                                                                bool with_states) {
  while (true) {
    const std::size_t n = pool.size();
    py::array_t<SessionId> ids(static_cast<py::ssize_t>(n));
    SessionId* const to = ids.mutable_data();
    std::vector<py::array_t<float>> states;
    std::vector<float*> data;
    if (with_states) std::tie(states, data) = new_states(pool, n);
    Turn turn(pool);
    bool done = false;
    turn.finish(copy_microseconds(pool, n),
                [&] { done = pool.snapshot(to, n, with_states ? data.data() : nullptr); });
    if (done) return {std::move(ids), std::move(states)};
  }
}

py::array_t<SessionId> session_ids(Pool& pool) { return all_sessions(pool, false).first; }

py::tuple snapshot(Pool& pool) {
  auto [ids, states] = all_sessions(pool, true);
  return py::make_tuple(std::move(ids), std::move(states));
}

void restore(Pool& pool, const py::array& ids, const Arrays& states) {
  const SessionId* const sessions = ids_data(ids);
  const auto n = static_cast<std::size_t>(ids.shape(0));
  const States data = states_data(pool, "states", n, states);
  Turn turn(pool);
  turn.finish(copy_microseconds(pool, n), [&] { pool.restore(sessions, n, data); });
}

void shut_down(Pool& pool) {
  const Turn turn(pool);
  pool.shut_down();
}

}  // namespace

void bind_pool(py::module_& m) {
  py::class_<Pool>(m, "Pool")
      .def(py::init(&make_pool), py::arg("network"), py::arg("capacity"))
      .def("open", &open_session, py::arg("h_0"))
      .def("close", &Pool::close, py::arg("session"))
      .def("contains", &Pool::contains, py::arg("session"))
      .def("get_state", &get_state, py::arg("session"))
      .def("set_state", &set_state, py::arg("session"), py::arg("state"))
      .def("check", &check_ids, py::arg("ids"))
      .def("step", &step, py::arg("ids"), py::arg("x"), py::arg("out"), py::arg("num_threads"))
      .def("ids", &session_ids)
      .def("snapshot", &snapshot)
      .def("restore", &restore, py::arg("ids"), py::arg("states"))
      .def("shutdown", &shut_down)
      .def("__len__", &Pool::size)
      .def_property_readonly("capacity", &Pool::capacity);
  bind_shortcut(m, "shortcut_pool_step", &fast_step);
}

}  // namespace fastgru
