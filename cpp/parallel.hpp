// Threads: the only place that knows OpenMP, and the only reader of FASTGRU_NUM_THREADS and
// OMP_NUM_THREADS. One region per call at most; none for one thread.
#pragma once

#include <atomic>
#include <cstddef>

namespace fastgru {

// set_num_threads, else FASTGRU_NUM_THREADS, else OMP_NUM_THREADS, else available_cores().
// Throws std::invalid_argument where FASTGRU_NUM_THREADS is no positive integer.
std::size_t default_num_threads();
void set_default_num_threads(std::size_t n);  // n >= 1

// Cores by the calling thread's affinity now, and no more than the limit (cgroup quota).
std::size_t available_cores();
void set_core_limit(std::size_t n);

// The threads of a call that asks for `requested` (0: the default): no more than the cores.
std::size_t threads_to_use(std::size_t requested);

// "libgomp", "libomp", or "none" without OpenMP.
const char* openmp_runtime();

// Calls body(context, index, count) on `count` threads, index 0 .. count - 1, and waits for all.
// `count` is `threads`, or 1 where the runtime gives fewer: a body may build barriers on count.
// body must not throw. Safe in a forked child of a process that ran regions.
void run_parallel(std::size_t threads, void (*body)(void*, std::size_t, std::size_t),
                  void* context);

template <class Body>
void parallel(std::size_t threads, Body body) {
  run_parallel(
      threads,
      [](void* context, std::size_t index, std::size_t count) {
        (*static_cast<Body*>(context))(index, count);
      },
      &body);
}

// A light barrier for threads that run at once inside one region: it spins, then yields.
class Barrier {
 public:
  explicit Barrier(std::size_t count) : count_(count) {}
  void wait();

 private:
  const std::size_t count_;
  std::atomic<std::size_t> arrived_{0};
  std::atomic<std::size_t> generation_{0};
};

}  // namespace fastgru
