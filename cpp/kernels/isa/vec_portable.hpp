// Four floats in the compiler's own vectors (GCC and Clang, any CPU): the fallback, and the partner
// that the other ISAs are tested against. No intrinsics and no FMA: its results agree with the
// others within tolerance only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/inline.hpp"

namespace fastgru {
namespace {

struct Vec {
  static constexpr int lanes = 4;
  static constexpr bool fuses = false;         // fma() rounds the product too
  static constexpr int max_accumulators = 12;  // of 16 registers; 3 weights and 1 input remain
  static constexpr int max_rows = 4;
  static constexpr int group = 2;  // vectors whose gates are computed side by side

  typedef float Floats __attribute__((vector_size(16)));
  typedef std::uint32_t Bits __attribute__((vector_size(16)));
  typedef float Unaligned __attribute__((vector_size(16), aligned(4), may_alias));

  Floats v;

  static FASTGRU_INLINE Vec load(const float* p) {
    return {*reinterpret_cast<const Unaligned*>(p)};
  }
  // The first n lanes, 0 < n < lanes; the others 0.
  static FASTGRU_INLINE Vec load_first(const float* p, std::size_t n) {
    Vec x = set(0.0f);
    for (std::size_t i = 0; i < n; ++i) x.v[i] = p[i];
    return x;
  }
  // Four floats from p[0], with `offset` added; only the first n are read.
  static FASTGRU_INLINE Vec load_quarters(const float* const* p, std::ptrdiff_t offset,
                                          std::size_t n) {
    return n == 4 ? load(p[0] + offset) : load_first(p[0] + offset, n);
  }
  static FASTGRU_INLINE Vec broadcast(const float* p) { return set(*p); }
  static FASTGRU_INLINE Vec set(float x) { return {Floats{x, x, x, x}}; }
  // The first (half 0) or second ones of `lanes` pairs of bfloat16.
  static FASTGRU_INLINE Vec widen(const std::uint16_t* pairs, int half) {
    Bits x;
    __builtin_memcpy(&x, pairs, sizeof x);
    return from_bits(half == 0 ? x << 16 : x & 0xffff0000u);
  }
  static FASTGRU_INLINE Vec from_bits(Bits b) { return {reinterpret_cast<Floats>(b)}; }
  FASTGRU_INLINE Bits bits() const { return reinterpret_cast<Bits>(v); }
  FASTGRU_INLINE void store(float* p) const { *reinterpret_cast<Unaligned*>(p) = v; }
  FASTGRU_INLINE void store_first(float* p, std::size_t n) const {  // 0 < n < lanes
    for (std::size_t i = 0; i < n; ++i) p[i] = v[i];
  }
  // The inverse of load_quarters.
  FASTGRU_INLINE void store_quarters(float* const* p, std::ptrdiff_t offset, std::size_t n) const {
    n == 4 ? store(p[0] + offset) : store_first(p[0] + offset, n);
  }
};

FASTGRU_INLINE Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
FASTGRU_INLINE Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
FASTGRU_INLINE Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
FASTGRU_INLINE Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
FASTGRU_INLINE Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
// x, but no less than lo; NaN stays NaN.
FASTGRU_INLINE Vec at_least(Vec x, Vec lo) { return {x.v < lo.v ? lo.v : x.v}; }
// x, but no more than hi; NaN stays NaN.
FASTGRU_INLINE Vec at_most(Vec x, Vec hi) { return {x.v > hi.v ? hi.v : x.v}; }
FASTGRU_INLINE Vec abs(Vec x) { return Vec::from_bits(x.bits() & 0x7fffffffu); }
// magnitude (whose sign bit must be clear) with the sign of `sign`
FASTGRU_INLINE Vec with_sign_of(Vec magnitude, Vec sign) {
  return Vec::from_bits(magnitude.bits() | (sign.bits() & 0x80000000u));
}
// 2^n of t = kRoundMagic + n, -126 <= n <= 128; n = 128 gives infinity. See math.hpp.
FASTGRU_INLINE Vec pow2_of_rounded(Vec t) { return Vec::from_bits((t.bits() << 23) + 0x3f800000u); }
// m[i] lane j becomes m[j] lane i.
FASTGRU_INLINE void transpose_quarters(Vec (&m)[4]) {
  FASTGRU_UNROLL
  for (int i = 0; i < 4; ++i) {
    FASTGRU_UNROLL
    for (int j = 0; j < i; ++j) {
      const float swap = m[i].v[j];
      m[i].v[j] = m[j].v[i];
      m[j].v[i] = swap;
    }
  }
}
// Four terms of four units at once, for Int8 in reduced.hpp.
struct Dot {
  static constexpr int flip = 0;
  typedef std::int32_t Ints __attribute__((vector_size(16)));
  using Sum = Ints;
  using Weights = Ints;
  struct Input {
    std::int32_t x[4];
  };
  static FASTGRU_INLINE Sum start(const std::int32_t*) { return Ints{}; }
  static FASTGRU_INLINE Weights load(const std::int8_t* p) {
    Ints w;
    __builtin_memcpy(&w, p, sizeof w);
    return w;
  }
  static FASTGRU_INLINE Input broadcast(const std::int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static FASTGRU_INLINE Sum add(Sum sum, Weights w, Input in) {
    FASTGRU_UNROLL
    for (int i = 0; i < 4; ++i) {  // byte i of each unit's four, little-endian
      const Vec::Bits up = reinterpret_cast<Vec::Bits>(w) << (24 - 8 * i);
      sum += (reinterpret_cast<Ints>(up) >> 24) * in.x[i];
    }
    return sum;
  }
  static FASTGRU_INLINE void pin(Sum&) {}
  static FASTGRU_INLINE Vec to_floats(Sum sum) {
    return {__builtin_convertvector(sum, Vec::Floats)};
  }
};

// Keeps a loaded value in a register (nothing to do here).
FASTGRU_INLINE void pin(Vec&) {}

}  // namespace
}  // namespace fastgru
