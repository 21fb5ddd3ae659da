// Threads and barriers, and what is known of the cost of a region.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "plan/thread_cost.hpp"
#include "support.hpp"
#include "system/parallel.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

using namespace fastgru;

TEST(cores_are_a_ceiling) {
  check(default_num_threads() >= 1 && available_cores() >= 1, "there is a thread");
  check(threads_to_use(1) == 1 && threads_to_use(1000) <= available_cores(), "cores are a ceiling");
}

TEST(a_body_runs_on_all_threads_or_not_at_all) {
  std::vector<int> calls(4);
  Arrival arrivals[4];
  std::atomic<int> ended{0};
  const bool ran = parallel(4, [&](std::size_t index) {
    Barrier barrier(arrivals, index, 4);
    for (int round = 0; round < 100; ++round) {
      calls[index] = round;
      barrier.wait();
      for (const int call : calls)
        if (call != round) std::abort();
      barrier.wait();
    }
    ++ended;
  });
  if (openmp_runtime() == std::string("none")) std::printf("SKIPPED: threads, without OpenMP\n");
  check(ended == (ran ? 4 : 0), "a body runs on all threads or not at all");
}

#if defined(__linux__)
TEST(a_thread_leaves_a_core) {
  cpu_set_t before, after;
  sched_getaffinity(0, sizeof before, &before);
  int moved = 0, tries = 20;
  for (int i = 0; i < tries; ++i) {
    const int core = current_core();
    leave_core(core);
    moved += current_core() != core;
  }
  sched_getaffinity(0, sizeof after, &after);
  check(CPU_EQUAL(&before, &after), "who leaves a core may run where it might before");
  if (CPU_COUNT(&before) > 1)
    check(moved > tries / 2, "a thread leaves a core");  // the system may move it back at once
  else
    std::printf("SKIPPED: leaving a core, with one only\n");
}
#endif

TEST(the_cost_of_a_region) {
  check(region_microseconds() < 100, "a region costs something");
  call_ended(true, 100);
  check(std::isinf(region_microseconds()), "no threads while a core is taken");
}
