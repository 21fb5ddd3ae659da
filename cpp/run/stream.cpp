#include "run/stream.hpp"

#include <cstring>

namespace fastgru {

Stream::Stream(std::shared_ptr<const PackedGru> gru, std::size_t batch_size, const float* h_0)
    : gru_(std::move(gru)), batch_size_(batch_size) {
  const std::size_t rows = checked_product(gru_->sizes.num_layers, batch_size);
  initial_ = Buffer(checked_product(rows, row_bytes()));
  state_ = Buffer(initial_.size());
  if (h_0 && initial_.size()) std::memcpy(initial_.data(), h_0, initial_.size());
  reset();
}

Stream::Stream(const Stream& other)
    : gru_(other.gru_),
      batch_size_(other.batch_size_),
      initial_(other.initial_.size()),
      state_(other.state_.size()) {
  if (!state_.size()) return;
  std::memcpy(initial_.data(), other.initial_.data(), initial_.size());
  std::memcpy(state_.data(), other.state_.data(), state_.size());
}

void Stream::advance(std::size_t T, SequenceView<const float> x, SequenceView<float> y,
                     std::size_t max_threads) {
  Call call;
  call.T = T;
  call.B = batch_size_;
  call.x = x;
  call.y = y;
  call.h_0 = values(state_);
  call.h_n = values(state_);
  call.max_threads = max_threads;
  call.end_layer = gru_->sizes.num_layers;
  run(*gru_, call);
}

void Stream::set_state(const float* state) {
  if (state_.size()) std::memcpy(state_.data(), state, state_.size());
}

void Stream::reset() { set_state(values(initial_)); }

void Stream::reset_row(std::size_t row) {
  for (std::size_t layer = 0; layer < gru_->sizes.num_layers; ++layer) {
    const std::size_t at = (layer * batch_size_ + row) * row_bytes();
    std::memcpy(state_.data() + at, initial_.data() + at, row_bytes());
  }
}

}  // namespace fastgru
