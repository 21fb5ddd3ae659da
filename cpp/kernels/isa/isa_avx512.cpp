// The kernels for avx512. Compiled with its flags by add_isa(avx512); see Note [One symbol per
// ISA].
#include "kernels/isa/vec_avx512.hpp"
// after the vector type, which it needs
#include "kernels/kernels.hpp"

const fastgru::KernelTable* fastgru::avx512_kernels() {
  static constexpr KernelTable table = kernels<Vec>("avx512");
  return &table;
}
