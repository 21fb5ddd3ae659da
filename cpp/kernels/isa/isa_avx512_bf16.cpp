// Products of bfloat16 by vdpbf16ps. Compiled with its flags by add_isa(avx512_bf16); see Note [One
// symbol per ISA].
#include "kernels/isa/vec_avx512.hpp"
// after the vector type, which it needs
#include "kernels/product/dot_bf16.hpp"

const fastgru::ReducedKernels* fastgru::avx512_bf16_kernels() {
  static constexpr ReducedKernels table = bfloat16_kernels<Vec, Bfloat16Dot>("avx512_bf16");
  return &table;
}
