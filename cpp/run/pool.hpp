// The states of many live sequences (sessions) in slabs, of which any advance together through a
// network. A slab has the states of one GRU stack. Refuses networks that do not only run forwards,
// and to grow.
//
// Note [Session ids]
// An id is a slot of the slabs and the session's serial number, so that the id of a closed session
// is known to be stale although its slot is somebody else's now. Serials count up from a random
// number below 2^39, drawn anew for each pool and each restored snapshot: no id is a small number
// that somebody counted up, and none is likely to be another pool's, or one that was given away
// between a snapshot and the end of its process.
//
// Note [Turns]
// Calls that read or write states take turns: the caller holds turns() around them. Which sessions
// are open is kept under a lock of its own, which is held for microseconds, so that open(), close()
// and size() never wait for a step. The slot of a session that is closed while
// a turn uses it is free for others when that turn has ended.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "run/call.hpp"

namespace fastgru {

using SessionId = std::int64_t;
struct UnknownSession : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct PoolFull : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct PoolShutDown : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// Another thread was inside when the process forked, and is not in the child.
struct PoolTorn : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A mutex of a process that may fork.
class ForkAwareMutex {
 public:
  bool try_lock() {
    const bool taken = mutex_.try_lock();
    if (taken) note_forks();
    return taken;
  }
  // Throws PoolTorn where nobody will ever release it.
  void lock();
  void unlock() { mutex_.unlock(); }

 private:
  void note_forks();

  std::mutex mutex_;
  std::atomic<unsigned> taken_after_forks_{0};
};

class Pool {
 public:
  static constexpr std::size_t kMostSessions = std::size_t{1} << 24;

  // Throws std::invalid_argument for a capacity of more than kMostSessions.
  Pool(std::shared_ptr<const PackedNetwork> network, std::size_t capacity);

  // ---- these take no turn; all throw PoolShutDown; where they throw, nothing has changed ----

  // h_0: each stack's [L, H]; empty: zeros. Throws PoolFull.
  SessionId open(const States& h_0);
  void close(SessionId id);  // throws UnknownSession
  // Whether open() would throw PoolFull only until the running turn ends.
  bool waits_for_slots();
  bool contains(SessionId id);
  std::size_t size();

  // ---- the caller holds turns() around these; where they throw, nothing has changed ----

  ForkAwareMutex& turns() { return turns_; }

  // Throws UnknownSession where ids are unknown, and std::invalid_argument where some are there
  // twice; names every one of them.
  void check(const SessionId* ids, std::size_t n);

  // Of n sessions: [L, n, H] of each stack. Throws as check().
  void read(const SessionId* ids, std::size_t n, float* const* states);
  void write(const SessionId* ids, std::size_t n, const States& states);

  // Computes one step of n sessions, row i being ids[i]'s; x, indices, width, y and max_threads of
  // the call are the caller's. The states stay as they are until commit(). False where it was
  // interrupted. Throws as check(), and then no commit() or give_up() must follow.
  bool advance(const SessionId* ids, std::size_t n, Call call);
  void commit();
  void give_up() { end_use(); }

  // The open sessions of one moment, by slot, and their states as read()'s (null: not asked for).
  // False where there are not n of them.
  bool snapshot(SessionId* ids, std::size_t n, float* const* states);
  // Replaces all sessions; states as read()'s. Throws std::invalid_argument where they cannot be a
  // pool's of this capacity.
  void restore(const SessionId* ids, std::size_t n, const States& states);

  // Gives back the memory of all states.
  void shut_down();

  const PackedNetwork& network() const { return *network_; }
  std::size_t capacity() const { return serials_.size(); }

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
  std::size_t open_sessions() const { return capacity() - free_.size() - closed_.size(); }
  void check_not_shut_down() const {
    if (is_shut_down_) throw PoolShutDown("this pool is shut down");
  }
  // To slots_, which are in use until end_use(); throws as check().
  void find_slots(const SessionId* ids, std::size_t n);
  // Throws for the id `wrong` and for those of the n behind it that are wrong, too.
  [[noreturn]] void refuse(SessionId wrong, const SessionId* behind, std::size_t n);
  float* state_of(std::size_t gru, std::size_t layer, std::size_t slot) const {
    return reinterpret_cast<float*>(slabs_[gru].data()) +
           (layer * capacity() + slot) * network_->grus[gru]->sizes.hidden_size;
  }
  // Calls visit(stack, a layer's state in the slab, its place in the states of n sessions, H) for
  // the slot of the i-th.
  template <class Visit>
  void for_each_state(std::size_t slot, std::size_t i, std::size_t n, Visit visit) const;
  void end_use();
  struct Use {
    explicit Use(Pool& pool_) : pool(pool_) {}
    ~Use() { pool.end_use(); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    Pool& pool;
  };
  void read_slots(std::size_t n, float* const* states);

  std::shared_ptr<const PackedNetwork> network_;
  std::vector<Buffer> slabs_;  // of each stack: [L, capacity, H]

  ForkAwareMutex sessions_;            // for the next six
  std::vector<std::int64_t> serials_;  // [capacity]; 0: closed
  std::vector<std::uint32_t> free_;    // slots; the last one is taken next
  std::vector<std::uint32_t> closed_;  // slots of sessions that were closed while a turn uses them
  std::int64_t next_serial_;
  bool slots_in_use_ = false;
  bool is_shut_down_ = false;

  ForkAwareMutex turns_;                  // for what follows, and all states
  std::vector<std::uint32_t> slots_;      // [capacity]: of the sessions in a call
  std::vector<std::uint64_t> last_call_;  // [capacity]: finds ids that are there twice
  std::uint64_t calls_ = 0;
  std::size_t rows_ = 0;  // of the step that is to be committed
  Buffer after_;          // its states: for each stack [L, rows_, H]
  std::vector<GruStates> places_;
};

}  // namespace fastgru
