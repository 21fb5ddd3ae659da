// Eight floats in a ymm register; needs AVX2 and FMA. Only isa_avx2.cpp may include this.
#pragma once

#if !defined(__AVX2__) || !defined(__FMA__)
#error "vec_avx2.hpp compiled without AVX2 and FMA: sources using it belong in add_isa(avx2)"
#endif

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/inline.hpp"

namespace fastgru {
namespace {

struct Vec {
  static constexpr int lanes = 8;
  static constexpr bool fuses = true;          // fma() rounds once
  static constexpr int max_accumulators = 12;  // of 16 registers; 3 weights and 1 input remain
  static constexpr int max_rows = 4;
  static constexpr int group = 4;  // vectors whose gates are computed side by side

  __m256 v;

  static FASTGRU_INLINE Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  // Four floats each from p[0] and p[4], with `offset` added; only the first n are read.
  static FASTGRU_INLINE Vec load_quarters(const float* const* p, std::ptrdiff_t offset,
                                          std::size_t n) {
    const __m128i first =
        _mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(n)), _mm_setr_epi32(0, 1, 2, 3));
    const auto load = [&](int q) FASTGRU_INLINE_LAMBDA {
      const float* const from = p[4 * q] + offset;
      return n == 4 ? _mm_loadu_ps(from) : _mm_maskload_ps(from, first);
    };
    return {_mm256_insertf128_ps(_mm256_castps128_ps256(load(0)), load(1), 1)};
  }
  static FASTGRU_INLINE Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  static FASTGRU_INLINE Vec set(float x) { return {_mm256_set1_ps(x)}; }
  // The first (half 0) or second ones of `lanes` pairs of bfloat16.
  static FASTGRU_INLINE Vec widen(const std::uint16_t* pairs, int half) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
    return {_mm256_castsi256_ps(half == 0 ? _mm256_slli_epi32(x, 16)
                                          : _mm256_and_si256(x, _mm256_set1_epi32(-65536)))};
  }
  FASTGRU_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  FASTGRU_INLINE void store_first(float* p, std::size_t n) const {  // 0 < n < lanes
    const __m128 low = _mm256_castps256_ps128(v);
    if (n < 4) return store_first(p, n, low);
    _mm_storeu_ps(p, low);
    store_first(p + 4, n - 4, _mm256_extractf128_ps(v, 1));
  }
  // n < 4. Not maskstore, which is slow on AMD (Zen 1: 64 rows at H = 4 took 8% longer).
  static FASTGRU_INLINE void store_first(float* p, std::size_t n, __m128 x) {
    if (n & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), x);
      x = _mm_movehl_ps(x, x);
      p += 2;
    }
    if (n & 1) _mm_store_ss(p, x);
  }
  // The inverse of load_quarters.
  FASTGRU_INLINE void store_quarters(float* const* p, std::ptrdiff_t offset, std::size_t n) const {
    const auto store = [&](int q, __m128 x) FASTGRU_INLINE_LAMBDA {
      float* const to = p[4 * q] + offset;
      n == 4 ? _mm_storeu_ps(to, x) : store_first(to, n, x);
    };
    store(0, _mm256_castps256_ps128(v));
    store(1, _mm256_extractf128_ps(v, 1));
  }
};

FASTGRU_INLINE Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FASTGRU_INLINE Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
FASTGRU_INLINE Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
FASTGRU_INLINE Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
FASTGRU_INLINE Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
// x, but no less than lo; NaN stays NaN (max and min return their second operand then).
FASTGRU_INLINE Vec at_least(Vec x, Vec lo) { return {_mm256_max_ps(lo.v, x.v)}; }
// x, but no more than hi; NaN stays NaN.
FASTGRU_INLINE Vec at_most(Vec x, Vec hi) { return {_mm256_min_ps(hi.v, x.v)}; }
FASTGRU_INLINE Vec abs(Vec x) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.v)}; }
// magnitude (whose sign bit must be clear) with the sign of `sign`
FASTGRU_INLINE Vec with_sign_of(Vec magnitude, Vec sign) {
  return {_mm256_or_ps(magnitude.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v))};
}
// 2^n of t = kRoundMagic + n, -126 <= n <= 128; n = 128 gives infinity. See math.hpp.
FASTGRU_INLINE Vec pow2_of_rounded(Vec t) {
  const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(n, _mm256_set1_epi32(0x3f800000)))};
}
// m as matrices of 4 x 4: m[i] lane 4q + j becomes m[j] lane 4q + i.
FASTGRU_INLINE void transpose_quarters(Vec (&m)[4]) {
  const __m256 a = _mm256_unpacklo_ps(m[0].v, m[1].v), b = _mm256_unpackhi_ps(m[0].v, m[1].v);
  const __m256 c = _mm256_unpacklo_ps(m[2].v, m[3].v), d = _mm256_unpackhi_ps(m[2].v, m[3].v);
  m[0].v = _mm256_shuffle_ps(a, c, 0x44);
  m[1].v = _mm256_shuffle_ps(a, c, 0xee);
  m[2].v = _mm256_shuffle_ps(b, d, 0x44);
  m[3].v = _mm256_shuffle_ps(b, d, 0xee);
}
// Four terms of eight units at once, for Int8 in reduced.hpp. vpmaddubsw takes one unsigned factor,
// the input's magnitude, and its sign goes to the weight: two products are at most 2 * 128 * 127,
// which 16 bits hold.
struct Dot {
  static constexpr int flip = 0;
  using Sum = __m256i;
  using Weights = __m256i;
  struct Input {
    __m256i value, magnitude;
  };
  static FASTGRU_INLINE Sum start(const std::int32_t*) { return _mm256_setzero_si256(); }
  static FASTGRU_INLINE Weights load(const std::int8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static FASTGRU_INLINE Input broadcast(const std::int8_t* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof four);
    const __m256i x = _mm256_set1_epi32(four);
    return {x, _mm256_abs_epi8(x)};
  }
  static FASTGRU_INLINE Sum add(Sum sum, Weights w, Input x) {
    const __m256i pairs = _mm256_maddubs_epi16(x.magnitude, _mm256_sign_epi8(w, x.value));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  // One product after the other: GCC would start many at once and spill sums.
  static FASTGRU_INLINE void pin(Sum& sum) { __asm__ volatile("" : "+x"(sum)); }
  static FASTGRU_INLINE Vec to_floats(Sum sum) { return {_mm256_cvtepi32_ps(sum)}; }
};

// Keeps a loaded value in a register: GCC otherwise folds one load into several FMAs, which cost
// 25% at batch 2 and 3 (Zen 4).
FASTGRU_INLINE void pin(Vec& x) { __asm__("" : "+x"(x.v)); }

}  // namespace
}  // namespace fastgru
