// The contract between the engine and the kernels of one ISA: argument structs and the table of
// functions that an ISA file exports. Plain data only: this header is compiled with every ISA's
// flags, so it may not define a function or instantiate a template.
//
// Letters: K reduction (I or H), P panels = ceil(H / kPanel), rows = sequences in the call.
// Note [Gate order]: r, z, n everywhere; only pack.cpp may reorder.
#pragma once

#include <cstddef>

namespace fastgru {

// Units per panel: the same for every ISA, batch size and kernel, so that packed weights serve all.
// Measured on Zen 4: panels of 16 did as well as panels of 64 and 128.
constexpr std::size_t kPanel = 16;

enum class Activation { tanh, relu, sigmoid, identity };
enum class RecurrentActivation { sigmoid, hard_sigmoid, hard_sigmoid_02 };

// Kernels see a share of a layer's units: all of them, or a run of whole panels where threads share
// a layer. weights, bias and gates are the share's own; P = ceil(units / kPanel).

// out = x W^T + bias for many rows: the input product of a block of time steps.
struct InputProduct {
  const float* weights;   // [P][K][3][kPanel], 64-byte aligned
  const float* bias;      // [P][3][kPanel], 64-byte aligned
  const float* const* x;  // [rows] pointers to [K]
  float* out;             // [rows][P][3][kPanel], 64-byte aligned
  std::size_t rows;
  std::size_t reduction;  // K
  std::size_t chain;      // terms of one FMA chain, see Note [Same bits]
  std::size_t units;
  bool far;  // the weights come from memory
};

// `steps` time steps of one layer in one direction for `rows` sequences.
struct Steps {
  const float* weights;  // reset after: [P][H][3][kPanel]; before: [P][H][2][kPanel] (r, z)
  const float* candidate_weights;  // reset before: [P][H][1][kPanel] (n); reset after: unused
  const float* bias;               // [P][3][kPanel]: the recurrent biases
  float* gates;                 // [steps][rows][P][3][kPanel]: the input product; rows_*: scratch,
                                // (K + 7 H + 3 kPanel) * 2 kPanel floats
  float* state;                 // [rows][state_stride]: h_{t-1} of all H units
  float* next;                  // [rows][state_stride]: h_t; the two swap after each step
  float* reset_state;           // [rows][state_stride]: r * h; reset before only
  float* update;                // [rows][state_stride]: z; reset before only
  std::size_t state_stride;     // floats, a multiple of kPanel, >= H rounded up to kPanel
  float* const* out;            // [rows] where the share's part of h of the first step goes
  std::ptrdiff_t out_step;      // floats from one step's h to the next one's
  std::ptrdiff_t trace_stride;  // 0, or: r, z, n go to out + 1, 2, 3 times this
  std::size_t first_unit;       // of the share, a multiple of kPanel
  std::size_t units;            // of the share
  std::size_t hidden;           // H
  std::size_t rows;
  std::size_t steps;
  std::size_t chain;  // terms of one FMA chain, see Note [Same bits]
  bool far;           // the weights come from memory
  Activation activation;
  RecurrentActivation recurrent_activation;
  // Null: `gates` holds the input product. Else it is computed on the way, x: [steps][rows]; its
  // `out` is `gates`, for one step. steps_* do so for a single step only.
  const InputProduct* input;
  // Where other threads have the other shares: called when all that this share writes and another
  // one reads is written; returns when that is true of every share. Null: alone.
  void (*meet)(void* team);
  void* team;
};

// What a test may ask of the activation code; n is a multiple of kPanel.
enum class TestActivation { sigmoid, tanh, relu, hard_sigmoid, hard_sigmoid_02 };

struct KernelTable {
  const char* name;
  std::size_t lanes;  // floats per vector
  void (*input_product)(const InputProduct&);
  void (*steps_reset_after)(const Steps&);
  void (*steps_reset_before)(const Steps&);
  // The same with rows in the lanes instead of units: for narrow layers and many rows.
  void (*rows_reset_after)(const Steps&);
  void (*rows_reset_before)(const Steps&);
  void (*activate)(TestActivation, const float* x, float* y, std::size_t n);
};

// One symbol per ISA file.
const KernelTable* portable_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();

}  // namespace fastgru
