// Four terms of sixteen units in one instruction, vpdpbusd, which takes unsigned inputs: 128 more
// than they are, which a matrix's offsets take back. It does not saturate.
#pragma once

#include "kernels/product/reduced.hpp"

namespace fastgru {
namespace {

struct VnniDot {
  static constexpr int flip = 0x80;
  using Sum = __m512i;
  using Weights = __m512i;
  using Input = __m512i;
  static FASTGRU_INLINE Sum start(const std::int32_t* offsets) {
    return _mm512_loadu_si512(offsets);
  }
  static FASTGRU_INLINE Weights load(const std::int8_t* p) { return _mm512_loadu_si512(p); }
  static FASTGRU_INLINE Input broadcast(const std::int8_t* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static FASTGRU_INLINE Sum add(Sum sum, Weights w, Input x) {
    return _mm512_dpbusd_epi32(sum, x, w);
  }
  // GCC would keep sums on the stack (1.4 times as long for one row, Emerald Rapids).
  static FASTGRU_INLINE void pin(Sum& x) { __asm__("" : "+v"(x)); }
  static FASTGRU_INLINE Vec to_floats(Sum sum) { return {_mm512_cvtepi32_ps(sum)}; }
};

}  // namespace
}  // namespace fastgru
