// Producer half of a ring: which sequence comes next, where it goes, whether there is credit, and
// the commit word. Moves no bytes: the caller puts the sealed slot through its transport.
#pragma once

#include <algorithm>
#include <cstdint>

#include "rdmaorder/ring/geometry.hpp"
#include "rdmaorder/status.hpp"
#include "rdmaorder/wire/slot.hpp"

namespace rdmaorder::ring {

/// The last `reserve_count` credits are for urgent messages (cancels, mass cancels, kills), so that
/// a ring full of orders still takes a cancel. One ring: an order and its cancel never pass each
/// other.
enum class Lane : std::uint8_t { kNormal, kUrgent };

/// Single thread. Credits are absolute positions: sequence s may be written when
/// s <= consumed + slot_count (less the reserve in the normal lane).
class Writer {
 public:
  /// `first_sequence`: the first one this link writes; the reader expects the same.
  Writer(const Geometry& geometry, std::uint64_t epoch, std::uint64_t first_sequence,
         std::uint32_t reserve_count) noexcept
      : geometry_(geometry),
        epoch_state_(wire::slot_crc_epoch(epoch)),
        next_(first_sequence),
        prefix_(wire::slot_crc_next(epoch_state_, first_sequence)),
        reserve_count_(std::min(reserve_count, geometry.slot_count - 1)),
        limit_(first_sequence - 1 + geometry.slot_count) {}

  [[nodiscard]] std::uint64_t next_sequence() const noexcept { return next_; }
  [[nodiscard]] const Geometry& geometry() const noexcept { return geometry_; }

  /// Slots that may be written now in this lane.
  [[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint32_t credit_count(Lane lane) const noexcept {
    const std::uint64_t reserved = lane == Lane::kUrgent ? 0 : reserve_count_;
    const std::uint64_t end = limit_ + 1 - reserved;
    return end > next_ ? static_cast<std::uint32_t>(end - next_) : 0;
  }
  [[nodiscard]] RDMAORDER_ALWAYS_INLINE bool has_credit(Lane lane) const noexcept {
    return next_ + (lane == Lane::kUrgent ? 0 : reserve_count_) <= limit_;
  }
  /// Slots from the next one to the end of the ring: what one put can cover.
  [[nodiscard]] std::uint32_t contiguous_count() const noexcept {
    return geometry_.slot_count - geometry_.slot_index(next_);
  }
  [[nodiscard]] std::uint64_t next_offset_bytes() const noexcept {
    return geometry_.slot_offset_bytes(next_);
  }
  [[nodiscard]] std::uint64_t next_offset_bytes(std::uint32_t slot_bytes) const noexcept {
    return geometry_.slot_offset_bytes(next_, slot_bytes);
  }

  /// The commit word that makes a slot whose header and block are complete the next sequence.
  [[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint64_t commit_word(
      const std::uint64_t* slot_words, std::uint32_t slot_bytes) const noexcept {
    return wire::make_commit_word(wire::slot_crc(prefix_, slot_words, slot_bytes), next_);
  }
  /// Writes it into the slot.
  RDMAORDER_ALWAYS_INLINE void seal(std::uint64_t* slot_words,
                                    std::uint32_t slot_bytes) const noexcept {
    slot_words[slot_bytes / 8 - 1] = commit_word(slot_words, slot_bytes);
  }
  RDMAORDER_ALWAYS_INLINE void seal(std::uint64_t* slot_words) const noexcept {
    seal(slot_words, geometry_.slot_bytes);
  }
  /// The same for a slot `ahead` places after the next one (batches).
  RDMAORDER_ALWAYS_INLINE void seal_ahead(std::uint64_t* slot_words,
                                          std::uint32_t ahead) const noexcept {
    const std::uint64_t sequence = next_ + ahead;
    const std::uint32_t prefix = wire::slot_crc_next(epoch_state_, sequence);
    slot_words[geometry_.slot_bytes / 8 - 1] =
        wire::make_commit_word(wire::slot_crc(prefix, slot_words, geometry_.slot_bytes), sequence);
  }
  /// The sealed slots were put. Also prepares the CRC prefix of the next one, off the send's
  /// critical path.
  RDMAORDER_ALWAYS_INLINE void advance(std::uint32_t count = 1) noexcept {
    next_ += count;
    prefix_ = wire::slot_crc_next(epoch_state_, next_);
  }

  /// The reader's consumed position. Older positions are no news. kCorrupt: a position never
  /// written, which no valid peer reports.
  Status on_consumed(std::uint64_t consumed) noexcept {
    if (consumed >= next_) return Status::kCorrupt;
    limit_ = std::max(limit_, consumed + geometry_.slot_count);
    return Status::kOk;
  }

 private:
  Geometry geometry_;
  std::uint32_t epoch_state_;
  std::uint64_t next_;
  std::uint32_t prefix_;
  std::uint32_t reserve_count_;
  std::uint64_t limit_;  ///< highest sequence the urgent lane may write
};

}  // namespace rdmaorder::ring
