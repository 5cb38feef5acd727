// Compiler and processor facts that every layer uses. No state, no dependencies.
#pragma once

#if __cplusplus <= 201703L
#error "rdmaorder's headers need C++20: compile with -std=c++20 or newer"
#endif

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace rdmaorder {

inline constexpr std::size_t kCacheLineBytes = 64;
/// Distance that keeps two independently written words apart from the adjacent-line prefetcher.
inline constexpr std::size_t kFalseSharingBytes = 128;
inline constexpr std::size_t kPageBytes = 4096;

#define RDMAORDER_LIKELY(x) __builtin_expect(!!(x), 1)
#define RDMAORDER_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define RDMAORDER_ALWAYS_INLINE inline __attribute__((always_inline))

/// A 64-bit word of an object of any type: may be read and written through where the object is
/// copied word by word (a wider copy of words just stored waits for the store buffer).
using AliasingWord [[gnu::may_alias]] = std::uint64_t;

/// Tells the core that this is a spin-wait; never yields to the kernel.
RDMAORDER_ALWAYS_INLINE void cpu_relax() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the wire format is little-endian and is written by plain stores");

}  // namespace rdmaorder
