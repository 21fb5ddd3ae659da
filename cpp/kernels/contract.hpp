// The contract between the engine and the kernels of one ISA: argument structs, in small parts, and
// the table of functions that an ISA file exports. Plain data only: this header is compiled with
// every ISA's flags, so it defines no function that could leave a symbol. kernels/check.hpp asserts
// what is said here.
//
// Letters: K reduction (I or H), P panels = ceil(units / kPanel), G gates of a matrix, rows =
// sequences in the call. Note [Gate order]: r, z, n everywhere; only pack.cpp may reorder.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastgru {

// Units per panel: the same for every ISA, batch size and kernel, so that packed weights serve all.
// Measured on Zen 4: panels of 16 did as well as panels of 64 and 128.
constexpr std::size_t kPanel = 16;

// The gates of a GRU: r, z, n. Note [Gate order].
constexpr int kGates = 3;

// What an activation does to an element. network/functions.hpp says which may stand where.
enum class Function { tanh, relu, sigmoid, identity, hard_sigmoid, hard_sigmoid_02 };

// What weights are stored in and multiplied as. Only products are in it: gates, biases and states
// are float32.
enum class Precision {
#define FASTGRU_PRECISION(name) name,
#include "kernels/levels.inc"
};
constexpr std::size_t kPrecisions = 0
#define FASTGRU_PRECISION(name) +1
#include "kernels/levels.inc"
    ;

// ---- a matrix, and how a precision writes it ----

// Packed weights: the panels of G gates of one product, for K terms. Note [Packed layout].
struct Matrix {
  const void* data;             // [P] panels, 64-byte aligned; in each [ceil(K / terms)][G][kPanel]
                                // [terms], where the Format says how many terms stand together
  std::size_t panel_bytes;      // of one panel
  const float* scales;          // [P][G][kPanel], what a unit's weights are multiplied by, or null
  const std::int32_t* offsets;  // [P][G][kPanel], see Note [int8] in reduced.hpp, or null
};

// The weights of one gate in the panel of a matrix, as a Format writes them.
struct PanelGate {
  void* data;             // [ceil(K / terms)] rows of [kPanel][terms]
  std::size_t row_bytes;  // from one of these rows to the next: those of all gates of the matrix
  float* scales;          // [kPanel], or null
  std::int32_t* offsets;  // [kPanel], or null
};
// The same weights as a user has them, to read and to write.
struct UnitRows {
  const float* weights;   // [units][reduction]
  const float* scales;    // [units], or null
  std::size_t units;      // 1 to kPanel
  std::size_t reduction;  // K
};
struct UnitRowsOut {
  float* weights;  // or null
  float* scales;   // or null
  std::size_t units;
  std::size_t reduction;
};

// How a precision writes a matrix. The same for every ISA, since all read the same weights.
struct Format {
  std::size_t terms;          // neighbouring terms of a unit that stand together
  std::size_t element_bytes;  // of a weight
  bool has_scales;            // a matrix has scales and offsets
  std::size_t most_terms;     // the largest K
  // Writes all of `to`: zeros for units and terms that do not exist.
  void (*encode)(const UnitRows& from, const PanelGate& to);
  // The inverse, to the bit; what is null is left out.
  void (*decode)(const PanelGate& from, const UnitRowsOut& to);
};

// ---- products ----

// Rows as multiply_*() read them: scratch, in a form that is the product's own.
struct Operands {
  char* rows;          // [rows][stride], 64-byte aligned
  std::size_t stride;  // bytes, operand_stride() or more
  float* scales;       // [rows]
};
// Bytes that a row of `reduction` terms may take. static: Note [One symbol per ISA].
static constexpr std::size_t operand_stride(std::size_t reduction) {
  return (4 * reduction + 127) / 64 * 64;
}

// sums = bias + W x for rows and strips (V::lanes neighbouring units) of a call.
struct ProductBlock {
  const Matrix& matrix;
  const float* bias;  // [P][kGates][kPanel] from the first of the matrix's gates on
  const Operands& operands;
  int gates;  // G
  std::size_t reduction;
  std::size_t block_terms;  // terms of a sum block, see Note [Same bits]
  std::size_t first_row, rows, first_strip, strips;
  float* sums;  // from first_row and the panel of first_strip on: [rows][stride], [P][G][kPanel]
  std::size_t stride;
};

// How a product sums its terms, which decides where its bits are those of another product.
enum class Sums {
  exact,   // integers, whatever their order
  chains,  // sum blocks of fused multiply-adds, as Note [Same bits] says
  own      // in an order or with roundings of its own: its bits are nobody else's
};

// How one ISA multiplies in one precision. For vectors of one length: that of the kernels which use
// them.
struct Product {
  const char* name;
  Sums sums;
  Format format;
  // Whether rows are made operands and multiplied by the functions below, which are null otherwise:
  // then the tiles of float32 multiply rows as they are, on their way to the gates.
  bool takes_operands;
  // A row of inputs, or of states, to operand `index`. Fine states are multiplied as inputs are.
  void (*prepare_input)(const float* row, std::size_t reduction, const Operands&,
                        std::size_t index);
  void (*prepare_state)(const float* row, std::size_t reduction, const Operands&,
                        std::size_t index);
  void (*prepare_fine_state)(const float* row, std::size_t reduction, const Operands&,
                             std::size_t index);
  void (*multiply_input)(const ProductBlock&);
  void (*multiply_state)(const ProductBlock&);
  // Each thread of a call that may use the product enters it once before, and leaves it after its
  // last use (to configure tiles, say). rows: the most that a step of the call has. Null where
  // there is nothing to do.
  void (*enter)(std::size_t rows);
  void (*leave)();
};

// ---- parts that argument structs are made of ----

// Kernels see a share of a layer's units: all of them, or a run of whole panels where threads share
// a layer. Weights and gates are the share's own; P = ceil(units / kPanel).

// The weights of a layer's input product, or of its recurrent products.
struct Weights {
  Matrix matrix;            // G = kGates; recurrent, reset before: G = 2 (r, z)
  Matrix candidate;         // recurrent, reset before: G = 1 (n); else empty
  const float* bias;        // [P][kGates][kPanel], 64-byte aligned
  std::size_t reduction;    // K of both matrices
  std::size_t block_terms;  // terms of a sum block, see Note [Same bits]
  bool far;                 // they come from far away: Plan in plan.hpp
};

// What multiplies the weights.
struct Multiplier {
  const Product* product;
  Operands operands;  // room for all rows, where the product takes operands
  bool fine_states;   // states are multiplied as inputs are: Note [int8]
};

// The states of a layer, of all its units: [rows][stride].
struct State {
  float* current;  // h_{t-1}
  float* next;     // h_t; the two swap after each step
  std::size_t stride;
};

// Where a share's part of h goes.
struct Output {
  float* const* rows;    // [rows], of the first step
  std::ptrdiff_t step;   // floats from one step's h to the next one's
  std::ptrdiff_t trace;  // 0, or: r, z, n go to rows + 1, 2, 3 times this
};

// The units of a share.
struct Units {
  std::size_t first;   // a multiple of kPanel
  std::size_t count;   // a multiple of kPanel, or all from `first` on
  std::size_t hidden;  // H: the layer's
};

struct Activations {
  Function candidate;
  Function gates;
};

// The threads that compute a layer's other units.
struct OtherShares {
  // Called when this thread has written all that they read; returns when that is true of each of
  // them. Null where one thread has all units.
  void (*wait)(void* barrier);
  void* barrier;
};

// ---- what the functions of a table are called with ----

// out = x W^T + bias for many rows: the input product of a block of time steps.
struct InputProduct {
  Weights weights;
  Multiplier multiplier;  // operands: [rows]
  const float* const* x;  // [rows] pointers to [K]
  float* out;             // [rows][P][kGates][kPanel], 64-byte aligned
  std::size_t rows;
  std::size_t units;
};

// `steps` time steps of one layer in one direction for `rows` sequences, with units in the lanes.
struct UnitSteps {
  Weights weights;
  Multiplier multiplier;  // operands: [rows]
  float* gates;           // [steps][rows][P][kGates][kPanel], 64-byte aligned: the input product
  // Null: `gates` holds the input product. Else, for a single step whose product takes no operands:
  // it is computed on the way; its `out` is `gates`.
  const InputProduct* input;
  State state;         // 64-byte aligned; the stride is a multiple of kPanel, >= H
  float* reset_state;  // [rows][state.stride]: r * h; reset before only
  float* update;       // [rows][state.stride]: z; reset before only
  Output output;
  Units units;
  Activations activations;
  OtherShares others;
  std::size_t rows;
  std::size_t steps;
  bool backwards;  // the first step begins with the last weights: Note [There and back]
};

// The same with rows in the lanes: for narrow layers and many rows, in float32 and by one thread.
struct RowSteps {
  Weights weights;
  const InputProduct* input;  // computed on the way: x is [steps][rows]; its `out` is unused
  float* scratch;             // [(K + 5 H) * 2 * kPanel] floats, 64-byte aligned; K the input's
  State state;                // the stride is >= H; `next` may be `current`
  Output output;              // no trace
  Activations activations;
  std::size_t hidden;  // H
  std::size_t rows;
  std::size_t steps;
};

struct KernelTable {
  const char* name;
  std::size_t lanes;  // floats per vector
  // Whether a multiply-add rounds once: all levels that do so have the same bits, where sums are
  // not a product's own.
  bool fuses;
  void (*input_product)(const InputProduct&);
  void (*steps_reset_after)(const UnitSteps&);
  void (*steps_reset_before)(const UnitSteps&);
  void (*rows_reset_after)(const RowSteps&);
  void (*rows_reset_before)(const RowSteps&);
  // Element by element, for what surrounds a GRU; x and y: [n], n a multiple of kPanel; y may be x.
  void (*activate)(Function, const float* x, float* y, std::size_t n);
  // y = exp(x - maximum), where no x is above it.
  void (*exponentials)(const float* x, float maximum, float* y, std::size_t n);
  // By Precision: those that need no further instructions.
  Product products[kPrecisions];
};

// The one symbol of each ISA file.
#define FASTGRU_LEVEL(name, preference, runs) const KernelTable* name##_kernels();
#define FASTGRU_PRODUCT(name, level, precision, preference, min_rows, runs) \
  const Product* name##_kernels();
#include "kernels/levels.inc"

}  // namespace fastgru
