// How a long call is given up. The thread that called run() asks now and then whether it should be,
// and tells the others by a flag that every thread of the call reads at the beginning of each time
// block, and wherever it waits for another one.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>

namespace fastgru {

// Who may interrupt a call, and how often it is asked. For calls of some milliseconds and more: the
// clock is read once a time block.
struct Interrupt {
  // Whether to give up the call. Asked by the thread that called run(), and by no other; must not
  // throw.
  bool (*wanted)(void* context) = nullptr;
  void* context = nullptr;
  double every_milliseconds = 10;
};

// What the threads of one call know about its interrupt; null: nobody may interrupt it, which costs
// a comparison a time block. Made by the thread that called run().
class Interruption {
 public:
  explicit Interruption(const Interrupt* interrupt) : interrupt_(interrupt) {}

  // Whether the calling thread of this function should leave what it does.
  bool given_up() {
    if (!interrupt_) return false;
    if (std::this_thread::get_id() == caller_) ask();
    return flag_.load(std::memory_order_relaxed);
  }

  // A share of the call has ended, of `threads`. The one that asks goes on asking until all have.
  void share_ended(std::size_t threads) {
    if (!interrupt_) return;
    ended_.fetch_add(1, std::memory_order_relaxed);
    if (std::this_thread::get_id() != caller_) return;
    for (int turn = 0; ended_.load(std::memory_order_relaxed) < threads; ++turn) {
      ask();
      if (turn < kYields)
        std::this_thread::yield();
      else
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  // Asks, where it is time to. Of the thread that called run().
  void ask() {
    if (!interrupt_ || flag_.load(std::memory_order_relaxed)) return;
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double, std::milli> passed = now - asked_;
    if (passed.count() < interrupt_->every_milliseconds) return;
    asked_ = now;
    if (interrupt_->wanted(interrupt_->context)) flag_.store(true, std::memory_order_relaxed);
  }

  // For Barrier; null where nobody may interrupt.
  const std::atomic<bool>* flag() const { return interrupt_ ? &flag_ : nullptr; }

 private:
  static constexpr int kYields = 1000;

  const Interrupt* interrupt_;
  std::atomic<bool> flag_{false};
  std::atomic<std::size_t> ended_{0};
  const std::thread::id caller_ = std::this_thread::get_id();
  std::chrono::steady_clock::time_point asked_{};  // long ago: the first time is at once
};

}  // namespace fastgru
