// The stamp of an answer.
#pragma once

#include "rdmaorder/clock.hpp"

namespace rdmaorder::pingpong {

/// The cycle counter, read after everything before it has been done. A plain reading may be taken
/// while the load that ends a wait is still under way, if the processor guesses that the wait is
/// over: round trips of no time at all would be seen.
RDMAORDER_ALWAYS_INLINE std::uint64_t ticks_after_loads() noexcept {
#if defined(__x86_64__)
  _mm_lfence();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
  return ticks();
}

}  // namespace rdmaorder::pingpong
