// The states of a fixed batch of live sequences that advance together through a network.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "run/call.hpp"

namespace fastgru {

class Stream {
 public:
  // The network must run only forwards. h_0: each stack's [L, batch_size, H], copied; empty: zeros.
  Stream(std::shared_ptr<const PackedNetwork> network, std::size_t batch_size, const States& h_0);
  Stream(const Stream& other);

  // Computes call.T steps; x, indices, width, y, max_threads and interrupt are the caller's. False
  // where it was interrupted. The states stay as they are until commit(), which cannot fail.
  bool advance(Call call);
  void commit() { current_.store(1 - current_.load()); }

  // Of a stack: [L, batch_size, H].
  const float* state(std::size_t gru) const { return values(current_, gru); }
  std::size_t state_floats(std::size_t gru) const;
  void set_states(const States& states);
  void reset();  // to h_0
  void reset_row(std::size_t row);

  const PackedNetwork& network() const { return *network_; }
  std::size_t batch_size() const { return batch_size_; }

  // One user at a time: true if it was free and is now the caller's until release(). A user that
  // was inside when the process forked is not in the child, where the states are those before its
  // call.
  bool try_acquire();
  void release() { busy_.store(0, std::memory_order_release); }

 private:
  float* values(std::size_t buffer, std::size_t gru) const;
  void place_states();

  std::shared_ptr<const PackedNetwork> network_;
  std::size_t batch_size_;
  std::vector<std::size_t> offsets_;  // of each stack's states in a buffer, in floats
  std::size_t floats_ = 0;            // of all states
  Buffer initial_;
  Buffer states_[2];                     // a call reads one and writes the other
  std::atomic<std::size_t> current_{0};  // the one that counts
  std::vector<GruStates> places_;        // of the call
  std::atomic<unsigned> busy_{0};        // 0, or one more than the forks when it was acquired
};

}  // namespace fastgru
