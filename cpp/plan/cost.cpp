#include "plan/cost.hpp"

#include <algorithm>

namespace fastgru {
namespace {

// GB/s at which one core reads `bytes` again and again: from L1 a vector a cycle; 74 to 88 from
// L2 and 57 from L3 on Zen 1, 105 and 88 on Zen 4; from far away 28 on Emerald Rapids (L3), 10 to
// 20 from memory.
double read_gigabytes(const Machine& machine, double bytes) {
  if (bytes <= static_cast<double>(machine.l1)) return 2 * machine.gflops;
  if (bytes <= static_cast<double>(machine.l2)) return 85;
  return bytes <= static_cast<double>(machine.near) ? 60 : 28;
}

// Rows come from and go to memory, next to other work.
constexpr double kRowGigabytes = 10;

// The gates of a unit, as many floating point operations as their exponentials and divisions cost.
constexpr double kGateFlops = 150;
// A step's cost beyond products and gates.
constexpr double kStepMicroseconds = 0.05;

// Nanoseconds for each feature of a row in the layers without weights to multiply: Zen 4, AVX-512.
double feature_nanoseconds(Node::Kind kind) {
  switch (kind) {
    case Node::Kind::softmax:
    case Node::Kind::log_softmax:
    case Node::Kind::layer_norm:
      return 1.0;
    case Node::Kind::activation:
      return 0.4;
    default:
      return 0.1;
  }
}
// Rows that one reading of a linear layer's weights serves.
constexpr double kRowsPerReading = 64;

double weight_size(Precision precision) {
  return static_cast<double>(format_of(precision).element_bytes);
}

Precision precision_of(const PackedGru& gru, std::size_t layer) {
  return gru.layers[layer * gru.sizes.num_directions].precision;
}

}  // namespace

double work_microseconds(const Machine& machine, const Work& work, double rows,
                         double resident_bytes) {
  const double computing = rows * work.flops / machine.gflops;
  const double reading = work.weight_bytes / read_gigabytes(machine, resident_bytes);
  return 1e-3 * (std::max(computing, reading) + rows * work.row_bytes / kRowGigabytes);
}

Work product_work(const Machine& machine, Precision precision, std::size_t outputs,
                  std::size_t terms) {
  const double weights = static_cast<double>(outputs) * static_cast<double>(terms);
  Work work;
  work.flops = 2 * weights * machine.term_cost[static_cast<std::size_t>(precision)];
  work.weight_bytes = weights * weight_size(precision);
  return work;
}

double part_microseconds(const PackedGru& gru, std::size_t T, const GruPart& part) {
  const GruSizes& s = gru.sizes;
  const Machine& machine = gru.machine;
  const auto rows = static_cast<double>(part.rows);
  const std::size_t outputs = 3 * kPanel * part.panels;
  // Input weights are read once for the steps of a time block.
  const std::size_t gate_bytes = outputs * sizeof(float) * std::min(part.rows, kMaxRowBlock);
  const std::size_t steps = std::clamp<std::size_t>(
      kGatesBytes / std::max<std::size_t>(1, gate_bytes), 1, std::max<std::size_t>(1, T));
  double all_bytes = 0;  // where a step reads every weight before it reads one again
  if (steps == 1)
    for (std::size_t l = 0; l < s.num_layers; ++l)
      all_bytes += static_cast<double>(outputs * (s.layer_input(l) + s.hidden_size)) *
                   weight_size(precision_of(gru, l));
  const double gates =
      rows * kGateFlops * static_cast<double>(kPanel * part.panels) * 1e-3 / machine.gflops;
  double step = 0;
  for (std::size_t l = 0; l < s.num_layers; ++l) {
    const Precision precision = precision_of(gru, l);
    const Work recurrent = product_work(machine, precision, outputs, s.hidden_size);
    const Work input = product_work(machine, precision, outputs, s.layer_input(l));
    const double block = static_cast<double>(steps);
    step += work_microseconds(machine, recurrent, rows,
                              steps == 1 ? all_bytes : recurrent.weight_bytes) +
            work_microseconds(machine, input, block * rows,
                              steps == 1 ? all_bytes : input.weight_bytes) /
                block +
            gates + kStepMicroseconds + part.barrier_microseconds * (s.reset_after ? 1 : 2);
  }
  return static_cast<double>(T) * static_cast<double>(part.directions) * step;
}

double estimate_microseconds(const PackedGru& gru, std::size_t T, std::size_t B) {
  const double at_most =
      static_cast<double>(T) * static_cast<double>(B) * gru.facts.row_step_microseconds;
  if (at_most < kShort) return at_most;
  return part_microseconds(gru, T, {B, gru.sizes.panels(), gru.sizes.num_directions, 0});
}

GruFacts facts_of(const PackedGru& gru) {
  const GruSizes& s = gru.sizes;
  GruFacts facts;
  for (std::size_t l = 0; l < s.num_layers; ++l) {
    const Precision precision = precision_of(gru, l);
    const auto bytes = [&](std::size_t terms) {
      return 3 * kPanel * s.panels() * terms * static_cast<std::size_t>(weight_size(precision));
    };
    facts.weight_bytes += s.num_directions * bytes(s.layer_input(l) + s.hidden_size);
    facts.recurrent_bytes = std::max(facts.recurrent_bytes, bytes(s.hidden_size));
    if (precision == Precision::float32) continue;
    facts.operand_bytes = std::max(
        {facts.operand_bytes, operand_stride(s.layer_input(l)), operand_stride(s.hidden_size)});
  }
  facts.row_step_microseconds = part_microseconds(gru, 1, {1, s.panels(), s.num_directions, 0});
  return facts;
}

double other_layers_microseconds(const PackedNetwork& network, std::size_t T, std::size_t rows,
                                 std::size_t width) {
  double microseconds = 0, n = static_cast<double>(T) * static_cast<double>(rows);
  for (const Node& node : network.nodes) {
    if (node.is_gru()) continue;
    if (node.linear) {
      const Machine& machine = network.facts.machine;
      Work work = product_work(machine, Precision::float32, node.outputs, node.inputs);
      // Weights are read again for each time block.
      work.weight_bytes *= std::max(1.0, n / kRowsPerReading);
      microseconds += work_microseconds(
          machine, work, n,
          4.0 * static_cast<double>(node.outputs) * static_cast<double>(node.inputs));
    } else {
      const std::size_t features = std::max(node.outputs ? node.outputs : width, kPanel);
      microseconds += 1e-3 * feature_nanoseconds(node.kind) * static_cast<double>(features) * n;
    }
    if (node.is_over_time()) n = static_cast<double>(rows);
  }
  return microseconds;
}

double estimate_microseconds(const PackedNetwork& network, std::size_t T, std::size_t B,
                             std::size_t width) {
  const double row_step = network.facts.row_step_microseconds;
  const double at_most = static_cast<double>(T) * static_cast<double>(B) * row_step;
  if (row_step > 0 && at_most < kShort) return at_most;
  double microseconds =
      network.facts.only_grus ? 0 : other_layers_microseconds(network, T, B, width);
  for (const PackedGru* gru : network.grus) microseconds += estimate_microseconds(*gru, T, B);
  return microseconds;
}

NetworkFacts facts_of(const PackedNetwork& network) {
  NetworkFacts facts;
  facts.only_grus = true;
  bool any_width = false;
  for (const Node& node : network.nodes) {
    facts.only_grus &= node.is_gru();
    any_width |= !node.is_gru() && node.outputs == 0;
    if (node.is_gru()) {
      facts.most_panels = std::max(facts.most_panels, node.gru->sizes.panels());
      facts.both_directions |= node.bidirectional;
      facts.machine = node.gru->machine;
    } else if (node.linear) {
      facts.most_panels = std::max(facts.most_panels, node.linear->panels());
      if (network.grus.empty()) facts.machine = machine_for(*node.linear->kernels);
    }
  }
  std::size_t widest_sequence = 0, sequences = 0;
  for (std::size_t s = 0; s < network.sections.size(); ++s) {
    const Section& section = network.sections[s];
    for (std::size_t i = section.begin; i + 1 < section.end; ++i)
      facts.block_width = std::max(facts.block_width, network.nodes[i].outputs);
    if (s + 1 == network.sections.size() || network.sections[s + 1].single_step) continue;
    widest_sequence = std::max(widest_sequence, network.nodes[section.end - 1].outputs);
    ++sequences;
  }
  facts.sequence_width = widest_sequence * std::min<std::size_t>(2, sequences);
  if (any_width) return facts;
  for (const PackedGru* gru : network.grus)
    facts.row_step_microseconds += gru->facts.row_step_microseconds;
  PackedNetwork with_facts;  // of which the cost reads no more
  with_facts.nodes = network.nodes;
  with_facts.facts = facts;
  facts.row_step_microseconds += other_layers_microseconds(with_facts, 1, 1, 0);
  return facts;
}

}  // namespace fastgru
