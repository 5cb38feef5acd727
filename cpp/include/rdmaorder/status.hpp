// The closed set of results a hot-path call can return. Exceptions (error.hpp) are for set-up only.
#pragma once

#include <cstdint>

namespace rdmaorder {

/// Negative values are refusals: nothing was written, nothing changed. Mirrored by
/// `rdmaorder.Status`; a test compares the two.
enum class [[nodiscard]] Status : std::int32_t {
  kOk = 0,
  kEmpty = -1,         ///< nothing to read now
  kFull = -2,          ///< no credit: back-pressure, try again after polling
  kNotConnected = -3,  ///< no link, or the link is suspect: nothing may be sent
  kClosed = -4,        ///< the session or link was closed and will not come back by itself
  kHalted = -5,        ///< the peer refuses new orders (kill switch, journal failure)
  kThrottled = -6,     ///< over the agreed rate
  kInvalid = -7,       ///< an argument is out of its range
  kTooLarge = -8,      ///< does not fit a slot, a window or a batch
  kTorn = -9,          ///< a slot whose commit word and contents disagree; may heal, look again
  kCorrupt = -10,      ///< a slot that stayed torn, or a message no valid peer writes
  kLapped = -11,       ///< the producer overran the reader: sequences are missing
  kTimeout = -12,      ///< the deadline passed
  kIo = -13,           ///< storage failed; errno was kept by the object that returned this
  kTransport = -14,    ///< the transport failed; the link's error has the cause
};

/// Stable lower-case name, for example "full". Never null.
const char* status_name(Status status) noexcept;

[[nodiscard]] constexpr bool ok(Status status) noexcept { return status == Status::kOk; }

}  // namespace rdmaorder
