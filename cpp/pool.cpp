#include "pool.hpp"

#include <algorithm>
#include <string>

namespace fastgru {

Pool::Pool(std::shared_ptr<const PackedModel> model, std::size_t capacity)
    : model_(std::move(model)) {
  if (capacity > kMostSessions)
    throw std::invalid_argument("capacity: expected at most " + std::to_string(kMostSessions) +
                                ", got " + std::to_string(capacity));
  states_ = Buffer(checked_product(checked_product(model_->sizes.num_layers, capacity),
                                   model_->sizes.hidden_size * sizeof(float)));
  serials_.resize(capacity);
  slots_.resize(capacity);
  last_step_.resize(capacity);
  free_.resize(capacity);
  for (std::size_t i = 0; i < capacity; ++i)
    free_[i] = static_cast<std::uint32_t>(capacity - 1 - i);
}

std::size_t Pool::slot_of(SessionId id) const {
  const std::size_t slot = slot_in(id);
  if (id < kSlots || slot >= capacity() || id != id_of(slot))
    throw UnknownSession("session " + std::to_string(id) + " is closed or was never this pool's");
  return slot;
}

void Pool::write_state(std::size_t slot, const float* state) {
  const std::size_t hidden = model_->sizes.hidden_size;
  for (std::size_t l = 0; l < model_->sizes.num_layers; ++l) {
    if (state)
      std::copy_n(state + l * hidden, hidden, state_of(l, slot));
    else
      std::fill_n(state_of(l, slot), hidden, 0.0f);
  }
}

SessionId Pool::open(const float* h_0) {
  if (free_.empty())
    throw PoolFull("all " + std::to_string(capacity()) + " sessions of this pool are open");
  const std::size_t slot = free_.back();
  free_.pop_back();
  serials_[slot] = next_serial_;
  next_serial_ = next_serial_ % (kSerials - 1) + 1;
  write_state(slot, h_0);
  return id_of(slot);
}

void Pool::close(SessionId id) {
  const std::size_t slot = slot_of(id);
  serials_[slot] = 0;
  free_.push_back(static_cast<std::uint32_t>(slot));  // has room for all slots
}

void Pool::get_state(SessionId id, float* state) const {
  const std::size_t slot = slot_of(id), hidden = model_->sizes.hidden_size;
  for (std::size_t l = 0; l < model_->sizes.num_layers; ++l)
    std::copy_n(state_of(l, slot), hidden, state + l * hidden);
}

void Pool::set_state(SessionId id, const float* state) { write_state(slot_of(id), state); }

void Pool::step(const SessionId* ids, std::size_t n, SequenceView<const float> x,
                SequenceView<float> y, std::size_t max_threads) {
  ++steps_;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t slot = slot_of(ids[i]);
    if (last_step_[slot] == steps_)
      throw std::invalid_argument("ids: session " + std::to_string(ids[i]) + " is there twice");
    last_step_[slot] = steps_;
    slots_[i] = static_cast<std::uint32_t>(slot);  // i < capacity: none was there twice
  }
  Call call;
  call.T = 1;
  call.B = n;
  call.x = x;
  call.y = y;
  call.h_0 = call.h_n = state_of(0, 0);
  call.slots = slots_.data();
  call.state_rows = capacity();
  call.max_threads = max_threads;
  call.end_layer = model_->sizes.num_layers;
  run(*model_, call);
}

std::vector<SessionId> Pool::ids() const {
  std::vector<SessionId> open;
  open.reserve(size());
  for (std::size_t slot = 0; slot < capacity(); ++slot)
    if (serials_[slot] != 0) open.push_back(id_of(slot));
  return open;
}

void Pool::shut_down() {
  is_shut_down_ = true;
  states_ = Buffer();
}

void Pool::get_states(const SessionId* ids, std::size_t n, float* states) const {
  for (std::size_t i = 0; i < n; ++i) get_state(ids[i], states + i * state_size());
}

void Pool::set_states(const SessionId* ids, std::size_t n, const float* states) {
  for (std::size_t i = 0; i < n; ++i) slot_of(ids[i]);  // throws before anything is written
  for (std::size_t i = 0; i < n; ++i) set_state(ids[i], states + i * state_size());
}

void Pool::restore(std::int64_t next_serial, const SessionId* ids, std::size_t n,
                   const float* states) {
  if (next_serial < 1 || next_serial >= kSerials)
    throw std::invalid_argument("next serial: expected 1 to " + std::to_string(kSerials - 1) +
                                ", got " + std::to_string(next_serial));
  std::vector<std::int64_t> serials(capacity());
  for (std::size_t i = 0; i < n; ++i) {
    const auto refuse = [&](const std::string& why) {
      throw std::invalid_argument("session " + std::to_string(ids[i]) + ": " + why);
    };
    if (ids[i] < kSlots) refuse("not an id");
    if (slot_in(ids[i]) >= capacity())
      refuse("beyond this pool's capacity of " + std::to_string(capacity()));
    if (serials[slot_in(ids[i])] != 0) refuse("another one has its slot");
    serials[slot_in(ids[i])] = ids[i] / kSlots;
  }
  std::vector<std::uint32_t> free;
  free.reserve(capacity());
  for (std::size_t slot = capacity(); slot-- > 0;)
    if (serials[slot] == 0) free.push_back(static_cast<std::uint32_t>(slot));
  serials_.swap(serials);
  free_.swap(free);
  next_serial_ = (next_serial + kSkipped - 1) % (kSerials - 1) + 1;
  for (std::size_t i = 0; i < n; ++i) write_state(slot_in(ids[i]), states + i * state_size());
}

}  // namespace fastgru
