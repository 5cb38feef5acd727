// The slot: the cell of a ring, written by one put. All integers little-endian.
//
//   offset  size   field
//   0       2      block_length   bytes of the message block in use    (SBE
//   2       2      template_id    which message              message
//   4       2      schema_id                                 header,
//   6       2      version        of the schema              bytes 0 .. 8)
//   8       n-16   message block  (48 bytes in a 64-byte slot)
//   n-8     4      crc32c         over (epoch u64, sequence u64, bytes 0 .. n-8)
//   n-4     4      sequence_low   low 32 bits of the sequence (starts at 1, never repeats)
//
// The last 8 bytes are the commit word: one aligned 64-bit load tells "the next sequence is here".
// The sequence makes clearing needless and tells laps apart, the epoch in the CRC makes a late
// write of an earlier link invalid, the CRC tells a torn slot. docs/wire-format.md repeats this
// table; a test compares the two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "rdmaorder/platform.hpp"
#include "rdmaorder/wire/crc32c.hpp"

namespace rdmaorder::wire {

struct MessageHeader {
  std::uint16_t block_length;
  std::uint16_t template_id;
  std::uint16_t schema_id;
  std::uint16_t version;
};
static_assert(sizeof(MessageHeader) == 8 && std::is_trivially_copyable_v<MessageHeader>);

inline constexpr std::uint32_t kHeaderBytes = sizeof(MessageHeader);
inline constexpr std::uint32_t kCommitBytes = 8;
inline constexpr std::uint32_t kSlotBytesDefault = 64;
inline constexpr std::uint32_t kSlotBytesMax = 4096;  // 64 * k, k <= 64

[[nodiscard]] constexpr bool is_valid_slot_bytes(std::uint64_t bytes) noexcept {
  return bytes >= kSlotBytesDefault && bytes <= kSlotBytesMax && bytes % kCacheLineBytes == 0;
}

/// Commit word of a slot: crc32c in the low half, low 32 bits of the sequence in the high half.
[[nodiscard]] constexpr std::uint64_t make_commit_word(std::uint32_t crc,
                                                       std::uint64_t sequence) noexcept {
  return (sequence << 32) | crc;
}
[[nodiscard]] constexpr std::uint32_t commit_sequence_low(std::uint64_t commit_word) noexcept {
  return static_cast<std::uint32_t>(commit_word >> 32);
}
[[nodiscard]] constexpr std::uint32_t commit_crc(std::uint64_t commit_word) noexcept {
  return static_cast<std::uint32_t>(commit_word);
}

/// CRC state after the epoch: the same for every slot of a link.
[[nodiscard]] inline std::uint32_t slot_crc_epoch(std::uint64_t epoch) noexcept {
  return crc32c_word(kCrc32cInit, epoch);
}

/// CRC state after (epoch, sequence), from that after the epoch. Known before the message is, so
/// both sides compute it for the next sequence ahead of time: only n/8 - 1 words remain on the
/// critical path.
[[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint32_t slot_crc_next(std::uint32_t epoch_state,
                                                                  std::uint64_t sequence) noexcept {
  return crc32c_word(epoch_state, sequence);
}

/// The same from the epoch itself.
[[nodiscard]] inline std::uint32_t slot_crc_prefix(std::uint64_t epoch,
                                                   std::uint64_t sequence) noexcept {
  return slot_crc_next(slot_crc_epoch(epoch), sequence);
}

/// CRC of a slot of `slot_bytes` whose prefix state is known; reads all but the commit word.
[[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint32_t slot_crc(std::uint32_t prefix,
                                                             const std::uint64_t* slot_words,
                                                             std::uint32_t slot_bytes) noexcept {
  if (RDMAORDER_LIKELY(slot_bytes == kSlotBytesDefault)) {
    return crc32c_finish(crc32c_words<kSlotBytesDefault / 8 - 1>(prefix, slot_words));
  }
  return crc32c_finish(crc32c_padded_words(prefix, slot_words, slot_bytes / 8 - 1));
}

/// A 64-byte slot in private memory, aligned so that it is one cache line.
struct alignas(kCacheLineBytes) Slot64 {
  std::uint64_t words[8];
};
static_assert(sizeof(Slot64) == 64);

}  // namespace rdmaorder::wire
