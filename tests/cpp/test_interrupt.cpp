// A call that is interrupted ends soon, on all threads, and has not changed the states that it
// started from: whatever the grid, wherever in the call, and whoever sets the flag. One that is not
// has the bits of a call that nobody may interrupt.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "gru_cases.hpp"
#include "plan/plan.hpp"
#include "run/call.hpp"
#include "run/run.hpp"
#include "system/parallel.hpp"

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

using namespace fastgru;

namespace {

PackedGru random_gru(const GruSizes& sizes) {
  std::vector<Floats> tensors;
  GruSpec spec{sizes, {}};
  const std::size_t H = sizes.hidden_size, D = sizes.num_directions;
  for (std::size_t i = 0; i < sizes.num_layers * D; ++i) {
    tensors.push_back(random_floats(3 * H * sizes.layer_input(i / D), 0.2f));
    tensors.push_back(random_floats(3 * H * H, 0.2f));
  }
  for (std::size_t i = 0; i < sizes.num_layers * D; ++i)
    spec.layers.push_back({tensors[2 * i].data(), tensors[2 * i + 1].data(), nullptr, nullptr});
  return pack(spec, choose_kernels(""));
}

// A call's arrays. The states of row b are row slots[b] of state_rows, where there are slots.
struct InterruptedCase {
  const GruSizes& sizes;
  std::size_t T, B, state_rows;
  Floats x, states;
  std::vector<std::int64_t> lengths;
  std::vector<std::uint32_t> slots;

  InterruptedCase(const GruSizes& s, std::size_t time, std::size_t batch, bool ragged, bool slotted)
      : sizes(s), T(time), B(batch), state_rows(slotted ? 2 * batch : batch) {
    x = random_floats(T * B * s.input_size, 1);
    states = random_floats(s.num_layers * s.num_directions * state_rows * s.hidden_size, 0.9f);
    if (ragged)
      for (std::size_t b = 0; b < B; ++b)
        lengths.push_back(static_cast<std::int64_t>(b == 0 ? T : (b * 7919) % (T + 1)));
    if (slotted) {
      slots.resize(state_rows);
      std::iota(slots.begin(), slots.end(), 0u);
      std::shuffle(slots.begin(), slots.end(), generator);
      slots.resize(B);
    }
  }

  // y and h_n of a call, which must live as long as it.
  GruStates states_of_call;
  Call call(Floats& y, Floats& h_n, const Interrupt* interrupt) {
    const std::size_t width = sizes.num_directions * sizes.hidden_size;
    y.resize(T * B * width);
    Call c;
    c.T = T;
    c.B = B;
    c.x = {x.data(), static_cast<std::ptrdiff_t>(B * sizes.input_size),
           static_cast<std::ptrdiff_t>(sizes.input_size)};
    c.y = {y.data(), static_cast<std::ptrdiff_t>(B * width), static_cast<std::ptrdiff_t>(width)};
    c.width = sizes.input_size;
    states_of_call = {states.data(), h_n.data()};
    c.states = &states_of_call;
    c.lengths = lengths.empty() ? nullptr : lengths.data();
    c.slots = slots.empty() ? nullptr : slots.data();
    c.state_rows = state_rows;
    c.interrupt = interrupt;
    return c;
  }
};

// Interrupts a call when it is asked for the n-th time.
struct AtAsk {
  int n, asked = 0;
  Interrupt interrupt() {
    return {[](void* self) {
              auto* const me = static_cast<AtAsk*>(self);
              return ++me->asked >= me->n;
            },
            this, 0};
  }
};

std::vector<Plan> plans(const PackedGru& gru, const InterruptedCase& c) {
  std::vector<Plan> list;
  for (const Grid grid : {Grid{1, 1, 1}, Grid{2, 1, 1}, Grid{1, 2, 1}, Grid{1, 1, 2}, Grid{1, 1, 3},
                          Grid{2, 2, 1}, Grid{2, 1, 2}, Grid{1, 2, 2}}) {
    if (grid.row_groups > c.B || grid.directions > gru.sizes.num_directions ||
        grid.unit_groups > gru.sizes.panels())
      continue;
    if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
    for (const RowsInLanes lanes : {RowsInLanes::never, RowsInLanes::always}) {
      if (lanes == RowsInLanes::always && grid.unit_groups > 1) continue;
      Plan plan = make_plan(gru, {c.T, c.B}, grid, lanes);
      plan.time_block = std::min<std::size_t>(plan.time_block, 3);
      if (lanes == RowsInLanes::never) plan.row_block = std::min<std::size_t>(plan.row_block, 4);
      list.push_back(plan);
    }
  }
  return list;
}

NetworkPlan by(const Plan& plan) {
  return {plan.grid, plan.row_block, plan.time_block, plan.patience, &plan};
}

// Every place at which a call can be given up, by every plan.
void test_everywhere(const GruSizes& sizes, bool ragged, bool slotted) {
  const PackedGru gru = random_gru(sizes);
  const PackedNetwork network = network_of(gru);
  InterruptedCase c(sizes, 17, 9, ragged, slotted);
  for (const Plan& plan : plans(gru, c)) {
    const std::string name =
        "H=" + std::to_string(sizes.hidden_size) + " L=" + std::to_string(sizes.num_layers) +
        " D=" + std::to_string(sizes.num_directions) + (ragged ? " ragged" : "") +
        (slotted ? " slots" : "") + ", plan " + std::to_string(plan.grid.row_groups) + " x " +
        std::to_string(plan.grid.directions) + " x " + std::to_string(plan.grid.unit_groups) +
        ", lanes " + std::to_string(static_cast<int>(plan.rows_in_lanes)) + ": ";
    Floats y, expected_y, expected = c.states;
    check(run(network, c.call(expected_y, expected, nullptr), by(plan)).has_value(),
          name + "it runs");
    const Floats before = c.states;
    bool interrupted = true;
    int most = 0;  // times that a call asks which is interrupted
    for (int n = 1; interrupted; n += 1 + n / 3) {
      AtAsk at{n};
      const Interrupt interrupt = at.interrupt();
      Floats h_n = c.states;
      const auto result = run(network, c.call(y, h_n, &interrupt), by(plan));
      check(result.has_value(), name + "it runs");
      interrupted = result->interrupted;
      check(interrupted == (at.asked >= n), name + "who wants it interrupts it");
      most = std::max(most, at.asked);
      check(same_bits(c.states, before), name + "no call changes the states it starts from");
      if (!interrupted)
        check(same_bits(h_n, expected) && same_bits(y, expected_y),
              name + "one that is not interrupted gives what it would");
    }
    // 17 steps are 6 blocks at least, but for the short rows of a ragged batch.
    check(most >= 4 || ragged, name + "it asked " + std::to_string(most) + " times");
    // Nothing is left behind.
    Floats again = c.states;
    run(network, c.call(y, again, nullptr), by(plan));
    check(same_bits(again, expected) && same_bits(y, expected_y),
          name + "the next call is as ever");
  }
}

// A flag that another thread sets at any time.
struct Flag {
  std::atomic<bool> set{false};
  Interrupt interrupt(double every_milliseconds) {
    return {[](void* self) { return static_cast<Flag*>(self)->set.load(); }, this,
            every_milliseconds};
  }
};

void test_from_another_thread(const GruSizes& sizes, std::size_t T, std::size_t B) {
  const PackedGru gru = random_gru(sizes);
  const PackedNetwork network = network_of(gru);
  InterruptedCase c(sizes, T, B, false, false);
  for (const Plan& plan : plans(gru, c)) {
    Floats y, expected_y, expected = c.states;
    run(network, c.call(expected_y, expected, nullptr), by(plan));
    for (int round = 0; round < 6; ++round) {
      Flag flag;
      const Interrupt interrupt = flag.interrupt(0);
      std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::microseconds(round * round * 40));
        flag.set = true;
      });
      Floats h_n = c.states;
      const auto result = run(network, c.call(y, h_n, &interrupt), by(plan));
      other.join();
      check(result->interrupted || (same_bits(h_n, expected) && same_bits(y, expected_y)),
            "what a whole call gives");
    }
  }
}

// Through the front door, with a call that would take minutes.
bool long_call_ends() {
  GruSizes sizes;
  sizes.input_size = 64;
  sizes.hidden_size = 128;
  sizes.num_layers = 2;
  bool all = true;
  for (const std::size_t directions : {1, 2})
    for (const std::size_t threads : {1, 2}) {
      sizes.num_directions = directions;
      const PackedGru gru = random_gru(sizes);
      const std::size_t T = 500000 / directions;
      InterruptedCase c(sizes, 1, 64, false, false);
      Flag flag;
      const Interrupt interrupt = flag.interrupt(10);
      const PackedNetwork network = network_of(gru);
      Floats y, h_n = c.states;
      Call call = c.call(y, h_n, &interrupt);
      call.T = T;  // the same step again and again
      call.x.time_stride = call.y.time_stride = 0;
      call.max_threads = threads;
      if (directions == 2) call.B = 1;
      std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        flag.set = true;
      });
      all &= !run(network, call);
      other.join();
    }
  return all;
}

}  // namespace

TEST(long_calls_end) {
  check(long_call_ends(), "a call of minutes ends");
#if defined(__unix__)
  // In a child of fork() another thread starts the region than the one that is asked.
  const pid_t child = fork();
  if (child == 0) _exit(long_call_ends() ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "also in a forked child");
#endif
}

TEST(everywhere_by_every_plan) {
  GruSizes s;
  s.input_size = 7;
  for (const std::size_t D : {1, 2})
    for (const bool reset_after : {true, false}) {
      s.num_directions = D;
      s.reset_after = reset_after;
      s.hidden_size = 48;
      s.num_layers = 2;
      test_everywhere(s, reset_after, false);
      if (D == 1) test_everywhere(s, !reset_after, true);
      s.hidden_size = 5;
      s.num_layers = reset_after ? 3 : 1;
      test_everywhere(s, !reset_after, false);
    }
}

TEST(from_another_thread) {
  for (const std::size_t D : {1, 2})
    test_from_another_thread(default_gru(7, 48, 2, D, true), 200, 6);
}
