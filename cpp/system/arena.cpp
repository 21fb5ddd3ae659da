#include "system/arena.hpp"

#include <algorithm>
#include <atomic>

namespace fastgru {
namespace {

constexpr std::size_t kArenaKept = std::size_t{64} << 20;

// How often release_memory() was called, and how often when the thread's arena was last given back.
std::atomic<unsigned> releases{0};
thread_local unsigned releases_seen = 0;
thread_local Buffer arena;

}  // namespace

Block arena_of(std::size_t bytes) {
  if (arena.size() < bytes) {
    // Half as much again, but not beyond what may be kept.
    const std::size_t grown = std::min(arena.size() / 2 * 3, kArenaKept);
    arena = Buffer();  // frees first: there are never two at once
    arena = Buffer(std::max(bytes, grown), Buffer::Contents::as_found);
  }
  return {arena.data(), arena.size()};
}

void release_arena() {
  const unsigned now = releases.load(std::memory_order_relaxed);
  if (arena.size() <= kArenaKept && releases_seen == now) return;
  arena = Buffer();
  releases_seen = now;
}

void release_memory() {
  releases.fetch_add(1, std::memory_order_relaxed);
  release_arena();
}

}  // namespace fastgru
