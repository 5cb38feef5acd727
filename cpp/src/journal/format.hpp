// Bytes of a journal segment as structs (the table is in rdmaorder/journal.hpp and docs/journal.md)
// and the checksum of a record.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "rdmaorder/platform.hpp"
#include "rdmaorder/wire/crc32c.hpp"
#include "rdmaorder/wire/slot.hpp"

namespace rdmaorder::journal {

struct SegmentHeader {
  std::uint64_t magic;           //  0  stored last: 0 means prepared, not yet part of the journal
  std::uint32_t version;         //  8
  std::uint32_t crc;             // 12  crc32c of bytes 16 .. 64
  std::uint64_t number;          // 16
  std::uint64_t first_position;  // 24
  std::uint64_t segment_bytes;   // 32
  std::uint64_t created_ns;      // 40
  std::uint64_t salt;            // 48
  std::uint64_t reserved;        // 56
};
static_assert(sizeof(SegmentHeader) == 64 && std::is_trivially_copyable_v<SegmentHeader>);
static_assert(offsetof(SegmentHeader, number) == 16 && offsetof(SegmentHeader, salt) == 48);

struct RecordHeader {
  std::uint32_t crc;            //  0  \ one 64-bit word, stored last: not zero means complete
  std::uint32_t payload_bytes;  //  4  /
  std::uint64_t position;       //  8
  std::uint64_t time_ns;        // 16
  std::uint64_t sequence;       // 24
  std::uint32_t session_index;  // 32
  std::uint16_t kind;           // 36
  std::uint16_t detail;         // 38
};
static_assert(sizeof(RecordHeader) == 40 && std::is_trivially_copyable_v<RecordHeader>);
static_assert(offsetof(RecordHeader, position) == 8 &&
              offsetof(RecordHeader, session_index) == 32 && offsetof(RecordHeader, kind) == 36 &&
              offsetof(RecordHeader, detail) == 38);

inline constexpr std::uint64_t kMagic = 0x31304C4E524A4F52ULL;  // "ROJRNL01"
inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::uint64_t kSegmentHeaderBytes = 4096;
/// In the header page, two words: positions [first, end) of Writer::note_refused.
inline constexpr std::uint64_t kRefusedOffset = kSegmentHeaderBytes - 16;
inline constexpr std::uint64_t kSegmentBytesMin = 64ULL << 10;
inline constexpr std::uint64_t kSegmentBytesMax = 1ULL << 40;
inline constexpr std::uint32_t kRecordHeaderBytes = sizeof(RecordHeader);
inline constexpr std::uint64_t kRecordAlignBytes = 32;
/// A payload is never empty, so that the first word of a complete record is never zero.
inline constexpr std::uint32_t kPayloadBytesMin = 1;
inline constexpr std::uint32_t kPayloadBytesMax = 8192;
static_assert(kPayloadBytesMax >= wire::kSlotBytesMax);
static_assert(kSegmentBytesMin > kSegmentHeaderBytes + kRecordHeaderBytes + kPayloadBytesMax);

[[nodiscard]] constexpr std::uint64_t record_bytes(std::uint32_t payload_bytes) noexcept {
  return (kRecordHeaderBytes + std::uint64_t{payload_bytes} + kRecordAlignBytes - 1) &
         ~(kRecordAlignBytes - 1);
}
inline constexpr std::uint64_t kRecordBytesMax = record_bytes(kPayloadBytesMax);
/// An order or report of a 64-byte slot: header and block.
inline constexpr std::uint32_t kUsualPayloadBytes = wire::kSlotBytesDefault - wire::kCommitBytes;
static_assert(record_bytes(kUsualPayloadBytes) == 96,
              "an order of a 64-byte slot fills its record to the byte");

[[nodiscard]] constexpr bool is_valid_segment_bytes(std::uint64_t bytes) noexcept {
  return bytes >= kSegmentBytesMin && bytes <= kSegmentBytesMax && bytes % kPageBytes == 0;
}

[[nodiscard]] inline std::uint32_t segment_header_crc(const SegmentHeader& header) noexcept {
  return wire::crc32c(reinterpret_cast<const std::byte*>(&header) + 16, sizeof(header) - 16);
}

/// Checksums of the records of one segment. The salt and the payload size, the first 12 bytes under
/// the CRC, are folded into a prefix that is kept while the size stays the same: what remains for
/// an order is 11 whole words.
class RecordCrc {
 public:
  RecordCrc() = default;
  explicit RecordCrc(std::uint64_t salt) noexcept
      : salt_state_(wire::crc32c_words(wire::kCrc32cInit, &salt, 1)) {}

  /// `record` is 8-byte aligned and holds the header behind its first word, and the payload.
  RDMAORDER_ALWAYS_INLINE std::uint32_t operator()(const std::byte* record,
                                                   std::uint32_t payload_bytes) noexcept {
    if (RDMAORDER_UNLIKELY(payload_bytes != prefix_payload_bytes_)) set_prefix(payload_bytes);
    const auto* words = reinterpret_cast<const std::uint64_t*>(record) + 1;
    constexpr std::size_t kHeaderWords = (kRecordHeaderBytes - 8) / 8;
    if (RDMAORDER_LIKELY(payload_bytes == kUsualPayloadBytes)) {  // lets the compiler unroll
      return wire::crc32c_finish(wire::crc32c_words(prefix_, words, kHeaderWords + 7));
    }
    const std::size_t word_count = kHeaderWords + payload_bytes / 8;
    const std::uint32_t state = wire::crc32c_words(prefix_, words, word_count);
    return wire::crc32c_finish(wire::crc32c_bytes(state, words + word_count, payload_bytes % 8));
  }

 private:
  void set_prefix(std::uint32_t payload_bytes) noexcept {
    prefix_ = wire::crc32c_bytes(salt_state_, &payload_bytes, sizeof(payload_bytes));
    prefix_payload_bytes_ = payload_bytes;
  }

  std::uint32_t salt_state_ = 0;
  std::uint32_t prefix_ = 0;
  std::uint32_t prefix_payload_bytes_ = 0;  ///< 0 is never asked for: payloads are not empty
};

}  // namespace rdmaorder::journal
