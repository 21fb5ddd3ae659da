// Note [When threads are worth it]
// Threads that wait after a region stay awake for 0.1 ms (_startup.py sees to it); then a region
// costs 2 us, and 35 to 60 us where they have gone to sleep. So a short call is worth threads only
// in a row of calls. And threads that share a layer's units wait for each other in every step:
// where another program has one of the cores, a step takes as long as that program's turn, and a
// call of 0.15 ms took 5 ms. A barrier notices, and for a while every call stays on one thread.
//
// In a forked child another thread starts the regions (Note [Fork and libgomp]), and handing one
// over to it and waiting for its end costs 50 to 90 us more, each time: more than two threads save
// of a call of 100 us. So a child measures it, once it has regions, and needs longer calls for
// threads. Regions of a child whose parent never had one could be started directly, if one knew
// that of all libraries in the process that share the runtime; one does not.
#include "plan/thread_cost.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>

#include "system/parallel.hpp"

namespace fastgru {
namespace {

// Calls come in a row where one starts within this after the last one's end.
constexpr double kBackToBack = 60;
// After so many in a row the threads are woken for the next one, which may cost it kColdRegion.
constexpr unsigned kRow = 4;
constexpr double kHotRegion = 2, kColdRegion = 60;
// Long waits of a call that say that a core is taken (one alone may be an interrupt), and how long
// one thread works then: twice as long each time, 1 s at most.
constexpr std::size_t kTaken = 3;
constexpr double kFirstPause = 20e3, kLongestPause = 1e6;

// What handing a region over costs in a forked child, before it is measured there: 12 us at best
// and 50 to 60 at the median, on a busy Zen 4 guest of two cores. Measured by so many regions, at
// most once a second.
constexpr double kUsualHandOver = 50;
constexpr int kMeasuredRegions = 5;
constexpr double kMeasureHandOverEvery = 1e6;
std::atomic<double> hand_over_cost{kUsualHandOver}, hand_over_measured{-1e9};

double now_microseconds() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// 40 ns on Zen 4; 130 to 700 on a Zen 1 guest whose two cores may or may not share an L3.
constexpr double kMeasureBarrierEvery = 1e6;
constexpr int kMeasuredWaits = 12;
std::atomic<double> barrier_cost{0.15}, barrier_measured{-1e9};

struct BarrierCost {
  double microseconds;     // the fastest one
  std::size_t long_waits;  // after one of which they end
};

BarrierCost measure_barrier() {
  struct alignas(64) Line {
    volatile float value;
  };
  Line lines[2][4] = {};
  Arrival arrivals[2];
  std::atomic<std::size_t> long_waits{0};
  double fastest = std::numeric_limits<double>::infinity();
  const bool ran = parallel(2, [&](std::size_t index) {
    Barrier barrier(arrivals, index, 2);
    for (int i = 0; i < kMeasuredWaits && long_waits == 0; ++i) {
      const double begin = now_microseconds();
      for (Line& line : lines[index]) line.value = static_cast<float>(i);
      barrier.wait();
      for (Line& line : lines[1 - index]) (void)line.value;
      if (index == 0) fastest = std::min(fastest, now_microseconds() - begin);
      // Said before the second barrier, so that behind it both threads know and end together.
      long_waits += barrier.long_waits() > 0;
      barrier.wait();  // the lines are free to be written again
    }
  });
  return {fastest, ran ? long_waits.load() : 1};
}

// The median of a few regions, of threads that are awake if they stay so.
double measure_hand_over() {
  double costs[kMeasuredRegions];
  for (double& cost : costs) {
    const double begin = now_microseconds();
    if (!parallel(2, [](std::size_t) {})) return hand_over_cost;
    cost = now_microseconds() - begin;
  }
  double* const median = costs + kMeasuredRegions / 2;
  std::nth_element(costs, median, costs + kMeasuredRegions);
  return *median;
}

// The calling thread's calls that might have used threads; times in microseconds.
struct CallHistory {
  double last_call = -1e9, last_region = -1e9;
  unsigned row = 0;
  double pause = 0, pause_until = 0;
  unsigned forks_at_last_region = 0;
};
thread_local CallHistory history;

void region_ended(double now) {
  history.last_region = now;
  history.forks_at_last_region = forks_so_far();
}

// What a forked child pays besides for each region. Measured by threads that have run one there and
// have calls in a row; others would start threads for it.
double hand_over_microseconds(double now) {
  if (!regions_are_handed_over()) return 0;
  const bool has_regions = history.forks_at_last_region == forks_so_far();
  if (!has_regions || history.row < kRow || now - hand_over_measured < kMeasureHandOverEvery)
    return hand_over_cost;
  hand_over_measured = now;
  hand_over_cost = measure_hand_over();
  region_ended(now_microseconds());
  return hand_over_cost;
}

double region_cost(double now) {
  if (now < history.pause_until) return std::numeric_limits<double>::infinity();
  const double hand_over = hand_over_microseconds(now);
  const bool awake = now - history.last_region < kBackToBack;
  return hand_over + (awake || history.row >= kRow ? kHotRegion : kColdRegion);
}

// A core is taken: one thread works for a while.
void pause_threads(double now) {
  history.pause = std::clamp(2 * history.pause, kFirstPause, kLongestPause);
  history.pause_until = now + history.pause;
}

}  // namespace

double region_microseconds() {
  const double now = now_microseconds();
  history.row = now - history.last_call < kBackToBack ? history.row + 1 : 0;
  return region_cost(now);
}

double barrier_microseconds() {
  const double now = now_microseconds();
  // Of a team that is awake: one that wakes up takes long for other reasons.
  const bool awake = now - history.last_region < kBackToBack && now >= history.pause_until;
  if (!awake || now - barrier_measured < kMeasureBarrierEvery) return barrier_cost;
  barrier_measured = now;
  const BarrierCost measured = measure_barrier();
  region_ended(now_microseconds());
  if (measured.long_waits == 0) barrier_cost = measured.microseconds;
  return barrier_cost;
}

void call_ended(bool used, std::size_t long_waits) {
  history.last_call = now_microseconds();
  if (used) region_ended(history.last_call);
  if (long_waits >= kTaken)
    pause_threads(history.last_call);
  else if (used)
    history.pause = 0;  // undisturbed
}

}  // namespace fastgru
