// The kernels for portable. Compiled with its flags by add_isa(portable); see Note [One symbol per
// ISA].
#include "kernels/isa/vec_portable.hpp"
// after the vector type, which it needs
#include "kernels/kernels.hpp"

const fastgru::KernelTable* fastgru::portable_kernels() {
  static constexpr KernelTable table = kernels<Vec>("portable");
  return &table;
}
