// The numbers that a message names: `7, 9 and 3 more`. Refuses to list more than a few, since a
// call can have millions of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace fastgru {

class Listed {
 public:
  // A number that is listed already is not told again.
  void add(std::int64_t number) {
    if (std::find(listed_.begin(), listed_.end(), number) != listed_.end()) return;
    if (listed_.size() < kMost)
      listed_.push_back(number);
    else
      ++more_;
  }
  bool empty() const { return listed_.empty(); }
  bool several() const { return listed_.size() > 1; }
  std::string text() const {
    std::string text;
    for (const std::int64_t number : listed_)
      text += (text.empty() ? "" : ", ") + std::to_string(number);
    return more_ == 0 ? text : text + " and " + std::to_string(more_) + " more";
  }

 private:
  static constexpr std::size_t kMost = 12;
  std::vector<std::int64_t> listed_;
  std::size_t more_ = 0;
};

}  // namespace fastgru
