#include "run/pool.hpp"

#include <algorithm>
#include <random>
#include <string>

#include "run/listed.hpp"

namespace fastgru {
namespace {

std::int64_t random_serial(std::int64_t below) {
  std::random_device device;
  return std::uniform_int_distribution<std::int64_t>(1, below - 1)(device);
}

}  // namespace

Pool::Pool(Grus grus, std::size_t capacity) : grus_(std::move(grus)) {
  if (capacity > kMostSessions)
    throw std::invalid_argument("capacity: expected at most " + std::to_string(kMostSessions) +
                                ", got " + std::to_string(capacity));
  for (const auto& gru : grus_)
    states_.emplace_back(checked_product(checked_product(gru->sizes.num_layers, capacity),
                                         gru->sizes.hidden_size * sizeof(float)),
                         Buffer::Contents::as_found);  // open() writes a session's
  serials_.resize(capacity);
  versions_.resize(capacity);
  slots_.resize(capacity);
  last_call_.resize(capacity);
  free_.resize(capacity);
  for (std::size_t i = 0; i < capacity; ++i)
    free_[i] = static_cast<std::uint32_t>(capacity - 1 - i);
  next_serial_ = random_serial(kSerials);
}

std::size_t Pool::slot_of(SessionId id) const {
  if (!is_open(id))
    throw UnknownSession("session " + std::to_string(id) + " is closed or was never this pool's");
  return slot_in(id);
}

void Pool::find_slots(const SessionId* ids, std::size_t n) {
  ++calls_;
  for (std::size_t i = 0; i < n; ++i) {
    const SessionId id = ids[i];  // read once: another thread may write to the caller's array
    const std::size_t slot = slot_in(id);
    if (!is_open(id) || last_call_[slot] == calls_) refuse(id, ids + i + 1, n - i - 1);
    last_call_[slot] = calls_;
    slots_[i] = static_cast<std::uint32_t>(slot);  // i < capacity: none was there twice
  }
}

void Pool::refuse(SessionId wrong, const SessionId* behind, std::size_t n) {
  Listed unknown, twice;
  for (std::size_t i = 0; i <= n; ++i) {
    const SessionId id = i == 0 ? wrong : behind[i - 1];
    if (!is_open(id)) {
      unknown.add(id);
    } else if (last_call_[slot_in(id)] == calls_) {
      twice.add(id);
    } else {
      last_call_[slot_in(id)] = calls_;
    }
  }
  const auto told = [](const Listed& ids, const char* one, const char* several) {
    return (ids.several() ? "sessions " : "session ") + ids.text() +
           (ids.several() ? several : one);
  };
  std::string text;
  if (!unknown.empty())
    text = told(unknown, " is closed or was never this pool's",
                " are closed or were never this pool's");
  if (twice.empty()) throw UnknownSession(text);
  text = "ids: " + text + (text.empty() ? "" : "; ");
  throw std::invalid_argument(text + told(twice, " is there twice", " are there twice"));
}

template <class Visit>
void Pool::for_each_state(std::size_t i, std::size_t n, Visit visit) const {
  for (std::size_t gru = 0; gru < grus_.size(); ++gru) {
    const GruSizes& sizes = grus_[gru]->sizes;
    for (std::size_t l = 0; l < sizes.num_layers; ++l)
      visit(gru, state_of(gru, l, slots_[i]), (l * n + i) * sizes.hidden_size, sizes.hidden_size);
  }
}

SessionId Pool::open(const float* const* h_0) {
  if (free_.empty())
    throw PoolFull("all " + std::to_string(capacity()) + " sessions of this pool are open");
  const std::uint32_t slot = free_.back();
  free_.pop_back();
  serials_[slot] = next_serial_;
  next_serial_ = next_serial_ % (kSerials - 1) + 1;
  ++versions_[slot];
  slots_[0] = slot;
  for_each_state(0, 1, [&](std::size_t gru, float* state, std::size_t at, std::size_t hidden) {
    if (h_0)
      std::copy_n(h_0[gru] + at, hidden, state);
    else
      std::fill_n(state, hidden, 0.0f);
  });
  return id_of(slot);
}

void Pool::close(SessionId id) {
  const std::size_t slot = slot_of(id);
  serials_[slot] = 0;
  free_.push_back(static_cast<std::uint32_t>(slot));  // has room for all slots
}

void Pool::read(const SessionId* ids, std::size_t n, float* const* states,
                std::uint64_t* versions) {
  find_slots(ids, n);
  for (std::size_t i = 0; i < n; ++i) {
    if (versions) versions[i] = versions_[slots_[i]];
    for_each_state(i, n, [&](std::size_t gru, float* state, std::size_t at, std::size_t hidden) {
      std::copy_n(state, hidden, states[gru] + at);
    });
  }
}

void Pool::write(const SessionId* ids, std::size_t n, const float* const* states,
                 const std::uint64_t* versions) {
  find_slots(ids, n);
  for (std::size_t i = 0; versions && i < n; ++i)
    if (versions[i] != versions_[slots_[i]])
      throw std::runtime_error("session " + std::to_string(id_of(slots_[i])) +
                               " has changed while it was in this step: one call of a session at "
                               "a time");
  for (std::size_t i = 0; i < n; ++i) {
    ++versions_[slots_[i]];
    for_each_state(i, n, [&](std::size_t gru, float* state, std::size_t at, std::size_t hidden) {
      std::copy_n(states[gru] + at, hidden, state);
    });
  }
}

void Pool::step(const SessionId* ids, std::size_t n, SequenceView<const float> x,
                SequenceView<float> y, std::size_t max_threads) {
  find_slots(ids, n);
  Call call;
  call.T = 1;
  call.B = n;
  call.x = x;
  call.y = y;
  call.h_0 = call.h_n = state_of(0, 0, 0);
  call.slots = slots_.data();
  call.state_rows = capacity();
  call.max_threads = max_threads;
  call.end_layer = grus_[0]->sizes.num_layers;
  run(*grus_[0], call);
  for (std::size_t i = 0; i < n; ++i) ++versions_[slots_[i]];
}

void Pool::ids(SessionId* ids) const {
  for (std::size_t slot = 0; slot < capacity(); ++slot)
    if (serials_[slot] != 0) *ids++ = id_of(slot);
}

void Pool::shut_down() {
  is_shut_down_ = true;
  states_.clear();
}

void Pool::restore(const SessionId* ids, std::size_t n, const float* const* states) {
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
  const std::int64_t next_serial = random_serial(kSerials);
  serials_.swap(serials);
  free_.swap(free);
  next_serial_ = next_serial;
  write(ids, n, states, nullptr);
}

}  // namespace fastgru
