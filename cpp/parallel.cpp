// Note [Fork and libgomp]
// A child made by fork() has the parent's thread pool in memory but not its threads: its first
// region waits for them for ever. A region started by a thread that is new in the child gets a pool
// of its own. So a process remembers whether it is a child of one that has run a region
// (pthread_atfork), and such a child runs its regions from a fresh thread each.
#include "parallel.hpp"

#include <algorithm>
#include <cstdlib>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace fastgru {
namespace {

std::atomic<std::size_t> chosen_threads{0};  // 0: not chosen
std::atomic<std::size_t> core_limit{SIZE_MAX};

// A positive number, or 0. OMP_NUM_THREADS may be a list ("4,2"): its first entry counts.
std::size_t threads_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (!text) return 0;
  char* end = nullptr;
  const long n = std::strtol(text, &end, 10);
  return end != text && n > 0 ? static_cast<std::size_t>(n) : 0;
}

std::size_t environment_threads() {
  static const std::size_t n = [] {
    const std::size_t own = threads_from_environment("FASTGRU_NUM_THREADS");
    return own ? own : threads_from_environment("OMP_NUM_THREADS");
  }();
  return n;
}

std::size_t affinity_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    const int n = CPU_COUNT(&set);
    if (n > 0) return static_cast<std::size_t>(n);
  }
#endif
  return std::max<std::size_t>(1, std::thread::hardware_concurrency());
}

#if defined(_OPENMP)
std::atomic<bool> region_has_run{false};
std::atomic<bool> forked_after_region{false};

void start_region(std::size_t threads, void (*body)(void*, std::size_t, std::size_t),
                  void* context) {
  bool too_few = false;
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    if (static_cast<std::size_t>(omp_get_num_threads()) == threads)
      body(context, static_cast<std::size_t>(omp_get_thread_num()), threads);
    else if (omp_get_thread_num() == 0)
      too_few = true;
  }
  if (too_few) body(context, 0, 1);
}

// See Note [Fork and libgomp].
void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    if (region_has_run.load(std::memory_order_relaxed)) forked_after_region = true;
  });
  (void)registered;
#endif
}
#endif

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

std::size_t default_num_threads() {
  if (const std::size_t n = chosen_threads.load(std::memory_order_relaxed)) return n;
  if (const std::size_t n = environment_threads()) return n;
  return available_cores();
}

void set_default_num_threads(std::size_t n) { chosen_threads = n; }

std::size_t available_cores() { return std::min(affinity_cores(), core_limit.load()); }

void set_core_limit(std::size_t n) { core_limit = n; }

std::size_t threads_to_use(std::size_t requested) {
  return std::min(requested ? requested : default_num_threads(), available_cores());
}

const char* openmp_runtime() {
#if !defined(_OPENMP)
  return "none";
#elif defined(__clang__)
  return "libomp";
#elif defined(__GNUC__)
  return "libgomp";
#else
  return "openmp";
#endif
}

void run_parallel(std::size_t threads, void (*body)(void*, std::size_t, std::size_t),
                  void* context) {
  if (threads <= 1) return body(context, 0, 1);
#if defined(_OPENMP)
  watch_forks();
  if (forked_after_region.load(std::memory_order_relaxed)) {
    std::thread([=] { start_region(threads, body, context); }).join();
  } else {
    region_has_run.store(true, std::memory_order_relaxed);
    start_region(threads, body, context);
  }
#else
  body(context, 0, 1);
#endif
}

void Barrier::wait() {
  const std::size_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  // 2000 pauses are about 20 us on Zen 4: longer waits mean that a core is missing.
  for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins)
    spins < 2000 ? pause() : std::this_thread::yield();
}

}  // namespace fastgru
