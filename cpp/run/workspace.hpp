// The scratch memory of one call, carved from the calling thread's arena, and each thread's share
// of the work.
#pragma once

#include <cstddef>

#include "run/run.hpp"
#include "system/buffer.hpp"
#include "system/parallel.hpp"

namespace fastgru {

// Scratch of one thread. What is marked (team) is the same for all threads of a row group, and what
// is marked (direction) for those of them that have the same direction.
struct Scratch {
  float* gates = nullptr;           // [time_block * row_block, panels of a share, kGates, kPanel]
  float* states[2] = {};            // (direction) for each node: [2, row_block, state_stride]
  float* reset_states[2] = {};      // (direction) [row_block, state_stride]; reset before only
  float* updates[2] = {};           // (direction) [row_block, state_stride]; reset before only
  Operands operands{};              // [time_block * row_block]; for products that take operands
  const float** in_rows = nullptr;  // [time_block * row_block]
  float** out_rows = nullptr;       // [row_block]
  float* products = nullptr;        // of a linear layer
  float* padding[2] = {};           // [widest]: for what stands past a row's length
  float* blocks[2] = {};            // (team) [time_block, row_block, width]: within a section
  float* sequences[2] = {};         // (team) [T, row_block, width]: between sections
  float* results[2] = {};           // (team) [row_block, width]: behind Last, Mean and Max
  double* sums = nullptr;           // (team) [row_block, widest]: of a Mean
};

struct Workspace {
  std::size_t* order;      // [B] rows by descending length
  std::size_t* lengths;    // [B] in that order: the steps to run
  std::size_t* valid;      // [B] in that order: the steps that Last, Mean, Max and Reverse look at
  Scratch* threads;        // [the grid]
  Arrival* row_barriers;   // [the grid]: the threads of one row group wait for each other
  Arrival* unit_barriers;  // [the grid]: the threads that share one direction's units wait
  bool has_padding;        // whether a row is shorter than T
};

// The nodes of a section that a call runs.
Section clipped(const Section& section, const Call& call);
// The node of a section that writes its results to where the section's results go; those behind it
// work in place. Last, Mean and Max are their section's. The first node where all work in place.
std::size_t final_writer(const PackedNetwork& network, const Section& section);

// Bytes of the longest operand of the nodes in a call; 0 where all are float32.
std::size_t longest_operand(const PackedNetwork& network, const Call& call);

// Bytes that it takes.
std::size_t workspace_bytes(const PackedNetwork& network, const Call& call,
                            const NetworkPlan& plan);
// The workspace in the calling thread's arena.
Workspace make_workspace(const PackedNetwork& network, const Call& call, const NetworkPlan& plan);

// Into how many shares a GRU layer's units are divided in a row group. A layer with two directions
// has its own threads for each.
inline std::size_t unit_parts(const Node& node, const Grid& grid) {
  return node.bidirectional ? grid.unit_groups : grid.threads_per_row_group();
}
// Where a direction's states are in Scratch.
inline std::size_t direction_place(const Grid& grid, std::size_t direction) {
  return grid.directions == 2 ? direction : 0;
}

struct Range {
  std::size_t begin = 0, end = 0;
  std::size_t size() const { return end - begin; }
};
// Part `index` of n things in `parts` parts.
inline Range part_of(std::size_t n, std::size_t index, std::size_t parts) {
  return {n * index / parts, n * (index + 1) / parts};
}

}  // namespace fastgru
