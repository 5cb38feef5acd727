// Where the slot of a sequence lies. Pure arithmetic.
#pragma once

#include <bit>
#include <cstdint>

#include "rdmaorder/wire/slot.hpp"

namespace rdmaorder::ring {

inline constexpr std::uint32_t kSlotCountMin = 8;
inline constexpr std::uint32_t kSlotCountMax = 1U << 20;

/// Bytes at the start of a window that hold the peer's status line; the ring never overlaps them.
inline constexpr std::uint64_t kStatusLineOffsetBytes = 0;
inline constexpr std::uint64_t kRingOffsetMinBytes = kFalseSharingBytes;
/// A huge page: what lies before the ring is mapped and locked with it.
inline constexpr std::uint64_t kRingOffsetMaxBytes = std::uint64_t{2} << 20;

/// A ring inside a window. Sequence s lives in slot (s - 1) mod slot_count.
struct Geometry {
  std::uint64_t offset_bytes = kRingOffsetMinBytes;  ///< of slot 0 from the start of the window
  std::uint32_t slot_bytes = wire::kSlotBytesDefault;
  std::uint32_t slot_count = 256;  ///< a power of two

  [[nodiscard]] constexpr std::uint32_t slot_index(std::uint64_t sequence) const noexcept {
    return static_cast<std::uint32_t>(sequence - 1) & (slot_count - 1);
  }
  [[nodiscard]] constexpr std::uint64_t slot_offset_bytes(std::uint64_t sequence) const noexcept {
    return slot_offset_bytes(sequence, slot_bytes);
  }
  /// The same with slot_bytes known to the compiler.
  [[nodiscard]] constexpr std::uint64_t slot_offset_bytes(std::uint64_t sequence,
                                                          std::uint32_t bytes) const noexcept {
    return offset_bytes + std::uint64_t{slot_index(sequence)} * bytes;
  }
  [[nodiscard]] constexpr std::uint64_t ring_bytes() const noexcept {
    return std::uint64_t{slot_bytes} * slot_count;
  }
  /// Smallest window that holds status line and ring.
  [[nodiscard]] constexpr std::uint64_t window_bytes() const noexcept {
    return offset_bytes + ring_bytes();
  }
  [[nodiscard]] constexpr bool is_valid() const noexcept {
    return wire::is_valid_slot_bytes(slot_bytes) && std::has_single_bit(slot_count) &&
           slot_count >= kSlotCountMin && slot_count <= kSlotCountMax &&
           offset_bytes >= kRingOffsetMinBytes && offset_bytes % kCacheLineBytes == 0 &&
           offset_bytes <= kRingOffsetMaxBytes;
  }
};

}  // namespace rdmaorder::ring
