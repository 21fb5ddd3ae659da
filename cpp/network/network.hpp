// A network: a chain of layers, packed, as everything above it holds it. A GRU stack of L layers is
// L nodes of it, any other layer is one. Made once, never changed, shared by all threads. Refuses
// to check what a user may get wrong: layers come in an order that fits.
//
// Note [Sections]
// Steps of time go through as many nodes as possible while they are in cache, a time block at a
// time. What needs a whole sequence first cuts the chain: the nodes between two cuts are a section.
// Between sections stand whole sequences of a row block, within a section only time blocks. A
// section goes through time in one order; one with a bidirectional layer goes both ways and has no
// other node. Behind Last, Mean and Max there is one row for each sequence: such nodes run in
// sections of a single step.
#pragma once

#include <cstddef>
#include <memory>
#include <variant>
#include <vector>

#include "network/layers.hpp"
#include "network/pack.hpp"

namespace fastgru {

using NetworkLayer =
    std::variant<std::shared_ptr<const PackedGru>, std::shared_ptr<const PackedLinear>,
                 std::shared_ptr<const PackedLayerNorm>, std::shared_ptr<const PackedEmbedding>,
                 OneHot, PackedActivation, PackedSoftmax, OverTime>;

struct Node {
  enum class Kind {
    gru,  // one layer of a stack
    linear,
    layer_norm,
    activation,
    softmax,
    log_softmax,
    embedding,
    one_hot,
    last,
    mean,
    max,
    reverse
  };
  Kind kind = Kind::gru;
  std::size_t inputs = 0;   // features of a row; 0: as many as x has, or indices
  std::size_t outputs = 0;  // 0: as many as x has
  const PackedGru* gru = nullptr;
  std::size_t gru_index = 0;  // of the stack among the network's
  std::size_t gru_layer = 0;  // of the layer in its stack
  const PackedLinear* linear = nullptr;
  const PackedLayerNorm* norm = nullptr;
  const PackedEmbedding* embedding = nullptr;
  const KernelTable* kernels = nullptr;   // activation, softmax, log_softmax
  Function function = Function::sigmoid;  // activation
  bool bidirectional = false;             // gru: both directions; last: see OverTime

  bool is_gru() const { return kind == Kind::gru; }
  // Whether it gives one row for each sequence.
  bool is_over_time() const {
    return kind == Kind::last || kind == Kind::mean || kind == Kind::max;
  }
  // Whether it can write its results over its inputs.
  bool in_place() const {
    return kind == Kind::layer_norm || kind == Kind::activation || kind == Kind::softmax ||
           kind == Kind::log_softmax;
  }
};

// See Note [Sections].
struct Section {
  enum class Order { forwards, backwards, both, flip };  // flip: it is one Reverse
  std::size_t begin = 0, end = 0;                        // nodes
  Order order = Order::forwards;
  bool single_step = false;  // behind Last, Mean or Max
};

// What every plan asks of a packed network: found once, by facts_of() in plan/cost.hpp.
struct NetworkFacts {
  Machine machine;                   // of its first stack, or first linear layer
  std::size_t most_panels = 1;       // of a layer
  std::size_t block_width = 0;       // the widest rows that stand in time blocks
  std::size_t sequence_width = 0;    // floats of a row's step in the buffers between sections
  double row_step_microseconds = 0;  // one step of one row; 0: it takes rows of any width
  bool both_directions = false;      // whether a layer has two
  bool only_grus = false;
};

struct PackedNetwork {
  std::vector<NetworkLayer> layers;
  std::vector<Node> nodes;
  std::vector<Section> sections;
  std::vector<const PackedGru*> grus;  // the stacks, in order
  bool takes_indices = false;
  std::size_t input_size = 0;  // 0: any, or indices
  std::size_t classes = 0;     // of indices
  // Whether it gives one row for each sequence.
  bool gives_rows = false;
  NetworkFacts facts;

  // Of the last axis of what comes out, where `width` is x's.
  std::size_t output_size(std::size_t width) const {
    return nodes.empty() || nodes.back().outputs == 0 ? width : nodes.back().outputs;
  }
  // Whether it can run step by step.
  bool only_forwards() const;
};

// input_size: features of x; 0: any, or indices.
PackedNetwork pack_network(std::vector<NetworkLayer> layers, std::size_t input_size);
// The same network for streams and pools, in which each step is a sequence's last one so far:
// without its Last.
PackedNetwork without_last(const PackedNetwork& network);

}  // namespace fastgru
