// What the files of the Python module share beside arrays: layers, networks, and the rules of the
// GIL and of signals.
//
// Note [GIL]
// Taking the GIL back under contention costs far more than a small step, so it is released only
// around calls estimated at more than 8 us.
//
// Note [Signals]
// A signal's handler that raises would otherwise do so when a call returns: the states have
// advanced and the result is lost. So what changes states computes first, then lets handlers run,
// and only then commits.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "network/functions.hpp"
#include "network/network.hpp"
#include "plan/cost.hpp"
#include "python/arrays.hpp"
#include "run/pool.hpp"
#include "system/parallel.hpp"

namespace fastgru {

constexpr double kReleaseGilFrom = 8.0;  // microseconds, see Note [GIL]
static_assert(kShort <= kReleaseGilFrom, "shorter calls are not estimated, only bounded");
static_assert(kParallelFrom >= kReleaseGilFrom,
              "a call that may use threads must not hold the GIL: raise kParallelFrom or lower "
              "kReleaseGilFrom");

// fastgru._core.Network, and each of the layers as a network of one.
struct Network {
  std::shared_ptr<const PackedNetwork> packed;
  // For streams and pools; null where it cannot run step by step.
  std::shared_ptr<const PackedNetwork> by_steps;
};
struct Layer : Network {};
// The Python types of layers.
struct Gru : Layer {};
struct LinearLayer : Layer {};
struct LayerNormLayer : Layer {};
struct ActivationLayer : Layer {};
struct SoftmaxLayer : Layer {};
struct EmbeddingLayer : Layer {};
struct OneHotLayer : Layer {};
struct OverTimeLayer : Layer {};

Network make_network(std::vector<NetworkLayer> layers, std::size_t input_size);

// The layer's own part of its network.
template <class T>
const T& layer_of(const Network& network) {
  return std::get<T>(network.packed->layers.front());
}

void bind_networks(py::module_& m);  // first: Network and Layer
void bind_gru(py::module_& m);
void bind_layers(py::module_& m);
void bind_stream(py::module_& m);
void bind_pool(py::module_& m);

// A choice that Python makes by name.
template <class T>
struct Named {
  const char* name;
  T value;
};
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

// The same of the functions that may stand in a place: candidate, gate or layer.
inline Function function_named(bool NamedFunction::* place, const char* what,
                               const std::string& name) {
  std::string choices;
  for (const NamedFunction& entry : kFunctions) {
    if (!(entry.*place)) continue;
    if (name == entry.name) return entry.value;
    choices += (choices.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw py::value_error(std::string(what) + ": expected one of " + choices + ", got '" + name +
                        "'");
}

// A Python exception is set, and must reach the caller.
struct Raised {};

// Lets the handlers of signals run: see Note [Signals]. Throws Raised where one raises.
inline void run_signal_handlers() {
  if (PyErr_CheckSignals() != 0) throw Raised();
}

// Note [Daemon threads]
// When the interpreter ends, CPython (before 3.14) ends a daemon thread that asks for the GIL with
// pthread_exit(), whose unwinding would meet pybind11's noexcept destructor and abort the process.
// The thread waits for the end instead, as it does from Python 3.14 on.
class ReleasedGil {
 public:
  // held: let go where the thread waits for the end.
  explicit ReleasedGil(std::unique_lock<ForkAwareMutex>* held = nullptr)
      : held_(held), state_(PyEval_SaveThread()) {}
  ~ReleasedGil() { restore(); }
  // Runs work() with the GIL, which must not throw.
  template <class Work>
  void hold_for(Work work) {
    restore();
    work();
    state_ = PyEval_SaveThread();
  }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  void restore() {
#if defined(__GLIBCXX__)  // elsewhere pthread_exit() does not unwind
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      if (held_ && held_->owns_lock()) held_->unlock();
      while (true) std::this_thread::sleep_for(std::chrono::hours(1));
    }
#else
    PyEval_RestoreThread(state_);
#endif
  }

  std::unique_lock<ForkAwareMutex>* held_;
  PyThreadState* state_;
};

// Calls that take longer than this can be ended by a signal's handler that raises, in a thread that
// runs such handlers. Asking for it takes the GIL back for a moment.
constexpr double kInterruptibleFrom = 50e3;  // microseconds
constexpr double kAskEvery = 50;             // milliseconds

// Whether this is a thread that runs the handlers of signals: in other threads nobody is asked.
inline bool runs_signal_handlers() {
#if defined(__linux__)
  return syscall(SYS_gettid) == getpid();
#else
  return true;
#endif
}

// Lets handlers run while a call has given the GIL away.
class SignalWatch {
 public:
  explicit SignalWatch(ReleasedGil* released) : released_(released) {}
  Interrupt interrupt() {
    return {[](void* self) { return static_cast<SignalWatch*>(self)->wanted(); }, this, kAskEvery};
  }

 private:
  bool wanted() {
    if (raised_) return true;
    released_->hold_for([this] { raised_ = PyErr_CheckSignals() != 0; });
    return raised_;
  }
  ReleasedGil* released_;
  bool raised_ = false;
};

// Runs a call of a network, with the GIL released if it is long. Throws Raised where a signal's
// handler raises, and then the states that h_n points to hold anything.
template <class Run>
void compute(Call& call, std::unique_lock<ForkAwareMutex>* held, Run run_call) {
  if (call.estimate < kReleaseGilFrom) {
    run_call(call);
    return;
  }
  bool ended = true;
  {
    ReleasedGil released(held);
    SignalWatch watch(&released);
    const Interrupt interrupt = watch.interrupt();
    if (call.estimate >= kInterruptibleFrom && runs_signal_handlers()) call.interrupt = &interrupt;
    ended = run_call(call);
  }
  if (!ended) throw Raised();
}

// x as a network takes it: its view, or indices that are checked and copied, since their owner may
// write to them. Sets x or indices of a call, and its width.
void set_input(Call& call, const PackedNetwork& network, const py::array& x, const Sequences& s);

// The same of one step: x (B, I), or (I,) where `single`; of indices (B,) or a single one.
void set_step(Call& call, const PackedNetwork& network, const py::array& x, bool single);

// Whether x has the rows of one step of B sequences: 1 with a batch axis, 2 without, 0 not at all.
int step_rows(const PackedNetwork& network, const py::array& x, std::size_t B);

// What a message expects of x there.
std::string step_text(const PackedNetwork& network, std::size_t B, bool may_be_single);

// T, B and the layout of x (T, B, I), (B, T, I) with batch_first, or (T, I), of indices without I;
// ShapeError.
Sequences sequences_of(const PackedNetwork& network, const char* name, const py::array& x,
                       bool batch_first);

// Estimates a call, so that run() need not.
inline double estimate(const PackedNetwork& network, Call& call) {
  call.estimate = estimate_microseconds(network, call.T, call.B, call.width);
  return call.estimate;
}

}  // namespace fastgru
