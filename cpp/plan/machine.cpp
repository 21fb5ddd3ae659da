#include "plan/machine.hpp"

#include <fstream>

#include "kernels/dispatch.hpp"
#include "network/spec.hpp"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace fastgru {
namespace {

// Where the system does not tell.
constexpr std::size_t kUsualL1 = std::size_t{32} << 10, kUsualL2 = std::size_t{512} << 10;
constexpr std::size_t kL3PerL2 = 16;

// A fused multiply-add of a vector in each cycle at 3 GHz: Zen 1 has 47 GFLOP/s with AVX2, Zen 4
// 112 with AVX-512.
constexpr double kGflopsPerLane = 6;

// Times of whole layers over those of float32 (H = 256 and 512, 16 and 64 rows, Zen 4): bfloat16
// 0.54 and int8 0.43 where one instruction multiplies and adds several terms, 1.3 and 1.15 where
// weights are widened first (AVX2).
constexpr double kBfloat16Dot = 0.5, kInt8Dot = 0.4;
constexpr double kBfloat16Widened = 1.3, kInt8Widened = 1.15;

#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
std::size_t cache_bytes(int name, std::size_t otherwise) {
  const long bytes = sysconf(name);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : otherwise;
}

// The L3 that one core sees. sysconf() would not do: on AMD it adds up those of a whole package.
std::size_t l3_bytes(std::size_t otherwise) {
  std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
  std::size_t kib = 0;
  char unit = 0;
  return file >> kib >> unit && unit == 'K' && kib > 0 ? kib << 10 : otherwise;
}
#endif

// Whether L3 is a mesh over all cores of a server, as slow for one of them as memory is (28 GB/s on
// Emerald Rapids, where L2 gives 128): Intel's with AVX-512 and a large L2, but for the one laptop
// among them. AMD's L3 belongs to a few cores.
bool l3_is_mesh(std::size_t l2) {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel") && __builtin_cpu_supports("avx512f") &&
         !__builtin_cpu_is("tigerlake") && l2 >= (std::size_t{1} << 20);
#else
  (void)l2;
  return false;
#endif
}

// The caches of a machine; the rest is zero.
Machine caches() {
  Machine machine;
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
  machine.l1 = cache_bytes(_SC_LEVEL1_DCACHE_SIZE, kUsualL1);
  machine.l2 = cache_bytes(_SC_LEVEL2_CACHE_SIZE, kUsualL2);
  const std::size_t l3 = l3_bytes(kL3PerL2 * machine.l2);
#else
  machine.l1 = kUsualL1;
  machine.l2 = kUsualL2;
  constexpr std::size_t l3 = kL3PerL2 * kUsualL2;
#endif
  // Going there and back, a step finds most of what exceeds L2 by little.
  machine.near = l3_is_mesh(machine.l2) ? 2 * machine.l2 : l3;
  return machine;
}

}  // namespace

Machine machine_for(const KernelTable& kernels) {
  static const Machine cached = caches();
  Machine machine = cached;
  machine.lanes = kernels.lanes;
  machine.gflops = kGflopsPerLane * static_cast<double>(kernels.lanes);
  const auto term_cost = [&](Precision precision, double dot, double widened) {
    const auto choices = choose_products(runnable_products(kernels, precision));
    const bool has_dot = choices.front().product != &own_product(kernels, precision);
    machine.term_cost[static_cast<std::size_t>(precision)] = has_dot ? dot : widened;
  };
  term_cost(Precision::bfloat16, kBfloat16Dot, kBfloat16Widened);
  term_cost(Precision::int8, kInt8Dot, kInt8Widened);
  return machine;
}

}  // namespace fastgru
