// Sixteen floats in a zmm register; needs AVX-512 F, BW, DQ and VL. Only files that add_isa()
// compiles with these may include this. Every operation gives the bits that its AVX2 namesake
// gives, see Note [Same bits].
#pragma once

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || \
    !defined(__AVX512VL__)
#error "vec_avx512.hpp compiled without AVX-512: sources using it belong in add_isa(avx512)"
#endif

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/inline.hpp"

namespace fastgru {
namespace {

struct Vec {
  static constexpr int lanes = 16;
  static constexpr bool fuses = true;          // fma() rounds once
  static constexpr int max_accumulators = 24;  // of 32 registers; 3 weights and inputs remain
  static constexpr int max_rows = 8;
  static constexpr int group = 4;  // vectors whose gates are computed side by side

  __m512 v;

  static FASTGRU_INLINE Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  // Four floats each from p[0], p[4], p[8] and p[12], with `offset` added; only the first n are
  // read.
  static FASTGRU_INLINE Vec load_quarters(const float* const* p, std::ptrdiff_t offset,
                                          std::size_t n) {
    const auto load = [&](int q) FASTGRU_INLINE_LAMBDA {
      const float* const from = p[4 * q] + offset;
      return n == 4 ? _mm_loadu_ps(from)
                    : _mm_maskz_loadu_ps(static_cast<__mmask8>((1u << n) - 1u), from);
    };
    __m512 x = _mm512_castps128_ps512(load(0));
    x = _mm512_insertf32x4(x, load(1), 1);
    x = _mm512_insertf32x4(x, load(2), 2);
    return {_mm512_insertf32x4(x, load(3), 3)};
  }
  static FASTGRU_INLINE Vec broadcast(const float* p) { return {_mm512_set1_ps(*p)}; }
  static FASTGRU_INLINE Vec set(float x) { return {_mm512_set1_ps(x)}; }
  // The first (half 0) or second ones of `lanes` pairs of bfloat16.
  static FASTGRU_INLINE Vec widen(const std::uint16_t* pairs, int half) {
    const __m512i x = _mm512_loadu_si512(pairs);
    return {_mm512_castsi512_ps(half == 0 ? _mm512_slli_epi32(x, 16)
                                          : _mm512_and_si512(x, _mm512_set1_epi32(-65536)))};
  }
  FASTGRU_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  FASTGRU_INLINE void store_first(float* p, std::size_t n) const {  // 0 < n < lanes
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), v);
  }
  // The inverse of load_quarters.
  FASTGRU_INLINE void store_quarters(float* const* p, std::ptrdiff_t offset, std::size_t n) const {
    const auto store = [&](int q, __m128 x) FASTGRU_INLINE_LAMBDA {
      float* const to = p[4 * q] + offset;
      if (n == 4) return _mm_storeu_ps(to, x);
      // GCC would extract into memory under the mask, which faults for lanes that the mask leaves
      // out (a masked move does not).
      __asm__("" : "+v"(x));
      _mm_mask_storeu_ps(to, static_cast<__mmask8>((1u << n) - 1u), x);
    };
    store(0, _mm512_castps512_ps128(v));
    store(1, _mm512_extractf32x4_ps(v, 1));
    store(2, _mm512_extractf32x4_ps(v, 2));
    store(3, _mm512_extractf32x4_ps(v, 3));
  }
};

FASTGRU_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FASTGRU_INLINE Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
FASTGRU_INLINE Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
FASTGRU_INLINE Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
FASTGRU_INLINE Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// x, but no less than lo; NaN stays NaN (max and min return their second operand then).
FASTGRU_INLINE Vec at_least(Vec x, Vec lo) { return {_mm512_max_ps(lo.v, x.v)}; }
// x, but no more than hi; NaN stays NaN.
FASTGRU_INLINE Vec at_most(Vec x, Vec hi) { return {_mm512_min_ps(hi.v, x.v)}; }
FASTGRU_INLINE Vec abs(Vec x) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), x.v)}; }
// magnitude (whose sign bit must be clear) with the sign of `sign`
FASTGRU_INLINE Vec with_sign_of(Vec magnitude, Vec sign) {
  return {_mm512_or_ps(magnitude.v, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign.v))};
}
// 2^n of t = kRoundMagic + n, -126 <= n <= 128; n = 128 gives infinity. See math.hpp.
FASTGRU_INLINE Vec pow2_of_rounded(Vec t) {
  const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(n, _mm512_set1_epi32(0x3f800000)))};
}
// m as matrices of 4 x 4: m[i] lane 4q + j becomes m[j] lane 4q + i.
FASTGRU_INLINE void transpose_quarters(Vec (&m)[4]) {
  const __m512 a = _mm512_unpacklo_ps(m[0].v, m[1].v), b = _mm512_unpackhi_ps(m[0].v, m[1].v);
  const __m512 c = _mm512_unpacklo_ps(m[2].v, m[3].v), d = _mm512_unpackhi_ps(m[2].v, m[3].v);
  m[0].v = _mm512_shuffle_ps(a, c, 0x44);
  m[1].v = _mm512_shuffle_ps(a, c, 0xee);
  m[2].v = _mm512_shuffle_ps(b, d, 0x44);
  m[3].v = _mm512_shuffle_ps(b, d, 0xee);
}
// Four terms of sixteen units at once, for Int8 in reduced.hpp; as on AVX2, but for vpsignb, which
// AVX-512 does not have: weights are negated where the input is negative.
struct Dot {
  static constexpr int flip = 0;
  using Sum = __m512i;
  using Weights = __m512i;
  struct Input {
    __mmask64 negative;
    __m512i magnitude;
  };
  static FASTGRU_INLINE Sum start(const std::int32_t*) { return _mm512_setzero_si512(); }
  static FASTGRU_INLINE Weights load(const std::int8_t* p) { return _mm512_loadu_si512(p); }
  static FASTGRU_INLINE Input broadcast(const std::int8_t* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof four);
    const __m512i x = _mm512_set1_epi32(four);
    return {_mm512_movepi8_mask(x), _mm512_abs_epi8(x)};
  }
  static FASTGRU_INLINE Sum add(Sum sum, Weights w, Input x) {
    const __m512i turned = _mm512_mask_sub_epi8(w, x.negative, _mm512_setzero_si512(), w);
    const __m512i pairs = _mm512_maddubs_epi16(x.magnitude, turned);
    return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
  }
  // One product after the other: GCC would start many at once and spill sums.
  static FASTGRU_INLINE void pin(Sum& sum) { __asm__ volatile("" : "+v"(sum)); }
  static FASTGRU_INLINE Vec to_floats(Sum sum) { return {_mm512_cvtepi32_ps(sum)}; }
};

// Keeps a loaded value in a register: GCC otherwise folds one load into several FMAs, which cost
// 25% at batch 2 and 3 (Zen 4).
FASTGRU_INLINE void pin(Vec& x) { __asm__("" : "+v"(x.v)); }

}  // namespace
}  // namespace fastgru
