#include "system/buffer.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

namespace fastgru {
namespace {

#if defined(MAP_ANONYMOUS)
constexpr std::size_t kPage = std::size_t{64} << 10;  // the largest small page of any system
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// From here on a buffer is a mapping of its own, on huge pages where the system grants them: 1 MiB
// of packed weights is 256 small pages, more than the 72 entries of Zen 4's first-level TLB. What
// malloc() gives out of its heap stays with the process when it is freed; a mapping does not.
constexpr std::size_t kMappedFrom = std::size_t{1} << 20;

bool is_mapped(std::size_t bytes) { return bytes >= kMappedFrom; }

// Whole huge pages, and for the rest another one where it would be half full, else small pages.
std::size_t mapped_bytes(std::size_t bytes) {
  return round_up(bytes, bytes % kHugePage >= kHugePage / 2 ? kHugePage : kPage);
}

// Zeros, beginning at a huge page; null where the system refuses.
std::byte* map(std::size_t bytes) {
  // As much more as it takes for a huge page to begin in it; the ends go back at once.
  const std::size_t all = bytes + kHugePage;
  void* const found =
      mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (found == MAP_FAILED) return nullptr;
  auto* const first = static_cast<std::byte*>(found);
  const std::size_t before =
      (kHugePage - reinterpret_cast<std::uintptr_t>(found) % kHugePage) % kHugePage;
  if (before > 0) munmap(first, before);
  munmap(first + before + bytes, all - before - bytes);
#if defined(MADV_HUGEPAGE)
  // Advice only: a kernel without transparent huge pages runs on small ones.
  madvise(first + before, bytes, MADV_HUGEPAGE);
#endif
  return first + before;
}
#endif

}  // namespace

void size_overflows() { throw std::length_error("size overflows"); }

Buffer::Buffer(std::size_t bytes, Contents contents) : size_(bytes) {
  if (bytes == 0) return;
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
#if defined(MAP_ANONYMOUS)
  if (is_mapped(bytes)) {
    data_ = map(mapped_bytes(bytes));
    if (!data_) throw std::bad_alloc();
    return;  // zeros already
  }
#endif
  data_ = static_cast<std::byte*>(std::aligned_alloc(kAlignment, round_up(bytes, kAlignment)));
  if (!data_) throw std::bad_alloc();
  if (contents == Contents::zeros) std::memset(data_, 0, bytes);
}

Buffer::~Buffer() {
#if defined(MAP_ANONYMOUS)
  if (is_mapped(size_)) {
    munmap(data_, mapped_bytes(size_));
    return;
  }
#endif
  std::free(data_);
}

}  // namespace fastgru
