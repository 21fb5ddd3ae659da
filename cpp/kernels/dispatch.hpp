// Which kernels a GRU or another layer runs: what kernels/levels.inc lists, asked once when it is
// packed. Nothing below this tests a CPU feature. The only place that reads FASTGRU_ISA.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/contract.hpp"

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

constexpr const char* kPrecisionNames[] = {
#define FASTGRU_PRECISION(name) #name,
#include "kernels/levels.inc"
};
constexpr const char* name_of(Precision precision) {
  return kPrecisionNames[static_cast<std::size_t>(precision)];
}

// A level's own product for a precision, which serves any number of rows.
const Product& own_product(const KernelTable& kernels, Precision precision);

// How a precision writes weights, on every level.
const Format& format_of(Precision precision);

// A product that may multiply in calls of at least so many rows.
struct ProductChoice {
  const Product* product;
  int preference;
  std::size_t min_rows;
};

// What this CPU has for layers in `precision` that run on `kernels`, best first. All of them read
// the same packed weights.
std::vector<ProductChoice> runnable_products(const KernelTable& kernels, Precision precision);

// Of products that run, best first, those that a layer uses: the best one that serves a single row,
// and better ones that want more rows as long as both have the same bits, since a row's bits may
// not depend on how many rows came with it (Note [Same bits]). Sums that a product makes in its own
// way are nobody else's.
std::vector<ProductChoice> choose_products(const std::vector<ProductChoice>& runnable);

// What multiplies `rows` rows of a layer that uses `choices`.
inline const Product* product_for(const std::vector<ProductChoice>& choices, std::size_t rows) {
  for (const ProductChoice& choice : choices)
    if (choice.min_rows <= rows) return choice.product;
  return choices.back().product;
}

// Their names, and from how many rows on each multiplies: "a", or "a, from 16 rows b".
std::string names_of(const std::vector<ProductChoice>& choices);

// Everything in the list, whether it runs here or not.
struct ListedProduct {
  const char* name;
  const char* level;
  Precision precision;
  int preference;
  std::size_t min_rows;
  const Product* product;  // null: this CPU does not run it
};
std::vector<ListedProduct> listed_products();

}  // namespace fastgru
