// The status line: 64 bytes that each side writes into the other's window. Positions, never
// increments: a lost or repeated write does no harm.
//
//   offset  size  field
//   0       8     consumed       highest inbound sequence copied out of the ring (the credit)
//   8       8     applied        highest inbound sequence taken (gateway) / delivered (strategy)
//   16      8     durable        highest inbound sequence in the journal on stable storage
//   24      8     next_sequence  the next sequence this side will write (an idle gap shows)
//   32      8     heartbeat      bumped by the thread that works the ring, never by a helper
//   40      8     time_ns        CLOCK_REALTIME of the writer when it wrote this line
//   48      1     state          PeerState
//   49      1     reason         Reason of a state other than open
//   50      6     reserved       0
//   56      4     crc32c         over (epoch u64, version u64, bytes 0 .. 56), as for a slot
//   60      4     version_low    low 32 bits of the version, which counts the writes from 1
//
// It has the frame of a slot (the version standing for the sequence), so a torn read is told the
// same way and simply read again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/status.hpp"
#include "rdmaorder/types.hpp"
#include "rdmaorder/wire/slot.hpp"

namespace rdmaorder::wire {

struct alignas(kCacheLineBytes) StatusLine {
  std::uint64_t consumed;
  std::uint64_t applied;
  std::uint64_t durable;
  std::uint64_t next_sequence;
  std::uint64_t heartbeat;
  std::uint64_t time_ns;
  PeerState state;
  Reason reason;
  std::uint8_t reserved[6];
  std::uint64_t commit_word;
};
static_assert(sizeof(StatusLine) == 64 && offsetof(StatusLine, state) == 48 &&
              offsetof(StatusLine, commit_word) == 56);

/// Seals `line` with its CRC as write number `version`.
RDMAORDER_ALWAYS_INLINE void seal_status_line(StatusLine& line, std::uint64_t epoch,
                                              std::uint64_t version) noexcept {
  std::uint64_t words[8];
  std::memcpy(words, &line, sizeof words);
  const std::uint32_t crc = slot_crc(slot_crc_prefix(epoch, version), words, kSlotBytesDefault);
  line.commit_word = make_commit_word(crc, version);
}

/// Reads the line the peer writes. One reader thread.
class StatusLineReader {
 public:
  StatusLineReader() = default;
  /// `words`: the line inside the own window (64-byte aligned); outlives the reader.
  StatusLineReader(const std::uint64_t* words, std::uint64_t epoch) noexcept
      : words_(words), epoch_(epoch) {}

  /// kOk: `latest()` is new. kEmpty: unchanged. kTorn: being written or damaged, `latest()` stays.
  Status refresh() noexcept;

  /// The newest line that verified; all zero until the peer wrote one.
  [[nodiscard]] const StatusLine& latest() const noexcept { return latest_; }
  [[nodiscard]] std::uint64_t torn_count() const noexcept { return torn_count_; }

 private:
  const std::uint64_t* words_ = nullptr;
  std::uint64_t epoch_ = 0;
  std::uint64_t seen_commit_word_ = 0;
  std::uint64_t version_ = 0;
  std::uint64_t torn_count_ = 0;
  StatusLine latest_{};
};

}  // namespace rdmaorder::wire
