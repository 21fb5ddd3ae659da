// Pairs of bfloat16 in one instruction, vdpbf16ps: it adds one product after the other, and which
// of a pair first is the processor's to say, so that its sums may differ from Bfloat16's in the
// last bits. The sum blocks are the same.
#pragma once

#include "kernels/product/reduced.hpp"

namespace fastgru {
namespace {

struct Bfloat16Dot {
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

  template <int G, int>
  struct Tile {
    static constexpr int gates = G;

    template <class V, int R, int C>
    static void run(const ProductBlock& a, std::ptrdiff_t, size_t row, size_t strip,
                    const PartialSums* partial_sums) {
      const size_t pairs = (a.reduction + 1) / 2;
      const uint16_t* in[R];
      FASTGRU_UNROLL
      for (int r = 0; r < R; ++r) in[r] = operand_of<uint16_t>(a.operands, row + r);
      const uint16_t* w[C];
      FASTGRU_UNROLL
      for (int c = 0; c < C; ++c)
        w[c] = static_cast<const uint16_t*>(a.matrix.data) + (strip + c) * pairs * (G * kPanel * 2);
      auto acc = biases<V, R, C, G>(a.bias, strip);
      sum_in_blocks(acc, a.reduction, a.block_terms,
                    [&](auto& sum, size_t begin, size_t end) FASTGRU_INLINE_LAMBDA {
                      for (size_t k = begin; k < end; k += 2) {
                        __m512bh x[R];
                        FASTGRU_UNROLL
                        for (int r = 0; r < R; ++r) {
                          int pair;
                          __builtin_memcpy(&pair, in[r] + k, sizeof pair);
                          x[r] = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
                        }
                        FASTGRU_UNROLL
                        for (int c = 0; c < C; ++c) {
                          FASTGRU_UNROLL
                          for (int g = 0; g < G; ++g) {
                            const auto v = reinterpret_cast<__m512bh>(
                                _mm512_loadu_si512(w[c] + (k / 2 * G + g) * (2 * kPanel)));
                            FASTGRU_UNROLL
                            for (int r = 0; r < R; ++r) {
                              V& s = sum.v[(r * C + c) * G + g];
                              s = {_mm512_dpbf16_ps(s.v, v, x[r])};
                            }
                          }
                        }
                      }
                    });
      partial_sums->store<V, R, C, G>(acc, row, strip);
    }
  };
};

}  // namespace
}  // namespace fastgru
