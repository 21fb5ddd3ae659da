// Which kernels a GRU or another layer runs: a priority list, asked once when it is packed. Nothing
// below this tests a CPU feature. The only place that reads FASTGRU_ISA.
#pragma once

#include <string>
#include <vector>

#include "network/spec.hpp"

namespace fastgru {

struct IsaLevel {
  const char* name;
  bool supported;  // by this CPU and operating system
};

// Compiled into this build, best first.
std::vector<IsaLevel> isa_levels();

// The kernels of `name`; empty: of FASTGRU_ISA; that empty too: the best that runs here.
// Throws std::invalid_argument for an unknown or unsupported name.
const KernelTable* choose_kernels(const std::string& name);

// What this CPU has for layers in `precision` that run on `kernels`, best first. All of them read
// the same packed weights.
std::vector<const Product*> runnable_products(const KernelTable& kernels, Precision precision);
// The best of them.
const Product* choose_product(const KernelTable& kernels, Precision precision);

}  // namespace fastgru
