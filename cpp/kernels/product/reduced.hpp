// Products in reduced precision, one source for every ISA. Include a vec_*.hpp first. Weights, and
// what they are multiplied with, are bfloat16 or integers; sums are float32 or exact integers; what
// leaves here is bias + W x in float32.
//
// Note [bfloat16]
// Both factors are rounded to nearest even, their product is exact in float32, and sums are made in
// sum blocks as in Note [Same bits].
//
// Note [int8]
// A unit's weights are integers in -127..127 and one scale. A state is rounded to 1/127, since it
// is bounded by 1; one that is not (by a first state or an unbounded candidate) has the largest of
// its row for its bound. Inputs have a scale for each row and time and are integers q in
// -32512..32512, in two planes of eight bits: q = 256 high + low, -127 <= high <= 127, -128 <= low
// <= 127. Fine states are rounded to 1/32512 like that: those of networks with few inputs,
// where the states' rounding decides the error and more of it costs least (pack.cpp). Sums of a
// plane are exact: at most 128 * 127 * K, below 2^31 up to K = 132,104 (kMostInt8Terms), so that
// their order does not matter and every ISA has the same integers. In a row with a NaN or an
// infinity every product is NaN.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/check.hpp"
#include "kernels/contract.hpp"
#include "kernels/group.hpp"
#include "kernels/inline.hpp"
#include "kernels/product/format.hpp"
#include "kernels/product/product.hpp"
#include "kernels/product/tiling.hpp"

namespace fastgru {
namespace {

using std::int8_t;
using std::uint16_t;
using std::uint32_t;

FASTGRU_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
FASTGRU_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T>
FASTGRU_INLINE T* operand_of(const Operands& a, size_t row) {
  return reinterpret_cast<T*>(a.rows + row * a.stride);
}

// ---- bfloat16 ----

// The upper half of a float, rounded to nearest even; NaN stays NaN.
FASTGRU_INLINE uint32_t bfloat16_bits(float x) {
  const uint32_t bits = bits_of(x), rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return ((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) >> 16;
}

// Pairs for any V: operands are floats with bfloat16's values, and a term is a float32 term whose
// weight is widened on the way.
template <class V>
struct WidenedPairs {
  using Element = float;

  static void prepare(const float* row, size_t reduction, const Operands& to, size_t index) {
    float* const out = operand_of<float>(to, index);
    for (size_t k = 0; k < reduction; ++k) out[k] = float_of(bfloat16_bits(row[k]) << 16);
    out[reduction] = 0.0f;  // of the last pair, where K is odd
  }

  template <int R, int C, int G, class Weights, class Inputs>
  static FASTGRU_INLINE void add(Accumulators<V, R * C * G>& sum, Weights weights, Inputs inputs) {
    FASTGRU_UNROLL
    for (int half = 0; half < 2; ++half) {
      // Each half loads again where registers are few: GCC would keep the second ones and spill
      // sums.
      if (V::max_accumulators < 24) __asm__ volatile("" ::: "memory");
      add_term<V, R, C, G>(
          sum, [&](int c, int g) FASTGRU_INLINE_LAMBDA { return V::widen(weights(c, g), half); },
          [&](int r) FASTGRU_INLINE_LAMBDA { return V::broadcast(inputs(r) + half); });
    }
  }
};

template <class V, class Pairs>
struct Bfloat16 {
  template <int G, int>
  struct Tile {
    static constexpr int gates = G;

    template <class, int R, int C>
    static void run(const ProductBlock& a, std::ptrdiff_t, size_t row, size_t strip,
                    const PartialSums* partial_sums) {
      using Element = typename Pairs::Element;
      const size_t pairs = (a.reduction + 1) / 2;
      const Element* in[R];
      FASTGRU_UNROLL
      for (int r = 0; r < R; ++r) in[r] = operand_of<Element>(a.operands, row + r);
      const uint16_t* w[C];
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c)
        w[c] = static_cast<const uint16_t*>(a.matrix.data) +
               panel_of<V>(strip + c) * pairs * (G * kPanel * 2) + 2 * lane_in_panel<V>(strip + c);
      auto acc = biases<V, R, C, G>(a.bias, strip);
      sum_in_blocks(acc, a.reduction, a.block_terms,
                    [&](auto& sum, size_t begin, size_t end) FASTGRU_INLINE_LAMBDA {
                      for (size_t k = begin; k < end; k += 2)
                        Pairs::template add<R, C, G>(
                            sum,
                            [&](int c, int g) FASTGRU_INLINE_LAMBDA {
                              return w[c] + (k / 2 * G + g) * (2 * kPanel);
                            },
                            [&](int r) FASTGRU_INLINE_LAMBDA { return in[r] + k; });
                    });
      partial_sums->store<V, R, C, G>(acc, row, strip);
    }
  };
};

// ---- int8 ----

constexpr float kRounding = 12582912.0f;        // Note [Rounding by a magic number] in math.hpp
FASTGRU_INLINE std::int32_t nearest(float x) {  // |x| < 2^22
  return static_cast<std::int32_t>(bits_of(x + kRounding) - bits_of(kRounding));
}
constexpr uint32_t kInfinity = 0x7f800000u, kPositiveNaN = 0x7fc00000u;  // as bits
// The bits of the largest magnitude, which are at least those of `least`. Without their sign,
// floats are in the order of their bits, with NaNs above infinity.
FASTGRU_INLINE uint32_t largest(const float* row, size_t n, float least) {
  uint32_t most = bits_of(least);
  for (size_t i = 0; i < n; ++i) {
    const uint32_t magnitude = bits_of(row[i]) & 0x7fffffffu;
    most = magnitude > most ? magnitude : most;
  }
  return most;
}
// What the sums of a row are multiplied by: NaN where `most`, the bits of its largest magnitude,
// are those of NaN or infinity. It is one NaN: the negative one that x86 makes of inf - inf would
// meet others, of which an instruction keeps either, as compilers order its operands.
FASTGRU_INLINE float scale_of(uint32_t most, float steps) {
  return float_of(most < kInfinity ? most : kPositiveNaN) / steps;
}

// Four terms of a unit at once, for add_term(). D: how an ISA multiplies them, see kernels.hpp; its
// pin() is for sums and weights, which have one type.
template <class D>
struct DotSum {
  typename D::Sum v;
};
template <class D>
struct DotWeights {
  typename D::Weights v;
};
template <class D>
struct DotInput {
  typename D::Input v;
};
template <class D>
FASTGRU_INLINE DotSum<D> fma(const DotWeights<D>& w, const DotInput<D>& x, const DotSum<D>& sum) {
  DotSum<D> result = {D::add(sum.v, w.v, x.v)};
  D::pin(result.v);
  return result;
}
template <class D>
FASTGRU_INLINE void pin(DotWeights<D>& w) {
  D::pin(w.v);
}

template <class V, class D>
struct Int8 {
  static constexpr size_t kTerms = 4;
  static FASTGRU_INLINE size_t padded(size_t reduction) {
    return (reduction + kTerms - 1) / kTerms * kTerms;
  }
  // An operand's byte is its integer's value XOR D::flip: 0x80 where the instruction wants
  // unsigned bytes.
  static FASTGRU_INLINE void pad(int8_t* out, size_t reduction) {
    for (size_t k = reduction; k < padded(reduction); ++k) out[k] = static_cast<int8_t>(D::flip);
  }

  static void prepare_state(const float* row, size_t reduction, const Operands& to, size_t index) {
    const uint32_t most = largest(row, reduction, 1.0f);
    const float inverse = 127.0f / float_of(most);
    int8_t* const out = operand_of<int8_t>(to, index);
    for (size_t k = 0; k < reduction; ++k)
      out[k] = static_cast<int8_t>(nearest(row[k] * inverse) ^ D::flip);
    pad(out, reduction);
    to.scales[index] = scale_of(most, 127.0f);
  }

  static void prepare_input(const float* row, size_t reduction, const Operands& to, size_t index) {
    // Smaller inputs do not fill all bits, so that the inverse is finite.
    prepare_planes(row, reduction, 1e-30f, to, index);
  }

  static void prepare_fine_state(const float* row, size_t reduction, const Operands& to,
                                 size_t index) {
    prepare_planes(row, reduction, 1.0f, to, index);
  }

  // In two planes; the bound is that of the row, but at least `least`.
  static FASTGRU_INLINE void prepare_planes(const float* row, size_t reduction, float least,
                                            const Operands& to, size_t index) {
    const uint32_t most = largest(row, reduction, least);
    const float inverse = 32512.0f / float_of(most);
    int8_t* const high = operand_of<int8_t>(to, index);
    int8_t* const low = high + padded(reduction);
    for (size_t k = 0; k < reduction; ++k) {
      const std::int32_t q = nearest(row[k] * inverse), h = (q + 128) >> 8;
      high[k] = static_cast<int8_t>(h ^ D::flip);
      low[k] = static_cast<int8_t>((q - 256 * h) ^ D::flip);
    }
    pad(high, reduction);
    pad(low, reduction);
    to.scales[index] = scale_of(most, 32512.0f);
  }

  template <int G, int Planes>
  struct Tile {
    static constexpr int gates = G;

    template <class, int R, int C>
    static void run(const ProductBlock& a, std::ptrdiff_t, size_t row, size_t strip,
                    const PartialSums* partial_sums) {
      constexpr int N = R * C * G;
      const size_t bytes = padded(a.reduction);
      const auto at = [&](int c, int g) FASTGRU_INLINE_LAMBDA {  // of a value for each unit
        return panel_of<V>(strip + c) * (G * kPanel) + g * kPanel + lane_in_panel<V>(strip + c);
      };
      const int8_t* w[C];
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c)
        w[c] = static_cast<const int8_t*>(a.matrix.data) +
               panel_of<V>(strip + c) * bytes * (G * kPanel) + kTerms * lane_in_panel<V>(strip + c);
      // Planes whose sums fit the registers together read the weights once: for one row, whose
      // time is that of reading them, an input in 16 bits costs what one in 8 bits would.
      constexpr int kAtOnce = Planes * N <= V::max_accumulators ? Planes : 1;
      constexpr int kRows = kAtOnce * R;
      FASTGRU_UNROLL
      for (int plane = 0; plane < Planes; plane += kAtOnce) {
        const int8_t* in[kRows];
        FASTGRU_UNROLL
        for (int r = 0; r < kRows; ++r)
          in[r] = operand_of<int8_t>(a.operands, row + r % R) +
                  static_cast<size_t>(plane + r / R) * bytes;
        Accumulators<DotSum<D>, kAtOnce * N> acc;
        FASTGRU_UNROLL
        for (int c = 0; c < C; ++c) {
          FASTGRU_UNROLL
          for (int g = 0; g < G; ++g) {
            FASTGRU_UNROLL
            for (int r = 0; r < kRows; ++r)
              acc.v[(r * C + c) * G + g] = {D::start(a.matrix.offsets + at(c, g))};
          }
        }
        for (size_t k = 0; k < bytes; k += kTerms)
          add_term<DotSum<D>, kRows, C, G>(
              acc,
              [&](int c, int g) FASTGRU_INLINE_LAMBDA {
                return DotWeights<D>{D::load(w[c] + (k * G + g * kTerms) * kPanel)};
              },
              [&](int r) FASTGRU_INLINE_LAMBDA { return DotInput<D>{D::broadcast(in[r] + k)}; });
        FASTGRU_UNROLL
        for (int r = 0; r < R; ++r) {
          const V scale = V::broadcast(a.operands.scales + row + r);
          FASTGRU_UNROLL
          for (int c = 0; c < C; ++c) {
            float* const sums = partial_sums->at<V, G>(row + r, strip + c);
            FASTGRU_UNROLL
            for (int g = 0; g < G; ++g) {
              const int i = (r * C + c) * G + g;
              V sum = D::to_floats(acc.v[i].v);
              if (plane + kAtOnce < Planes) {
                (sum * V::set(256.0f)).store(sums + g * kPanel);
                continue;
              }
              if (kAtOnce > 1)
                sum = sum * V::set(256.0f) + D::to_floats(acc.v[(kAtOnce - 1) * N + i].v);
              else if (Planes > 1)
                sum = V::load(sums + g * kPanel) + sum;
              const V bias = V::load(bias_of<V>(a.bias, strip + c) + g * kPanel);
              fma(sum * V::load(a.matrix.scales + at(c, g)), scale, bias).store(sums + g * kPanel);
            }
          }
        }
      }
    }
  };
};

// ---- tables ----

template <class V, class M, int Planes>
void multiply(const ProductBlock& a) {
  check(a);
  const EvenParts rows(a.rows, V::max_rows);
  const PartialSums partial_sums{a.sums, a.stride, a.first_row, panel_of<V>(a.first_strip)};
  const auto run = [&](auto gates) FASTGRU_INLINE_LAMBDA {
    run_group<typename M::template Tile<decltype(gates)::value, Planes>, V>(
        a, rows, 0, a.first_row, a.first_strip, a.strips, &partial_sums);
  };
  a.gates == kGates ? run(Int<kGates>()) : a.gates == 2 ? run(Int<2>()) : run(Int<1>());
}

// The product that leaves everything to the tiles of float32.
template <class V>
constexpr Product float32_product(const char* name) {
  Product product{};
  product.name = name;
  product.sums = V::fuses ? Sums::chains : Sums::own;
  product.format = kFloat32Format;
  return product;
}
template <class V, class Pairs>
constexpr Product bfloat16_product(const char* name, Sums sums) {
  Product product{};
  product.name = name;
  product.sums = sums;
  product.format = kBfloat16Format;
  product.takes_operands = true;
  product.prepare_input = product.prepare_state = product.prepare_fine_state = Pairs::prepare;
  product.multiply_input = product.multiply_state = multiply<V, Bfloat16<V, Pairs>, 1>;
  return product;
}
template <class V, class D>
constexpr Product int8_product(const char* name) {
  using M = Int8<V, D>;
  Product product{};
  product.name = name;
  product.sums = Sums::exact;
  product.format = kInt8Format;
  product.takes_operands = true;
  product.prepare_input = M::prepare_input;
  product.prepare_state = M::prepare_state;
  product.prepare_fine_state = M::prepare_fine_state;
  product.multiply_input = multiply<V, M, 2>;
  product.multiply_state = multiply<V, M, 1>;
  return product;
}

}  // namespace
}  // namespace fastgru
