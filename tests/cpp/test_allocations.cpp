// A repeated shape allocates nothing: every allocation of the process is counted, by whatever
// library and in whatever thread, while calls and steps are repeated. Needs glibc.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "kernels/dispatch.hpp"
#include "network/pack.hpp"
#include "run/layers.hpp"
#include "run/pool.hpp"
#include "run/run.hpp"
#include "run/stream.hpp"

static std::atomic<std::size_t> allocations{0};

// operator new, aligned_alloc and the rest of the C++ library end here too.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

__attribute__((visibility("default"))) void* malloc(std::size_t n) {
  ++allocations;
  return __libc_malloc(n);
}
__attribute__((visibility("default"))) void* calloc(std::size_t n, std::size_t size) {
  ++allocations;
  return __libc_calloc(n, size);
}
__attribute__((visibility("default"))) void* realloc(void* p, std::size_t n) {
  ++allocations;
  return __libc_realloc(p, n);
}
__attribute__((visibility("default"))) void* memalign(std::size_t alignment, std::size_t n) {
  ++allocations;
  return __libc_memalign(alignment, n);
}
__attribute__((visibility("default"))) void* aligned_alloc(std::size_t alignment, std::size_t n) {
  ++allocations;
  return __libc_memalign(alignment, n);
}
__attribute__((visibility("default"))) int posix_memalign(void** p, std::size_t alignment,
                                                          std::size_t n) {
  ++allocations;
  *p = __libc_memalign(alignment, n);
  return *p ? 0 : 12;  // ENOMEM
}
}

using namespace fastgru;

namespace {

int passed = 0, failed = 0;

// Work that was done before allocates nothing when it is done again.
template <class Work>
void check_repeats(Work work, const std::string& what) {
  // The first one grows the arena; several in a row start threads for work as small as this.
  for (int i = 0; i < 10; ++i) work();
  const std::size_t before = allocations;
  for (int i = 0; i < 3; ++i) work();
  const std::size_t made = allocations - before;
  made == 0 ? ++passed : ++failed;
  if (made) std::printf("FAILED: %s: %zu allocations\n", what.c_str(), made);
}

struct Shape {
  std::size_t T, B;
  bool ragged;
};

std::string describe(const GruSizes& s, const Shape& shape, std::size_t threads) {
  return "T=" + std::to_string(shape.T) + " B=" + std::to_string(shape.B) +
         (shape.ragged ? " ragged" : "") + " I=" + std::to_string(s.input_size) +
         " H=" + std::to_string(s.hidden_size) + " L=" + std::to_string(s.num_layers) +
         " D=" + std::to_string(s.num_directions) + (s.reset_after ? " after" : " before") + ", " +
         std::to_string(threads) + " threads";
}

void test_gru(const GruSizes& s, const KernelTable* kernels) {
  std::vector<std::vector<float>> tensors;
  GruSpec spec{s, {}};
  for (std::size_t i = 0; i < s.num_layers * s.num_directions; ++i) {
    tensors.emplace_back(3 * s.hidden_size * s.layer_input(i / s.num_directions), 0.01f);
    tensors.emplace_back(3 * s.hidden_size * s.hidden_size, 0.01f);
    spec.layers.push_back({tensors[2 * i].data(), tensors[2 * i + 1].data(), nullptr, nullptr});
  }
  const auto packed = std::make_shared<const PackedGru>(pack(spec, kernels));
  const std::size_t states = s.num_layers * s.num_directions;
  const std::size_t width = s.num_directions * s.hidden_size;
  for (const Shape& shape : {Shape{1, 1, false}, Shape{7, 1, false}, Shape{1, 5, false},
                             Shape{30, 3, true}, Shape{60, 70, false}, Shape{40, 40, true}}) {
    std::vector<float> x(shape.T * shape.B * s.input_size, 0.5f), y(shape.T * shape.B * width);
    std::vector<float> h(states * shape.B * s.hidden_size);
    std::vector<std::int64_t> lengths(shape.B);
    for (std::size_t b = 0; b < shape.B; ++b)
      lengths[b] = static_cast<std::int64_t>(b % (shape.T + 1));
    const SequenceView<const float> from{x.data(),
                                         static_cast<std::ptrdiff_t>(shape.B * s.input_size),
                                         static_cast<std::ptrdiff_t>(s.input_size)};
    const SequenceView<float> to{y.data(), static_cast<std::ptrdiff_t>(shape.B * width),
                                 static_cast<std::ptrdiff_t>(width)};
    for (const std::size_t threads : {1, 2}) {
      Call call;
      call.T = shape.T;
      call.B = shape.B;
      call.x = from;
      call.y = to;
      call.h_n = h.data();
      call.lengths = shape.ragged ? lengths.data() : nullptr;
      call.max_threads = threads;
      call.end_layer = s.num_layers;
      check_repeats([&] { run(*packed, call); }, "run " + describe(s, shape, threads));
      if (s.num_directions == 2 || shape.ragged) continue;
      Stream stream(packed, shape.B, nullptr);
      check_repeats([&] { stream.advance(shape.T, from, to, threads); },
                    "stream " + describe(s, shape, threads));
      if (shape.T != 1) continue;
      Pool pool({packed}, 2 * shape.B);
      std::vector<SessionId> ids(shape.B);
      for (SessionId& id : ids) id = pool.open(nullptr);
      check_repeats(
          [&] {
            pool.step(ids.data(), shape.B, from, to, threads);
            pool.close(ids.front());
            ids.front() = pool.open(nullptr);
          },
          "pool " + describe(s, shape, threads));
    }
  }
}

void test_head(const KernelTable* kernels) {
  const std::size_t K = 40, O = 100;
  const std::vector<float> weight(O * K, 0.01f);
  const PackedLinear layer = pack_linear(weight.data(), nullptr, O, K, kernels);
  for (const std::size_t rows : {1, 7, 200}) {
    const std::vector<float> x(rows * K, 0.5f);
    std::vector<float> y(rows * O), z(rows * O);
    OverTime call;
    call.T = rows;
    call.B = 1;
    call.width = O;
    call.x = {y.data(), static_cast<std::ptrdiff_t>(O), 0};
    call.y = z.data();
    check_repeats(
        [&] {
          linear(layer, x.data(), y.data(), rows);
          softmax(*kernels, y.data(), z.data(), rows, O);
          log_softmax(*kernels, y.data(), z.data(), rows, O);
          layer_norm(nullptr, nullptr, 1e-5, y.data(), z.data(), rows, O);
          activate(*kernels, Function::tanh, y.data(), z.data(), rows * O);
          mean_over_time(call);
          max_over_time(call);
        },
        "the layers around a GRU, " + std::to_string(rows) + " rows");
  }
}

}  // namespace

int main() {
  {
    const std::size_t before = allocations;
    const std::vector<int> vector(100);
    const Buffer buffer(vector.size());
    if (allocations - before < 2) {
      std::printf("FAILED: allocations are not seen\n");
      return 1;
    }
  }
  for (const IsaLevel& level : isa_levels()) {
    if (!level.supported) continue;
    test_head(choose_kernels(level.name));
    for (const bool reset_after : {true, false})
      for (const std::size_t directions : {1, 2})
        for (const std::size_t layers : {1, 3})
          test_gru(
              {24, 40, layers, directions, true, reset_after, Function::tanh, Function::sigmoid},
              choose_kernels(level.name));
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
