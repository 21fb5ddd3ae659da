#include "run/stream.hpp"

#include <algorithm>
#include <cstring>

#include "system/parallel.hpp"

namespace fastgru {

Stream::Stream(std::shared_ptr<const PackedNetwork> network, std::size_t batch_size,
               const States& h_0)
    : network_(std::move(network)), batch_size_(batch_size) {
  place_states();
  initial_ = Buffer(checked_product(floats_, sizeof(float)));
  for (Buffer& states : states_) states = Buffer(initial_.size());
  for (std::size_t gru = 0; gru < h_0.size(); ++gru)
    std::copy_n(h_0[gru], state_floats(gru),
                reinterpret_cast<float*>(initial_.data()) + offsets_[gru]);
  reset();
}

Stream::Stream(const Stream& other) : network_(other.network_), batch_size_(other.batch_size_) {
  place_states();
  initial_ = Buffer(other.initial_.size());
  for (Buffer& states : states_) states = Buffer(initial_.size());
  if (floats_ == 0) return;
  std::memcpy(initial_.data(), other.initial_.data(), initial_.size());
  std::memcpy(states_[0].data(), other.states_[other.current_].data(), initial_.size());
}

void Stream::place_states() {
  for (const PackedGru* gru : network_->grus) {
    offsets_.push_back(floats_);
    const std::size_t states = checked_product(checked_product(gru->sizes.num_layers, batch_size_),
                                               gru->sizes.hidden_size);
    // Each stack's begin a cache line.
    floats_ += round_up(states, kAlignment / sizeof(float));
  }
  places_.resize(network_->grus.size());
}

std::size_t Stream::state_floats(std::size_t gru) const {
  const GruSizes& sizes = network_->grus[gru]->sizes;
  return sizes.num_layers * batch_size_ * sizes.hidden_size;
}

float* Stream::values(std::size_t buffer, std::size_t gru) const {
  return reinterpret_cast<float*>(states_[buffer].data()) + offsets_[gru];
}

bool Stream::advance(Call call) {
  const std::size_t current = current_;
  for (std::size_t gru = 0; gru < places_.size(); ++gru)
    places_[gru] = {values(current, gru), values(1 - current, gru)};
  call.B = batch_size_;
  call.states = places_.data();
  return run(*network_, call);
}

void Stream::set_states(const States& states) {
  const std::size_t next = 1 - current_;
  for (std::size_t gru = 0; gru < states.size(); ++gru)
    std::copy_n(states[gru], state_floats(gru), values(next, gru));
  commit();
}

void Stream::reset() {
  const std::size_t next = 1 - current_;
  if (floats_) std::memcpy(states_[next].data(), initial_.data(), initial_.size());
  commit();
}

void Stream::reset_row(std::size_t row) {
  for (std::size_t gru = 0; gru < places_.size(); ++gru) {
    const GruSizes& sizes = network_->grus[gru]->sizes;
    for (std::size_t layer = 0; layer < sizes.num_layers; ++layer) {
      const std::size_t at = (layer * batch_size_ + row) * sizes.hidden_size;
      std::copy_n(reinterpret_cast<const float*>(initial_.data()) + offsets_[gru] + at,
                  sizes.hidden_size, values(current_, gru) + at);
    }
  }
}

bool Stream::try_acquire() {
  unsigned expected = 0;
  const unsigned mine = forks_so_far() + 1;
  if (busy_.compare_exchange_strong(expected, mine, std::memory_order_acquire)) return true;
  return expected != mine &&
         busy_.compare_exchange_strong(expected, mine, std::memory_order_acquire);
}

}  // namespace fastgru
