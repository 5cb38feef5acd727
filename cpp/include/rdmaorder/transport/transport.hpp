// The transport contract: moves bytes into the peer's window. Knows no slot, no sequence, no
// session. tests/cpp/transport_conformance.hpp is this page as a test suite, run on every
// implementation (in-process, shared memory, verbs); the kernel-socket, AF_XDP and DPDK paths have
// to meet it too.
//
// A put
//   - writes `bytes` bytes at `offset_bytes` of the peer's window, all of them or (link broken)
//     possibly some; it never writes outside [offset, offset + bytes);
//   - is done with `source` when it returns (it copied, inlined or finished);
//   - becomes visible to the peer's CPU without any further call on either side;
//   - promises nothing about the order of its own bytes, nor between two puts, beyond: each aligned
//     64-bit word arrives whole, and two puts of one transport to the same word land in order.
//     Where more holds, info().byte_order says so; readers verify the CRC in any case.
//   - returning kOk says nothing about arrival: receipts come from the peer's CPU (status line).
//
// One thread at a time may use a transport. The data path (put, progress) never blocks, allocates,
// throws or logs.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "rdmaorder/platform.hpp"
#include "rdmaorder/status.hpp"

namespace rdmaorder::transport {

/// In which order the bytes of one put become visible.
enum class ByteOrder : std::uint8_t {
  kUnspecified,    ///< any order (soft-RoCE, NICs that do not attest)
  kAscendingLine,  ///< within a 64-byte line the last word comes last; lines ascend
};

struct Info {
  const char* name = "";            ///< "shm", "inproc", "verbs"
  std::uint64_t window_bytes = 0;   ///< size of the peer's window
  std::uint32_t max_put_bytes = 0;  ///< larger puts are refused with kTooLarge
  std::uint32_t inline_bytes = 0;   ///< up to here the source is taken without a DMA read
  std::uint32_t depth = 0;          ///< puts that may be outstanding; 0: completes at once
  ByteOrder byte_order = ByteOrder::kUnspecified;
  bool can_revoke = false;  ///< the owner of the window can take write permission away
};

/// One put of a list.
struct PutRequest {
  std::uint64_t offset_bytes = 0;
  const void* source = nullptr;
  std::uint32_t bytes = 0;
};

class Transport {
 public:
  Transport() = default;
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;
  virtual ~Transport() = default;

  /// kOk; kFull (too many outstanding: call progress and retry); kTooLarge or kInvalid (outside the
  /// window or not 8-byte aligned: nothing was written); kTransport (the link failed, for good).
  virtual Status put(std::uint64_t offset_bytes, const void* source,
                     std::uint32_t bytes) noexcept = 0;

  /// The puts in their order, as put() would each, but with one doorbell where the device has
  /// doorbells. Returns how many went: all, or *status says why the next one did not.
  virtual std::uint32_t put_list(std::span<const PutRequest> puts, Status* status) noexcept {
    std::uint32_t taken = 0;
    *status = Status::kOk;
    for (; taken < puts.size(); ++taken) {
      *status = put(puts[taken].offset_bytes, puts[taken].source, puts[taken].bytes);
      if (*status != Status::kOk) break;
    }
    return taken;
  }

  /// Where the cache line at `offset_bytes` (a multiple of 64) of the peer's window is mapped into
  /// this process: store_line() there is then a put of 64 bytes that returned kOk. Null: put() it,
  /// which says why not (not mapped, closed, outside).
  [[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint64_t* mapped_line(
      std::uint64_t offset_bytes) const noexcept {
    return offset_bytes < mapped_bytes_ ? mapped_words_ + offset_bytes / 8 : nullptr;
  }

  /// Reaps completions. kOk (link good) or kTransport (failed for good; `failure()` says why).
  /// Call it off the critical path; cheap enough for every idle poll.
  virtual Status progress() noexcept = 0;

  [[nodiscard]] virtual const Info& info() const noexcept = 0;

  /// Cause of kTransport in one line, empty while the link is good.
  [[nodiscard]] virtual std::string failure() const = 0;

  /// Waits, a bounded time, until what was put has arrived: before the close() of a link that ends
  /// in order. Not for a link given up, whose peer may never answer. Nothing to do where a put is
  /// complete when it returns.
  virtual void linger() noexcept {}

  /// Ends the link at once, whatever is under way; later puts return kTransport. Idempotent.
  virtual void close() noexcept = 0;

 protected:
  std::uint64_t* mapped_words_ = nullptr;
  std::uint64_t mapped_bytes_ = 0;  ///< in whole cache lines; 0: not mapped, or closed
};

}  // namespace rdmaorder::transport
