// Products: how each precision writes weights, and which product multiplies how many rows. What
// tiles need and no product of today has (a least number of rows, enter and leave) is tried by a
// product of the test's own.
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "gru_cases.hpp"
#include "system/buffer.hpp"
#include "system/parallel.hpp"

using namespace fastgru;

namespace {

// A product that stands before another one and does what it does, but counts. Its functions are
// plain ones, as a table wants them, so what they count in is global; atomic, since threads call
// them.
struct Fake {
  const Product* behind = nullptr;
  std::atomic<int> entered{0}, left{0}, prepared{0}, multiplied{0}, outside{0}, twice{0};
  void reset() { entered = left = prepared = multiplied = outside = twice = 0; }
};
Fake fake;
thread_local bool inside_fake = false;

void enter_fake(std::size_t rows) {
  if (rows == 0) ++fake.outside;
  ++fake.entered;
  if (inside_fake) ++fake.twice;
  inside_fake = true;
}
void leave_fake() {
  ++fake.left;
  if (!inside_fake) ++fake.outside;
  inside_fake = false;
}
template <auto Member>
void prepare_fake(const float* row, std::size_t reduction, const Operands& to, std::size_t index) {
  ++fake.prepared;
  if (!inside_fake) ++fake.outside;
  (fake.behind->*Member)(row, reduction, to, index);
}
template <auto Member>
void multiply_fake(const ProductBlock& block) {
  ++fake.multiplied;
  if (!inside_fake) ++fake.outside;
  (fake.behind->*Member)(block);
}
Product fake_before(const Product& behind) {
  fake.behind = &behind;
  Product product = behind;
  product.name = "fake";
  product.prepare_input = prepare_fake<&Product::prepare_input>;
  product.prepare_state = prepare_fake<&Product::prepare_state>;
  product.prepare_fine_state = prepare_fake<&Product::prepare_fine_state>;
  product.multiply_input = multiply_fake<&Product::multiply_input>;
  product.multiply_state = multiply_fake<&Product::multiply_state>;
  product.enter = enter_fake;
  product.leave = leave_fake;
  return product;
}

// A call multiplies with the product for its number of rows, and each of its threads enters that
// product once before and leaves it once after; calls with fewer rows leave it alone.
void test_products_by_rows(bool reset_after) {
  GruSizes sizes{24, 48, 2, 1, true, reset_after, Function::tanh, Function::sigmoid};
  for (const std::size_t directions : {1, 2}) {
    sizes.num_directions = directions;
    const ReducedGru reduced(sizes, Precision::int8);
    for (const KernelTable* kernels : runnable()) {
      PackedGru packed = pack(reduced.gru.spec, kernels);
      const PackedGru plain = pack(reduced.gru.spec, kernels);
      const Product behind = *packed.layers[0].products.front().product;
      const Product product = fake_before(behind);
      for (PackedLayer& layer : packed.layers)
        layer.products = {{&product, 100, 8}, {&behind, 0, 1}};
      const auto counted = [&](std::size_t T, std::size_t B, const Plan* plan) {
        const Case c = random_case(sizes, T, B, false);
        const std::string name = describe(sizes, c, kernels->name) + " fake";
        fake.reset();
        const Result got = engine(packed, c, plan);
        check(got == engine(plain, c, plan), name + ": the same bits");
        check(fake.outside == 0 && fake.twice == 0, name + ": entered before it is used, once");
        check(fake.entered == fake.left && !inside_fake, name + ": left after it was used");
      };
      counted(1, 3, nullptr);
      check(fake.multiplied == 0 && fake.prepared == 0 && fake.entered == 0, "too few rows");
      counted(1, 9, nullptr);
      check(fake.multiplied > 0 && fake.prepared > 0, "rows enough");
      // Three rows are too few in each step, but twelve at once are not: input products alone.
      counted(4, 3, nullptr);
      check(fake.entered == 1 && fake.prepared == static_cast<int>(2 * directions * 12),
            "rows enough for input products alone");
      for (const Grid grid : {Grid{2, 1, 1}, Grid{1, directions, 1}, Grid{1, 1, 2}}) {
        if (grid.threads() > 1 && openmp_runtime() == std::string("none")) continue;
        const Plan plan = make_plan(packed, {5, 20}, grid, RowsInLanes::never);
        counted(5, 20, &plan);
        check(fake.entered == static_cast<int>(grid.threads()), "each thread enters a product");
      }
    }
  }
}

}  // namespace

// A precision's format is the same for every ISA and product, to the byte: zeros where a panel has
// no unit or term, and back to the bit.
TEST(formats) {
  for (std::size_t p = 0; p < kPrecisions; ++p) {
    const auto precision = static_cast<Precision>(p);
    for (const std::size_t units : {1, 5, 16})
      for (const std::size_t K : {1, 2, 3, 4, 7, 33}) {
        Floats weights(units * K), scales = random_floats(units, 1.0f);
        std::uniform_int_distribution<int> integer(-127, 127);  // what every precision can write
        for (float& w : weights) w = static_cast<float>(integer(generator));
        std::vector<char> first;
        for (const KernelTable* kernels : runnable())
          for (const ProductChoice& listed : runnable_products(*kernels, precision)) {
            const Product* product = listed.product;
            const std::string name = std::string(product->name) + " " + name_of(precision);
            const Format& format = product->format;
            constexpr std::size_t G = 2;  // gates, of which the second is written
            const std::size_t row = kPanel * format.terms * format.element_bytes;
            std::vector<char> panel(round_up(K, format.terms) / format.terms * G * row, 'x');
            Floats panel_scales(kPanel, -7.0f), back(weights.size()), back_scales(units);
            std::vector<std::int32_t> offsets(kPanel, -7);
            const PanelGate gate{panel.data() + row, G * row,
                                 format.has_scales ? panel_scales.data() : nullptr,
                                 format.has_scales ? offsets.data() : nullptr};
            format.encode({weights.data(), scales.data(), units, K}, gate);
            format.decode(gate, {back.data(), back_scales.data(), units, K});
            check(same_bits(back, weights), name + ": written and read again");
            check(!format.has_scales || same_bits(back_scales, scales), name + ": scales again");
            std::size_t not_zero = 0, other = 0;
            for (std::size_t i = 0; i < panel.size(); ++i)
              if (i / row % G == 0)
                other += panel[i] != 'x';
              else
                not_zero += panel[i] != 0;
            check(other == 0, name + ": the other gate is left alone");
            check(not_zero <= units * K * format.element_bytes, name + ": padding is zeros");
            for (std::size_t lane = units; format.has_scales && lane < kPanel; ++lane)
              check(panel_scales[lane] == 0 && offsets[lane] == 0, name + ": units that are not");
            if (first.empty()) first = panel;
            check(first == panel, name + ": the same bytes on every ISA");
          }
      }
  }
}

// A layer uses the best product that serves one row, and better ones that want more rows where
// both have the same bits.
TEST(choice_of_products) {
  const auto product_with = [](const char* name, Sums sums) {
    Product product{};
    product.name = name;
    product.sums = sums;
    return product;
  };
  const Product exact = product_with("exact", Sums::exact), tiles = product_with("t", Sums::exact),
                large = product_with("large", Sums::exact), own = product_with("own", Sums::own),
                chains = product_with("chains", Sums::chains);
  const auto chosen = [](const std::vector<ProductChoice>& runnable) {
    return names_of(choose_products(runnable));
  };
  check(chosen({{&exact, 0, 1}}) == "exact", "a product alone");
  check(chosen({{&tiles, 10, 8}, {&exact, 0, 1}}) == "exact, from 8 rows t", "better from 8 rows");
  check(chosen({{&large, 20, 64}, {&tiles, 10, 8}, {&exact, 0, 1}}) ==
            "exact, from 8 rows t, from 64 rows large",
        "three by rows");
  check(chosen({{&tiles, 10, 1}, {&exact, 0, 1}}) == "t", "the better of two that serve all rows");
  check(chosen({{&exact, 0, 1}, {&tiles, -10, 8}}) == "exact", "a worse one is not used");
  check(chosen({{&own, 10, 8}, {&exact, 0, 1}}) == "exact", "bits may not depend on the rows");
  check(chosen({{&chains, 10, 8}, {&own, 0, 1}}) == "own", "nor where chains meet other sums");
  check(chosen({{&own, 10, 1}, {&chains, 0, 1}}) == "own", "a product of its own serves all rows");
  const auto choices = choose_products({{&large, 20, 64}, {&tiles, 10, 8}, {&exact, 0, 1}});
  for (const auto& [rows, product] : {std::pair<std::size_t, const Product*>{1, &exact},
                                      {7, &exact},
                                      {8, &tiles},
                                      {63, &tiles},
                                      {64, &large},
                                      {1000, &large}})
    check(product_for(choices, rows) == product, std::to_string(rows) + " rows: which product");

  // The list itself: what is in it by name, once, and with preferences that differ.
  for (const KernelTable* kernels : runnable())
    for (std::size_t p = 0; p < kPrecisions; ++p) {
      const auto precision = static_cast<Precision>(p);
      const auto products = runnable_products(*kernels, precision);
      const std::string name = std::string(kernels->name) + " " + name_of(precision);
      for (std::size_t i = 1; i < products.size(); ++i)
        check(products[i - 1].preference > products[i].preference, name + ": one order");
      check(choose_products(products).back().min_rows == 1, name + ": any number of rows");
      check(own_product(*kernels, precision).name == std::string(kernels->name), name + ": own");
    }
}

TEST(products_by_rows) {
  for (const bool reset_after : {true, false}) test_products_by_rows(reset_after);
}
