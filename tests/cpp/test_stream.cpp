// Streams and pools: cutting time into steps changes no bit, and the sessions of a pool are rows of
// a batch. Promise 2.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "gru_cases.hpp"
#include "run/run.hpp"
#include "run/stream.hpp"
#include "system/parallel.hpp"

using namespace fastgru;

namespace {

// Sessions in a pool's slab, in any order and by any plan, are rows of a batch.
void check_pool(const GruSizes& sizes, std::size_t B) {
  const TestGru gru(sizes);
  const Case c = random_case(sizes, 1, B, false);
  const std::size_t H = sizes.hidden_size, L = sizes.num_layers, capacity = 2 * B + 1;
  for (const KernelTable* kernels : runnable()) {
    const auto packed = std::make_shared<const PackedGru>(pack(gru.spec, kernels));
    const PackedNetwork network = network_of(*packed);
    const Result expected = engine(*packed, c, nullptr, false);
    const std::string name = describe(sizes, c, kernels->name);
    std::vector<std::uint32_t> slots(capacity);
    for (std::size_t i = 0; i < capacity; ++i) slots[i] = static_cast<std::uint32_t>(i);
    std::shuffle(slots.begin(), slots.end(), generator);
    const Floats slab = random_floats(L * capacity * H, 1);
    for (const Grid grid : {Grid{1, 1, 1}, Grid{2, 1, 1}, Grid{1, 1, 2}}) {
      if (grid.row_groups > B || grid.unit_groups > sizes.panels()) continue;
      if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
      Floats states = slab, y(B * H);
      for (std::size_t l = 0; l < L; ++l)
        for (std::size_t b = 0; b < B; ++b)
          std::copy_n(&c.h_0[(l * B + b) * H], H, &states[(l * capacity + slots[b]) * H]);
      Floats after = states;
      for (std::size_t l = 0; l < L; ++l)
        for (std::size_t b = 0; b < B; ++b)
          std::copy_n(&expected.h_n[(l * B + b) * H], H, &after[(l * capacity + slots[b]) * H]);
      Call call;
      call.T = 1;
      call.B = B;
      call.x = {c.x.data(), 0, static_cast<std::ptrdiff_t>(sizes.input_size)};
      call.y = {y.data(), 0, static_cast<std::ptrdiff_t>(H)};
      call.width = sizes.input_size;
      const GruStates in_slab{states.data(), states.data()};
      call.states = &in_slab;
      call.slots = slots.data();
      call.state_rows = capacity;
      Plan plan;
      run(network, call, make_plan(network, {1, B}, grid, &plan, RowsInLanes::never));
      check(same_bits(y, expected.y), name + ": outputs of a pool");
      check(same_bits(states, after), name + ": states of a pool, and nobody else's");
    }
  }
}

// Cutting time into steps changes no bit; a copy goes its own way; reset returns to h_0.
void check_stream(const GruSizes& sizes, std::size_t T, std::size_t B) {
  const TestGru gru(sizes);
  const Case c = random_case(sizes, T, B, false);
  const std::size_t H = sizes.hidden_size, I = sizes.input_size;
  for (const KernelTable* kernels : runnable()) {
    const auto packed = std::make_shared<const PackedGru>(pack(gru.spec, kernels));
    const Result whole = engine(*packed, c, nullptr, false);
    Stream stream(std::make_shared<const PackedNetwork>(network_of(*packed)), B, {c.h_0.data()});
    for (int round = 0; round < 2; ++round) {
      Floats y(T * B * H);
      for (std::size_t t = 0; t < T; ++t) {
        Call call;
        call.T = 1;
        call.x = {&c.x[t * B * I], 0, static_cast<std::ptrdiff_t>(I)};
        call.width = I;
        call.y = {&y[t * B * H], 0, static_cast<std::ptrdiff_t>(H)};
        call.max_threads = 2;
        const Floats before(stream.state(0), stream.state(0) + stream.state_floats(0));
        stream.advance(call);
        check(std::equal(before.begin(), before.end(), stream.state(0)),
              "states change when a call is committed, not before");
        stream.commit();
      }
      check(y == whole.y && std::equal(whole.h_n.begin(), whole.h_n.end(), stream.state(0)),
            describe(sizes, c, kernels->name) + ": steps give the bits of the sequence");
      const Stream copy(stream);
      stream.reset();
      check(std::equal(c.h_0.begin(), c.h_0.end(), stream.state(0)), "reset returns to h_0");
      check(std::equal(whole.h_n.begin(), whole.h_n.end(), copy.state(0)), "a copy is independent");
    }
    check(stream.try_acquire() && !stream.try_acquire(), "a stream has one user at a time");
    stream.release();
  }
}

// Sizes around vectors and panels, in both equations.
template <class Work>
void for_sizes(Work work) {
  for (const bool reset_after : {true, false})
    for (const std::size_t H : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65})
      work(default_gru(H % 5 + 1, H, 1 + H % 3, 1, reset_after));
}

}  // namespace

TEST(steps_have_the_bits_of_a_sequence) {
  for_sizes([](const GruSizes& sizes) { check_stream(sizes, 5, sizes.hidden_size % 4 + 1); });
}

TEST(sessions_of_a_pool_are_rows_of_a_batch) {
  for_sizes([](const GruSizes& sizes) {
    for (const std::size_t B : {1, 3, 11}) check_pool(sizes, B);
  });
}
