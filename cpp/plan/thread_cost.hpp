// What threads cost a call that comes now: waking them, and the barriers at which threads that
// share a layer's units wait for each other. Remembers when the calling thread's calls came;
// decides nothing: plan.cpp does.
#pragma once

#include <cstddef>

namespace fastgru {

// What a region that starts now will cost the calling thread: see Note [When threads are worth it].
// Infinite while another program has a core. Greater in a forked child, which measures it now and
// then. Asked once at the beginning of a call that may use
// threads; call_ended() at its end.
double region_microseconds();
// What a barrier of two threads costs each, with a few cache lines that each has written and the
// other one reads. Measured by two threads at most once a second, in a row of calls that use
// threads; else as measured last.
double barrier_microseconds();
// used: whether the call used threads. long_waits: of the barriers at which threads with equal work
// met, of all threads.
void call_ended(bool used, std::size_t long_waits);

}  // namespace fastgru
