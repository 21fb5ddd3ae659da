// exp-based sigmoid and tanh, and the other activations, over any vector type V that vec_*.hpp
// defines. Written with correctly rounded operations only and in one order, so every ISA with an
// FMA gives the same bits (Note [Same bits] in product.hpp).
#pragma once

#include "kernels/contract.hpp"
#include "kernels/inline.hpp"

namespace fastgru {
namespace {

// Note [Rounding by a magic number]
// t = fma(x, 1/ln 2, kRoundMagic) holds n = round(x / ln 2) in its low mantissa bits (the unit in
// the last place of 1.5 * 2^23 is 1): t - kRoundMagic is n as a float, and t's bits shifted left by
// 23 are n in the exponent's place, the magic number's own low nine bits being zero.
constexpr float kRoundMagic = 12582912.0f;
constexpr float kLog2E = 1.44269504088896341f;
// One constant for ln 2 suffices: its error, 1.9e-9 * n, is at most 8e-8 relative in exp where
// sigmoid is above 1e-18, and both functions' sensitivity to it vanishes as n grows.
constexpr float kLn2 = 0.693147180559945309f;

// sigmoid(x) = 1 / (1 + exp(-x)).
// exp(-x) = 2^n * p(r), |r| <= ln(2)/2; p of degree 5, minimax, relative error 1.05e-7.
// Maximum absolute error 9.8e-8, measured over all normal floats below 1024 in magnitude (beyond it
// the result is constant); dominated by the roundings of 1 + e and of the division; p adds 2.6e-8.
// x >= 17.4 gives exactly 1 and x <= -88.4 exactly 0; NaN gives NaN; infinities as their limits.
// The result is in [0, 1]. Denormals may be flushed.
template <class V>
FASTGRU_INLINE V sigmoid(V x) {
  // Beyond the upper bound n <= -126: 1 + 2^-126 is 1. Beyond the lower one n = 128: 2^n is inf.
  x = at_most(at_least(x, V::set(-89.0f)), V::set(87.0f));
  const V t = fma(x, V::set(-kLog2E), V::set(kRoundMagic));
  const V n = t - V::set(kRoundMagic);
  const V s = fma(n, V::set(kLn2), x);  // -r
  const V s2 = s * s;
  // exp(-s), Estrin's scheme: half the latency of Horner's for one more multiplication
  const V low = V::set(1.0f) - s;
  const V middle = fma(s, V::set(-0.16667114198207855f), V::set(0.499992311000824f));
  const V high = fma(s, V::set(-0.008312520571053028f), V::set(0.041890159249305725f));
  const V p = fma(s2, fma(s2, high, middle), low);
  const V one_plus_exp = fma(p, pow2_of_rounded(t), V::set(1.0f));
  return V::set(1.0f) / one_plus_exp;
}

// tanh(x) = sign(x) * -m / (m + 2) with m = expm1(-2|x|) in [-1, 0].
// expm1(y) = 2^n * (1 + q(r)) - 1 with q(r) = expm1(r) of degree 6, minimax, relative error 1.3e-8;
// where n = 0 (|x| < 0.173) nothing cancels, so small inputs keep their digits. Maximum
// error 1.9e-7 relative, 1.5e-7 absolute, measured as for sigmoid; dominated by the roundings of m
// and m + 2. |tanh| <= 1 to the bit: m >= -1 always, since 2^n (1 + q) > 0. |x| >= 10 gives
// exactly 1. NaN gives NaN; infinities give +-1. Denormals may be flushed.
template <class V>
FASTGRU_INLINE V tanh(V x) {
  const V a = at_most(abs(x), V::set(10.0f));
  const V t = fma(a, V::set(-2.0f * kLog2E), V::set(kRoundMagic));
  const V n = t - V::set(kRoundMagic);
  const V y = a * V::set(-2.0f);
  const V r = fma(n, V::set(-kLn2), y);
  const V r2 = r * r;
  const V scale = pow2_of_rounded(t);
  const V low = fma(r, V::set(0.1666654348373413f), V::set(0.4999999701976776f));
  const V middle = fma(r, V::set(0.008366520516574383f), V::set(0.04166720062494278f));
  const V high = fma(r2, V::set(0.0013882521307095885f), middle);
  const V q = fma(r2, fma(r2, high, low), r);
  const V m = fma(scale, q, scale - V::set(1.0f));
  return with_sign_of((V::set(0.0f) - m) / (m + V::set(2.0f)), x);
}

// exp(x) for x <= 0, normal results only: tanh's 2^n * (1 + q(r)). Written out again, since GCC 12
// spilled more in tiles of GRUs where tanh shared a function with this. Maximum error 5.3e-8
// absolute, measured over all floats but those near 0; relative 1.2e-7 where the result exceeds
// 2^-24 and 3.1e-7 at its smallest, dominated by the last rounding and by the error of kLn2
// (without FMAs 5.9e-7 above 2^-24, by the rounding of n ln 2). exp(0) is 1. Below -87.7, and for
// -infinity, the result is 0; NaN gives NaN.
template <class V>
FASTGRU_INLINE V exp_at_most_1(V x) {
  const V y = at_least(x, V::set(-88.0f));  // n = -127, whose power of two is 0
  const V t = fma(y, V::set(kLog2E), V::set(kRoundMagic));
  const V n = t - V::set(kRoundMagic);
  const V r = fma(n, V::set(-kLn2), y);
  const V r2 = r * r;
  const V scale = pow2_of_rounded(t);
  const V low = fma(r, V::set(0.1666654348373413f), V::set(0.4999999701976776f));
  const V middle = fma(r, V::set(0.008366520516574383f), V::set(0.04166720062494278f));
  const V high = fma(r2, V::set(0.0013882521307095885f), middle);
  const V q = fma(r2, fma(r2, high, low), r);
  return fma(scale, q, scale);
}

// max(x, 0); NaN stays NaN.
template <class V>
FASTGRU_INLINE V relu(V x) {
  return at_least(x, V::set(0.0f));
}

// clip(slope * x + 1/2, 0, 1); slope 1/6 in PyTorch and Keras 3, 0.2 in Keras 2 and ONNX.
template <class V>
FASTGRU_INLINE V hard_sigmoid(V x, float slope) {
  const V y = fma(x, V::set(slope), V::set(0.5f));
  return at_most(at_least(y, V::set(0.0f)), V::set(1.0f));
}

template <class V>
FASTGRU_INLINE V apply(Function function, V x) {
  switch (function) {
    case Function::relu:
      return relu(x);
    case Function::sigmoid:
      return sigmoid(x);
    case Function::identity:
      return x;
    case Function::hard_sigmoid:
      return hard_sigmoid(x, 1.0f / 6.0f);
    case Function::hard_sigmoid_02:
      return hard_sigmoid(x, 0.2f);
    case Function::tanh:
      break;
  }
  return tanh(x);
}

}  // namespace
}  // namespace fastgru
