// Note [Rows, steps and time]
// Rows are sorted by length, longest first, so that the rows still active at step s are the first
// ones and no work is done on padding. Step s of a row is time s going forward and time
// length - 1 - s in the reverse direction: both directions start at s = 0 and end at s = length.
// Between layers that all run in reverse, scratch is in the order of steps: only x and y know time.
#include "run/run.hpp"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <new>

#include "plan/plan.hpp"
#include "plan/thread_cost.hpp"
#include "system/float_mode.hpp"
#include "system/parallel.hpp"

namespace fastgru {
namespace {

// A layer's input or output for one direction. Rows count from the block's first; `order` maps them
// to rows of a user's array (null: they are rows of scratch). Time counts from `first_time`.
template <class T>
struct View {
  SequenceView<T> at;
  const std::size_t* order = nullptr;
  std::size_t first_time = 0;

  T* row(std::size_t row, std::size_t time) const {
    const std::size_t b = order ? order[row] : row;
    return at.data + static_cast<std::ptrdiff_t>(time - first_time) * at.time_stride +
           static_cast<std::ptrdiff_t>(b) * at.row_stride;
  }
};

// Scratch of one thread. States, r * h, z and sequences are the same for all threads that share a
// layer's units, sequences also for both directions.
struct Scratch {
  float* gates;          // [time_block * row_block, panels of a share, kGates, kPanel]
  float* states;         // [layers, 2, row_block, state_stride]
  float* reset_state;    // [row_block, state_stride]; reset before only
  float* update;         // [row_block, state_stride]; reset before only
  Operands operands;     // [time_block * row_block]; for products that take operands
  const float** x_rows;  // [time_block * row_block]
  float** out_rows;      // [row_block]
  float* sequences[2];   // layer outputs: [steps, row_block, D * H]; only as many as layers need
};

// What rows_* kernels need instead of gates: see RowBlocks in kernels/gru/rows.hpp.
std::size_t rows_scratch(const GruSizes& sizes) {
  const std::size_t K = std::max(sizes.input_size, sizes.layer_input(1));
  return checked_product(K + 5 * sizes.hidden_size, 2 * kPanel);
}

// All memory of one call, carved from the calling thread's arena.
struct Workspace {
  std::size_t* order;      // [B] rows by descending length
  std::size_t* lengths;    // [B] in that order
  Scratch* threads;        // [the grid]
  Arrival* row_barriers;   // [the grid]: the threads of one row group wait for each other
  Arrival* unit_barriers;  // [the grid]: the threads that share one layer's units wait
};

// Bytes of the longest operand of the call; 0 where no product takes operands.
std::size_t longest_operand(const PackedGru& gru, const Call& call) {
  std::size_t bytes = 0;
  for (std::size_t l = call.first_layer; l < call.end_layer; ++l)
    if (gru.layers[l * gru.sizes.num_directions].takes_operands())
      bytes = std::max(
          {bytes, operand_stride(gru.sizes.layer_input(l)), operand_stride(gru.sizes.hidden_size)});
  return bytes;
}

Workspace carve_workspace(Carver& carver, const PackedGru& gru, const Call& call,
                          const Plan& plan) {
  const GruSizes& sizes = gru.sizes;
  const std::size_t operand_bytes = longest_operand(gru, call);
  const std::size_t layers = call.end_layer - call.first_layer;
  const std::size_t state = checked_product(plan.row_block, plan.state_stride);
  const std::size_t block = checked_product(plan.time_block, plan.row_block);
  const std::size_t steps = sizes.num_directions == 2 ? call.T : plan.time_block;
  const std::size_t sequence = checked_product(checked_product(steps, plan.row_block),
                                               sizes.num_directions * sizes.hidden_size);
  const std::size_t unit_gates = checked_product(block, plan.share_panels(sizes) * kGates * kPanel);
  const std::size_t gates = plan.rows_in_lanes == RowsInLanes::never
                                ? unit_gates
                                : std::max(unit_gates, rows_scratch(sizes));
  Workspace w{};
  w.order = carver.take<std::size_t>(call.B);
  w.lengths = carver.take<std::size_t>(call.B);
  w.threads = carver.take<Scratch>(plan.grid.threads());
  w.row_barriers = carver.take<Arrival>(plan.grid.threads());
  w.unit_barriers = carver.take<Arrival>(plan.grid.threads());
  for (std::size_t group = 0, thread = 0; group < plan.grid.row_groups; ++group) {
    Scratch s{};
    if (layers > 1) s.sequences[0] = carver.take<float>(sequence);
    if (layers > 2) s.sequences[1] = carver.take<float>(sequence);
    for (std::size_t d = 0; d < plan.grid.directions; ++d) {
      s.states = carver.take<float>(checked_product(2 * layers, state));
      if (!sizes.reset_after) {
        s.reset_state = carver.take<float>(state);
        s.update = carver.take<float>(state);
      }
      for (std::size_t u = 0; u < plan.grid.unit_groups; ++u, ++thread) {
        s.gates = carver.take<float>(gates);
        if (operand_bytes > 0) {
          s.operands.rows = carver.take<char>(checked_product(block, operand_bytes));
          s.operands.stride = operand_bytes;
          s.operands.scales = carver.take<float>(block);
        }
        s.x_rows = carver.take<const float*>(block);
        s.out_rows = carver.take<float*>(plan.row_block);
        if (carver.fits()) w.threads[thread] = s;
      }
    }
  }
  return w;
}

// Everything that the threads of one call share.
struct Job {
  const PackedGru& gru;
  const Call& call;
  const Plan& plan;
  const Workspace& space;
  bool backwards;  // see UnitSteps
};

struct Range {
  std::size_t begin, end;
  std::size_t size() const { return end - begin; }
};

// What one thread does: rows of the sorted batch, directions, and units of each layer.
struct Share {
  Range rows, directions, units;
  const Scratch& scratch;
  Barrier row_barrier;   // for the threads of this row group
  Barrier unit_barrier;  // for the threads that have the other units of the same rows
};

// The rows [begin, begin + count) of the sorted batch, in one thread.
class RowBlock {
 public:
  RowBlock(const Job& job, Share& share, std::size_t begin, std::size_t count)
      : sizes_(job.gru.sizes),
        gru_(job.gru),
        call_(job.call),
        plan_(job.plan),
        backwards_(job.backwards),
        share_(share),
        scratch_(share.scratch),
        order_(job.space.order + begin),
        lengths_(job.space.lengths + begin),
        count_(count),
        in_place_(states_in_place()) {}

  // All layers, one block of time after the other: what a layer needs is still in cache.
  void run_unidirectional() {
    for (std::size_t l = call_.first_layer; l < call_.end_layer; ++l) load_state(l, 0);
    share_.unit_barrier.wait();
    for_each_segment([&](std::size_t step, std::size_t steps, std::size_t rows) {
      for (std::size_t l = call_.first_layer; l < call_.end_layer; ++l)
        run_steps(l, 0, step, steps, rows);
    });
    for (std::size_t l = call_.first_layer; l < call_.end_layer; ++l) finish_layer(l, 0);
  }

  // One direction of one layer over the whole time.
  void run_direction(std::size_t layer, std::size_t direction) {
    load_state(layer, direction);
    share_.unit_barrier.wait();
    for_each_segment([&](std::size_t step, std::size_t steps, std::size_t rows) {
      run_steps(layer, direction, step, steps, rows);
    });
    finish_layer(layer, direction);
  }

  // Zeros past a row's length, for the user's output only: nobody reads a scratch row there.
  void clear_padding(std::size_t direction) const {
    for (std::size_t row = 0; row < count_; ++row)
      for (std::size_t t = lengths_[row]; t < call_.T; ++t)
        std::memset(output(call_.end_layer - 1, direction, 0).row(row, t) + share_.units.begin, 0,
                    share_.units.size() * sizeof(float));
  }

 private:
  // Calls work(first step, steps, active rows) for stretches in which no row ends.
  template <class Work>
  void for_each_segment(Work work) const {
    std::size_t rows = count_, step = 0;
    while (true) {
      while (rows > 0 && lengths_[rows - 1] <= step) --rows;
      if (rows == 0) return;
      const std::size_t steps = std::min(plan_.time_block, lengths_[rows - 1] - step);
      work(step, steps, rows);
      step += steps;
    }
  }

  void run_steps(std::size_t layer, std::size_t direction, std::size_t step, std::size_t steps,
                 std::size_t rows) {
    const PackedLayer& packed = gru_.layers[layer * sizes_.num_directions + direction];
    const bool back_in = direction == 1 || (sizes_.reverse && layer == call_.first_layer);
    const bool back_out = direction == 1 || (sizes_.reverse && layer + 1 == call_.end_layer);
    const View<const float> in = input(layer, step);
    const std::ptrdiff_t in_step = back_in ? -in.at.time_stride : in.at.time_stride;
    for (std::size_t row = 0; row < rows; ++row)
      scratch_.x_rows[row] = in.row(row, time_of(row, back_in, step));
    for (std::size_t s = 1; s < steps; ++s)
      for (std::size_t row = 0; row < rows; ++row)
        scratch_.x_rows[s * rows + row] = scratch_.x_rows[(s - 1) * rows + row] + in_step;
    const View<float> out = output(layer, direction, step);
    for (std::size_t row = 0; row < rows; ++row)
      scratch_.out_rows[row] = out.row(row, time_of(row, back_out, step)) + share_.units.begin;

    const std::size_t H = sizes_.hidden_size;
    const std::size_t first = share_.units.begin, panel = first / kPanel;  // whole panels
    const auto multiplier_of = [&](std::size_t n) {
      return Multiplier{product_for(packed.products, n), scratch_.operands, packed.fine_states};
    };
    InputProduct product{};
    product.weights.matrix = packed.input.from_panel(panel);
    product.weights.bias = packed.input_bias + first * kGates;
    product.weights.reduction = sizes_.layer_input(layer);
    product.weights.block_terms = sum_block_terms(H);
    product.weights.far = plan_.far_input;
    product.multiplier = multiplier_of(steps * rows);
    product.x = scratch_.x_rows;
    product.out = scratch_.gates;
    product.rows = steps * rows;
    product.units = share_.units.size();

    const Weights recurrent{packed.recurrent.from_panel(panel),
                            packed.candidate.from_panel(panel),
                            packed.recurrent_bias + first * kGates,
                            H,
                            sum_block_terms(H),
                            plan_.far_recurrent};
    const State states{state(layer, direction, step), state(layer, direction, step + 1),
                       in_place_ ? H : plan_.state_stride};
    const Output to{scratch_.out_rows, back_out ? -out.at.time_stride : out.at.time_stride,
                    call_.trace_stride};
    const Activations activations{sizes_.activation, sizes_.recurrent_activation};
    const KernelTable& kernels = *gru_.kernels;
    if (in_lanes(packed, rows)) {
      RowSteps args{};
      args.weights = recurrent;
      args.input = &product;
      args.scratch = scratch_.gates;
      args.state = states;
      args.output = to;
      args.activations = activations;
      args.hidden = H;
      args.rows = rows;
      args.steps = steps;
      return (sizes_.reset_after ? kernels.rows_reset_after : kernels.rows_reset_before)(args);
    }
    UnitSteps args{};
    args.weights = recurrent;
    args.multiplier = multiplier_of(rows);
    args.gates = scratch_.gates;
    if (plan_.fused && !packed.takes_operands())
      args.input = &product;
    else
      kernels.input_product(product);
    args.state = states;
    args.reset_state = scratch_.reset_state;
    args.update = scratch_.update;
    args.output = to;
    args.units = {first, share_.units.size(), H};
    args.activations = activations;
    if (share_.unit_barrier.count() > 1)
      args.others = {[](void* barrier) { static_cast<Barrier*>(barrier)->wait(); },
                     &share_.unit_barrier};
    args.rows = rows;
    args.steps = steps;
    args.backwards = backwards_ != (step % 2 == 1);
    (sizes_.reset_after ? kernels.steps_reset_after : kernels.steps_reset_before)(args);
  }

  // See Note [Rows, steps and time].
  std::size_t time_of(std::size_t row, bool backwards, std::size_t step) const {
    return backwards ? lengths_[row] - 1 - step : step;
  }

  // Whether `rows` rows of a layer go through it in the lanes.
  bool in_lanes(const PackedLayer& layer, std::size_t rows) const {
    return !layer.takes_operands() && (plan_.rows_in_lanes == RowsInLanes::always ||
                                       (plan_.rows_in_lanes == RowsInLanes::where_they_fit &&
                                        rows_fit_lanes(sizes_, gru_.kernels->lanes, rows)));
  }

  // Kernels with rows in the lanes read a state when they begin and write it when they end, and
  // nothing beside it: where the rows stay and lie side by side, and the share has all units, it
  // can be the caller's own.
  bool states_in_place() const {
    if (call_.lengths || call_.slots || share_.unit_barrier.count() > 1) return false;
    for (std::size_t l = call_.first_layer; l < call_.end_layer; ++l)
      if (!in_lanes(gru_.layers[l * sizes_.num_directions], count_)) return false;
    return true;
  }

  // The state after `step` steps: two buffers a layer that take turns, or h_n itself.
  float* state(std::size_t layer, std::size_t direction, std::size_t step) const {
    if (in_place_) return call_.h_n + state_offset(layer, direction, 0);
    const std::size_t index = 2 * (layer - call_.first_layer) + step % 2;
    return scratch_.states + index * plan_.row_block * plan_.state_stride;
  }

  // Of the share's units, in h_0 and h_n.
  std::size_t state_offset(std::size_t layer, std::size_t direction, std::size_t row) const {
    const std::size_t l = (layer - call_.first_layer) * sizes_.num_directions + direction;
    const std::size_t b = order_[row];
    const std::size_t at = call_.slots ? l * call_.state_rows + call_.slots[b] : l * call_.B + b;
    return at * sizes_.hidden_size + share_.units.begin;
  }

  void load_state(std::size_t layer, std::size_t direction) const {
    // In place all rows are one piece, which may be h_0 itself.
    const std::size_t pieces = in_place_ ? 1 : count_;
    const std::size_t bytes = (in_place_ ? count_ : 1) * share_.units.size() * sizeof(float);
    for (std::size_t row = 0; row < pieces; ++row) {
      float* const to = state(layer, direction, 0) + row * plan_.state_stride + share_.units.begin;
      if (call_.h_0)
        std::memmove(to, call_.h_0 + state_offset(layer, direction, row), bytes);
      else
        std::memset(to, 0, bytes);
    }
  }

  // A row's state stays where its last step left it.
  void finish_layer(std::size_t layer, std::size_t direction) const {
    if (in_place_) return;
    for (std::size_t row = 0; row < count_; ++row)
      std::memcpy(
          call_.h_n + state_offset(layer, direction, row),
          state(layer, direction, lengths_[row]) + row * plan_.state_stride + share_.units.begin,
          share_.units.size() * sizeof(float));
  }

  View<const float> input(std::size_t layer, std::size_t step) const {
    if (layer == call_.first_layer) return {call_.x, order_, 0};
    const View<float> v = between(layer - 1, step);
    return {{v.at.data, v.at.time_stride, v.at.row_stride}, nullptr, v.first_time};
  }

  View<float> output(std::size_t layer, std::size_t direction, std::size_t step) const {
    View<float> v;
    std::ptrdiff_t offset = static_cast<std::ptrdiff_t>(direction * sizes_.hidden_size);
    if (layer + 1 == call_.end_layer) {
      v = {call_.y, order_, 0};
      if (call_.direction_stride != 0)
        offset = static_cast<std::ptrdiff_t>(direction) * call_.direction_stride;
    } else {
      v = between(layer, step);
    }
    v.at.data += offset;
    return v;
  }

  // Scratch between `layer` and the next: whole sequences where directions must meet, else a block.
  View<float> between(std::size_t layer, std::size_t step) const {
    const std::size_t width = sizes_.num_directions * sizes_.hidden_size;
    const auto row_stride = static_cast<std::ptrdiff_t>(width);
    const auto time_stride = static_cast<std::ptrdiff_t>(plan_.row_block * width);
    return {{scratch_.sequences[(layer - call_.first_layer) % 2], time_stride, row_stride},
            nullptr,
            sizes_.num_directions == 2 ? 0 : step};
  }

  const GruSizes& sizes_;
  const PackedGru& gru_;
  const Call& call_;
  const Plan& plan_;
  const bool backwards_;
  Share& share_;
  const Scratch& scratch_;
  const std::size_t* order_;
  const std::size_t* lengths_;
  const std::size_t count_;
  const bool in_place_;
};

// For one thread of a call: enters the products that may multiply in it, and leaves them again.
class EnteredProducts {
 public:
  EnteredProducts(const PackedGru& gru, const Call& call, const Plan& plan)
      : gru_(gru), call_(call), most_rows_(plan.time_block * plan.row_block) {
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
    const std::size_t D = gru_.sizes.num_directions;
    const std::size_t begin = call_.first_layer * D, end = call_.end_layer * D;
    const auto used_before = [&](const Product* product, std::size_t layer) {
      for (std::size_t i = begin; i < layer; ++i)
        for (const ProductChoice& choice : gru_.layers[i].products)
          if (choice.product == product) return true;
      return false;
    };
    for (std::size_t i = begin; i < end; ++i)
      for (const ProductChoice& choice : gru_.layers[i].products)
        if ((choice.product->enter || choice.product->leave) && choice.min_rows <= most_rows_ &&
            !used_before(choice.product, i))
          visit(*choice.product);
  }

  const PackedGru& gru_;
  const Call& call_;
  const std::size_t most_rows_;  // of an input product
};

void run_share(const Job& job, Share& share) {
  const FlushDenormals flush;
  const EnteredProducts entered(job.gru, job.call, job.plan);
  for (std::size_t row = share.rows.begin; row < share.rows.end; row += job.plan.row_block) {
    RowBlock block(job, share, row, std::min(job.plan.row_block, share.rows.end - row));
    if (job.gru.sizes.num_directions == 1) {
      block.run_unidirectional();
    } else {
      for (std::size_t layer = job.call.first_layer; layer < job.call.end_layer; ++layer) {
        for (std::size_t d = share.directions.begin; d < share.directions.end; ++d)
          block.run_direction(layer, d);
        share.row_barrier.wait();  // the next layer reads what all threads wrote
      }
    }
    for (std::size_t d = share.directions.begin; d < share.directions.end; ++d)
      block.clear_padding(d);
  }
}

// TilePart `index` of n things in `parts` parts.
Range part(std::size_t n, std::size_t index, std::size_t parts) {
  return {n * index / parts, n * (index + 1) / parts};
}

// First row of group `group` of `groups`: groups of about equal total length.
std::size_t group_begin(const Job& job, std::size_t group) {
  const std::size_t groups = job.plan.grid.row_groups, rows = job.call.B;
  if (!job.call.lengths) return part(rows, group, groups).begin;
  std::size_t total = 0;
  for (std::size_t row = 0; row < rows; ++row) total += job.space.lengths[row] + 1;
  std::size_t sum = 0, row = 0;
  while (row < rows && sum < total * group / groups) sum += job.space.lengths[row++] + 1;
  return row;
}

// Returns the long waits for threads that share units: elsewhere threads may have unequal work.
std::size_t run_thread(const Job& job, std::size_t thread) {
  const Plan& plan = job.plan;
  const GruSizes& sizes = job.gru.sizes;
  const std::size_t unit = thread % plan.grid.unit_groups;
  const std::size_t first_of_units = thread - unit;
  const std::size_t group = thread / plan.grid.threads_per_row_group();
  const std::size_t first = group * plan.grid.threads_per_row_group();
  const Range panels = part(sizes.panels(), unit, plan.grid.unit_groups);
  Share share{
      {group_begin(job, group), group_begin(job, group + 1)},
      part(sizes.num_directions, (thread - first) / plan.grid.unit_groups, plan.grid.directions),
      {panels.begin * kPanel, std::min(panels.end * kPanel, sizes.hidden_size)},
      job.space.threads[thread],
      Barrier(job.space.row_barriers + first, thread - first, plan.grid.threads_per_row_group(),
              plan.patience),
      Barrier(job.space.unit_barriers + first_of_units, unit, plan.grid.unit_groups,
              plan.patience)};
  run_share(job, share);
  return share.unit_barrier.long_waits();
}

// Longest first, equal lengths in the caller's order.
void sort_rows(const Call& call, const Workspace& space) {
  for (std::size_t b = 0; b < call.B; ++b) space.order[b] = b;
  if (call.lengths)
    std::sort(space.order, space.order + call.B, [&](std::size_t a, std::size_t b) {
      return call.lengths[a] != call.lengths[b] ? call.lengths[a] > call.lengths[b] : a < b;
    });
  for (std::size_t row = 0; row < call.B; ++row)
    space.lengths[row] =
        call.lengths ? static_cast<std::size_t>(call.lengths[space.order[row]]) : call.T;
}

// Whether a call begins with the last weights, as this thread's last call of the same GRU ended
// with them: it finds in its caches what was read last. Exact for one layer and block of rows, else
// a guess, which costs nothing if wrong.
bool goes_backwards(const PackedGru& gru, std::size_t steps) {
  thread_local const PackedGru* last = nullptr;
  thread_local bool at_end = false;
  const bool backwards = last == &gru && at_end;
  last = &gru;
  at_end = backwards != (steps % 2 == 1);
  return backwards;
}

}  // namespace

std::optional<std::size_t> run(const PackedGru& gru, const Call& call, const Plan& plan) {
  Carver carver(arena_of(0));
  Workspace space = carve_workspace(carver, gru, call, plan);
  if (!carver.fits()) {
    carver = Carver(arena_of(carver.used()));
    space = carve_workspace(carver, gru, call, plan);
  }
  for (std::size_t thread = 0; thread < plan.grid.threads(); ++thread) {
    new (&space.row_barriers[thread]) Arrival;
    new (&space.unit_barriers[thread]) Arrival;
  }
  sort_rows(call, space);
  const Job job{gru, call, plan, space, goes_backwards(gru, call.T)};
  if (plan.grid.threads() == 1) return run_thread(job, 0);
  std::atomic<std::size_t> long_waits{0};
  const bool ran = parallel(plan.grid.threads(), [&](std::size_t index) {
    long_waits.fetch_add(run_thread(job, index), std::memory_order_relaxed);
  });
  if (!ran) return std::nullopt;
  return long_waits;
}

void run(const PackedGru& gru, const Call& call) {
  if (call.B == 0) return;
  assert(call.first_layer < call.end_layer && call.end_layer <= gru.sizes.num_layers);
  CallShape shape;
  shape.T = call.T;
  shape.B = call.B;
  shape.traced = call.trace_stride != 0;
  shape.operand_bytes = longest_operand(gru, call);
  const double estimate = estimate_microseconds(gru.sizes, call.T, call.B);
  const bool threaded = call.max_threads > 1 && estimate >= kParallelFrom;
  if (threaded) {
    shape.max_threads = call.max_threads;
    shape.region_microseconds = region_microseconds();
    if (gru.sizes.panels() > 1) shape.barrier_microseconds = barrier_microseconds();
  }
  const Machine machine = machine_with(gru.kernels->lanes);
  Plan plan = make_plan(gru.sizes, machine, shape);
  auto long_waits = run(gru, call, plan);
  if (!long_waits) {  // the runtime gave fewer threads
    shape.max_threads = 1;
    plan = make_plan(gru.sizes, machine, shape);
    long_waits = run(gru, call, plan);
  }
  if (threaded) call_ended(plan.grid.threads() > 1, *long_waits);
  release_arena();
}

}  // namespace fastgru
