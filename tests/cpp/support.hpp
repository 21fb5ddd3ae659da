// What every C++ test needs: named tests that register themselves, checks that are counted, and
// random numbers that are the same whether a test runs alone or after others. A test is
//
//     TEST(streams_can_be_copied) { check(condition, "what was checked"); }
//
// and its full name is that of its file and its own, "stream.streams_can_be_copied". A program runs
// all of its tests, or those whose full name contains one of its arguments, or is it where the
// argument begins with "="; --list prints the names.
// CMakeLists.txt reads the names from the files and registers each with CTest.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/dispatch.hpp"

namespace fastgru {

// Adds a test to those of the program. `file` is its source file.
bool register_test(const char* file, const char* name, void (*body)());

// Counts a check, and says which one failed; the test goes on.
void check(bool ok, const std::string& what);

template <class Error, class Work>
void check_throws(Work work, const std::string& what) {
  try {
    work();
    check(false, what + ": nothing thrown");
  } catch (const Error&) {
    check(true, what);
  }
}

using Floats = std::vector<float>;

// Starts from the same seed in every test.
extern std::mt19937 generator;

// An array of exactly `n` floats on the heap, between -scale and scale.
Floats random_floats(std::size_t n, float scale);

bool same_bits(const float* a, const float* b, std::size_t n);
bool same_bits(const Floats& a, const Floats& b);

// The kernels of every ISA level that this CPU runs; the others are said to be skipped.
std::vector<const KernelTable*> runnable();

}  // namespace fastgru

#define TEST(name)                                            \
  static void test_##name();                                  \
  [[maybe_unused]] static const bool registered_##name =      \
      ::fastgru::register_test(__FILE__, #name, test_##name); \
  static void test_##name()
