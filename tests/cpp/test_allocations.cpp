// A repeated shape allocates nothing: every allocation of the process is counted, by whatever
// library and in whatever thread, while calls and steps are repeated. Needs glibc.
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "network/pack.hpp"
#include "run/call.hpp"
#include "run/pool.hpp"
#include "run/stream.hpp"
#include "support.hpp"

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
// Large buffers are mappings of their own.
__attribute__((visibility("default"))) void* mmap(void* at, std::size_t n, int protection,
                                                  int flags, int file, off_t offset) {
  ++allocations;
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, n, protection, flags, file, offset));
}
}

using namespace fastgru;

namespace {

// Work that was done before allocates nothing when it is done again.
template <class Work>
void check_repeats(Work work, const std::string& what) {
  // The first one grows the arena; several in a row start threads for work as small as this.
  for (int i = 0; i < 10; ++i) work();
  const std::size_t before = allocations;
  for (int i = 0; i < 3; ++i) work();
  const std::size_t made = allocations - before;
  check(made == 0, what + ": " + std::to_string(made) + " allocations");
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

void check_gru(const GruSizes& s, const KernelTable* kernels) {
  std::vector<std::vector<float>> tensors;
  GruSpec spec{s, {}};
  for (std::size_t i = 0; i < s.num_layers * s.num_directions; ++i) {
    tensors.emplace_back(3 * s.hidden_size * s.layer_input(i / s.num_directions), 0.01f);
    tensors.emplace_back(3 * s.hidden_size * s.hidden_size, 0.01f);
    spec.layers.push_back({tensors[2 * i].data(), tensors[2 * i + 1].data(), nullptr, nullptr});
  }
  const auto packed = std::make_shared<const PackedGru>(pack(spec, kernels));
  const auto network = std::make_shared<const PackedNetwork>(pack_network({packed}, s.input_size));
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
      call.width = s.input_size;
      const GruStates states_of_call{nullptr, h.data()};
      call.states = &states_of_call;
      call.lengths = shape.ragged ? lengths.data() : nullptr;
      call.max_threads = threads;
      check_repeats([&] { run(*network, call); }, "run " + describe(s, shape, threads));
      if (s.num_directions == 2 || shape.ragged) continue;
      Stream stream(network, shape.B, {});
      check_repeats(
          [&] {
            stream.advance(call);
            stream.commit();
          },
          "stream " + describe(s, shape, threads));
      if (shape.T != 1) continue;
      Pool pool(network, 2 * shape.B);
      std::vector<SessionId> ids(shape.B);
      for (SessionId& id : ids) id = pool.open({});
      check_repeats(
          [&] {
            pool.advance(ids.data(), shape.B, call);
            pool.commit();
            pool.close(ids.front());
            ids.front() = pool.open({});
          },
          "pool " + describe(s, shape, threads));
    }
  }
}

// Layers of every kind around a GRU: whole sequences of rows and of indices.
void check_networks(const KernelTable* kernels) {
  const std::size_t K = 40, H = 24, O = 100;
  const std::vector<float> weight(O * H, 0.01f), tensors(3 * H * K, 0.01f);
  GruSpec spec{{K, H, 1, 1, false, true, Function::tanh, Function::sigmoid}, {}};
  spec.layers.push_back({tensors.data(), tensors.data(), nullptr, nullptr});
  const auto gru = std::make_shared<const PackedGru>(pack(spec, kernels));
  const auto linear =
      std::make_shared<const PackedLinear>(pack_linear(weight.data(), nullptr, O, H, kernels));
  const auto norm = std::make_shared<const PackedLayerNorm>();
  for (const OverTime::Kind kind :
       {OverTime::Kind::last, OverTime::Kind::mean, OverTime::Kind::max, OverTime::Kind::reverse})
    for (const bool indices : {false, true}) {
      std::vector<NetworkLayer> layers;
      if (indices) layers.emplace_back(OneHot{K});
      for (const NetworkLayer& layer : std::vector<NetworkLayer>{
               PackedActivation{kernels, Function::tanh}, gru, norm, OverTime{kind, false}, linear,
               PackedSoftmax{kernels, false}, PackedSoftmax{kernels, true}})
        layers.push_back(layer);
      const PackedNetwork network = pack_network(std::move(layers), indices ? 0 : K);
      for (const std::size_t B : {1, 7, 100})
        for (const std::size_t threads : {1, 2}) {
          const std::size_t T = 20;
          const std::vector<float> x(T * B * K, 0.5f);
          const std::vector<std::int64_t> classes(T * B, 3);
          std::vector<float> y(T * B * O);
          Call call;
          call.T = T;
          call.B = B;
          call.x = {x.data(), static_cast<std::ptrdiff_t>(B * K), static_cast<std::ptrdiff_t>(K)};
          call.indices = {classes.data(), static_cast<std::ptrdiff_t>(B), 1};
          call.width = indices ? 0 : K;
          call.y = {y.data(), static_cast<std::ptrdiff_t>(B * O), static_cast<std::ptrdiff_t>(O)};
          call.max_threads = threads;
          check_repeats([&] { run(network, call); }, "a network, B=" + std::to_string(B) + ", " +
                                                         std::to_string(threads) + " threads");
        }
    }
}

}  // namespace

// If this one fails, the others say nothing.
TEST(allocations_are_seen) {
  const std::size_t before = allocations;
  const std::vector<int> vector(100);
  const Buffer buffer(vector.size()), mapped(std::size_t{4} << 20);
  check(allocations - before >= 3, "allocations are not seen");
}

TEST(layers_around_a_gru) {
  for (const KernelTable* kernels : runnable()) check_networks(kernels);
}

TEST(grus_streams_and_pools) {
  for (const KernelTable* kernels : runnable())
    for (const bool reset_after : {true, false})
      for (const std::size_t directions : {1, 2})
        for (const std::size_t layers : {1, 3})
          check_gru(
              {24, 40, layers, directions, true, reset_after, Function::tanh, Function::sigmoid},
              kernels);
}
