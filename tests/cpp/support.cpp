// The main function of the C++ tests, and what their checks and random numbers are made of.
#include "support.hpp"

#include <exception>

namespace fastgru {

std::mt19937 generator;

namespace {

struct Test {
  std::string name;
  void (*body)();
};

// Made by the first test that registers itself, before main().
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

int passed = 0, failed = 0;

// "plan" of "tests/cpp/test_plan.cpp".
std::string stage_of(const std::string& file) {
  const std::string prefix = "test_", suffix = ".cpp";
  const std::size_t begin = file.rfind(prefix) + prefix.size();
  return file.substr(begin, file.rfind(suffix) - begin);
}

bool is_wanted(const std::string& name, const std::vector<std::string>& filters) {
  bool wanted = filters.empty();
  for (const std::string& filter : filters)
    wanted |= filter[0] == '=' ? name == filter.substr(1) : name.find(filter) != std::string::npos;
  return wanted;
}

}  // namespace

bool register_test(const char* file, const char* name, void (*body)()) {
  tests().push_back({stage_of(file) + "." + name, body});
  return true;
}

void check(bool ok, const std::string& what) {
  ok ? ++passed : ++failed;
  if (!ok) std::printf("FAILED: %s\n", what.c_str());
}

Floats random_floats(std::size_t n, float scale) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  Floats values(n);
  for (float& v : values) v = uniform(generator);
  return values;
}

bool same_bits(const float* a, const float* b, std::size_t n) {
  return n == 0 || std::memcmp(a, b, n * sizeof(float)) == 0;
}

bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && same_bits(a.data(), b.data(), a.size());
}

std::vector<const KernelTable*> runnable() {
  std::vector<const KernelTable*> tables;
  for (const IsaLevel& level : isa_levels()) {
    if (level.supported) {
      tables.push_back(choose_kernels(level.name));
      continue;
    }
    static std::vector<std::string> told;
    bool is_new = true;
    for (const std::string& name : told) is_new &= name != level.name;
    if (!is_new) continue;
    told.push_back(level.name);
    std::printf("SKIPPED: %s is not supported by this CPU\n", level.name);
  }
  return tables;
}

}  // namespace fastgru

int main(int count, char** arguments) {
  using namespace fastgru;
  const std::vector<std::string> filters(arguments + 1, arguments + count);
  const bool only_list = filters == std::vector<std::string>{"--list"};
  int run = 0;
  for (const Test& test : tests()) {
    if (only_list) {
      std::printf("%s\n", test.name.c_str());
      continue;
    }
    if (!is_wanted(test.name, filters)) continue;
    ++run;
    generator.seed(20240917);
    const int passed_before = passed, failed_before = failed;
    try {
      test.body();
    } catch (const std::exception& error) {
      check(false, test.name + " was left by an exception: " + error.what());
    }
    if (passed == passed_before && failed == failed_before)
      check(false, test.name + " checked nothing");
    std::printf("%s: %d passed, %d failed\n", test.name.c_str(), passed - passed_before,
                failed - failed_before);
  }
  if (only_list) return 0;
  std::printf("%d tests, %d checks passed, %d failed\n", run, passed, failed);
  return failed == 0 && run > 0 ? 0 : 1;
}
