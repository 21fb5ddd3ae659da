// The only allocator of the engine: 64-byte aligned float storage, on huge pages where it is large
// enough for them to matter, and the scratch arena of a calling thread.
#pragma once

#include <cstddef>
#include <utility>

namespace fastgru {

constexpr std::size_t kAlignment = 64;  // a cache line, and the widest vector

[[noreturn]] void size_overflows();  // std::length_error

// a * b, or std::length_error where it does not fit: sizes may come from a file or a user.
inline std::size_t checked_product(std::size_t a, std::size_t b) {
  std::size_t product;
  if (__builtin_mul_overflow(a, b, &product)) size_overflows();
  return product;
}

constexpr std::size_t round_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Owns `size` bytes.
class Buffer {
 public:
  // as_found: for who writes every byte that will be read. Clearing new memory first would cost a
  // third of the time that it takes to fill it.
  enum class Contents { zeros, as_found };

  Buffer() = default;
  explicit Buffer(std::size_t bytes, Contents = Contents::zeros);  // throws std::bad_alloc
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Memory of somebody else's.
struct Block {
  std::byte* data = nullptr;
  std::size_t size = 0;
};

// Hands out pieces of one block, first to last. What does not fit is counted all the same, so that
// the same calls can be made again with a block of used() bytes: the layout is written down once.
class Carver {
 public:
  explicit Carver(const Block& block) : block_(block) {}

  // `count` objects of T, kAlignment-aligned; nullptr where they do not fit.
  template <class T>
  T* take(std::size_t count) {
    const std::size_t at = used_;
    used_ += round_up(checked_product(count, sizeof(T)), kAlignment);
    return fits() ? reinterpret_cast<T*>(block_.data + at) : nullptr;
  }
  std::size_t used() const { return used_; }
  bool fits() const { return used_ <= block_.size; }

 private:
  Block block_;
  std::size_t used_ = 0;
};

// The calling thread's scratch: at least `bytes`, valid until it is asked for more, release_arena()
// or the thread's end. Grown when a shape needs more than any before it; a repeated shape allocates
// nothing.
Block arena_of(std::size_t bytes);
// Gives back what is over the 64 MiB that a thread may keep.
void release_arena();

}  // namespace fastgru
