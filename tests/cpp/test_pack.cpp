// Packing: nothing is lost, nothing is left unwritten, and sizes that cannot be are refused.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "gru_cases.hpp"

using namespace fastgru;

namespace {

// Packing loses nothing, and unpacking writes nothing but the tensors.
void check_unpack(const GruSizes& sizes) {
  const TestGru gru(sizes);
  for (const KernelTable* kernels : runnable()) {
    const PackedGru packed = pack(gru.spec, kernels);
    for (std::size_t i = 0; i < packed.layers.size(); ++i) {
      std::vector<Floats> back;
      for (std::size_t t = 0; t < 4; ++t) back.emplace_back(gru.tensors[4 * i + t].size());
      unpack(packed, i,
             {back[0].data(), back[1].data(), back[2].data(), back[3].data(), nullptr, nullptr});
      for (std::size_t t = 0; t < 4; ++t)
        check(back[t] == gru.tensors[4 * i + t], "unpack returns what was packed");
    }
  }
}

// What no tensor fills is zero, though the storage is not cleared before.
void check_padding(const GruSizes& sizes) {
  TestGru gru(sizes);
  std::size_t values = 0;
  for (std::size_t i = 0; i < gru.spec.layers.size(); ++i) {
    gru.spec.layers[i].bias_ih = gru.spec.layers[i].bias_hh = nullptr;
    values += gru.tensors[4 * i].size() + gru.tensors[4 * i + 1].size();
  }
  const KernelTable* kernels = choose_kernels("portable");
  const std::size_t bytes = pack(gru.spec, kernels).storage.size();
  {
    const Buffer dirt(bytes);  // likely what pack() is given next
    std::memset(dirt.data(), 0xff, bytes);
  }
  const PackedGru packed = pack(gru.spec, kernels);
  const auto* first = reinterpret_cast<const float*>(packed.storage.data());
  const auto zeros = std::count(first, first + bytes / sizeof(float), 0.0f);
  std::size_t zero_values = 0;
  for (std::size_t i = 0; i < gru.tensors.size(); ++i)
    if (i % 4 < 2)
      zero_values +=
          static_cast<std::size_t>(std::count(gru.tensors[i].begin(), gru.tensors[i].end(), 0.0f));
  check(static_cast<std::size_t>(zeros) == bytes / sizeof(float) - values + zero_values,
        "padding and missing biases are zeros");
}

// Sizes around vectors and panels, in both equations.
template <class Work>
void for_sizes(Work work) {
  for (const bool reset_after : {true, false})
    for (const std::size_t H : {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 65})
      work(default_gru(H % 5 + 1, H, 1 + H % 3, 1 + H % 2, reset_after));
}

}  // namespace

TEST(unpacking_returns_what_was_packed) { for_sizes(check_unpack); }

TEST(padding_is_zeros) { for_sizes(check_padding); }

TEST(huge_sizes_are_refused) {
  check_throws<std::length_error>([] { checked_product(SIZE_MAX / 2, 3); }, "overflow is refused");
  GruSizes huge;
  huge.input_size = huge.hidden_size = SIZE_MAX / 4;
  huge.num_layers = 1;
  GruSpec spec{huge, {LayerTensors{}}};
  check_throws<std::length_error>([&] { pack(spec, choose_kernels("")); },
                                  "huge sizes are refused");
}
