// What the files of the Python module share beside arrays: the packed GRU and the rules of the GIL.
//
// Note [GIL]
// Taking the GIL back under contention costs far more than a small step, so it is released only
// around calls estimated at more than 10 us.
#pragma once

#include <cxxabi.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "network/functions.hpp"
#include "network/pack.hpp"
#include "plan/plan.hpp"
#include "python/arrays.hpp"
#include "system/parallel.hpp"

namespace fastgru {

constexpr double kReleaseGilFrom = 10.0;  // microseconds, see Note [GIL]

// fastgru._core.GRU.
struct Gru {
  std::shared_ptr<const PackedGru> packed;
};

// Add fastgru._core.Stream and fastgru._core.Pool.
void bind_stream(py::module_& m);
void bind_pool(py::module_& m);
// Adds the layers around a GRU.
void bind_layers(py::module_& m);

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

// The threads of a call estimated at this many microseconds. Asking for the affinity costs a system
// call: not for calls that stay on one thread.
inline std::size_t threads_for(double microseconds, std::size_t requested) {
  return microseconds < kParallelFrom ? 1 : threads_to_use(requested);
}

// Note [Daemon threads]
// When the interpreter ends, CPython (before 3.14) ends a daemon thread that asks for the GIL with
// pthread_exit(), whose unwinding would meet pybind11's noexcept destructor and abort the process.
// The thread waits for the end instead, as it does from Python 3.14 on.
class ReleasedGil {
 public:
  // held: let go where the thread waits for the end.
  explicit ReleasedGil(std::unique_lock<std::mutex>* held = nullptr)
      : held_(held), state_(PyEval_SaveThread()) {}
  ~ReleasedGil() {
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
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

 private:
  std::unique_lock<std::mutex>* held_;
  PyThreadState* state_;
};

// Runs work(), estimated at this many microseconds, with the GIL released if it is long.
template <class Work>
void compute(double microseconds, Work work) {
  if (microseconds < kReleaseGilFrom) return work();
  const ReleasedGil released;
  work();
}

}  // namespace fastgru
