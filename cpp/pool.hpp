// The states of many live sequences (sessions) in one slab, of which any advance together: a step
// reads and writes them where they are. Refuses bidirectional models, and to grow.
//
// Note [Session ids]
// An id is a slot of the slab and the session's serial number, so that the id of a closed session
// is known to be stale although its slot is somebody else's now. Serials start at 1: no id is a
// small number that somebody counted up. A pool that is restored leaves out kSkipped serials, which
// sessions may have got between the snapshot and the end of the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "run.hpp"

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

  // Throws std::invalid_argument for a capacity of more than kMostSessions.
  Pool(std::shared_ptr<const PackedModel> model, std::size_t capacity);

  // The caller holds it around everything below. Where something throws, nothing has changed.
  std::mutex& mutex() { return mutex_; }

  // h_0, state: [layers, H]; null: zeros.
  SessionId open(const float* h_0);
  void close(SessionId id);
  void get_state(SessionId id, float* state) const;
  void set_state(SessionId id, const float* state);

  // One step of n sessions: x and y as Call's, row i is ids[i]'s. Throws UnknownSession, and
  // std::invalid_argument for an id that is there twice.
  void step(const SessionId* ids, std::size_t n, SequenceView<const float> x, SequenceView<float> y,
            std::size_t max_threads);

  std::vector<SessionId> ids() const;  // of the open sessions, by slot
  // Of n sessions at once: [n, layers, H].
  void get_states(const SessionId* ids, std::size_t n, float* states) const;
  void set_states(const SessionId* ids, std::size_t n, const float* states);
  // The serial of the next session: what a snapshot keeps beside ids and states.
  std::int64_t next_serial() const { return next_serial_; }
  // Replaces all sessions. ids: [n], states: [n, layers, H]. Throws std::invalid_argument where
  // they cannot be a pool's of this capacity.
  void restore(std::int64_t next_serial, const SessionId* ids, std::size_t n, const float* states);

  // Gives back the memory of all states. Afterwards only what is const may be asked for, but
  // states.
  void shut_down();
  bool is_shut_down() const { return is_shut_down_; }

  const PackedModel& model() const { return *model_; }
  std::size_t capacity() const { return serials_.size(); }
  std::size_t size() const { return capacity() - free_.size(); }

 private:
  static constexpr SessionId kSlots = kMostSessions;  // serial * kSlots + slot
  static constexpr std::int64_t kSerials = std::int64_t{1} << 39;
  static constexpr std::int64_t kSkipped = std::int64_t{1} << 24;

  SessionId id_of(std::size_t slot) const {
    return serials_[slot] * kSlots + static_cast<SessionId>(slot);
  }
  std::size_t state_size() const { return model_->sizes.num_layers * model_->sizes.hidden_size; }
  static std::size_t slot_in(SessionId id) { return static_cast<std::size_t>(id % kSlots); }
  std::size_t slot_of(SessionId id) const;  // throws UnknownSession
  float* state_of(std::size_t layer, std::size_t slot) const {
    return reinterpret_cast<float*>(states_.data()) +
           (layer * capacity() + slot) * model_->sizes.hidden_size;
  }
  void write_state(std::size_t slot, const float* state);

  std::shared_ptr<const PackedModel> model_;
  Buffer states_;                         // [layers, capacity, H]
  std::vector<std::int64_t> serials_;     // [capacity]; 0: closed
  std::vector<std::uint32_t> free_;       // slots; the last one is taken next
  std::vector<std::uint32_t> slots_;      // [capacity]: of the sessions in a step
  std::vector<std::uint64_t> last_step_;  // [capacity]: finds ids that are there twice
  std::uint64_t steps_ = 0;               // tried
  std::int64_t next_serial_ = 1;
  bool is_shut_down_ = false;
  std::mutex mutex_;
};

}  // namespace fastgru
