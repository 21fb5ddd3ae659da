// The state of a fixed batch of live sequences that advance together through a unidirectional
// GRU.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

#include "run/run.hpp"

namespace fastgru {

class Stream {
 public:
  // h_0: [layers, batch_size, H] or null (zeros); copied.
  Stream(std::shared_ptr<const PackedGru> gru, std::size_t batch_size, const float* h_0);
  Stream(const Stream& other);

  // T steps; x and y as Call's. Nothing changes where it throws.
  void advance(std::size_t T, SequenceView<const float> x, SequenceView<float> y,
               std::size_t max_threads);

  const float* state() const { return values(state_); }  // [layers, batch_size, H]
  void set_state(const float* state);
  void reset();  // to h_0
  void reset_row(std::size_t row);

  const PackedGru& gru() const { return *gru_; }
  std::size_t batch_size() const { return batch_size_; }

  // One user at a time: true if it was free and is now the caller's until release().
  bool try_acquire() { return !busy_.test_and_set(std::memory_order_acquire); }
  void release() { busy_.clear(std::memory_order_release); }

 private:
  static float* values(const Buffer& b) { return reinterpret_cast<float*>(b.data()); }
  std::size_t row_bytes() const { return gru_->sizes.hidden_size * sizeof(float); }

  std::shared_ptr<const PackedGru> gru_;
  std::size_t batch_size_;
  Buffer initial_;
  Buffer state_;
  std::atomic_flag busy_ = ATOMIC_FLAG_INIT;
};

}  // namespace fastgru
