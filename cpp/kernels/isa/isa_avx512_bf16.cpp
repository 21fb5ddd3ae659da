// Products of bfloat16 by vdpbf16ps. Compiled with its flags by add_isa(avx512_bf16); see Note [One
// symbol per ISA].
#include "kernels/isa/vec_avx512.hpp"
// after the vector type, which it needs
#include "kernels/product/dot_bf16.hpp"

const fastgru::Product* fastgru::avx512_bf16_kernels() {
  static constexpr Product table = bfloat16_product<Vec, DotPairs>("avx512_bf16", Sums::own);
  return &table;
}
