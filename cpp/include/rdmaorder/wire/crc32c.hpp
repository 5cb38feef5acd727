// CRC-32C (Castagnoli, reflected 0x82F63B78, initial and final 0xFFFFFFFF; RFC 3720 appendix B.4).
//
// The order path works on whole 64-bit words: one crc32q (3 cycles) a word. Where the processor
// lacks SSE 4.2 (or is neither x86-64 nor Arm with CRC) a slicing-by-8 table takes over; the choice
// is a flag read at run time, so one build serves every x86-64.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

#include "rdmaorder/platform.hpp"

namespace rdmaorder::wire {

/// Running state: starts at kCrc32cInit, `crc32c_finish` gives the checksum.
inline constexpr std::uint32_t kCrc32cInit = 0xFFFFFFFFU;
[[nodiscard]] constexpr std::uint32_t crc32c_finish(std::uint32_t state) noexcept {
  return state ^ 0xFFFFFFFFU;
}

namespace detail {
extern const bool kHasCrc32Instruction;
std::uint32_t crc32c_portable_words(std::uint32_t state, const std::uint64_t* words,
                                    std::size_t word_count) noexcept;
std::uint32_t crc32c_portable_word(std::uint32_t state, std::uint64_t word) noexcept;
std::uint32_t crc32c_portable_bytes(std::uint32_t state, const void* data,
                                    std::size_t byte_count) noexcept;

RDMAORDER_ALWAYS_INLINE std::uint64_t crc32c_step(std::uint64_t state,
                                                  std::uint64_t word) noexcept {
#if defined(__x86_64__)
  // Inline assembly: usable without -msse4.2 on the whole build; guarded by kHasCrc32Instruction.
  // volatile: else the compiler may compute it before it looks at the guard, where its inputs are
  // known sooner, and a processor without the instruction ends the process.
  asm volatile("crc32q %1, %0" : "+r"(state) : "rm"(word));
  return state;
#elif defined(__ARM_FEATURE_CRC32)
  return __crc32cd(static_cast<std::uint32_t>(state), word);
#else
  return crc32c_portable_words(static_cast<std::uint32_t>(state), &word, 1);
#endif
}
}  // namespace detail

/// Extends `state` over `word_count` 64-bit little-endian words.
RDMAORDER_ALWAYS_INLINE std::uint32_t crc32c_words(std::uint32_t state, const std::uint64_t* words,
                                                   std::size_t word_count) noexcept {
  if (RDMAORDER_UNLIKELY(!detail::kHasCrc32Instruction)) {
    return detail::crc32c_portable_words(state, words, word_count);
  }
  std::uint64_t s = state;
#pragma GCC unroll 16
  for (std::size_t i = 0; i < word_count; ++i) s = detail::crc32c_step(s, words[i]);
  return static_cast<std::uint32_t>(s);
}

/// The same for a count that the compiler knows. Words that are in registers stay there: the table
/// gets a copy, so that their address is never taken.
template <std::size_t kWordCount>
RDMAORDER_ALWAYS_INLINE std::uint32_t crc32c_words(std::uint32_t state,
                                                   const std::uint64_t* words) noexcept {
  if (RDMAORDER_UNLIKELY(!detail::kHasCrc32Instruction)) {
    std::uint64_t copy[kWordCount];
    for (std::size_t i = 0; i < kWordCount; ++i) copy[i] = words[i];
    return detail::crc32c_portable_words(state, copy, kWordCount);
  }
  std::uint64_t s = state;
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kWordCount; ++i) s = detail::crc32c_step(s, words[i]);
  return static_cast<std::uint32_t>(s);
}

/// Extends `state` over one 64-bit word.
RDMAORDER_ALWAYS_INLINE std::uint32_t crc32c_word(std::uint32_t state,
                                                  std::uint64_t word) noexcept {
  if (RDMAORDER_UNLIKELY(!detail::kHasCrc32Instruction)) {
    return detail::crc32c_portable_word(state, word);
  }
  return static_cast<std::uint32_t>(detail::crc32c_step(state, word));
}

/// Extends `state` over fewer than 512 words of which the last ones are often zero, as behind a
/// message that is shorter than its slot: zeros take a table look-up for every power of two of
/// them.
std::uint32_t crc32c_padded_words(std::uint32_t state, const std::uint64_t* words,
                                  std::size_t word_count) noexcept;

/// Extends `state` over any bytes (cold paths; no alignment needed).
std::uint32_t crc32c_bytes(std::uint32_t state, const void* data, std::size_t byte_count) noexcept;

/// One-shot checksum of a buffer.
[[nodiscard]] inline std::uint32_t crc32c(const void* data, std::size_t byte_count) noexcept {
  return crc32c_finish(crc32c_bytes(kCrc32cInit, data, byte_count));
}

}  // namespace rdmaorder::wire
