// Threads: the only place that knows OpenMP, and the only reader of FASTGRU_NUM_THREADS and
// OMP_NUM_THREADS. One region per call at most; none for one thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

namespace fastgru {

// set_num_threads, else FASTGRU_NUM_THREADS, else OMP_NUM_THREADS, else available_cores(); without
// OpenMP 1, whatever they say: each of them is a ceiling.
// Throws std::invalid_argument where FASTGRU_NUM_THREADS is no positive integer.
std::size_t default_num_threads();
void set_default_num_threads(std::size_t n);  // n >= 1

// Cores by the calling thread's affinity now, and no more than the limit (cgroup quota).
std::size_t available_cores();
void set_core_limit(std::size_t n);

// The threads of a call that asks for `requested` (0: the default): no more than the cores, and 1
// without OpenMP.
std::size_t threads_to_use(std::size_t requested);

// "libgomp", "libomp", or "none" without OpenMP.
const char* openmp_runtime();

// Between the first process that loaded this and the current one.
unsigned forks_so_far();

// Whether another thread starts the regions of the calling one, as in every forked child: Note
// [Fork and libgomp].
bool regions_are_handed_over();

// The core that the calling thread is on; -1 where the system does not tell.
int current_core();
// Moves the calling thread away from `core`, if it may run elsewhere: Note [A core each].
void leave_core(int core);

// Calls body(context, index) on `threads` > 1 threads at once, index 0 .. threads - 1, and waits
// for all. False, with nothing called, where the runtime gives fewer: a body may build barriers on
// the count. body must not throw. Safe in a forked child of a process that ran regions.
// meanwhile(context) is called every few milliseconds by the calling thread where it has no part in
// the region itself, which a forked child's may not; null: it is not called.
bool run_parallel(std::size_t threads, void (*body)(void*, std::size_t), void (*meanwhile)(void*),
                  void* context);

template <class Body>
bool parallel(std::size_t threads, Body body) {
  return run_parallel(
      threads, [](void* context, std::size_t index) { (*static_cast<Body*>(context))(index); },
      nullptr, &body);
}

template <class Body, class Meanwhile>
bool parallel(std::size_t threads, Body body, Meanwhile meanwhile) {
  std::pair<Body&, Meanwhile&> both(body, meanwhile);
  return run_parallel(
      threads,
      [](void* context, std::size_t index) {
        static_cast<std::pair<Body&, Meanwhile&>*>(context)->first(index);
      },
      [](void* context) { static_cast<std::pair<Body&, Meanwhile&>*>(context)->second(); }, &both);
}

// A thread's place in a Barrier; a cache line of its own.
struct alignas(64) Arrival {
  std::atomic<std::size_t> times{0};
};

// A light barrier for a few threads that run at once inside one region: each says in its own line
// that it is there and reads the others' (for two threads one line's way there and back). Spins,
// then yields. One thread's view of it.
class Barrier {
 public:
  // patience: microseconds of giving the core away after which a wait counts as long.
  // given_up: where it is true, nobody waits any more; null: nobody gives up.
  Barrier(Arrival* arrivals, std::size_t index, std::size_t count, double patience = kPatience,
          const std::atomic<bool>* given_up = nullptr)
      : arrivals_(arrivals),
        index_(index),
        count_(count),
        patience_(patience),
        given_up_(given_up) {}
  // Threads with little and equal work that wait longer lack a core.
  static constexpr double kPatience = 50;
  std::size_t count() const { return count_; }
  void wait();
  // How often it took so long that the other one can have had no core.
  std::size_t long_waits() const { return long_waits_; }

 private:
  Arrival* arrivals_;
  std::size_t index_, count_;
  double patience_;
  const std::atomic<bool>* given_up_;
  std::size_t times_ = 0;
  std::size_t long_waits_ = 0;
};

}  // namespace fastgru
