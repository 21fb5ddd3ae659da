// A call that is interrupted ends soon, on all threads, and has changed no state: whatever the
// grid, wherever in the call, and whoever sets the flag. One that is not has the bits of a call
// that nobody may interrupt.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/dispatch.hpp"
#include "network/pack.hpp"
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

int passed = 0, failed = 0;

void check(bool ok, const std::string& what) {
  ok ? ++passed : ++failed;
  if (!ok) std::printf("FAILED: %s\n", what.c_str());
}

using Floats = std::vector<float>;
std::mt19937 generator(20261201);

Floats random_floats(std::size_t n, float scale) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  Floats values(n);
  for (float& v : values) v = uniform(generator);
  return values;
}

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
struct Case {
  const GruSizes& sizes;
  std::size_t T, B, state_rows;
  Floats x, states;
  std::vector<std::int64_t> lengths;
  std::vector<std::uint32_t> slots;

  Case(const GruSizes& s, std::size_t time, std::size_t batch, bool ragged, bool slotted)
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

  // y and h_n of a call; h_0 is h_n where it is null.
  Call call(Floats& y, const float* h_0, Floats& h_n, const Interrupt* interrupt) const {
    const std::size_t width = sizes.num_directions * sizes.hidden_size;
    y.resize(T * B * width);
    Call c;
    c.T = T;
    c.B = B;
    c.x = {x.data(), static_cast<std::ptrdiff_t>(B * sizes.input_size),
           static_cast<std::ptrdiff_t>(sizes.input_size)};
    c.y = {y.data(), static_cast<std::ptrdiff_t>(B * width), static_cast<std::ptrdiff_t>(width)};
    c.h_0 = h_0 ? h_0 : h_n.data();
    c.h_n = h_n.data();
    c.lengths = lengths.empty() ? nullptr : lengths.data();
    c.slots = slots.empty() ? nullptr : slots.data();
    c.state_rows = state_rows;
    c.end_layer = sizes.num_layers;
    c.interrupt = interrupt;
    return c;
  }
};

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

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

std::vector<Plan> plans(const PackedGru& gru, const Case& c) {
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

// Every place at which a call can be given up, by every plan.
void test_everywhere(const GruSizes& sizes, bool ragged, bool slotted) {
  const PackedGru gru = random_gru(sizes);
  const Case c(sizes, 17, 9, ragged, slotted);
  for (const Plan& plan : plans(gru, c)) {
    const std::string name =
        "H=" + std::to_string(sizes.hidden_size) + " L=" + std::to_string(sizes.num_layers) +
        " D=" + std::to_string(sizes.num_directions) + (ragged ? " ragged" : "") +
        (slotted ? " slots" : "") + ", plan " + std::to_string(plan.grid.row_groups) + " x " +
        std::to_string(plan.grid.directions) + " x " + std::to_string(plan.grid.unit_groups) +
        ", lanes " + std::to_string(static_cast<int>(plan.rows_in_lanes)) + ": ";
    Floats y, expected_y, expected = c.states;
    check(run(gru, c.call(expected_y, nullptr, expected, nullptr), plan).has_value(),
          name + "it runs");
    bool in_place = false, interrupted = true;
    int most = 0;  // times that a call asks which is interrupted
    for (int n = 1; interrupted; n += 1 + n / 3) {
      in_place = !in_place;
      AtAsk at{n};
      const Interrupt interrupt = at.interrupt();
      const Floats before = in_place ? c.states : random_floats(c.states.size(), 1);
      Floats h_n = before;
      const auto result =
          run(gru, c.call(y, in_place ? nullptr : c.states.data(), h_n, &interrupt), plan);
      check(result.has_value(), name + "it runs");
      interrupted = result->interrupted;
      check(interrupted == (at.asked >= n), name + "who wants it interrupts it");
      most = std::max(most, at.asked);
      if (interrupted) {
        check(same_bits(h_n, before), name + "an interrupted call changes no state");
        continue;
      }
      Floats after = before;  // of nobody else's slots
      for (std::size_t i = 0; i < after.size(); ++i)
        if (c.slots.empty() ||
            std::count(c.slots.begin(), c.slots.end(), i / sizes.hidden_size % c.state_rows))
          after[i] = expected[i];
      check(same_bits(h_n, after) && same_bits(y, expected_y), name + "one that is not, the same");
    }
    // 17 steps are 6 blocks at least, but for the short rows of a ragged batch.
    check(most >= 4 || ragged, name + "it asked " + std::to_string(most) + " times");
    // Nothing is left behind.
    Floats again = c.states;
    run(gru, c.call(y, nullptr, again, nullptr), plan);
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
  const Case c(sizes, T, B, false, false);
  for (const Plan& plan : plans(gru, c)) {
    Floats y, expected_y, expected = c.states;
    run(gru, c.call(expected_y, nullptr, expected, nullptr), plan);
    for (int round = 0; round < 6; ++round) {
      Flag flag;
      const Interrupt interrupt = flag.interrupt(0);
      std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::microseconds(round * round * 40));
        flag.set = true;
      });
      Floats h_n = c.states;
      const auto result = run(gru, c.call(y, nullptr, h_n, &interrupt), plan);
      other.join();
      check(same_bits(h_n, result->interrupted ? c.states : expected),
            "states before or states after");
      check(result->interrupted || same_bits(y, expected_y), "outputs of a whole call");
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
      Case c(sizes, 1, 64, false, false);
      Flag flag;
      const Interrupt interrupt = flag.interrupt(10);
      Floats y, h_n = c.states;
      Call call = c.call(y, nullptr, h_n, &interrupt);
      call.T = T;  // the same step again and again
      call.x.time_stride = call.y.time_stride = 0;
      call.max_threads = threads;
      if (directions == 2) call.B = 1;
      std::thread other([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        flag.set = true;
      });
      all &= !run(gru, call) && same_bits(h_n, c.states);
      other.join();
    }
  return all;
}

void test_long_calls() {
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

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
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
  s.reset_after = true;
  s.hidden_size = 48;
  s.num_layers = 2;
  for (const std::size_t D : {1, 2}) {
    s.num_directions = D;
    test_from_another_thread(s, 200, 6);
  }
  test_long_calls();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
