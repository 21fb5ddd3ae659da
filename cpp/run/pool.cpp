#include "run/pool.hpp"

#include <algorithm>
#include <random>
#include <string>

#include "run/listed.hpp"
#include "system/parallel.hpp"

namespace fastgru {
namespace {

std::int64_t random_serial(std::int64_t below) {
  std::random_device device;
  return std::uniform_int_distribution<std::int64_t>(1, below - 1)(device);
}

using Guard = std::lock_guard<ForkAwareMutex>;

std::string unknown_text(SessionId id) {
  return "session " + std::to_string(id) + " is closed or was never this pool's";
}

}  // namespace

void ForkAwareMutex::note_forks() { taken_after_forks_ = forks_so_far(); }

void ForkAwareMutex::lock() {
  if (!mutex_.try_lock()) {
    if (taken_after_forks_ != forks_so_far())
      throw PoolTorn("another thread was using this pool when the process forked: make a new one");
    mutex_.lock();
  }
  note_forks();
}

Pool::Pool(std::shared_ptr<const PackedNetwork> network, std::size_t capacity)
    : network_(std::move(network)) {
  if (capacity > kMostSessions)
    throw std::invalid_argument("capacity: expected at most " + std::to_string(kMostSessions) +
                                ", got " + std::to_string(capacity));
  for (const PackedGru* gru : network_->grus)
    slabs_.emplace_back(checked_product(checked_product(gru->sizes.num_layers, capacity),
                                        gru->sizes.hidden_size * sizeof(float)),
                        Buffer::Contents::as_found);  // open() writes a session's
  places_.resize(network_->grus.size());
  serials_.resize(capacity);
  slots_.resize(capacity);
  last_call_.resize(capacity);
  free_.resize(capacity);
  closed_.reserve(capacity);
  for (std::size_t i = 0; i < capacity; ++i)
    free_[i] = static_cast<std::uint32_t>(capacity - 1 - i);
  next_serial_ = random_serial(kSerials);
}

void Pool::find_slots(const SessionId* ids, std::size_t n) {
  const Guard guard(sessions_);
  check_not_shut_down();
  ++calls_;
  for (std::size_t i = 0; i < n; ++i) {
    const SessionId id = ids[i];  // read once: another thread may write to the caller's array
    const std::size_t slot = slot_in(id);
    if (!is_open(id) || last_call_[slot] == calls_) refuse(id, ids + i + 1, n - i - 1);
    last_call_[slot] = calls_;
    slots_[i] = static_cast<std::uint32_t>(slot);  // i < capacity: none was there twice
  }
  slots_in_use_ = true;
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
void Pool::for_each_state(std::size_t slot, std::size_t i, std::size_t n, Visit visit) const {
  for (std::size_t gru = 0; gru < slabs_.size(); ++gru) {
    const GruSizes& sizes = network_->grus[gru]->sizes;
    for (std::size_t l = 0; l < sizes.num_layers; ++l)
      visit(gru, state_of(gru, l, slot), (l * n + i) * sizes.hidden_size, sizes.hidden_size);
  }
}

SessionId Pool::open(const States& h_0) {
  const Guard guard(sessions_);
  check_not_shut_down();
  if (free_.empty())
    throw PoolFull("all " + std::to_string(capacity()) + " sessions of this pool are open");
  const std::uint32_t slot = free_.back();
  free_.pop_back();
  serials_[slot] = next_serial_;
  next_serial_ = next_serial_ % (kSerials - 1) + 1;
  // Nobody knows the slot yet: no step reads its states.
  for_each_state(slot, 0, 1,
                 [&](std::size_t gru, float* state, std::size_t at, std::size_t hidden) {
                   if (!h_0.empty())
                     std::copy_n(h_0[gru] + at, hidden, state);
                   else
                     std::fill_n(state, hidden, 0.0f);
                 });
  return id_of(slot);
}

void Pool::close(SessionId id) {
  const Guard guard(sessions_);
  check_not_shut_down();
  if (!is_open(id)) throw UnknownSession(unknown_text(id));
  const std::size_t slot = slot_in(id);
  serials_[slot] = 0;
  const bool in_use = slots_in_use_ && last_call_[slot] == calls_;
  // Both have room for all slots.
  (in_use ? closed_ : free_).push_back(static_cast<std::uint32_t>(slot));
}

bool Pool::waits_for_slots() {
  const Guard guard(sessions_);
  return free_.empty() && !closed_.empty();
}

bool Pool::contains(SessionId id) {
  const Guard guard(sessions_);
  check_not_shut_down();
  return is_open(id);
}

std::size_t Pool::size() {
  const Guard guard(sessions_);
  check_not_shut_down();
  return open_sessions();
}

void Pool::check(const SessionId* ids, std::size_t n) {
  find_slots(ids, n);
  end_use();
}

void Pool::read_slots(std::size_t n, float* const* states) {
  for (std::size_t i = 0; i < n; ++i)
    for_each_state(slots_[i], i, n,
                   [&](std::size_t gru, float* state, std::size_t at, std::size_t hidden) {
                     std::copy_n(state, hidden, states[gru] + at);
                   });
}

void Pool::read(const SessionId* ids, std::size_t n, float* const* states) {
  find_slots(ids, n);
  const Use use(*this);
  read_slots(n, states);
}

bool Pool::snapshot(SessionId* ids, std::size_t n, float* const* states) {
  {
    const Guard guard(sessions_);
    check_not_shut_down();
    if (open_sessions() != n) return false;
    SessionId* to = ids;
    ++calls_;
    for (std::size_t slot = 0; slot < capacity(); ++slot)
      if (serials_[slot] != 0) {
        slots_[static_cast<std::size_t>(to - ids)] = static_cast<std::uint32_t>(slot);
        last_call_[slot] = calls_;
        *to++ = id_of(slot);
      }
    slots_in_use_ = true;
  }
  if (states) read_slots(n, states);
  end_use();
  return true;
}

void Pool::write(const SessionId* ids, std::size_t n, const States& states) {
  find_slots(ids, n);
  const Use use(*this);
  for (std::size_t i = 0; i < n; ++i)
    for_each_state(slots_[i], i, n,
                   [&](std::size_t gru, float* state, std::size_t at, std::size_t hidden) {
                     std::copy_n(states[gru] + at, hidden, state);
                   });
}

bool Pool::advance(const SessionId* ids, std::size_t n, Call call) {
  std::size_t floats = 0;
  for (const PackedGru* gru : network_->grus)
    floats += checked_product(checked_product(gru->sizes.num_layers, n), gru->sizes.hidden_size);
  if (after_.size() < floats * sizeof(float)) {
    after_ = Buffer();
    after_ = Buffer(checked_product(floats, sizeof(float)), Buffer::Contents::as_found);
  }
  find_slots(ids, n);
  float* next = reinterpret_cast<float*>(after_.data());
  for (std::size_t gru = 0; gru < places_.size(); ++gru) {
    places_[gru] = {state_of(gru, 0, 0), next};
    const GruSizes& sizes = network_->grus[gru]->sizes;
    next += sizes.num_layers * n * sizes.hidden_size;
  }
  rows_ = n;
  call.T = 1;
  call.B = n;
  call.states = places_.data();
  call.slots = slots_.data();
  call.state_rows = capacity();
  call.h_n_in_rows = true;
  try {
    return run(*network_, call);
  } catch (...) {
    end_use();
    throw;
  }
}

void Pool::commit() {
  for (std::size_t i = 0; i < rows_; ++i)
    for_each_state(slots_[i], i, rows_,
                   [&](std::size_t gru, float* state, std::size_t at, std::size_t hidden) {
                     std::copy_n(places_[gru].h_n + at, hidden, state);
                   });
  end_use();
}

void Pool::end_use() {
  const Guard guard(sessions_);
  slots_in_use_ = false;
  free_.insert(free_.end(), closed_.begin(), closed_.end());  // has room for all slots
  closed_.clear();
}

void Pool::shut_down() {
  const Guard guard(sessions_);
  is_shut_down_ = true;
  slabs_.clear();
  after_ = Buffer();
}

void Pool::restore(const SessionId* ids, std::size_t n, const States& states) {
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
  {
    const Guard guard(sessions_);
    serials_.swap(serials);
    free_.swap(free);
    next_serial_ = next_serial;
  }
  write(ids, n, states);
}

}  // namespace fastgru
