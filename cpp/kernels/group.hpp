// Several vectors that go through the same operations side by side: a "vector type" over any V, so
// that math.hpp's functions hide their latency behind one another. An activation is one chain of
// about 15 dependent operations; written for one vector at a time, an out-of-order core sees only
// the next one or two of them (Zen 1: gates cost 2.3 to 6.9 times their share of the instructions,
// side by side 1.1 to 1.6 times). Per element the operations are the same, and so are the bits.
#pragma once

#include <cstddef>

#include "kernels/inline.hpp"

namespace fastgru {
namespace {

// A number that a template can take from a function's argument.
template <int N>
struct Int {
  static constexpr int value = N;
};

template <class V, int N>
struct Group {
  V v[N];

  static FASTGRU_INLINE Group set(float x) {
    return each([&](int) FASTGRU_INLINE_LAMBDA { return V::set(x); });
  }
  template <class F>
  static FASTGRU_INLINE Group each(F f) {
    Group g;
    FASTGRU_UNROLL
    for (int i = 0; i < N; ++i) g.v[i] = f(i);
    return g;
  }
};

#define FASTGRU_GROUP_UNARY(name)                                                        \
  template <class V, int N>                                                              \
  FASTGRU_INLINE Group<V, N> name(const Group<V, N>& a) {                                \
    return Group<V, N>::each([&](int i) FASTGRU_INLINE_LAMBDA { return name(a.v[i]); }); \
  }
#define FASTGRU_GROUP_BINARY(name)                                                               \
  template <class V, int N>                                                                      \
  FASTGRU_INLINE Group<V, N> name(const Group<V, N>& a, const Group<V, N>& b) {                  \
    return Group<V, N>::each([&](int i) FASTGRU_INLINE_LAMBDA { return name(a.v[i], b.v[i]); }); \
  }
FASTGRU_GROUP_UNARY(abs)
FASTGRU_GROUP_UNARY(pow2_of_rounded)
FASTGRU_GROUP_BINARY(operator+)
FASTGRU_GROUP_BINARY(operator-)
FASTGRU_GROUP_BINARY(operator*)
FASTGRU_GROUP_BINARY(operator/)
FASTGRU_GROUP_BINARY(at_least)
FASTGRU_GROUP_BINARY(at_most)
FASTGRU_GROUP_BINARY(with_sign_of)
#undef FASTGRU_GROUP_UNARY
#undef FASTGRU_GROUP_BINARY

template <class V, int N>
FASTGRU_INLINE Group<V, N> fma(const Group<V, N>& a, const Group<V, N>& b, const Group<V, N>& c) {
  return Group<V, N>::each([&](int i)
                               FASTGRU_INLINE_LAMBDA { return fma(a.v[i], b.v[i], c.v[i]); });
}

}  // namespace
}  // namespace fastgru
