// Atomic access to 64-bit words of memory that another process (or a NIC) reads or writes.
//
// std::atomic_ref would do, but it cannot take const memory before C++26. On x86-64 and AArch64 an
// aligned 64-bit access is single-copy atomic; these builtins also bind the compiler and are what
// ThreadSanitizer understands. Ordering is always named by the caller in a SYNC comment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rdmaorder/platform.hpp"

namespace rdmaorder {

RDMAORDER_ALWAYS_INLINE std::uint64_t load_acquire(const std::uint64_t* word) noexcept {
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
RDMAORDER_ALWAYS_INLINE std::uint64_t load_relaxed(const std::uint64_t* word) noexcept {
  return __atomic_load_n(word, __ATOMIC_RELAXED);
}
RDMAORDER_ALWAYS_INLINE void store_release(std::uint64_t* word, std::uint64_t value) noexcept {
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
RDMAORDER_ALWAYS_INLINE void store_relaxed(std::uint64_t* word, std::uint64_t value) noexcept {
  __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/// Copies `word_count` words out of shared memory, each read exactly once. Pair with an acquire of
/// the word that announces them.
RDMAORDER_ALWAYS_INLINE void copy_words_from_shared(AliasingWord* to, const std::uint64_t* from,
                                                    std::size_t word_count) noexcept {
#pragma GCC unroll 8
  for (std::size_t i = 0; i < word_count; ++i) to[i] = load_relaxed(from + i);
}

/// Stores one cache line into shared memory, each word exactly once: `seven_words` relaxed, then
/// the last word released. Pair with an acquire of the last word.
RDMAORDER_ALWAYS_INLINE void store_line(std::uint64_t* to, const std::uint64_t* seven_words,
                                        std::uint64_t last_word) noexcept {
#pragma GCC unroll 8
  for (std::size_t i = 0; i < 7; ++i) store_relaxed(to + i, seven_words[i]);
  store_release(to + 7, last_word);
}

}  // namespace rdmaorder
