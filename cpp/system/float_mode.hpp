// The engine's own floating-point mode while it runs, the caller's afterwards. Denormals are off:
// they cost 100 cycles each, and a GRU's accuracy contract is absolute. Results are rounded to
// nearest and no exception is trapped, whatever the caller has set (fesetround, feenableexcept):
// else a call on several threads, which start with a mode of their own, would give other bits than
// one on the caller's thread alone, and an underflow would end the process. Affects the calling
// thread only.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#elif defined(__aarch64__)
#include <cstdint>
#endif

namespace fastgru {

class FlushDenormals {
 public:
#if defined(__SSE2__)
  // FTZ, DAZ, all exceptions masked, to nearest
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(0x8040u | 0x1f80u); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    // FZ, nothing trapped, to nearest
    __asm__ volatile("msr fpcr, %0" : : "r"(std::uint64_t{1} << 24));
  }
  ~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }
#else
  FlushDenormals() = default;
  ~FlushDenormals() {}
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE2__)
  unsigned saved_;
#elif defined(__aarch64__)
  std::uint64_t saved_ = 0;
#endif
};

}  // namespace fastgru
