// One GRU layer on RTNeural, sizes fixed at compile time, behind a plain C interface for
// rtneural_peer.py: compile with -DPEER_I=... -DPEER_H=... and RTNeural's directory on the path.
//
// Batch 1, reset after, a run of T steps. Refuses everything else, as RTNeural does.

#define RTNEURAL_USE_XSIMD 1
#define RTNEURAL_DEFAULT_ALIGNMENT 64  // enough for every vector that xsimd may choose

#include <RTNeural/gru/gru.h>

#include <cstddef>
#include <vector>

namespace {

using Layer = RTNeural::GRULayerT<float, PEER_I, PEER_H>;
using Vector = xsimd::simd_type<float>;
constexpr int kLanes = static_cast<int>(Vector::size);
constexpr int kInputVectors = (PEER_I + kLanes - 1) / kLanes;
constexpr int kStateVectors = (PEER_H + kLanes - 1) / kLanes;

struct Gru {
  Layer layer;
  const float* x;
  float* y;
  std::size_t T;
};

using Rows = std::vector<std::vector<float>>;

// data: [rows, 3*H], row-major
Rows rows(const float* data, std::size_t count) {
  Rows found(count);
  for (std::size_t i = 0; i < count; ++i) {
    found[i].assign(data + i * 3 * PEER_H, data + (i + 1) * 3 * PEER_H);
  }
  return found;
}

// from: [size] -> to, the rest of the last vector zero
template <int vectors>
void load(const float* from, int size, Vector (&to)[vectors]) {
  alignas(RTNEURAL_DEFAULT_ALIGNMENT) float padded[vectors * kLanes] = {};
  for (int i = 0; i < size; ++i) padded[i] = from[i];
  for (int i = 0; i < vectors; ++i) to[i] = xsimd::load_aligned(padded + i * kLanes);
}

template <int vectors>
void store(const Vector (&from)[vectors], int size, float* to) {
  alignas(RTNEURAL_DEFAULT_ALIGNMENT) float padded[vectors * kLanes];
  for (int i = 0; i < vectors; ++i) from[i].store_aligned(padded + i * kLanes);
  for (int i = 0; i < size; ++i) to[i] = padded[i];
}

}  // namespace

extern "C" {

// x: [T, I] and y: [T, H], which must outlive the result; w_i: [I, 3, H], w_h: [H, 3, H] and
// bias: [2, 3, H] (input's, state's), gates z, r, n, which are copied.
void* fg_create(std::size_t T, const float* x, float* y, const float* w_i, const float* w_h,
                const float* bias) {
  auto* gru = new Gru{{}, x, y, T};
  gru->layer.setWVals(rows(w_i, PEER_I));
  gru->layer.setUVals(rows(w_h, PEER_H));
  gru->layer.setBVals(rows(bias, 2));
  gru->layer.reset();
  return gru;
}

// h_0 and h_n: [H]
void fg_run(void* handle, const float* h_0, float* h_n) {
  auto& gru = *static_cast<Gru*>(handle);
  load(h_0, PEER_H, gru.layer.outs);
  Vector x[kInputVectors];
  for (std::size_t t = 0; t < gru.T; ++t) {
    if (PEER_I == 1) {
      x[0] = Vector(gru.x[t]);  // RTNeural wants a single input in every lane
    } else {
      load(gru.x + t * PEER_I, PEER_I, x);
    }
    gru.layer.forward(x);
    store(gru.layer.outs, PEER_H, gru.y + t * PEER_H);
  }
  store<kStateVectors>(gru.layer.outs, PEER_H, h_n);
}

void fg_destroy(void* handle) { delete static_cast<Gru*>(handle); }

}  // extern "C"
