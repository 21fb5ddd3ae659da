#include "kernels/dispatch.hpp"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <iterator>
#include <stdexcept>

namespace fastgru {
namespace {

// __builtin_cpu_supports also asks whether the operating system saves the registers (XCR0).
#define FASTGRU_CPU_HAS(feature) (__builtin_cpu_supports(#feature) != 0)
#define FASTGRU_CPU_IS(vendor) (__builtin_cpu_is(#vendor) != 0)

struct Level {
  const char* name;
  int preference;
  bool runs;
  const KernelTable* (*kernels)();
};

// Best first.
std::vector<Level> all_levels() {
  std::vector<Level> levels = {
#define FASTGRU_LEVEL(name, preference, runs) {#name, preference, runs, name##_kernels},
#include "kernels/levels.inc"
  };
  std::sort(levels.begin(), levels.end(),
            [](const Level& a, const Level& b) { return a.preference > b.preference; });
  return levels;
}

std::string names(bool supported_only) {
  std::string list;
  for (const Level& level : all_levels())
    if (!supported_only || level.runs) list += (list.empty() ? "" : ", ") + std::string(level.name);
  return list;
}

const KernelTable* find(const std::string& name, const std::string& source) {
  for (const Level& level : all_levels()) {
    if (name != level.name) continue;
    if (level.runs) return level.kernels();
    throw std::invalid_argument(source + ": this CPU does not support '" + name +
                                "'; it supports " + names(true));
  }
  throw std::invalid_argument(source + ": unknown ISA '" + name + "'; this build has " +
                              names(false));
}

// Whether two products of a level give a row the same bits.
bool have_same_bits(const Product& a, const Product& b) {
  return &a == &b || (a.sums == b.sums && a.sums != Sums::own);
}

}  // namespace

std::vector<IsaLevel> isa_levels() {
  std::vector<IsaLevel> levels;
  for (const Level& level : all_levels()) levels.push_back({level.name, level.runs});
  return levels;
}

const KernelTable* choose_kernels(const std::string& name) {
  if (!name.empty()) return find(name, "isa");
  const char* forced = std::getenv("FASTGRU_ISA");
  if (forced && *forced) return find(forced, "FASTGRU_ISA");
  for (const Level& level : all_levels())
    if (level.runs) return level.kernels();
  throw std::logic_error("the portable kernels run everywhere");
}

const Product& own_product(const KernelTable& kernels, Precision precision) {
  const Product& product = kernels.products[static_cast<std::size_t>(precision)];
  assert(product.name);  // kernels() in kernels.hpp makes one for each precision
  return product;
}

const Format& format_of(Precision precision) {
  return own_product(*portable_kernels(), precision).format;
}

std::vector<ListedProduct> listed_products() {
  std::vector<ListedProduct> products;
  for (const Level& level : all_levels())
    for (std::size_t p = 0; p < kPrecisions; ++p) {
      const auto precision = static_cast<Precision>(p);
      products.push_back({level.name, level.name, precision, 0, 1,
                          level.runs ? &own_product(*level.kernels(), precision) : nullptr});
    }
#define FASTGRU_PRODUCT(name, level, precision, preference, min_rows, runs)      \
  products.push_back({#name, #level, Precision::precision, preference, min_rows, \
                      runs ? name##_kernels() : nullptr});
#include "kernels/levels.inc"
  return products;
}

std::vector<ProductChoice> runnable_products(const KernelTable& kernels, Precision precision) {
  std::vector<ProductChoice> found;
  for (const ListedProduct& listed : listed_products())
    if (listed.product && listed.precision == precision &&
        std::string(kernels.name) == listed.level)
      found.push_back({listed.product, listed.preference, listed.min_rows});
  std::stable_sort(found.begin(), found.end(), [](const ProductChoice& a, const ProductChoice& b) {
    return a.preference > b.preference;
  });
  return found;
}

std::vector<ProductChoice> choose_products(const std::vector<ProductChoice>& runnable) {
  const auto base = std::find_if(runnable.begin(), runnable.end(),
                                 [](const ProductChoice& choice) { return choice.min_rows <= 1; });
  assert(base != runnable.end());  // the level's own product
  std::vector<ProductChoice> chosen;
  std::copy_if(
      runnable.begin(), base + 1, std::back_inserter(chosen),
      [&](const ProductChoice& choice) { return have_same_bits(*choice.product, *base->product); });
  for ([[maybe_unused]] const ProductChoice& choice : chosen) {
    // They read the same packed weights, and one plan serves them all.
    assert(choice.product->takes_operands == base->product->takes_operands);
    assert(choice.product->format.terms == base->product->format.terms);
    assert(choice.product->format.element_bytes == base->product->format.element_bytes);
    assert(choice.product->format.has_scales == base->product->format.has_scales);
  }
  return chosen;
}

std::string names_of(const std::vector<ProductChoice>& choices) {
  std::string names;
  for (auto choice = choices.rbegin(); choice != choices.rend(); ++choice) {
    if (!names.empty()) names += ", from " + std::to_string(choice->min_rows) + " rows ";
    names += choice->product->name;
  }
  return names;
}

}  // namespace fastgru
