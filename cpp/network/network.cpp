#include "network/network.hpp"

#include <algorithm>
#include <optional>

#include "plan/cost.hpp"

namespace fastgru {
namespace {

using Kind = Node::Kind;

// Appends the nodes of one layer whose rows have `width` features (0: unknown, or indices).
struct AppendNodes {
  PackedNetwork& network;
  std::size_t width;

  Node& add(Kind kind, std::size_t inputs, std::size_t outputs) const {
    Node node;
    node.kind = kind;
    node.inputs = inputs;
    node.outputs = outputs;
    network.nodes.push_back(node);
    return network.nodes.back();
  }

  void operator()(const std::shared_ptr<const PackedGru>& gru) const {
    const GruSizes& sizes = gru->sizes;
    for (std::size_t l = 0; l < sizes.num_layers; ++l) {
      Node& node = add(Kind::gru, sizes.layer_input(l), sizes.num_directions * sizes.hidden_size);
      node.gru = gru.get();
      node.gru_index = network.grus.size();
      node.gru_layer = l;
      node.bidirectional = sizes.num_directions == 2;
    }
    network.grus.push_back(gru.get());
  }
  void operator()(const std::shared_ptr<const PackedLinear>& linear) const {
    add(Kind::linear, linear->inputs, linear->outputs).linear = linear.get();
  }
  void operator()(const std::shared_ptr<const PackedLayerNorm>& norm) const {
    const std::size_t size = norm->size ? norm->size : width;
    add(Kind::layer_norm, size, size).norm = norm.get();
  }
  void operator()(const std::shared_ptr<const PackedEmbedding>& embedding) const {
    add(Kind::embedding, 0, embedding->width).embedding = embedding.get();
    network.takes_indices = true;
    network.classes = embedding->entries;
  }
  void operator()(const OneHot& one_hot) const {
    add(Kind::one_hot, 0, one_hot.classes);
    network.takes_indices = true;
    network.classes = one_hot.classes;
  }
  void operator()(const PackedActivation& activation) const {
    Node& node = add(Kind::activation, width, width);
    node.kernels = activation.kernels;
    node.function = activation.function;
  }
  void operator()(const PackedSoftmax& softmax) const {
    add(softmax.log ? Kind::log_softmax : Kind::softmax, width, width).kernels = softmax.kernels;
  }
  void operator()(const OverTime& over_time) const {
    constexpr Kind kinds[] = {Kind::last, Kind::mean, Kind::max, Kind::reverse};
    Node& node = add(kinds[static_cast<std::size_t>(over_time.kind)], width, width);
    node.bidirectional = over_time.bidirectional;
  }
};

// The order that a node asks of its section; none where any will do.
std::optional<Section::Order> order_of(const Node& node) {
  if (node.is_gru() && node.bidirectional) return Section::Order::both;
  if (node.is_gru())
    return node.gru->sizes.reverse ? Section::Order::backwards : Section::Order::forwards;
  if (node.kind == Kind::reverse) return Section::Order::flip;
  // Sums over time are made forwards: in double, but rounding has an order all the same.
  if (node.is_over_time()) return Section::Order::forwards;
  return std::nullopt;
}

std::vector<Section> sections_of(const std::vector<Node>& nodes) {
  std::vector<Section> sections;
  // Of the last section: whether it takes more nodes, and whether one of them asked for its order.
  bool open = false, has_order = false, single_step = false;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const auto wanted = order_of(nodes[i]);
    const bool alone = wanted == Section::Order::both || wanted == Section::Order::flip;
    if (open && (alone || (wanted && has_order && *wanted != sections.back().order))) open = false;
    if (!open) {
      sections.push_back({i, i, Section::Order::forwards, single_step});
      has_order = false;
    }
    sections.back().end = i + 1;
    if (wanted) {
      sections.back().order = *wanted;
      has_order = true;
    }
    open = !alone && !nodes[i].is_over_time();
    single_step = single_step || nodes[i].is_over_time();
  }
  if (sections.empty()) sections.push_back({});  // which copies x
  return sections;
}

}  // namespace

PackedNetwork pack_network(std::vector<NetworkLayer> layers, std::size_t input_size) {
  PackedNetwork network;
  network.layers = std::move(layers);
  network.input_size = input_size;
  std::size_t width = input_size;
  for (const NetworkLayer& layer : network.layers) {
    std::visit(AppendNodes{network, width}, layer);
    width = network.nodes.back().outputs;
  }
  network.sections = sections_of(network.nodes);
  network.gives_rows = std::any_of(network.nodes.begin(), network.nodes.end(),
                                   [](const Node& node) { return node.is_over_time(); });
  network.facts = facts_of(network);
  return network;
}

PackedNetwork without_last(const PackedNetwork& network) {
  std::vector<NetworkLayer> layers;
  for (const NetworkLayer& layer : network.layers) {
    const auto* const over_time = std::get_if<OverTime>(&layer);
    if (!over_time || over_time->kind != OverTime::Kind::last) layers.push_back(layer);
  }
  return pack_network(std::move(layers), network.input_size);
}

bool PackedNetwork::only_forwards() const {
  return std::all_of(nodes.begin(), nodes.end(), [](const Node& node) {
    const auto order = order_of(node);
    return !node.is_over_time() && (!order || *order == Section::Order::forwards);
  });
}

}  // namespace fastgru
