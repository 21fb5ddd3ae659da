// The states of many live sequences (sessions) in slabs, of which any advance together: a step
// reads and writes them where they are. A pool of several GRUs has a slab for each.
// Refuses bidirectional GRUs, and to grow.
//
// Note [Session ids]
// An id is a slot of the slabs and the session's serial number, so that the id of a closed session
// is known to be stale although its slot is somebody else's now. Serials count up from a random
// number below 2^39, drawn anew for each pool and each restored snapshot: no id is a small number
// that somebody counted up, and none is likely to be another pool's, or one that was given away
// between a snapshot and the end of its process.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "run/run.hpp"

namespace fastgru {

using SessionId = std::int64_t;

struct UnknownSession : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct PoolFull : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Pool {
 public:
  static constexpr std::size_t kMostSessions = std::size_t{1} << 24;
  using Grus = std::vector<std::shared_ptr<const PackedGru>>;

  // Throws std::invalid_argument for a capacity of more than kMostSessions.
  Pool(Grus grus, std::size_t capacity);

  // The caller holds it around everything below. Where something throws, nothing has changed.
  // Pointers to states: one for each GRU.
  std::mutex& mutex() { return mutex_; }

  // h_0: [layers, H] each; null: zeros.
  SessionId open(const float* const* h_0);
  void close(SessionId id);

  // Throws UnknownSession where ids are unknown, and std::invalid_argument where some are there
  // twice; names every one of them.
  void check(const SessionId* ids, std::size_t n) { find_slots(ids, n); }

  // Of n sessions: [layers, n, H] each. Throws as check(). versions: [n] or null; whatever changes
  // a session changes its version.
  void read(const SessionId* ids, std::size_t n, float* const* states, std::uint64_t* versions);
  // Also throws std::runtime_error where a version is not the session's any more.
  void write(const SessionId* ids, std::size_t n, const float* const* states,
             const std::uint64_t* versions);

  // One step of n sessions of a pool with one GRU: x and y as Call's, row i is ids[i]'s. Throws as
  // check().
  void step(const SessionId* ids, std::size_t n, SequenceView<const float> x, SequenceView<float> y,
            std::size_t max_threads);

  std::size_t size() const { return capacity() - free_.size(); }
  void ids(SessionId* ids) const;  // [size()], of the open sessions, by slot
  // Replaces all sessions; states as read()'s. Throws std::invalid_argument where they cannot be a
  // pool's of this capacity.
  void restore(const SessionId* ids, std::size_t n, const float* const* states);

  // Gives back the memory of all states. Only what is const may be asked for afterwards.
  void shut_down();
  bool is_shut_down() const { return is_shut_down_; }

  const Grus& grus() const { return grus_; }
  std::size_t capacity() const { return serials_.size(); }

  // forks() of parallel.hpp when somebody last took the mutex.
  std::atomic<unsigned> taken_after_forks{0};

 private:
  static constexpr SessionId kSlots = kMostSessions;  // serial * kSlots + slot
  static constexpr std::int64_t kSerials = std::int64_t{1} << 39;

  SessionId id_of(std::size_t slot) const {
    return serials_[slot] * kSlots + static_cast<SessionId>(slot);
  }
  static std::size_t slot_in(SessionId id) { return static_cast<std::size_t>(id % kSlots); }
  bool is_open(SessionId id) const {
    return id >= kSlots && slot_in(id) < capacity() && id == id_of(slot_in(id));
  }
  std::size_t slot_of(SessionId id) const;  // throws UnknownSession
  // To slots_; throws as check().
  void find_slots(const SessionId* ids, std::size_t n);
  // Throws for the id `wrong` and for those of the n behind it that are wrong, too.
  [[noreturn]] void refuse(SessionId wrong, const SessionId* behind, std::size_t n);
  float* state_of(std::size_t gru, std::size_t layer, std::size_t slot) const {
    return reinterpret_cast<float*>(states_[gru].data()) +
           (layer * capacity() + slot) * grus_[gru]->sizes.hidden_size;
  }
  // Calls visit(a layer's state in the slab, its place in one or n sessions' states) for slots_[i].
  template <class Visit>
  void for_each_state(std::size_t i, std::size_t n, Visit visit) const;

  Grus grus_;
  std::vector<Buffer> states_;            // of each GRU: [layers, capacity, H]
  std::vector<std::int64_t> serials_;     // [capacity]; 0: closed
  std::vector<std::uint64_t> versions_;   // [capacity]
  std::vector<std::uint32_t> free_;       // slots; the last one is taken next
  std::vector<std::uint32_t> slots_;      // [capacity]: of the sessions in a call
  std::vector<std::uint64_t> last_call_;  // [capacity]: finds ids that are there twice
  std::uint64_t calls_ = 0;
  std::int64_t next_serial_;
  bool is_shut_down_ = false;
  std::mutex mutex_;
};

}  // namespace fastgru
