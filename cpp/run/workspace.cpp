#include "run/workspace.hpp"

#include <algorithm>
#include <new>

#include "run/layers.hpp"
#include "system/arena.hpp"

namespace fastgru {
namespace {

// What rows_* kernels need instead of gates: see RowBlocks in kernels/gru/rows.hpp.
std::size_t rows_scratch(const Node& node) {
  return checked_product(node.inputs + 5 * node.gru->sizes.hidden_size, 2 * kPanel);
}

// What the nodes of a call need, in elements; the largest of each.
struct Needs {
  std::size_t gates = 0, states = 0, update = 0, operand_bytes = 0, products = 0;
  std::size_t widest = 0;  // of all rows
  // Of rows in time blocks, between sections, and behind Last, Mean and Max.
  std::size_t block_width = 0, sequence_width = 0, result_width = 0;
  int blocks = 0;                           // buffers
  bool sequences[2] = {}, results[2] = {};  // which of the two
  bool sums = false;
};

Needs needs_of(const PackedNetwork& network, const Call& call, const NetworkPlan& plan) {
  Needs needs;
  needs.operand_bytes = longest_operand(network, call);
  const std::size_t block = checked_product(plan.time_block, plan.row_block);
  needs.widest = call.width;
  for (std::size_t i = call.first_node; i < call.end_node; ++i) {
    const Node& node = network.nodes[i];
    needs.widest = std::max(needs.widest, node.outputs);
    if (node.kind == Node::Kind::mean) needs.sums = true;
    if (node.linear) needs.products = kLinearScratch;
    if (!node.is_gru()) continue;
    const Plan& own = plan.grus[node.gru_index];
    const GruSizes& sizes = node.gru->sizes;
    const std::size_t state = checked_product(plan.row_block, own.state_stride);
    const std::size_t parts = unit_parts(node, plan.grid);
    const std::size_t panels = (sizes.panels() + parts - 1) / parts;
    needs.gates = std::max(needs.gates, checked_product(block, panels * kGates * kPanel));
    if (own.rows_in_lanes != RowsInLanes::never)
      needs.gates = std::max(needs.gates, rows_scratch(node));
    needs.states += checked_product(2, state);
    if (!sizes.reset_after) needs.update = std::max(needs.update, state);
  }
  for (std::size_t s = 0; s < network.sections.size(); ++s) {
    const Section section = clipped(network.sections[s], call);
    const std::size_t writer = final_writer(network, section);
    std::size_t width = section.begin > 0 ? network.nodes[section.begin - 1].outputs : 0;
    int written = 0;
    for (std::size_t i = section.begin; i < section.end; ++i) {
      const Node& node = network.nodes[i];
      width = node.outputs ? node.outputs : call.width;
      if (node.is_over_time()) continue;
      if (i < writer) needs.block_width = std::max(needs.block_width, width), ++written;
    }
    needs.blocks = std::max(needs.blocks, std::min(written, 2));
    if (s + 1 == network.sections.size() || section.begin == section.end) continue;
    if (section.single_step || network.sections[s + 1].single_step) {
      needs.result_width = std::max(needs.result_width, width);
      needs.results[s % 2] = true;
    } else {
      needs.sequence_width = std::max(needs.sequence_width, width);
      needs.sequences[s % 2] = true;
    }
  }
  return needs;
}

Workspace carve(Carver& carver, const PackedNetwork& network, const Call& call,
                const NetworkPlan& plan, const Needs& needs) {
  const Grid& grid = plan.grid;
  const std::size_t block = checked_product(plan.time_block, plan.row_block);
  const std::size_t sequence =
      checked_product(call.T, checked_product(plan.row_block, needs.sequence_width));
  Workspace w{};
  w.order = carver.take<std::size_t>(call.B);
  w.lengths = carver.take<std::size_t>(call.B);
  w.valid = w.lengths;
  if (call.lengths && network.grus.empty()) w.valid = carver.take<std::size_t>(call.B);
  w.threads = carver.take<Scratch>(grid.threads());
  w.row_barriers = carver.take<Arrival>(grid.threads());
  w.unit_barriers = carver.take<Arrival>(grid.threads());
  for (std::size_t group = 0, thread = 0; group < grid.row_groups; ++group) {
    Scratch s{};
    for (int i = 0; i < needs.blocks; ++i)
      s.blocks[i] = carver.take<float>(checked_product(block, needs.block_width));
    for (int i = 0; i < 2; ++i) {
      if (needs.sequences[i]) s.sequences[i] = carver.take<float>(sequence);
      if (needs.results[i])
        s.results[i] = carver.take<float>(checked_product(plan.row_block, needs.result_width));
    }
    if (needs.sums) s.sums = carver.take<double>(checked_product(plan.row_block, needs.widest));
    for (std::size_t d = 0; d < grid.directions; ++d) {
      s.states[d] = carver.take<float>(needs.states);
      s.reset_states[d] = carver.take<float>(needs.update);
      s.updates[d] = carver.take<float>(needs.update);
    }
    for (std::size_t i = 0; i < grid.threads_per_row_group(); ++i, ++thread) {
      s.gates = carver.take<float>(needs.gates);
      if (needs.operand_bytes > 0) {
        s.operands.rows = carver.take<char>(checked_product(block, needs.operand_bytes));
        s.operands.stride = needs.operand_bytes;
        s.operands.scales = carver.take<float>(block);
      }
      s.in_rows = carver.take<const float*>(block);
      s.out_rows = carver.take<float*>(plan.row_block);
      s.products = carver.take<float>(needs.products);
      if (call.lengths)
        for (float*& padding : s.padding) padding = carver.take<float>(needs.widest);
      if (carver.fits()) w.threads[thread] = s;
    }
  }
  return w;
}

// Longest first, equal lengths in the caller's order. Where no layer is a GRU, all steps run.
void sort_rows(const PackedNetwork& network, const Call& call, Workspace& space) {
  for (std::size_t b = 0; b < call.B; ++b) space.order[b] = b;
  if (call.lengths)
    std::sort(space.order, space.order + call.B, [&](std::size_t a, std::size_t b) {
      return call.lengths[a] != call.lengths[b] ? call.lengths[a] > call.lengths[b] : a < b;
    });
  const bool all_steps = !call.lengths || network.grus.empty();
  for (std::size_t row = 0; row < call.B; ++row) {
    const std::size_t length =
        call.lengths ? static_cast<std::size_t>(call.lengths[space.order[row]]) : call.T;
    space.valid[row] = length;
    space.lengths[row] = all_steps ? call.T : length;
  }
  space.has_padding = call.B > 0 && space.lengths[call.B - 1] < call.T;
}

}  // namespace

Section clipped(const Section& section, const Call& call) {
  Section part = section;
  part.begin = std::clamp(section.begin, call.first_node, call.end_node);
  part.end = std::clamp(section.end, call.first_node, call.end_node);
  return part;
}

std::size_t final_writer(const PackedNetwork& network, const Section& section) {
  if (section.begin == section.end) return section.end;
  if (network.nodes[section.end - 1].is_over_time()) return section.end - 1;
  std::size_t writer = section.end - 1;
  while (writer > section.begin && network.nodes[writer].in_place()) --writer;
  return writer;
}

std::size_t longest_operand(const PackedNetwork& network, const Call& call) {
  std::size_t bytes = 0;
  for (std::size_t i = call.first_node; i < call.end_node; ++i) {
    const Node& node = network.nodes[i];
    if (!node.is_gru()) continue;
    const GruSizes& sizes = node.gru->sizes;
    if (node.gru->layers[node.gru_layer * sizes.num_directions].takes_operands())
      bytes = std::max({bytes, operand_stride(node.inputs), operand_stride(sizes.hidden_size)});
  }
  return bytes;
}

std::size_t workspace_bytes(const PackedNetwork& network, const Call& call,
                            const NetworkPlan& plan) {
  Carver counter({});
  carve(counter, network, call, plan, needs_of(network, call, plan));
  return counter.used();
}

Workspace make_workspace(const PackedNetwork& network, const Call& call, const NetworkPlan& plan) {
  const Needs needs = needs_of(network, call, plan);
  Carver carver(arena_of(0));
  Workspace space = carve(carver, network, call, plan, needs);
  if (!carver.fits()) {
    carver = Carver(arena_of(carver.used()));
    space = carve(carver, network, call, plan, needs);
  }
  for (std::size_t thread = 0; thread < plan.grid.threads(); ++thread) {
    new (&space.row_barriers[thread]) Arrival;
    new (&space.unit_barriers[thread]) Arrival;
  }
  sort_rows(network, call, space);
  return space;
}

}  // namespace fastgru
