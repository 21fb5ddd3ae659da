// Memory comes back: buffers, the arenas of threads, and what a call takes of them, by the bytes
// that the process has mapped. Needs Linux.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gru_cases.hpp"
#include "plan/cost.hpp"
#include "plan/plan.hpp"
#include "run/call.hpp"
#include "run/run.hpp"
#include "system/arena.hpp"

using namespace fastgru;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::size_t mapped_bytes() {
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  std::size_t pages = 0;
  if (!file || std::fscanf(file, "%zu", &pages) != 1) std::abort();
  std::fclose(file);
  return pages * 4096;
}

}  // namespace

// Bytes of mappings of 1 MiB and more lie on whole huge pages, are zeros, and go when they are
// freed.
TEST(buffers) {
  mapped_bytes();  // whatever this needs once
  const std::size_t before = mapped_bytes();
  for (const std::size_t bytes : {kMiB, kMiB + 1, 2 * kMiB - 1, 2 * kMiB, 3 * kMiB + 5, 37 * kMiB})
    for (int round = 0; round < 3; ++round) {
      Buffer buffer(bytes, round == 0 ? Buffer::Contents::zeros : Buffer::Contents::as_found);
      const std::string name = std::to_string(bytes) + " bytes: ";
      check(buffer.size() == bytes, name + "the size is what was asked for");
      check(reinterpret_cast<std::uintptr_t>(buffer.data()) % (2 * kMiB) == 0,
            name + "begins at a huge page");
      check(mapped_bytes() - before < bytes + kMiB + kMiB / 8, name + "little is mapped besides");
      bool zeros = true;
      for (std::size_t i = 0; i < bytes; i += 4095) zeros &= buffer.data()[i] == std::byte{0};
      check(zeros || round > 0, name + "zeros");
      std::memset(buffer.data(), 0xff, bytes);
      Buffer other = std::move(buffer);
      check(other.size() == bytes && buffer.size() == 0, name + "moves");
    }
  check(mapped_bytes() == before, "buffers leave nothing behind");
  bool thrown = false;
  try {
    Buffer(SIZE_MAX - 5);
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  check(thrown, "more than there can be is refused");
}

// An arena grows by half at least, keeps 64 MiB at most, and release_memory() gives it back.
TEST(arena) {
  release_memory();
  const std::size_t before = mapped_bytes();
  const Block first = arena_of(8 * kMiB);
  check(first.size == 8 * kMiB, "a new arena is what was asked for");
  std::memset(first.data, 0xff, first.size);
  const Block same = arena_of(5 * kMiB);
  check(same.data == first.data && same.size == first.size, "a smaller shape takes the same arena");
  check(arena_of(8 * kMiB + 1).size == 12 * kMiB, "it grows by half");
  check(arena_of(60 * kMiB).size == 60 * kMiB, "or by more");
  check(arena_of(61 * kMiB).size == 64 * kMiB, "but for no more than is kept");
  release_arena();
  check(mapped_bytes() - before >= 64 * kMiB, "64 MiB are kept");
  check(arena_of(65 * kMiB).size == 65 * kMiB, "beyond that, what is asked for");
  release_arena();
  check(mapped_bytes() == before, "and that is not kept");
  arena_of(20 * kMiB);
  release_arena();
  release_memory();
  check(mapped_bytes() == before, "release_memory() gives back what is kept");
}

// Other threads give theirs back when their current or next call ends.
TEST(other_threads) {
  std::mutex mutex;
  std::condition_variable changed;
  int step = 0;
  const auto reach = [&](int n) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      step = n;
    }
    changed.notify_all();
  };
  const auto wait_for = [&](int n) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return step >= n; });
  };
  std::thread other([&] {
    arena_of(100);  // makes what a thread has once
    release_arena();
    reach(1);
    wait_for(2);
    const Block arena = arena_of(20 * kMiB);
    reach(3);
    wait_for(4);
    std::memset(arena.data, 0xff, arena.size);  // in a call: still there
    release_arena();
    reach(5);
    wait_for(6);
    arena_of(20 * kMiB);
    release_arena();
    reach(7);
    wait_for(8);
  });
  wait_for(1);
  const std::size_t before = mapped_bytes();
  reach(2);
  wait_for(3);
  release_memory();
  check(mapped_bytes() >= before + 20 * kMiB, "an arena in use stays until its call ends");
  reach(4);
  wait_for(5);
  check(mapped_bytes() == before, "the current call gives it back");
  reach(6);
  wait_for(7);
  check(mapped_bytes() >= before + 20 * kMiB, "the next one keeps its own again");
  reach(8);
  other.join();
}

// Calls of several threads while another one gives memory back: the results of before.
TEST(while_others_run) {
  GruSizes sizes;
  sizes.input_size = 24;
  sizes.hidden_size = 40;
  sizes.num_layers = 2;
  sizes.num_directions = 2;
  std::vector<std::vector<float>> tensors;
  GruSpec spec{sizes, {}};
  for (std::size_t i = 0; i < 4; ++i) {
    tensors.emplace_back(3 * 40 * sizes.layer_input(i / 2), 0.02f);
    tensors.emplace_back(3 * 40 * 40, -0.03f);
  }
  for (std::size_t i = 0; i < 4; ++i)
    spec.layers.push_back({tensors[2 * i].data(), tensors[2 * i + 1].data(), nullptr, nullptr});
  const PackedGru gru = pack(spec, choose_kernels(""));
  const PackedNetwork network = network_of(gru);
  constexpr std::size_t T = 60, B = 9;
  const std::vector<float> x(T * B * 24, 0.5f);
  const auto result = [&] {
    std::vector<float> y(T * B * 80), h_n(4 * B * 40);
    Call call;
    call.T = T;
    call.B = B;
    call.x = {x.data(), B * 24, 24};
    call.y = {y.data(), B * 80, 80};
    call.width = 24;
    const GruStates states{nullptr, h_n.data()};
    call.states = &states;
    run(network, call);
    y.insert(y.end(), h_n.begin(), h_n.end());
    return y;
  };
  const std::vector<float> expected = result();
  std::atomic<int> running{2}, wrong{0};
  const auto work = [&] {
    for (int i = 0; i < 200; ++i) wrong += result() != expected;
    --running;
  };
  std::thread one(work), two(work);
  while (running > 0) release_memory();
  one.join();
  two.join();
  check(wrong == 0, "the same results while memory is given back");
}

// A bidirectional stack keeps whole sequences of a layer for the next one: of fewer rows at once
// where they are long.
TEST(long_sequences) {
  const auto scratch = [](std::size_t H, std::size_t L, std::size_t T, std::size_t B,
                          std::size_t threads) {
    PackedGru gru;
    gru.sizes.input_size = H;
    gru.sizes.hidden_size = H;
    gru.sizes.num_layers = L;
    gru.sizes.num_directions = 2;
    gru.kernels = choose_kernels("");
    gru.machine = machine_for(*gru.kernels);
    gru.layers.resize(2 * L);
    for (PackedLayer& layer : gru.layers)
      layer.products = choose_products(runnable_products(*gru.kernels, layer.precision));
    gru.facts = facts_of(gru);
    Call call;
    call.T = T;
    call.B = B;
    call.width = H;
    const PackedNetwork network = network_of(gru);
    const CallShape shape{T, B, threads, 2, 0.2};
    Plan own;
    const NetworkPlan plan = make_plan(network, shape, choose_grid(network, shape), &own);
    check(plan.row_block >= 1 && plan.row_block * plan.grid.row_groups <= round_up(B, 32) * 2,
          "a block of rows");
    return static_cast<double>(scratch_bytes(network, call, plan)) / static_cast<double>(kMiB);
  };
  for (const std::size_t threads : {1, 2, 8}) {
    const std::string name = std::to_string(threads) + " threads: ";
    const auto at_most = [&](double got, double most) {
      check(got <= most, name + std::to_string(got) + " MiB of scratch, expected at most " +
                             std::to_string(most));
    };
    at_most(scratch(512, 2, 100000, 8, threads), 540);
    at_most(scratch(512, 3, 100000, 8, threads), 810);  // a single row
    at_most(scratch(512, 2, 10000, 64, threads), 540);
    at_most(scratch(16, 2, 1000000, 64, threads), 540);  // rows in the lanes would take 4 GB
    at_most(scratch(64, 4, 20000, 100, threads), 540);
    at_most(scratch(128, 2, 500, 64, threads), 150);
  }
}
