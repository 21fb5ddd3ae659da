// What this machine can do at most: multiply-adds and reads a second, as JSON on stdout.
//
// Measures registers-only FMA and dot-product loops, and reads of a buffer by its size, on one core
// and on all usable cores at once. Knows nothing of GRUs, and refuses to estimate: what the CPU
// lacks is null. Plain `c++ -O2 -std=c++17 -pthread`: every instruction set is inline assembly
// behind a CPU check, so that no compiler can spill an accumulator or drop a loop. Other
// architectures than x86-64 get the portable loops only.

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#define PROBE_X86 1
#endif

namespace {

double now() {
  using clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}

// ---- loops: `rounds` of them, operations a round beside each ------------------------------------

// 12 chains of 4 floats hide the latency of FMA on every core in use; more would spill on SSE2.
constexpr double kPortableFlops = 12 * 4 * 2;

using Float4 = float __attribute__((vector_size(16)));

void portable_f32(std::size_t rounds) {
  volatile float scale = 0.999F;  // volatile: nothing may be known when compiling
  const Float4 m = {scale, scale, scale, scale};
  Float4 a0 = m, a1 = m, a2 = m, a3 = m, a4 = m, a5 = m, a6 = m, a7 = m, a8 = m, a9 = m, aa = m,
         ab = m;
  for (std::size_t i = 0; i < rounds; ++i) {
    a0 = a0 * m + m, a1 = a1 * m + m, a2 = a2 * m + m, a3 = a3 * m + m;
    a4 = a4 * m + m, a5 = a5 * m + m, a6 = a6 * m + m, a7 = a7 * m + m;
    a8 = a8 * m + m, a9 = a9 * m + m, aa = aa * m + m, ab = ab * m + m;
  }
  const Float4 sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + aa + ab;
  volatile float sink = sum[0] + sum[1] + sum[2] + sum[3];
  (void)sink;
}

// p: [bytes], a multiple of 2048, 64-byte aligned.
void portable_read(const char* p, std::size_t bytes, std::size_t passes, bool) {
  const auto* words = reinterpret_cast<const Float4*>(p);
  for (std::size_t pass = 0; pass < passes; ++pass) {
    Float4 a = {}, b = {}, c = {}, d = {};
    for (std::size_t i = 0; i < bytes / 16; i += 4) {
      a += words[i], b += words[i + 1], c += words[i + 2], d += words[i + 3];
    }
    volatile float sink = (a + b + c + d)[0];
    (void)sink;
  }
}

#if PROBE_X86

// The first 12 (AVX2) or 24 (AVX-512) registers accumulate, the last two of the file multiply.
// `.irp` repeats its body for each number; registers start as zeros, since denormals may be slow.
// clang-format off
#define PROBE_XMM16                                                                              \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",       \
  "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory"
#define PROBE_AVX2(name, op)                                                                     \
  __attribute__((target("avx2"))) void name(std::size_t rounds) {                                \
    asm volatile(                                                                                \
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,14,15\n vpxor %%ymm\\i,%%ymm\\i,%%ymm\\i\n .endr\n"      \
        "1:\n"                                                                                   \
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11\n " op " %%ymm14,%%ymm15,%%ymm\\i\n .endr\n"           \
        "decq %0\njnz 1b\nvzeroupper\n" : "+r"(rounds) : : PROBE_XMM16);                         \
  }
#define PROBE_AVX512(name, op)                                                                   \
  __attribute__((target("avx512f"))) void name(std::size_t rounds) {                             \
    asm volatile(                                                                                \
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,30,31\n"           \
        "  vpxord %%zmm\\i,%%zmm\\i,%%zmm\\i\n .endr\n"                                          \
        "1:\n"                                                                                   \
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"                 \
        "  " op " %%zmm30,%%zmm31,%%zmm\\i\n .endr\n"                                            \
        "decq %0\njnz 1b\nvzeroupper\n"                                                          \
        : "+r"(rounds) :                                                                         \
        : "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30",       \
          "xmm31", PROBE_XMM16);                                                                 \
  }
// clang-format on

PROBE_AVX2(avx2_f32, "vfmadd231ps")
PROBE_AVX2(avx2_int8, "%{vex%} vpdpbusd")
PROBE_AVX512(avx512_f32, "vfmadd231ps")
PROBE_AVX512(avx512_bf16, "vdpbf16ps")
PROBE_AVX512(avx512_int8, "vpdpbusd")

// Eight loads a round, two adjacent ones from each of four places `stride` apart: four streams, or,
// with a stride of two vectors, one. Loads into registers that nothing reads still happen.
#define PROBE_READ(name, target_name, r, width)                                              \
  __attribute__((target(target_name))) void name(const char* p, std::size_t bytes,           \
                                                 std::size_t passes, bool streams) {         \
    const std::size_t stride = streams ? bytes / 4 : 2 * (width);                            \
    const std::size_t step = streams ? 2 * (width) : 8 * (width);                            \
    for (std::size_t pass = 0; pass < passes; ++pass) {                                      \
      std::size_t rounds = bytes / (8 * (width));                                            \
      const char* q = p;                                                                     \
      const char* q3 = p + 3 * stride;                                                       \
      asm volatile(                                                                          \
          "1:\n"                                                                             \
          "vmovaps (%1), %%" r "0\nvmovaps " #width "(%1), %%" r                             \
          "1\n"                                                                              \
          "vmovaps (%1,%3), %%" r "2\nvmovaps " #width "(%1,%3), %%" r                       \
          "3\n"                                                                              \
          "vmovaps (%1,%3,2), %%" r "4\nvmovaps " #width "(%1,%3,2), %%" r                   \
          "5\n"                                                                              \
          "vmovaps (%2), %%" r "6\nvmovaps " #width "(%2), %%" r                             \
          "7\n"                                                                              \
          "addq %4, %1\naddq %4, %2\ndecq %0\njnz 1b\nvzeroupper\n"                          \
          : "+r"(rounds), "+r"(q), "+r"(q3)                                                  \
          : "r"(stride), "r"(step)                                                           \
          : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "cc", "memory"); \
    }                                                                                        \
  }
PROBE_READ(avx2_read, "avx2", "ymm", 32)
PROBE_READ(avx512_read, "avx512f", "zmm", 64)

// Bits 4 (AVX-VNNI) and 5 (AVX512_BF16) of leaf 7.1, which not every compiler has a name for.
bool leaf71(unsigned bit) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && ((a >> bit) & 1U) != 0;
}
#endif

// ---- what there is ------------------------------------------------------------------------------

struct Peak {
  const char* precision;
  const char* isa;
  void (*run)(std::size_t rounds);  // null: this CPU cannot
  double ops;                       // a round
};

struct Reader {
  const char* isa;
  void (*run)(const char* p, std::size_t bytes, std::size_t passes, bool streams);
};

std::vector<Peak> peaks() {
  std::vector<Peak> found = {{"float32", "portable", portable_f32, kPortableFlops}};
#if PROBE_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  found.push_back({"float32", "avx2", avx2 ? avx2_f32 : nullptr, 12 * 8 * 2});
  found.push_back({"float32", "avx512", avx512 ? avx512_f32 : nullptr, 24 * 16 * 2});
  found.push_back({"bfloat16", "avx512", avx512 && leaf71(5) ? avx512_bf16 : nullptr, 24 * 32 * 2});
  found.push_back({"int8", "avx2", avx2 && leaf71(4) ? avx2_int8 : nullptr, 12 * 32 * 2});
  found.push_back({"int8", "avx512", vnni ? avx512_int8 : nullptr, 24 * 64 * 2});
#endif
  return found;
}

std::vector<Reader> readers() {
  std::vector<Reader> found = {{"portable", portable_read}};
#if PROBE_X86
  if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", avx2_read});
  if (__builtin_cpu_supports("avx512f")) found.push_back({"avx512", avx512_read});
#endif
  return found;
}

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;
constexpr std::size_t kLargest = 64 * kMiB;

// Two or more points between the sizes that caches have, for the sake of interpolation.
std::vector<std::size_t> sizes(std::size_t threads) {
  std::vector<std::size_t> found;
  for (std::size_t kib : {8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768}) {
    found.push_back(kib * kKiB);
  }
  for (std::size_t kib : {1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768, 65536}) {
    found.push_back(kib * kKiB);
  }
  // All threads' buffers together take a quarter of the memory at most.
  const auto memory = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) *
                      static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  while (found.size() > 1 && found.back() * threads > memory / 4) found.pop_back();
  return found;
}

std::vector<int> usable_cores() {
  std::vector<int> cores;
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &set)) cores.push_back(core);
    }
  }
#endif
  if (cores.empty()) {
    for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i) {
      cores.push_back(static_cast<int>(i));
    }
  }
  return cores;
}

void pin(int core) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
  (void)core;  // macOS and the BSDs have no such call; the scheduler spreads the threads itself
#endif
}

// ---- timing -------------------------------------------------------------------------------------

// Spins, so that all threads leave within a cache line's travel of one another.
class Barrier {
 public:
  explicit Barrier(std::size_t count) : count_(count) {}
  void wait() {
    const std::size_t turn = turn_.load();
    if (arrived_.fetch_add(1) + 1 == count_) {
      arrived_.store(0);
      turn_.fetch_add(1);
    } else {
      while (turn_.load() == turn) {
      }
    }
  }

 private:
  std::size_t count_;
  std::atomic<std::size_t> arrived_{0};
  std::atomic<std::size_t> turn_{0};
};

constexpr double kBurstSeconds = 1e-3;  // long beside the clock, short beside a time slice
constexpr int kBursts = 8;

// One thread a core. Each runs every job in the same order, all of them at the same time; the
// result of a job is the best burst's mean rate of a core.
class Team {
 public:
  explicit Team(std::vector<int> cores)
      : cores_(std::move(cores)), barrier_(cores_.size()), rates_(cores_.size()) {}

  // body(thread, job number) is called on every thread; only thread 0's return values are kept.
  void run(const std::function<void(std::size_t thread)>& body) {
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < cores_.size(); ++i) {
      threads.emplace_back([&, i] {
        pin(cores_[i]);
        body(i);
      });
    }
    for (auto& thread : threads) thread.join();
  }

  // To be called by all threads: `burst(n)` does n units of work. -> units a second of a core
  double rate(std::size_t thread, const std::function<void(std::size_t)>& burst) {
    std::size_t units = 1;
    for (;;) {  // as many as take a burst's time here, at least one
      const double start = now();
      burst(units);
      const double took = now() - start;
      if (took > kBurstSeconds / 4) {
        units = std::max<std::size_t>(
            1, static_cast<std::size_t>(static_cast<double>(units) * kBurstSeconds / took));
        break;
      }
      units *= 4;
    }
    double best = 0;
    for (int i = 0; i < kBursts; ++i) {
      barrier_.wait();
      const double start = now();
      burst(units);
      rates_[thread] = static_cast<double>(units) / (now() - start);
      barrier_.wait();  // nobody overwrites its rate before all have read it
      double sum = 0;
      for (const double r : rates_) sum += r;
      best = std::max(best, sum / static_cast<double>(rates_.size()));
      barrier_.wait();
    }
    return best;
  }

 private:
  std::vector<int> cores_;
  Barrier barrier_;
  std::vector<double> rates_;
};

struct Memory {
  Memory() {
    constexpr std::size_t kHuge = 2 * kMiB;
    void* got =
        mmap(nullptr, kLargest + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) std::exit(1);
    const auto address = reinterpret_cast<std::uintptr_t>(got);
    data = static_cast<char*>(got) + (kHuge - address % kHuge) % kHuge;
#if defined(MADV_HUGEPAGE)
    madvise(data, kLargest, MADV_HUGEPAGE);
#endif
  }
  char* data = nullptr;  // unmapped when the process ends
};

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// {"threads": n, "peak": {precision: {isa: 1e9 ops/s}}, "read": {isa: [[bytes, 1e9 bytes/s], ...]}}
std::string measure(const std::vector<int>& cores) {
  Team team(cores);
  const auto all_peaks = peaks();
  const auto all_readers = readers();
  const auto all_sizes = sizes(cores.size());
  std::vector<double> giga_ops(all_peaks.size());
  std::vector<std::vector<double>> giga_bytes(all_readers.size());
  team.run([&](std::size_t thread) {
    for (std::size_t i = 0; i < all_peaks.size(); ++i) {
      if (all_peaks[i].run == nullptr) continue;
      const double rate = team.rate(thread, [&](std::size_t n) { all_peaks[i].run(1000 * n); });
      if (thread == 0) giga_ops[i] = rate * 1000 * all_peaks[i].ops / 1e9;
    }
    const Memory memory;
    for (std::size_t i = 0; i < all_sizes.back(); i += 4096) memory.data[i] = 1;
    for (std::size_t i = 0; i < all_readers.size(); ++i) {
      for (const std::size_t bytes : all_sizes) {
        double best = 0;
        for (const bool streams : {false, true}) {
          best = std::max(best, team.rate(thread, [&](std::size_t passes) {
            all_readers[i].run(memory.data, bytes, passes, streams);
          }));
        }
        if (thread == 0) giga_bytes[i].push_back(best * static_cast<double>(bytes) / 1e9);
      }
    }
  });

  std::string json = "{\"threads\": " + std::to_string(cores.size()) + ", \"peak\": {";
  for (std::size_t i = 0; i < all_peaks.size(); ++i) {
    const bool first = i == 0 || std::string(all_peaks[i].precision) != all_peaks[i - 1].precision;
    if (first) json += (i == 0 ? "\"" : "}, \"") + std::string(all_peaks[i].precision) + "\": {";
    json += (first ? "\"" : ", \"") + std::string(all_peaks[i].isa) + "\": ";
    json += all_peaks[i].run == nullptr ? "null" : number(giga_ops[i]);
  }
  json += "}}, \"read\": {";
  for (std::size_t i = 0; i < all_readers.size(); ++i) {
    json += (i == 0 ? "\"" : ", \"") + std::string(all_readers[i].isa) + "\": [";
    for (std::size_t k = 0; k < all_sizes.size(); ++k) {
      json += (k == 0 ? "[" : ", [") + std::to_string(all_sizes[k]) + ", " +
              number(giga_bytes[i][k]) + "]";
    }
    json += "]";
  }
  return json + "}}";
}

}  // namespace

// Arguments: numbers of cores to measure at once, rising; without any, one and all.
int main(int argc, char** argv) {
  const double start = now();
  const auto cores = usable_cores();
  std::vector<std::size_t> counts;
  for (int i = 1; i < argc; ++i) counts.push_back(std::strtoul(argv[i], nullptr, 10));
  if (counts.empty()) counts = {1, cores.size()};
  std::string json;
  std::size_t last = 0;
  for (std::size_t count : counts) {
    count = std::min(count, cores.size());
    if (count <= last) continue;
    json += (last == 0 ? "" : ", ") +
            measure({cores.begin(), cores.begin() + static_cast<std::ptrdiff_t>(count)});
    last = count;
  }
  std::printf("{\"cores\": %zu, \"runs\": [%s], \"seconds\": %.2f}\n", cores.size(), json.c_str(),
              now() - start);
  return json.empty() ? 1 : 0;
}
