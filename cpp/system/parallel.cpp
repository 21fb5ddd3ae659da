// Note [Fork and libgomp]
// A child made by fork() has the parent's thread pool in memory but not its threads: its first
// region would wait for them for ever. It does not matter who started the pool: PyTorch's wheel
// brings a libgomp under the same name, so there may be one runtime for both. A region started by a
// thread that is new in the child gets a pool of its own. So every thread that calls in a child has
// its regions started by a Runner, a thread that lives as long as its caller and keeps its pool.
#include "system/parallel.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "system/pause.hpp"

namespace fastgru {
namespace {

// Forks between the first process that loaded this and the current one.
std::atomic<unsigned> forks{0};

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int watching_forks = pthread_atfork(nullptr, nullptr, [] { ++forks; });
#endif

std::atomic<std::size_t> chosen_threads{0};  // 0: not chosen
std::atomic<std::size_t> core_limit{SIZE_MAX};

// The positive number in FASTGRU_NUM_THREADS, or 0 where it is not set or empty.
std::size_t own_threads() {
  const char* text = std::getenv("FASTGRU_NUM_THREADS");
  if (!text || !*text) return 0;
  char* end = nullptr;
  errno = 0;
  const long n = std::strtol(text, &end, 10);
  if (*end != 0 || n < 1 || errno == ERANGE)
    throw std::invalid_argument(
        std::string("FASTGRU_NUM_THREADS: expected an integer of at least 1, got '") + text + "'");
  return static_cast<std::size_t>(n);
}

// OpenMP's own variable, which may be a list ("4,2": its first entry counts) and which OpenMP
// ignores where it is malformed: 0 then.
std::size_t openmp_threads() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  const long n = text ? std::strtol(text, nullptr, 10) : 0;
  return n > 0 ? static_cast<std::size_t>(n) : 0;
}

std::size_t environment_threads() {
  static const std::size_t n = [] {
    const std::size_t own = own_threads();
    return own ? own : openmp_threads();
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
using Body = void (*)(void*, std::size_t);

// False where the runtime gave fewer threads.
bool start_region(std::size_t threads, Body body, void* context) {
  bool too_few = false;
  const int core = current_core();
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    if (omp_get_thread_num() != 0 && core >= 0 && current_core() == core) leave_core(core);
    if (static_cast<std::size_t>(omp_get_num_threads()) == threads)
      body(context, static_cast<std::size_t>(omp_get_thread_num()));
    else if (omp_get_thread_num() == 0)
      too_few = true;
  }
  return !too_few;
}

// Starts regions for one thread of a forked child: see Note [Fork and libgomp].
class Runner {
 public:
  Runner() : thread_([this] { serve(); }) {}
  ~Runner() {
    hand_over(nullptr, 0, nullptr);
    thread_.join();
  }
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  bool run(std::size_t threads, Body body, void (*meanwhile)(void*), void* context) {
    hand_over(body, threads, context);
    std::unique_lock<std::mutex> lock(mutex_);
    const auto ended = [this] { return !pending_; };
    while (meanwhile && !changed_.wait_for(lock, kMeanwhile, ended)) {
      lock.unlock();
      meanwhile(context);
      lock.lock();
    }
    changed_.wait(lock, ended);
    return ran_;
  }

 private:
  static constexpr std::chrono::milliseconds kMeanwhile{5};

  void hand_over(Body body, std::size_t threads, void* context) {
    const std::lock_guard<std::mutex> lock(mutex_);
    body_ = body;
    threads_ = threads;
    context_ = context;
    pending_ = true;
    changed_.notify_all();
  }
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return pending_; });
      if (!body_) return;
      lock.unlock();  // the caller may do something meanwhile; it hands over nothing new
      const bool ran = start_region(threads_, body_, context_);
      lock.lock();
      ran_ = ran;
      pending_ = false;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool pending_ = false;
  bool ran_ = false;
  Body body_ = nullptr;
  std::size_t threads_ = 0;
  void* context_ = nullptr;
  std::thread thread_;  // last: it uses the others
};

// The calling thread's Runner. One made before a further fork has no thread behind it any more: it
// is abandoned, not joined.
class OwnRunner {
 public:
  ~OwnRunner() {
    if (made_after_ == forks) delete runner_;
  }
  Runner& get() {
    if (!runner_ || made_after_ != forks) {
      runner_ = new Runner;
      made_after_ = forks;
    }
    return *runner_;
  }

 private:
  Runner* runner_ = nullptr;
  unsigned made_after_ = 0;
};
thread_local OwnRunner own_runner;
#endif

}  // namespace

unsigned forks_so_far() { return forks.load(std::memory_order_relaxed); }

bool regions_are_handed_over() { return forks_so_far() > 0; }

namespace {
// What the user chose for the process; 0: nothing.
std::size_t wanted_threads() {
  if (const std::size_t n = chosen_threads.load(std::memory_order_relaxed)) return n;
  return environment_threads();
}
}  // namespace

std::size_t default_num_threads() {
  const std::size_t wanted = wanted_threads();  // refuses a malformed environment in every build
#if defined(_OPENMP)
  return wanted ? wanted : available_cores();
#else
  (void)wanted;
  return 1;
#endif
}

void set_default_num_threads(std::size_t n) { chosen_threads = n; }

std::size_t available_cores() { return std::min(affinity_cores(), core_limit.load()); }

void set_core_limit(std::size_t n) { core_limit = n; }

std::size_t threads_to_use(std::size_t requested) {
  const std::size_t wanted = requested ? requested : wanted_threads();
#if defined(_OPENMP)
  if (wanted == 1) return 1;  // without the system call that tells the affinity
  const std::size_t cores = available_cores();
  return wanted ? std::min(wanted, cores) : cores;
#else
  (void)wanted;
  return 1;
#endif
}

const char* openmp_runtime() {
#if !defined(_OPENMP)
  return "none";
#elif defined(__clang__)
  return "libomp";
#else
  return "libgomp";
#endif
}

#if defined(__linux__)
int current_core() { return sched_getcpu(); }

// Note [A core each]
// Linux often wakes a thread on the core of the one that wakes it, where it runs when that one
// waits for it at last; after 20 ms of idleness and more the two shared a core for 15 ms or longer,
// and calls took 1.1 to 1.7 times as long as with one thread. A thread that finds itself on its
// caller's core goes to another one, by asking for all cores but that and then for all again.
void leave_core(int core) {
  cpu_set_t all, others;
  CPU_ZERO(&all);
  if (core < 0 || sched_getaffinity(0, sizeof all, &all) != 0) return;
  others = all;
  CPU_CLR(static_cast<std::size_t>(core), &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof all, &all);
}
#else
int current_core() { return -1; }
void leave_core(int) {}
#endif

bool run_parallel(std::size_t threads, void (*body)(void*, std::size_t), void (*meanwhile)(void*),
                  void* context) {
#if defined(_OPENMP)
  return regions_are_handed_over() ? own_runner.get().run(threads, body, meanwhile, context)
                                   : start_region(threads, body, context);
#else
  (void)threads, (void)body, (void)meanwhile, (void)context;
  return false;
#endif
}

// 20 us on Zen 4, 50 on Zen 1.
constexpr int kPauses = 2000;

void Barrier::wait() {
  if (count_ == 1) return;
  ++times_;
  arrivals_[index_].times.store(times_, std::memory_order_release);
  for (std::size_t other = 0; other < count_; ++other) {
    const auto arrived = [&] {
      return arrivals_[other].times.load(std::memory_order_acquire) >= times_;
    };
    const auto over = [&] {
      return arrived() || (given_up_ && given_up_->load(std::memory_order_relaxed));
    };
    for (int pauses = 0; pauses < kPauses && !over(); ++pauses) pause();
    if (over()) continue;
    // The other one may be waiting for this very core.
    const auto begin = std::chrono::steady_clock::now();
    while (!over()) std::this_thread::yield();
    const std::chrono::duration<double, std::micro> waited =
        std::chrono::steady_clock::now() - begin;
    if (waited.count() > patience_) ++long_waits_;
  }
}

}  // namespace fastgru
