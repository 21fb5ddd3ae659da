// Scratch memory: one arena for each calling thread. A thread keeps its arena between calls, so
// that a repeated shape allocates nothing, but no more than 64 MiB of it; release_memory() gives
// that back as well.
#pragma once

#include <cstddef>

#include "system/buffer.hpp"

namespace fastgru {

// The calling thread's arena: at least `bytes`, valid until the thread asks for more, or calls
// release_arena(), or ends. Its contents are whatever was left in it. It grows by half at least, so
// that a batch which grows row by row does not make a new arena each time. Throws std::bad_alloc.
Block arena_of(std::size_t bytes);
// Ends the use of an arena, at the end of every call. Gives the arena back where it is larger than
// a thread may keep, or where release_memory() was called since the thread's last call ended.
void release_arena();

// Gives the scratch memory of all threads back to the system: the calling thread's now, that of
// every other thread when its current or next call ends, or the thread does. Any thread may call it
// at any time, but none from within a call. What calls return does not change.
void release_memory();

}  // namespace fastgru
