// Macros that every kernel header needs. They exist because internal linkage and inlining are part
// of the design here (see Note [One symbol per ISA] in cpp/README.md), not a hint to the optimiser.
#pragma once

#define FASTGRU_INLINE __attribute__((always_inline)) inline
#define FASTGRU_NOINLINE __attribute__((noinline))
#define FASTGRU_INLINE_LAMBDA __attribute__((always_inline))

#if defined(__clang__)
#define FASTGRU_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FASTGRU_UNROLL _Pragma("GCC unroll 32")
#endif
