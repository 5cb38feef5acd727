// What is sent where no order is: k lines of 64 bytes that differ in every word from message to
// message, and say so in their last word.
//
//   word 0            sequence (from 1)
//   words 1 … n-2     pattern of sequence and position
//   word n-1          CRC-32C of words 0 … n-2 in the upper half, low half of the sequence in the
//                     lower one. Lands last where the transport keeps the order of bytes
#pragma once

#include <cstdint>
#include <cstring>

#include "rdmaorder/platform.hpp"
#include "rdmaorder/wire/crc32c.hpp"

namespace rdmaorder::pingpong {

inline constexpr std::uint32_t kPayloadBytesMax = 4096;

struct alignas(kCacheLineBytes) Payload {
  std::uint64_t words[kPayloadBytesMax / 8];
};

[[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint64_t closing_word(const std::uint64_t* words,
                                                                 std::size_t word_count) noexcept {
  const std::uint32_t crc =
      wire::crc32c_finish(wire::crc32c_words(wire::kCrc32cInit, words, word_count - 1));
  return std::uint64_t{crc} << 32 | (words[0] & 0xFFFFFFFFU);
}

inline void fill(std::uint64_t* words, std::size_t word_count, std::uint64_t sequence) noexcept {
  words[0] = sequence;
  for (std::size_t i = 1; i + 1 < word_count; ++i) {
    words[i] = (sequence + i) * 0x9E3779B97F4A7C15U;
  }
  words[word_count - 1] = closing_word(words, word_count);
}

/// Exactly what `fill` makes of `sequence`.
[[nodiscard]] inline bool is_payload(const std::uint64_t* words, std::size_t word_count,
                                     std::uint64_t sequence) noexcept {
  if (words[0] != sequence) return false;
  for (std::size_t i = 1; i + 1 < word_count; ++i) {
    if (words[i] != (sequence + i) * 0x9E3779B97F4A7C15U) return false;
  }
  return words[word_count - 1] == closing_word(words, word_count);
}

}  // namespace rdmaorder::pingpong
