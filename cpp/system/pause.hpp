// One turn of a thread that spins.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastgru {

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#else
  __asm__ volatile("");
#endif
}

}  // namespace fastgru
