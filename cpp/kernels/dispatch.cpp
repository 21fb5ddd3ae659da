#include "kernels/dispatch.hpp"

#include <cstdlib>
#include <stdexcept>

namespace fastgru {
namespace {

struct Level {
  const char* name;
  bool (*supported)();
  const KernelTable* (*kernels)();
};

// __builtin_cpu_supports also asks whether the operating system saves the registers (XCR0).
constexpr Level kLevels[] = {
#if defined(FASTGRU_HAVE_avx512)
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("fma");
     },
     avx512_kernels},
#endif
#if defined(FASTGRU_HAVE_avx2)
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     avx2_kernels},
#endif
    {"portable", [] { return true; }, portable_kernels},
};

// For the vectors of a level, with instructions that not every CPU of that level has.
struct Extra {
  const char* level;
  Precision precision;
  bool (*supported)();
  bool (*preferred)();  // where they are supported
  const Product* (*kernels)();
};
constexpr Extra kExtras[] = {
#if defined(FASTGRU_HAVE_avx512_bf16)
    // Intel's vdpbf16ps is slow (Emerald Rapids: one in two cycles, which start four FMAs), so that
    // widening weights for FMAs is 1.2 times as fast for one row and 1.6 times in batches.
    {"avx512", Precision::bfloat16, [] { return __builtin_cpu_supports("avx512bf16") != 0; },
     [] { return !__builtin_cpu_is("intel"); }, avx512_bf16_kernels},
#endif
#if defined(FASTGRU_HAVE_avx512_vnni)
    {"avx512", Precision::int8, [] { return __builtin_cpu_supports("avx512vnni") != 0; },
     [] { return true; }, avx512_vnni_kernels},
#endif
    {nullptr, Precision::float32, nullptr, nullptr,
     nullptr}};  // the list's end, which some builds reach at once

std::string names(bool supported_only) {
  std::string list;
  for (const Level& level : kLevels)
    if (!supported_only || level.supported())
      list += (list.empty() ? "" : ", ") + std::string(level.name);
  return list;
}

const KernelTable* find(const std::string& name, const std::string& source) {
  for (const Level& level : kLevels) {
    if (name != level.name) continue;
    if (level.supported()) return level.kernels();
    throw std::invalid_argument(source + ": this CPU does not support '" + name +
                                "'; it supports " + names(true));
  }
  throw std::invalid_argument(source + ": unknown ISA '" + name + "'; this build has " +
                              names(false));
}

}  // namespace

std::vector<IsaLevel> isa_levels() {
  std::vector<IsaLevel> levels;
  for (const Level& level : kLevels) levels.push_back({level.name, level.supported()});
  return levels;
}

const KernelTable* choose_kernels(const std::string& name) {
  if (!name.empty()) return find(name, "isa");
  const char* forced = std::getenv("FASTGRU_ISA");
  if (forced && *forced) return find(forced, "FASTGRU_ISA");
  for (const Level& level : kLevels)
    if (level.supported()) return level.kernels();
  throw std::logic_error("the portable kernels run everywhere");
}

std::vector<const Product*> runnable_products(const KernelTable& kernels, Precision precision) {
  std::vector<const Product*> found = {&kernels.products[static_cast<std::size_t>(precision)]};
  for (const Extra* extra = kExtras; extra->level; ++extra)
    if (std::string(kernels.name) == extra->level && precision == extra->precision &&
        extra->supported())
      found.insert(extra->preferred() ? found.begin() : found.end(), extra->kernels());
  return found;
}

const Product* choose_product(const KernelTable& kernels, Precision precision) {
  return runnable_products(kernels, precision).front();
}

}  // namespace fastgru
