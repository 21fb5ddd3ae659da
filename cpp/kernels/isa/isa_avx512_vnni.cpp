// Products of int8 by vpdpbusd. Compiled with its flags by add_isa(avx512_vnni); see Note [One
// symbol per ISA].
#include "kernels/isa/vec_avx512.hpp"
// after the vector type, which it needs
#include "kernels/product/dot_vnni.hpp"

const fastgru::Product* fastgru::avx512_vnni_kernels() {
  static constexpr Product table = int8_product<Vec, VnniDot>("avx512_vnni");
  return &table;
}
