// The kernels for avx2. Compiled with its flags by add_isa(avx2); see Note [One symbol per ISA].
#include "kernels/isa/vec_avx2.hpp"
// after the vector type, which it needs
#include "kernels/kernels.hpp"

const fastgru::KernelTable* fastgru::avx2_kernels() {
  static constexpr KernelTable table = kernels<Vec>("avx2");
  return &table;
}
