#include "run/run.hpp"

#include <algorithm>
#include <atomic>

#include "run/row_block.hpp"
#include "system/float_mode.hpp"

namespace fastgru {
namespace {

// For one thread of a call: enters the products that may multiply in it, and leaves them again.
class EnteredProducts {
 public:
  EnteredProducts(const PackedNetwork& network, const Call& call, const NetworkPlan& plan)
      : network_(network), call_(call), most_rows_(plan.time_block * plan.row_block) {
    for_each([&](const Product& product) {
      if (product.enter) product.enter(plan.row_block);
    });
  }
  ~EnteredProducts() {
    for_each([](const Product& product) {
      if (product.leave) product.leave();
    });
  }
  EnteredProducts(const EnteredProducts&) = delete;
  EnteredProducts& operator=(const EnteredProducts&) = delete;

 private:
  // Each product once, whatever the layers that use it.
  template <class Visit>
  void for_each(Visit visit) const {
    const auto used_before = [&](const Product* product, std::size_t node) {
      for (std::size_t i = call_.first_node; i < node; ++i)
        for (const ProductChoice& choice : products_of(i))
          if (choice.product == product) return true;
      return false;
    };
    for (std::size_t i = call_.first_node; i < call_.end_node; ++i)
      for (const ProductChoice& choice : products_of(i))
        if ((choice.product->enter || choice.product->leave) && choice.min_rows <= most_rows_ &&
            !used_before(choice.product, i))
          visit(*choice.product);
  }
  // Those of a layer's directions are the same. Of other layers than GRUs there are none to enter.
  const std::vector<ProductChoice>& products_of(std::size_t index) const {
    static const std::vector<ProductChoice> none;
    const Node& node = network_.nodes[index];
    if (!node.is_gru()) return none;
    return node.gru->layers[node.gru_layer * node.gru->sizes.num_directions].products;
  }

  const PackedNetwork& network_;
  const Call& call_;
  const std::size_t most_rows_;  // of an input product
};

void run_share(const Job& job, Share& share) {
  const FlushDenormals flush;
  const EnteredProducts entered(job.network, job.call, job.plan);
  for (std::size_t row = share.rows.begin; row < share.rows.end && !job.interruption.given_up();
       row += job.plan.row_block)
    run_row_block(job, share, row, std::min(job.plan.row_block, share.rows.end - row));
}

// First row of group `group` of `groups`: groups of about equal total length.
std::size_t group_begin(const Job& job, std::size_t group) {
  const std::size_t groups = job.plan.grid.row_groups, rows = job.call.B;
  if (!job.call.lengths) return part_of(rows, group, groups).begin;
  std::size_t total = 0;
  for (std::size_t row = 0; row < rows; ++row) total += job.space.lengths[row] + 1;
  std::size_t sum = 0, row = 0;
  while (row < rows && sum < total * group / groups) sum += job.space.lengths[row++] + 1;
  return row;
}

// Returns how often a barrier between equal shares took long; where threads may have unequal work
// long waits say nothing.
std::size_t run_thread(const Job& job, std::size_t thread) {
  const Grid& grid = job.plan.grid;
  const std::size_t team = grid.threads_per_row_group();
  const std::size_t group = thread / team, first = group * team;
  const std::size_t index = thread - first, unit = index % grid.unit_groups;
  const bool directions = grid.directions == 2;
  Share share{
      {group_begin(job, group), group_begin(job, group + 1)},
      directions ? Range{index / grid.unit_groups, index / grid.unit_groups + 1} : Range{0, 2},
      unit,
      index,
      job.space.threads[thread],
      Barrier(job.space.row_barriers + first, index, team, job.plan.patience,
              job.interruption.flag()),
      Barrier(job.space.unit_barriers + (thread - unit), unit, grid.unit_groups, job.plan.patience,
              job.interruption.flag())};
  run_share(job, share);
  job.interruption.share_ended(grid.threads());
  return share.unit_barrier.long_waits() + (directions ? 0 : share.row_barrier.long_waits());
}

// Whether a call begins with the last weights, as this thread's last call of the same network ended
// with them: it finds in its caches what was read last. Exact for one GRU layer and block of rows,
// else a guess, which costs nothing if wrong.
bool goes_backwards(const PackedNetwork& network, std::size_t steps) {
  thread_local const PackedNetwork* last = nullptr;
  thread_local bool at_end = false;
  const bool backwards = last == &network && at_end;
  last = &network;
  at_end = backwards != (steps % 2 == 1);
  return backwards;
}

}  // namespace

std::optional<RunResult> run(const PackedNetwork& network, const Call& given,
                             const NetworkPlan& plan) {
  Call call = given;
  call.end_node = std::min(call.end_node, network.nodes.size());
  const Workspace space = make_workspace(network, call, plan);
  Interruption interruption(call.interrupt);
  const Job job{network, call, plan, space, goes_backwards(network, call.T), interruption};
  std::atomic<std::size_t> long_waits{0};
  if (plan.grid.threads() == 1) {
    run_thread(job, 0);
  } else {
    const auto body = [&](std::size_t index) {
      long_waits.fetch_add(run_thread(job, index), std::memory_order_relaxed);
    };
    const bool ran = call.interrupt
                         ? parallel(plan.grid.threads(), body, [&] { interruption.ask(); })
                         : parallel(plan.grid.threads(), body);
    if (!ran) return std::nullopt;
  }
  return RunResult{long_waits, interruption.flag() && *interruption.flag()};
}

std::size_t scratch_bytes(const PackedNetwork& network, const Call& given,
                          const NetworkPlan& plan) {
  Call call = given;
  call.end_node = std::min(call.end_node, network.nodes.size());
  return workspace_bytes(network, call, plan);
}

}  // namespace fastgru
