// Note [Rows, steps and time]
// Rows are sorted by length, longest first, so that the rows still active at step s are the first
// ones and no work is done on padding. Step s of a row is time s going forward and time
// length - 1 - s in the reverse direction: both directions start at s = 0 and end at s = length.
// Time blocks are in the order of steps; only x, y and the sequences between sections know time.
#include "run/row_block.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "run/layers.hpp"

namespace fastgru {
namespace {

using Kind = Node::Kind;

// Where the rows of a sequence are. Rows count from the block's first; `order` maps them to rows of
// a user's array (null: they are rows of scratch).
template <class T>
struct View {
  SequenceView<T> at;
  const std::size_t* order = nullptr;

  T* row(std::size_t row, std::size_t time) const {
    const std::size_t b = order ? order[row] : row;
    return at.data + static_cast<std::ptrdiff_t>(time) * at.time_stride +
           static_cast<std::ptrdiff_t>(b) * at.row_stride;
  }
};

class RowBlock {
 public:
  RowBlock(const Job& job, Share& share, std::size_t begin, std::size_t count)
      : network_(job.network),
        call_(job.call),
        plan_(job.plan),
        space_(job.space),
        backwards_(job.backwards),
        interruption_(job.interruption),
        share_(share),
        scratch_(share.scratch),
        team_(job.plan.grid.threads_per_row_group()),
        order_(job.space.order + begin),
        lengths_(job.space.lengths + begin),
        valid_(job.space.valid + begin),
        count_(count) {}

  void run() {
    for (std::size_t s = 0; s < network_.sections.size() && !interruption_.given_up(); ++s) {
      const Section section = clipped(network_.sections[s], call_);
      if (section.begin == section.end && call_.first_node != call_.end_node) continue;
      const View<const float> in = input_of(s);
      const View<float> out = output_of(s);
      if (section.order == Section::Order::both)
        run_directions(section.begin, in, out);
      else if (section.order == Section::Order::flip)
        flip(network_.nodes[section.begin], in, out);
      else
        run_section(section, in, out);
      // The next section reads what all have written, the next rows are written over these.
      wait_for_team();
    }
    if (space_.has_padding && !network_.gives_rows && !interruption_.given_up()) fill_padding();
  }

 private:
  // ---- where a section reads and writes ----

  bool is_last(std::size_t section) const { return section + 1 == network_.sections.size(); }
  // The features of a node's results.
  std::size_t width_of(const Node& node) const { return node.outputs ? node.outputs : call_.width; }
  // Of the rows that go into a node.
  std::size_t width_before(std::size_t node) const {
    return node == 0 ? call_.width : width_of(network_.nodes[node - 1]);
  }

  View<float> between(std::size_t section) const {
    const std::size_t width = width_of(network_.nodes[network_.sections[section].end - 1]);
    const auto row_stride = static_cast<std::ptrdiff_t>(width);
    if (network_.sections[section + 1].single_step)
      return {{scratch_.results[section % 2], 0, row_stride}, nullptr};
    return {{scratch_.sequences[section % 2], static_cast<std::ptrdiff_t>(plan_.row_block * width),
             row_stride},
            nullptr};
  }
  View<const float> input_of(std::size_t section) const {
    if (section == 0 || network_.sections[section].begin <= call_.first_node)
      return {call_.x, order_};
    const View<float> v = between(section - 1);
    return {{v.at.data, v.at.time_stride, v.at.row_stride}, v.order};
  }
  View<float> output_of(std::size_t section) const {
    return is_last(section) || network_.sections[section].end >= call_.end_node
               ? View<float>{call_.y, order_}
               : between(section);
  }

  // ---- time ----

  // See Note [Rows, steps and time].
  std::size_t time_of(std::size_t row, bool backwards, std::size_t step) const {
    return backwards ? lengths_[row] - 1 - step : step;
  }

  // Calls work(first step, steps, active rows) for stretches in which no row ends. Leaves early
  // where the call is given up.
  template <class Work>
  void for_each_segment(Work work) const {
    std::size_t rows = count_, step = 0;
    while (true) {
      while (rows > 0 && lengths_[rows - 1] <= step) --rows;
      if (rows == 0 || interruption_.given_up()) return;
      const std::size_t steps = std::min(plan_.time_block, lengths_[rows - 1] - step);
      work(step, steps, rows);
      step += steps;
    }
  }

  // Rows that are in work: the steps [step, step + steps) of the first `rows` rows.
  struct Segment {
    std::size_t step, steps, rows;
    bool backwards;
    std::size_t positions() const { return steps * rows; }
  };

  // in_rows: pointers to the rows of a segment, [steps][rows].
  void read_rows(const View<const float>& in, const Segment& at) const {
    const std::ptrdiff_t in_step = at.backwards ? -in.at.time_stride : in.at.time_stride;
    for (std::size_t row = 0; row < at.rows; ++row)
      scratch_.in_rows[row] = in.row(row, time_of(row, at.backwards, at.step));
    for (std::size_t s = 1; s < at.steps; ++s)
      for (std::size_t row = 0; row < at.rows; ++row)
        scratch_.in_rows[s * at.rows + row] = scratch_.in_rows[(s - 1) * at.rows + row] + in_step;
  }
  // The same where they have just been written.
  void read_rows(const RowTargets& written, const Segment& at, std::size_t offset) const {
    for (std::size_t s = 0; s < at.steps; ++s)
      for (std::size_t row = 0; row < at.rows; ++row)
        scratch_.in_rows[s * at.rows + row] =
            written.rows[row] - offset + static_cast<std::ptrdiff_t>(s) * written.step;
  }

  // out_rows: pointers to where a segment's results go, from the feature `offset` on.
  RowTargets to_view(const View<float>& out, const Segment& at, std::size_t offset) const {
    for (std::size_t row = 0; row < at.rows; ++row)
      scratch_.out_rows[row] = out.row(row, time_of(row, at.backwards, at.step)) + offset;
    return {scratch_.out_rows, at.rows, at.backwards ? -out.at.time_stride : out.at.time_stride};
  }
  RowTargets to_block(float* block, std::size_t width, const Segment& at,
                      std::size_t offset) const {
    for (std::size_t row = 0; row < at.rows; ++row)
      scratch_.out_rows[row] = block + row * width + offset;
    return {scratch_.out_rows, at.rows, static_cast<std::ptrdiff_t>(plan_.row_block * width)};
  }

  // ---- sections ----

  void wait_for_team() { share_.row_barrier.wait(); }

  // One order of time, one block of time after the other: what a node needs is still in cache.
  void run_section(const Section& section, const View<const float>& in, const View<float>& out) {
    if (section.single_step) {
      const Segment at{0, 1, count_, false};
      read_rows(in, at);
      return run_nodes(section, at, out);
    }
    const bool backwards = section.order == Section::Order::backwards;
    bool has_states = false;
    for (std::size_t i = section.begin; i < section.end; ++i)
      if (network_.nodes[i].is_gru()) load_state(i, 0), has_states = true;
    const bool is_mean =
        section.begin < section.end && network_.nodes[section.end - 1].kind == Kind::mean;
    if (is_mean) clear_sums(section.end - 1);
    if (has_states) wait_for_team();
    for_each_segment([&](std::size_t step, std::size_t steps, std::size_t rows) {
      const Segment at{step, steps, rows, backwards};
      if (!network_.takes_indices || section.begin > 0) read_rows(in, at);
      run_nodes(section, at, out);
    });
    for (std::size_t i = section.begin; i < section.end; ++i)
      if (network_.nodes[i].is_gru()) finish_layer(i, 0);
    if (is_mean) finish_mean(section.end - 1, out);
  }

  // One layer with two directions: each over the whole time.
  void run_directions(std::size_t node, const View<const float>& in, const View<float>& out) {
    const std::size_t hidden = network_.nodes[node].gru->sizes.hidden_size;
    for (std::size_t d = share_.directions.begin; d < share_.directions.end; ++d) {
      load_state(node, d);
      share_.unit_barrier.wait();
      View<float> half = out;
      half.at.data += call_.direction_stride != 0
                          ? static_cast<std::ptrdiff_t>(d) * call_.direction_stride
                          : static_cast<std::ptrdiff_t>(d * hidden);
      for_each_segment([&](std::size_t step, std::size_t steps, std::size_t rows) {
        const Segment at{step, steps, rows, d == 1};
        read_rows(in, at);
        run_gru(node, d, at, to_view(half, at, units_of(network_.nodes[node]).begin));
      });
      finish_layer(node, d);
    }
  }

  // Through the nodes of a section; in_rows has the rows, unless the first node takes indices.
  void run_nodes(const Section& section, const Segment& at, const View<float>& out) {
    const std::size_t writer = final_writer(network_, section);
    int block = 0;          // the one to write next
    bool writable = false;  // whether in_rows are rows of ours
    bool written = false;   // whether they are where the section's results go
    for (std::size_t i = section.begin; i < section.end; ++i) {
      const Node& node = network_.nodes[i];
      if (node.is_over_time()) return reduce(i, at, out);
      if (node.kind == Kind::embedding) {
        look_up(node, at);
        writable = false;
        continue;
      }
      const std::size_t width = width_of(node);
      const bool own_share = node.is_gru();
      const std::size_t offset = own_share ? units_of(node).begin : 0;
      RowTargets to;
      if (node.in_place() && writable) {
        run_in_place(i, at);
      } else {
        if (i >= writer) {
          to = to_view(out, at, offset);
          written = true;
        } else {
          to = to_block(scratch_.blocks[block], width, at, offset);
          block = 1 - block;
        }
        run_node(i, at, to);
        if (i + 1 < section.end) read_rows(to, at, offset);
        writable = true;
      }
      if (team_ > 1 && !own_share) wait_for_team();
    }
    if (!written) copy_rows(section, at, to_view(out, at, 0));
  }

  // Rows of ours that nobody has copied to where they go: an Embedding's, or x itself.
  void copy_rows(const Section& section, const Segment& at, const RowTargets& to) {
    const std::size_t width = width_before(section.end);
    const Range mine = part_of(at.positions(), share_.index, team_);
    for (std::size_t p = mine.begin; p < mine.end; ++p)
      std::copy_n(scratch_.in_rows[p], width, to[p]);
  }

  // Each sequence's rows in the other order; padding stays where it is.
  void flip(const Node& node, const View<const float>& in, const View<float>& out) {
    const std::size_t width = width_of(node);
    const Range mine = part_of(count_, share_.index, team_);
    for (std::size_t row = mine.begin; row < mine.end; ++row)
      for (std::size_t t = 0; t < lengths_[row]; ++t) {
        const std::size_t from = t < valid_[row] ? valid_[row] - 1 - t : t;
        std::copy_n(in.row(row, from), width, out.row(row, t));
      }
  }

  // ---- nodes ----

  void run_node(std::size_t index, const Segment& at, const RowTargets& to) {
    const Node& node = network_.nodes[index];
    if (node.is_gru()) return run_gru(index, 0, at, to);
    const std::size_t n = at.positions();
    if (node.kind == Kind::linear) return run_linear(*node.linear, n, to);
    const Range mine = part_of(n, share_.index, team_);
    const std::size_t width = width_of(node);
    if (node.kind == Kind::one_hot) {
      for (std::size_t p = mine.begin; p < mine.end; ++p) {
        std::memset(to[p], 0, width * sizeof(float));
        to[p][index_of(at, p)] = 1.0f;
      }
      return;
    }
    for (std::size_t p = mine.begin; p < mine.end; ++p)
      run_row(node, scratch_.in_rows[p], to[p], width);
  }

  void run_in_place(std::size_t index, const Segment& at) {
    const Node& node = network_.nodes[index];
    const Range mine = part_of(at.positions(), share_.index, team_);
    for (std::size_t p = mine.begin; p < mine.end;
         ++p)  // rows of ours, so that they can be written
      run_row(node, scratch_.in_rows[p], const_cast<float*>(scratch_.in_rows[p]), width_of(node));
  }

  static void run_row(const Node& node, const float* x, float* y, std::size_t width) {
    switch (node.kind) {
      case Kind::activation:
        return activate_row(*node.kernels, node.function, x, y, width);
      case Kind::softmax:
        return softmax_row(*node.kernels, x, y, width);
      case Kind::log_softmax:
        return log_softmax_row(*node.kernels, x, y, width);
      case Kind::layer_norm:
        return layer_norm_row(*node.norm, x, y, width);
      default:
        assert(false);
    }
  }

  // By rows where each thread then has a tile of them, else by outputs.
  void run_linear(const PackedLinear& layer, std::size_t n, const RowTargets& to) {
    constexpr std::size_t kFewRows = 8;
    if (n >= kFewRows * team_ || layer.panels() < team_) {
      const Range mine = part_of(n, share_.index, team_);
      if (mine.size() > 0)
        linear_rows(layer, scratch_.in_rows, to, mine.begin, mine.end, 0, layer.panels(),
                    scratch_.products);
    } else {
      const Range mine = part_of(layer.panels(), share_.index, team_);
      linear_rows(layer, scratch_.in_rows, to, 0, n, mine.begin, mine.end, scratch_.products);
    }
  }

  std::size_t index_of(const Segment& at, std::size_t position) const {
    const View<const std::int64_t> indices{call_.indices, order_};
    const std::size_t row = position % at.rows, step = at.step + position / at.rows;
    return static_cast<std::size_t>(*indices.row(row, time_of(row, at.backwards, step)));
  }

  // in_rows: rows of the table.
  void look_up(const Node& node, const Segment& at) const {
    const float* const table = node.embedding->table();
    for (std::size_t p = 0; p < at.positions(); ++p)
      scratch_.in_rows[p] = table + index_of(at, p) * node.outputs;
  }

  // ---- Last, Mean and Max: of the rows that are this thread's ----

  void reduce(std::size_t index, const Segment& at, const View<float>& out) {
    const Node& node = network_.nodes[index];
    const std::size_t width = width_of(node);
    const Range mine = part_of(at.rows, share_.index, team_);
    for (std::size_t row = mine.begin; row < mine.end; ++row) {
      const std::size_t end = std::min(at.steps, valid_[row] - std::min(valid_[row], at.step));
      const auto x = [&](std::size_t s) { return scratch_.in_rows[s * at.rows + row]; };
      if (node.kind == Kind::last) {
        keep_last(node, row, at, width, x, out);
      } else if (node.kind == Kind::mean) {
        double* const sums = scratch_.sums + row * width;
        for (std::size_t s = 0; s < end; ++s)
          for (std::size_t i = 0; i < width; ++i) sums[i] += static_cast<double>(x(s)[i]);
      } else {
        float* const most = out.row(row, 0);
        for (std::size_t s = 0; s < end; ++s)
          at.step + s == 0 ? void(std::copy_n(x(0), width, most)) : keep_maximum(x(s), most, width);
      }
    }
    if (team_ > 1) wait_for_team();  // before the next block of time is written over this one
  }

  template <class X>
  void keep_last(const Node& node, std::size_t row, const Segment& at, std::size_t width, X x,
                 const View<float>& out) const {
    const std::size_t half = node.bidirectional ? width / 2 : width;
    const std::size_t last = valid_[row] - 1;  // a sequence has a step at least
    if (last >= at.step && last < at.step + at.steps)
      std::copy_n(x(last - at.step), half, out.row(row, 0));
    if (node.bidirectional && at.step == 0)
      std::copy_n(x(0) + half, width - half, out.row(row, 0) + half);
  }

  void clear_sums(std::size_t index) const {
    const std::size_t width = width_of(network_.nodes[index]);
    const Range mine = part_of(count_, share_.index, team_);
    std::fill(scratch_.sums + mine.begin * width, scratch_.sums + mine.end * width, 0.0);
    share_.row_barrier.wait();  // rows are divided otherwise where some have ended
  }
  void finish_mean(std::size_t index, const View<float>& out) const {
    const std::size_t width = width_of(network_.nodes[index]);
    const Range mine = part_of(count_, share_.index, team_);
    for (std::size_t row = mine.begin; row < mine.end; ++row)
      for (std::size_t i = 0; i < width; ++i)
        out.row(row, 0)[i] =
            static_cast<float>(scratch_.sums[row * width + i] / static_cast<double>(valid_[row]));
  }

  // ---- padding ----

  // What stands past a row's length, in the user's array: zeros where a GRU is the last layer, else
  // what the layers behind it make of zeros.
  void fill_padding() {
    std::size_t first = call_.end_node;
    while (first > call_.first_node && !network_.nodes[first - 1].is_gru()) --first;
    std::size_t width = width_before(first);
    float *const row = scratch_.padding[0], *const inputs = scratch_.padding[1];
    std::fill_n(row, width, 0.0f);
    for (std::size_t i = first; i < call_.end_node; ++i) {
      const Node& node = network_.nodes[i];
      width = width_of(node);
      if (node.in_place()) {
        run_row(node, row, row, width);
      } else if (node.linear) {
        const float* const x = std::copy_n(row, node.inputs, inputs) - node.inputs;
        float* const y = row;
        linear_rows(*node.linear, &x, {&y, 1, 0}, 0, 1, 0, node.linear->panels(),
                    scratch_.products);
      }
    }
    const Node& last = network_.nodes[call_.end_node - 1];
    const bool apart = call_.direction_stride != 0 && last.bidirectional;
    const Range mine = part_of(count_, share_.index, team_);
    for (std::size_t b = mine.begin; b < mine.end; ++b)
      for (std::size_t t = lengths_[b]; t < call_.T; ++t) {
        float* const to = View<float>{call_.y, order_}.row(b, t);
        std::copy_n(row, apart ? width / 2 : width, to);
        if (apart) std::copy_n(row, width / 2, to + call_.direction_stride);
      }
  }

  // ---- GRU layers ----

  const PackedLayer& packed(const Node& node, std::size_t direction) const {
    return node.gru->layers[node.gru_layer * node.gru->sizes.num_directions + direction];
  }
  const Plan& plan_of(const Node& node) const { return plan_.grus[node.gru_index]; }

  // The threads that share a layer's units, and this one among them.
  Barrier& barrier_of(const Node& node) const {
    return node.bidirectional ? share_.unit_barrier : share_.row_barrier;
  }
  // This thread's units of a layer: whole panels, none where there are fewer panels than threads.
  Range units_of(const Node& node) const {
    const GruSizes& sizes = node.gru->sizes;
    if (team_ == 1) return {0, sizes.hidden_size};
    const Range panels = part_of(sizes.panels(), node.bidirectional ? share_.unit : share_.index,
                                 unit_parts(node, plan_.grid));
    return {std::min(panels.begin * kPanel, sizes.hidden_size),
            std::min(panels.end * kPanel, sizes.hidden_size)};
  }

  void run_gru(std::size_t index, std::size_t direction, const Segment& at, const RowTargets& to) {
    const Node& node = network_.nodes[index];
    const GruSizes& sizes = node.gru->sizes;
    const PackedLayer& layer = packed(node, direction);
    const Plan& plan = plan_of(node);
    const Range units = units_of(node);
    Barrier& barrier = barrier_of(node);
    if (units.size() == 0) {  // waits as often as the others do
      for (std::size_t s = 0; s < at.steps * (sizes.reset_after ? 1 : 2); ++s) barrier.wait();
      return;
    }
    const std::size_t H = sizes.hidden_size;
    const std::size_t first = units.begin, panel = first / kPanel;  // whole panels
    const auto multiplier_of = [&](std::size_t n) {
      return Multiplier{product_for(layer.products, n), scratch_.operands, layer.fine_states};
    };
    InputProduct product{};
    product.weights.matrix = layer.input.from_panel(panel);
    product.weights.bias = layer.input_bias + first * kGates;
    product.weights.reduction = node.inputs;
    product.weights.block_terms = sum_block_terms(H);
    product.weights.far = plan.far_input;
    product.multiplier = multiplier_of(at.positions());
    product.x = scratch_.in_rows;
    product.out = scratch_.gates;
    product.rows = at.positions();
    product.units = units.size();

    const std::size_t place = direction_place(plan_.grid, direction);
    const bool in_place = states_in_place(index, direction);
    const Weights recurrent{layer.recurrent.from_panel(panel),
                            layer.candidate.from_panel(panel),
                            layer.recurrent_bias + first * kGates,
                            H,
                            sum_block_terms(H),
                            plan.far_recurrent};
    const State states{state(index, direction, at.step, in_place),
                       state(index, direction, at.step + 1, in_place),
                       in_place ? H : plan.state_stride};
    const Output output{to.rows, to.step, call_.trace_stride};
    const Activations activations{sizes.activation, sizes.recurrent_activation};
    const KernelTable& kernels = *node.gru->kernels;
    if (in_lanes(node, layer, at.rows)) {
      RowSteps args{};
      args.weights = recurrent;
      args.input = &product;
      args.scratch = scratch_.gates;
      args.state = states;
      args.output = output;
      args.activations = activations;
      args.hidden = H;
      args.rows = at.rows;
      args.steps = at.steps;
      return (sizes.reset_after ? kernels.rows_reset_after : kernels.rows_reset_before)(args);
    }
    UnitSteps args{};
    args.weights = recurrent;
    args.multiplier = multiplier_of(at.rows);
    args.gates = scratch_.gates;
    if (plan.fused && !layer.takes_operands())
      args.input = &product;
    else
      kernels.input_product(product);
    args.state = states;
    args.reset_state = scratch_.reset_states[place];
    args.update = scratch_.updates[place];
    args.output = output;
    args.units = {first, units.size(), H};
    args.activations = activations;
    if (barrier.count() > 1)
      args.others = {[](void* waiting) { static_cast<Barrier*>(waiting)->wait(); }, &barrier};
    args.rows = at.rows;
    args.steps = at.steps;
    args.backwards = backwards_ != (at.step % 2 == 1);
    (sizes.reset_after ? kernels.steps_reset_after : kernels.steps_reset_before)(args);
  }

  // Whether `rows` rows of a layer go through it in the lanes.
  bool in_lanes(const Node& node, const PackedLayer& layer, std::size_t rows) const {
    const RowsInLanes how = plan_of(node).rows_in_lanes;
    return !layer.takes_operands() &&
           (how == RowsInLanes::always ||
            (how == RowsInLanes::where_they_fit &&
             rows_fit_lanes(node.gru->sizes, node.gru->machine.lanes, rows)));
  }

  // ---- states ----

  GruStates states_of(const Node& node) const {
    return call_.states ? call_.states[node.gru_index] : GruStates{};
  }

  // Kernels with rows in the lanes read a state when they begin and write it when they end, and
  // nothing beside it: where the rows stay and lie side by side, and the share has all units, it
  // can be the caller's own h_n.
  bool states_in_place(std::size_t index, std::size_t direction) const {
    const Node& node = network_.nodes[index];
    return !call_.lengths && !call_.slots && states_of(node).h_n &&
           unit_parts(node, plan_.grid) == 1 && in_lanes(node, packed(node, direction), count_);
  }

  // The state after `step` steps: two buffers a layer that take turns, or h_n itself.
  float* state(std::size_t index, std::size_t direction, std::size_t step, bool in_place) const {
    const Node& node = network_.nodes[index];
    if (in_place) return states_of(node).h_n + state_offset(node, direction, 0, call_.B, nullptr);
    // The states of the GRU layers before it stand in front.
    std::size_t before = 0;
    for (std::size_t i = call_.first_node; i < index; ++i)
      if (network_.nodes[i].is_gru())
        before += 2 * plan_.row_block * plan_of(network_.nodes[i]).state_stride;
    return scratch_.states[direction_place(plan_.grid, direction)] + before +
           step % 2 * plan_.row_block * plan_of(node).state_stride;
  }

  // Of a row in h_0 or h_n, which has `rows` rows a layer and only the layers that the call runs.
  std::size_t state_offset(const Node& node, std::size_t direction, std::size_t row,
                           std::size_t rows, const std::uint32_t* slots) const {
    const GruSizes& sizes = node.gru->sizes;
    const Node& first = network_.nodes[call_.first_node];
    const std::size_t left_out = first.gru == node.gru ? first.gru_layer : 0;
    const std::size_t l = (node.gru_layer - left_out) * sizes.num_directions + direction;
    const std::size_t b = order_[row];
    return (l * rows + (slots ? slots[b] : b)) * sizes.hidden_size;
  }

  void load_state(std::size_t index, std::size_t direction) const {
    const Node& node = network_.nodes[index];
    const GruStates states = states_of(node);
    const Range units = units_of(node);
    if (units.size() == 0) return;
    const bool in_place = states_in_place(index, direction);
    const std::size_t stride = plan_of(node).state_stride;
    float* const first = state(index, direction, 0, in_place);
    // In place all rows are one piece, which may be h_0 itself.
    const std::size_t pieces = in_place ? 1 : count_;
    const std::size_t bytes = (in_place ? count_ : 1) * units.size() * sizeof(float);
    for (std::size_t row = 0; row < pieces; ++row) {
      float* const to = first + row * stride + units.begin;
      if (states.h_0)
        std::memmove(to,
                     states.h_0 +
                         state_offset(node, direction, row,
                                      call_.slots ? call_.state_rows : call_.B, call_.slots) +
                         units.begin,
                     bytes);
      else
        std::memset(to, 0, bytes);
    }
  }

  // A row's state stays where its last step left it.
  void finish_layer(std::size_t index, std::size_t direction) const {
    const Node& node = network_.nodes[index];
    const Range units = units_of(node);
    float* const h_n = states_of(node).h_n;
    if (units.size() == 0 || !h_n || states_in_place(index, direction)) return;
    const bool in_slots = call_.slots && !call_.h_n_in_rows;
    const std::size_t stride = plan_of(node).state_stride;
    const float* const even = state(index, direction, 0, false);
    const float* const odd = state(index, direction, 1, false);
    for (std::size_t row = 0; row < count_; ++row)
      std::memcpy(h_n +
                      state_offset(node, direction, row, in_slots ? call_.state_rows : call_.B,
                                   in_slots ? call_.slots : nullptr) +
                      units.begin,
                  (lengths_[row] % 2 ? odd : even) + row * stride + units.begin,
                  units.size() * sizeof(float));
  }

  const PackedNetwork& network_;
  const Call& call_;
  const NetworkPlan& plan_;
  const Workspace& space_;
  const bool backwards_;
  Interruption& interruption_;
  Share& share_;
  const Scratch& scratch_;
  const std::size_t team_;  // threads of the row group
  const std::size_t* order_;
  const std::size_t* lengths_;
  const std::size_t* valid_;
  const std::size_t count_;
};

}  // namespace

void run_row_block(const Job& job, Share& share, std::size_t begin, std::size_t count) {
  RowBlock(job, share, begin, count).run();
}

}  // namespace fastgru
