// A GRU on oneDNN's RNN primitive behind a plain C interface, for onednn_peer.py.
//
// Everything that a service would do once happens in `fg_create`: weights go to the format that the
// primitive prefers, memory objects are made, and threads are set. Refuses ragged batches.

#include <omp.h>

#include <cstddef>
#include <cstdio>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>
#include <vector>

namespace {

using dnnl::memory;
using Dims = memory::dims;
using Tag = memory::format_tag;

// What Python passes. Gate order is oneDNN's u, r, o: our z, r, n, and its u keeps the old state as
// our z does.
struct Shape {
  int T, B, I, H, L, D;
  int reset_after;
  int threads;
  int stacked;  // all layers in one primitive (needs I = H and D = 1), else one primitive a layer
};

// One primitive over `layers` layers, with its arguments.
struct Stage {
  dnnl::primitive primitive;
  std::unordered_map<int, memory> arguments;
  std::size_t state_offset = 0;  // floats into h_0 and h_n
};

struct Gru {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::vector<Stage> stages;
  std::vector<memory> between;  // outputs of all layers but the last
  int threads = 1;
};

memory::desc floats(const Dims& dims, Tag tag) { return {dims, memory::data_type::f32, tag}; }

// A copy of `data`, which is in the plain format `tag`, in the primitive's own format.
memory reordered(Gru& gru, const float* data, const Dims& dims, Tag tag, const memory::desc& want) {
  memory plain(floats(dims, tag), gru.engine, const_cast<float*>(data));
  memory packed(want, gru.engine);
  dnnl::reorder(plain, packed).execute(gru.stream, plain, packed);
  gru.stream.wait();
  return packed;
}

template <class Primitive>
Stage make_stage(Gru& gru, const Shape& s, int layers, int columns, const float* x, float* y,
                 const float* w_i, const float* w_h, const float* bias) {
  const Dims state{layers, s.D, s.B, s.H};
  const Dims input_weights{layers, s.D, columns, 3, s.H};
  const Dims state_weights{layers, s.D, s.H, 3, s.H};
  const Dims biases{layers, s.D, s.reset_after != 0 ? 4 : 3, s.H};
  const memory::desc x_desc = floats({s.T, s.B, columns}, Tag::tnc);
  const memory::desc y_desc = floats({s.T, s.B, s.D * s.H}, Tag::tnc);
  const memory::desc state_desc = floats(state, Tag::ldnc);
  const typename Primitive::primitive_desc pd(
      gru.engine, dnnl::prop_kind::forward_inference,
      s.D == 2 ? dnnl::rnn_direction::bidirectional_concat
               : dnnl::rnn_direction::unidirectional_left2right,
      x_desc, state_desc, floats(input_weights, Tag::any), floats(state_weights, Tag::any),
      floats(biases, Tag::ldgo), y_desc, state_desc);
  Stage stage;
  stage.primitive = Primitive(pd);
  memory bias_copy = reordered(gru, bias, biases, Tag::ldgo, pd.bias_desc());
  stage.arguments = {
      {DNNL_ARG_SRC_LAYER, memory(x_desc, gru.engine, const_cast<float*>(x))},
      {DNNL_ARG_SRC_ITER, memory(state_desc, gru.engine, nullptr)},
      {DNNL_ARG_WEIGHTS_LAYER,
       reordered(gru, w_i, input_weights, Tag::ldigo, pd.weights_layer_desc())},
      {DNNL_ARG_WEIGHTS_ITER,
       reordered(gru, w_h, state_weights, Tag::ldigo, pd.weights_iter_desc())},
      {DNNL_ARG_BIAS, bias_copy},
      {DNNL_ARG_DST_LAYER, memory(y_desc, gru.engine, y)},
      {DNNL_ARG_DST_ITER, memory(state_desc, gru.engine, nullptr)},
  };
  return stage;
}

}  // namespace

extern "C" {

// x: [T, B, I] and y: [T, B, D*H], which must outlive the result; of each layer, w_i: [D, columns,
// 3, H], w_h: [D, H, 3, H] and bias: [D, 4 or 3, H] (the fourth is the candidate's recurrent one),
// which are copied. Stacked layers lie one behind the other from the first pointer. Returns null,
// and a message in `error` [256], if oneDNN refuses.
void* fg_create(const Shape* shape, const float* x, float* y, const float* const* w_i,
                const float* const* w_h, const float* const* bias, char* error) {
  try {
    const Shape& s = *shape;
    omp_set_num_threads(s.threads);  // oneDNN asks for it when a primitive is made and when run
    auto gru = std::make_unique<Gru>();
    gru->threads = s.threads;
    const int each = s.stacked != 0 ? s.L : 1;
    const float* from = x;
    for (int k = 0; k < s.L; k += each) {
      float* to = y;
      if (k + each < s.L) {
        gru->between.emplace_back(floats({s.T, s.B, s.D * s.H}, Tag::tnc), gru->engine);
        to = static_cast<float*>(gru->between.back().get_data_handle());
      }
      const int columns = k == 0 ? s.I : s.D * s.H;
      const auto make =
          s.reset_after != 0 ? make_stage<dnnl::lbr_gru_forward> : make_stage<dnnl::gru_forward>;
      gru->stages.push_back(make(*gru, s, each, columns, from, to, w_i[k], w_h[k], bias[k]));
      gru->stages.back().state_offset = static_cast<std::size_t>(k) * s.D * s.B * s.H;
      from = to;
    }
    return gru.release();
  } catch (const std::exception& e) {
    std::snprintf(error, 256, "%s", e.what());
    return nullptr;
  }
}

// h_0 and h_n: [L*D, B, H], not overlapping. -> 0, or 1 if oneDNN failed
int fg_run(void* handle, float* h_0, float* h_n) {
  auto& gru = *static_cast<Gru*>(handle);
  try {
    omp_set_num_threads(gru.threads);
    for (auto& stage : gru.stages) {
      stage.arguments.at(DNNL_ARG_SRC_ITER).set_data_handle(h_0 + stage.state_offset);
      stage.arguments.at(DNNL_ARG_DST_ITER).set_data_handle(h_n + stage.state_offset);
      stage.primitive.execute(gru.stream, stage.arguments);
    }
    gru.stream.wait();
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}

void fg_destroy(void* handle) { delete static_cast<Gru*>(handle); }

// What is loaded, not what the headers say: major * 10000 + minor * 100 + patch.
int fg_version() {
  const dnnl_version_t* v = dnnl_version();
  return v->major * 10000 + v->minor * 100 + v->patch;
}

}  // extern "C"
