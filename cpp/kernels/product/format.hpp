// How each precision writes a matrix: what packing and unpacking call. One source for every ISA,
// whose bytes are the same on all of them. Refuses to know where a panel is: see network/pack.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/contract.hpp"
#include "kernels/inline.hpp"

namespace fastgru {
namespace {

// to[c][r] = from[r][c], where neighbouring rows are that many floats apart. In blocks of 4 x 4,
// which compilers keep in registers: 17 GB/s from L2 on Zen 1 against 8 element by element, where
// memory gives 3 to 6.
FASTGRU_NOINLINE void transpose(const float* __restrict from, std::size_t from_stride,
                                float* __restrict to, std::size_t to_stride, std::size_t rows,
                                std::size_t columns) {
  constexpr std::size_t n = 4;
  for (std::size_t c = 0; c < columns; c += n)
    for (std::size_t r = 0; r < rows; r += n) {
      if (columns - c >= n && rows - r >= n) {
        float block[n][n];
        for (std::size_t i = 0; i < n; ++i)
          for (std::size_t j = 0; j < n; ++j) block[j][i] = from[(r + i) * from_stride + c + j];
        for (std::size_t j = 0; j < n; ++j)
          __builtin_memcpy(to + (c + j) * to_stride + r, block[j], sizeof block[j]);
      } else {
        for (std::size_t j = c; j < columns && j < c + n; ++j)
          for (std::size_t i = r; i < rows && i < r + n; ++i)
            to[j * to_stride + i] = from[i * from_stride + j];
      }
    }
}

struct Float32Format {
  static void encode(const UnitRows& from, const PanelGate& to) {
    auto* const data = static_cast<float*>(to.data);
    const std::size_t stride = to.row_bytes / sizeof(float);
    for (std::size_t k = 0; from.units < kPanel && k < from.reduction; ++k)
      for (std::size_t lane = from.units; lane < kPanel; ++lane) data[k * stride + lane] = 0;
    transpose(from.weights, from.reduction, data, stride, from.units, from.reduction);
  }
  static void decode(const PanelGate& from, const UnitRowsOut& to) {
    if (!to.weights) return;
    transpose(static_cast<const float*>(from.data), from.row_bytes / sizeof(float), to.weights,
              to.reduction, to.reduction, to.units);
  }
};

// Calls visit(element `k % Terms` of `k / Terms` of a unit, index of its weight in rows, lane) for
// every term of every unit of the panel, also those that do not exist: their index is beyond all.
constexpr std::size_t kNoWeight = ~std::size_t{0};
template <std::size_t Terms, class Element, class Visit>
FASTGRU_INLINE void for_each_element(void* data, std::size_t row_bytes, std::size_t units,
                                     std::size_t reduction, Visit visit) {
  for (std::size_t lane = 0; lane < kPanel; ++lane) {
    auto* const of_unit = static_cast<Element*>(data) + lane * Terms;
    const std::size_t stride = row_bytes / sizeof(Element);
    for (std::size_t first = 0, row = 0; first < reduction; first += Terms, row += stride)
      for (std::size_t term = 0; term < Terms; ++term) {
        const bool exists = lane < units && first + term < reduction;
        visit(of_unit[row + term], exists ? lane * reduction + first + term : kNoWeight, lane);
      }
  }
}

// The upper halves of floats, whose lower halves are zero. Note [bfloat16] in reduced.hpp.
struct Bfloat16Format {
  static constexpr std::size_t terms = 2;
  static void encode(const UnitRows& from, const PanelGate& to) {
    for_each_element<terms, std::uint16_t>(
        to.data, to.row_bytes, from.units, from.reduction,
        [&](std::uint16_t& element, std::size_t at, std::size_t) FASTGRU_INLINE_LAMBDA {
          std::uint32_t bits = 0;
          if (at != kNoWeight) __builtin_memcpy(&bits, from.weights + at, sizeof bits);
          element = static_cast<std::uint16_t>(bits >> 16);
        });
  }
  static void decode(const PanelGate& from, const UnitRowsOut& to) {
    if (!to.weights) return;
    for_each_element<terms, const std::uint16_t>(
        from.data, from.row_bytes, to.units, to.reduction,
        [&](const std::uint16_t& element, std::size_t at, std::size_t) FASTGRU_INLINE_LAMBDA {
          const std::uint32_t bits = std::uint32_t{element} << 16;
          if (at != kNoWeight) __builtin_memcpy(to.weights + at, &bits, sizeof bits);
        });
  }
};

// Integers in -127..127, a scale for each unit, and -128 times the sum of its weights. Note [int8]
// in reduced.hpp.
struct Int8Format {
  static constexpr std::size_t terms = 4;
  static void encode(const UnitRows& from, const PanelGate& to) {
    for (std::size_t lane = 0; lane < kPanel; ++lane) {
      to.scales[lane] = lane < from.units ? from.scales[lane] : 0;
      to.offsets[lane] = 0;
    }
    for_each_element<terms, std::int8_t>(
        to.data, to.row_bytes, from.units, from.reduction,
        [&](std::int8_t& element, std::size_t at, std::size_t lane) FASTGRU_INLINE_LAMBDA {
          element = at != kNoWeight ? static_cast<std::int8_t>(from.weights[at]) : std::int8_t{0};
          to.offsets[lane] -= 128 * element;
        });
  }
  static void decode(const PanelGate& from, const UnitRowsOut& to) {
    for (std::size_t lane = 0; to.scales && lane < to.units; ++lane)
      to.scales[lane] = from.scales[lane];
    if (!to.weights) return;
    for_each_element<terms, const std::int8_t>(
        from.data, from.row_bytes, to.units, to.reduction,
        [&](const std::int8_t& element, std::size_t at, std::size_t) FASTGRU_INLINE_LAMBDA {
          if (at != kNoWeight) to.weights[at] = element;
        });
  }
};

constexpr Format kFloat32Format = {
    1, sizeof(float), false, ~std::size_t{0}, Float32Format::encode, Float32Format::decode};
constexpr Format kBfloat16Format = {
    Bfloat16Format::terms, 2, false, ~std::size_t{0}, Bfloat16Format::encode,
    Bfloat16Format::decode};
// The most terms whose sums are exact in 32 bits: Note [int8] in reduced.hpp.
constexpr std::size_t kMostInt8Terms = 0x7fffffff / (128 * 127);
constexpr Format kInt8Format = {Int8Format::terms, 1, true, kMostInt8Terms, Int8Format::encode,
                                Int8Format::decode};

}  // namespace
}  // namespace fastgru
