// One establishment of the transport under a session, seen from one end: the inbound ring and
// status line in the own window, the outbound ring and status line in the peer's, and the transport
// between. The same class serves strategy (out: orders, in: reports) and gateway (out: reports, in:
// orders).
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/platform.hpp"
#include "rdmaorder/ring/reader.hpp"
#include "rdmaorder/ring/writer.hpp"
#include "rdmaorder/status.hpp"
#include "rdmaorder/transport/transport.hpp"
#include "rdmaorder/wire/status_line.hpp"

namespace rdmaorder {

struct LinkConfig {
  std::uint64_t epoch = 0;
  std::uint64_t previous_epoch = 0;
  const std::uint64_t* own_window_words = nullptr;  ///< outlives the link
  ring::Geometry inbound;                           ///< ring in the own window
  ring::Geometry outbound;                          ///< ring in the peer's window
  std::uint64_t next_inbound_sequence = 1;
  std::uint64_t next_outbound_sequence = 1;
  std::uint32_t outbound_reserve_count = 0;
};

/// What this side tells in its status line; consumed, next_sequence and time are added by the link.
struct OwnState {
  std::uint64_t applied = 0;
  std::uint64_t durable = 0;
  std::uint64_t heartbeat = 0;
  std::uint64_t time_ns = 0;
  PeerState state = PeerState::kOpen;
  Reason reason = Reason::kNone;
};

/// Single thread. Nothing here blocks, allocates or throws.
class Link {
 public:
  Link(const LinkConfig& config, std::unique_ptr<transport::Transport> transport)
      : reader_(config.own_window_words, config.inbound, config.epoch, config.next_inbound_sequence,
                config.previous_epoch),
        writer_(config.outbound, config.epoch, config.next_outbound_sequence,
                config.outbound_reserve_count),
        peer_(config.own_window_words + ring::kStatusLineOffsetBytes / 8, config.epoch),
        transport_(std::move(transport)),
        epoch_(config.epoch),
        is_put_costly_(transport_ != nullptr && transport_->info().depth != 0) {}

  /// kOk: one more message may go now. kFull: no credit; nothing happened. kCorrupt: no credit, and
  /// the peer claims what cannot be: there will be none.
  RDMAORDER_ALWAYS_INLINE Status claim(ring::Lane lane) noexcept {
    if (RDMAORDER_LIKELY(writer_.has_credit(lane)) || refresh_credit(lane)) return Status::kOk;
    return corrupt_ ? Status::kCorrupt : Status::kFull;
  }

  /// After claim(): seals and puts one message of a ring of 64-byte slots, header and block
  /// complete in `seven_words`. kOk: in the peer's ring as sequence writer().next_sequence() - 1.
  /// kFull: the transport has too much outstanding; nothing happened. kTransport.
  ///
  /// Where the window is mapped, words that the caller has in registers go there and nowhere else:
  /// each store to another line between two slots keeps the processor from asking for the lines of
  /// several slots at once (docs/architecture.md, "Orders one by one").
  RDMAORDER_ALWAYS_INLINE Status put_line(const std::uint64_t* seven_words) noexcept {
    const std::uint64_t commit_word = writer_.commit_word(seven_words, wire::kSlotBytesDefault);
    const std::uint64_t offset_bytes = writer_.next_offset_bytes(wire::kSlotBytesDefault);
    Status status = Status::kOk;
    if (std::uint64_t* line = transport_->mapped_line(offset_bytes);
        RDMAORDER_LIKELY(line != nullptr)) {
      // SYNC the slot: released with its commit word here, acquired by Reader::read.
      store_line(line, seven_words, commit_word);
    } else {
      wire::Slot64 slot;
      for (std::size_t i = 0; i < 7; ++i) slot.words[i] = seven_words[i];
      slot.words[7] = commit_word;
      status = transport_->put(offset_bytes, slot.words, sizeof slot);
    }
    if (RDMAORDER_LIKELY(ok(status))) writer_.advance();
    return status;
  }

  /// claim() and put of one message: header and block complete in `slot_words` (slot_bytes, aligned
  /// to 8; a cache line is best), whose commit word may be written. Returns as those do.
  /// `kSlotBytes`: the outbound ring's slot_bytes where the caller knows it; 0: any.
  template <std::uint32_t kSlotBytes = 0>
  RDMAORDER_ALWAYS_INLINE Status send(ring::Lane lane, std::uint64_t* slot_words) noexcept {
    Status status = claim(lane);
    if (RDMAORDER_UNLIKELY(!ok(status))) return status;
    if constexpr (kSlotBytes == wire::kSlotBytesDefault) return put_line(slot_words);
    const std::uint32_t slot_bytes = kSlotBytes != 0 ? kSlotBytes : writer_.geometry().slot_bytes;
    writer_.seal(slot_words, slot_bytes);
    status = transport_->put(writer_.next_offset_bytes(slot_bytes), slot_words, slot_bytes);
    if (RDMAORDER_LIKELY(ok(status))) writer_.advance();
    return status;
  }

  /// Puts up to `count` consecutive complete slots starting at `slots` (read only), in as few
  /// contiguous writes as ring end and `kBatchBytes` allow; both sides of the ring's end go under
  /// one doorbell. Returns how many went; fewer than asked
  /// means *status is kFull, kCorrupt or kTransport.
  std::uint32_t send_batch(ring::Lane lane, const std::uint64_t* slots, std::uint32_t count,
                           Status* status) noexcept;

  /// Takes the peer's consumed position into account. True when there is credit in `lane`.
  bool refresh_credit(ring::Lane lane) noexcept;

  /// Reads the peer's status line; kCorrupt, from then on, when it claims what cannot be.
  Status refresh_peer() noexcept;

  /// Writes this side's status line into the peer's window.
  Status publish(const OwnState& own) noexcept;

  [[nodiscard]] ring::Reader& reader() noexcept { return reader_; }
  [[nodiscard]] const ring::Reader& reader() const noexcept { return reader_; }
  [[nodiscard]] const ring::Writer& writer() const noexcept { return writer_; }
  [[nodiscard]] const wire::StatusLine& peer() const noexcept { return peer_.latest(); }
  [[nodiscard]] transport::Transport& transport() noexcept { return *transport_; }
  [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
  /// Inbound sequences taken but not yet told to the peer.
  [[nodiscard]] std::uint64_t unpublished_count() const noexcept {
    return reader_.next_sequence() - 1 - published_consumed_;
  }

  /// Each put is work for a device, and two packets on a wire: status lines then wait for a quarter
  /// of a ring or the heartbeat, where over shared memory they go out in the next idle moment.
  [[nodiscard]] bool is_put_costly() const noexcept { return is_put_costly_; }

  static constexpr std::uint32_t kBatchBytes = 4096;  ///< staging, hence the largest single put

 private:
  static constexpr int kTornLooks = 8;

  std::uint32_t put_run(std::uint32_t count, Status* status) noexcept;

  ring::Reader reader_;
  ring::Writer writer_;
  wire::StatusLineReader peer_;
  std::unique_ptr<transport::Transport> transport_;
  std::uint64_t epoch_;
  std::uint64_t own_version_ = 0;
  std::uint64_t published_consumed_ = 0;
  bool is_put_costly_;
  bool corrupt_ = false;  ///< the peer claimed to have taken what was never written
  alignas(kCacheLineBytes) std::uint64_t staging_[kBatchBytes / 8];
};

}  // namespace rdmaorder
