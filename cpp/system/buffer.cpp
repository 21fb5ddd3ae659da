#include "system/buffer.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastgru {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
// From here on an allocation is rounded up to whole huge pages: 1 MiB of packed weights is 256
// small pages, more than the 72 entries of Zen 4's first-level TLB.
constexpr std::size_t kHugeFrom = std::size_t{1} << 20;
constexpr std::size_t kArenaKept = std::size_t{64} << 20;

std::size_t alignment_of(std::size_t bytes) { return bytes >= kHugeFrom ? kHugePage : kAlignment; }

thread_local Buffer arena;

}  // namespace

void size_overflows() { throw std::length_error("size overflows"); }

Buffer::Buffer(std::size_t bytes, Contents contents) : size_(bytes) {
  if (bytes == 0) return;
  const std::size_t alignment = alignment_of(bytes);
  if (bytes > SIZE_MAX - alignment) throw std::bad_alloc();
  const std::size_t rounded = round_up(bytes, alignment);
  data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (!data_) throw std::bad_alloc();
#if defined(__linux__)
  // Advice only: a kernel without transparent huge pages runs on small ones.
  if (alignment == kHugePage) madvise(data_, rounded, MADV_HUGEPAGE);
#endif
  if (contents == Contents::zeros) std::memset(data_, 0, bytes);
}

Buffer::~Buffer() { std::free(data_); }

Block arena_of(std::size_t bytes) {
  if (arena.size() < bytes) {
    arena = Buffer();  // first free, then allocate: never two at once
    arena = Buffer(bytes);
  }
  return {arena.data(), arena.size()};
}

void release_arena() {
  if (arena.size() > kArenaKept) arena = Buffer();
}

}  // namespace fastgru
