// Pairs of bfloat16 in one instruction, vdpbf16ps: it adds one product after the other, and which
// of a pair first is the processor's to say, so that its sums may differ from those of
// WidenedPairs in the last bits. The sum blocks are the same.
#pragma once

#include "kernels/product/reduced.hpp"

namespace fastgru {
namespace {

struct PairWeights {
  __m512bh v;
};
struct PairInput {
  __m512bh v;
};
FASTGRU_INLINE Vec fma(const PairWeights& w, const PairInput& x, const Vec& sum) {
  return {_mm512_dpbf16_ps(sum.v, w.v, x.v)};
}
FASTGRU_INLINE void pin(PairWeights&) {}

struct DotPairs {
  using Element = uint16_t;

  static void prepare(const float* row, size_t reduction, const Operands& to, size_t index) {
    uint16_t* const out = operand_of<uint16_t>(to, index);
    size_t k = 0;
    // To nearest even, as bfloat16_bits(), but denormals are zero.
    for (; k + kPanel <= reduction; k += kPanel)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + k),
                          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(row + k))));
    for (; k < reduction; ++k) out[k] = static_cast<uint16_t>(bfloat16_bits(row[k]));
    out[reduction] = 0;  // of the last pair, where K is odd
  }

  template <int R, int C, int G, class Weights, class Inputs>
  static FASTGRU_INLINE void add(Accumulators<Vec, R * C * G>& sum, Weights weights,
                                 Inputs inputs) {
    add_term<Vec, R, C, G>(
        sum,
        [&](int c, int g) FASTGRU_INLINE_LAMBDA {
          return PairWeights{reinterpret_cast<__m512bh>(_mm512_loadu_si512(weights(c, g)))};
        },
        [&](int r) FASTGRU_INLINE_LAMBDA {
          int pair;
          __builtin_memcpy(&pair, inputs(r), sizeof pair);
          return PairInput{reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair))};
        });
  }
};

}  // namespace
}  // namespace fastgru
