// Sending, polling and closing. Liveness is in session_liveness.cpp, set-up in session_setup.cpp.
#include "rdmaorder/session.hpp"

#include <algorithm>

namespace rdmaorder {

Status Session::send_failed(Status status) noexcept {
  if (status == Status::kFull) {
    ++counts_.full;
    return status;
  }
  if (status == Status::kCorrupt) {
    fail(LinkState::kDead, "the gateway's status line claims sequence " +
                               std::to_string(link_.peer().consumed) + ", which was never written");
  } else {
    fail(LinkState::kDead, "transport failed: " + link_.transport().failure());
  }
  return Status::kTransport;
}

Status Session::try_send_slot(std::uint64_t* slot_words, ring::Lane lane,
                              std::uint64_t* sequence) noexcept {
  const std::uint64_t now = ticks();
  Status status = admit(lane, now);
  if (!ok(status)) return status;
  status = link_.send(lane, slot_words);
  if (!ok(status)) return send_failed(status);
  *sequence = note_sent(now);
  return Status::kOk;
}

std::uint32_t Session::try_send_batch(const std::uint64_t* slots, std::uint32_t count,
                                      Status* status) noexcept {
  const std::uint64_t now = ticks();
  if (now - last_check_ticks_ > interval_ticks_ / kSendChecksPerInterval) check_link_at(now);
  *status = gate_;
  const std::uint32_t slot_words = slot_bytes_ / 8;
  std::uint32_t sent = 0;
  const auto stamp = [&](std::uint32_t n) {
    std::uint64_t sequence = link_.writer().next_sequence() - n;
    for (std::uint32_t i = 0; i < n; ++i) stamps_[sequence++ & (kStampCount - 1)] = now;
    sent += n;
  };
  if (ok(gate_)) {
    stamp(link_.send_batch(ring::Lane::kNormal, slots, count, status));
  }
  // Out of normal credit, or new orders are refused: the cancels that come next still go.
  while (sent < count && (*status == Status::kFull || urgent_passes(ring::Lane::kUrgent))) {
    const std::uint64_t* slot = slots + std::size_t{sent} * slot_words;
    wire::MessageHeader header;
    std::memcpy(&header, slot, sizeof header);
    if (header.schema_id != wire::kSchemaId || !wire::is_cancel(header.template_id)) break;
    Status urgent = Status::kOk;
    const std::uint32_t n = link_.send_batch(ring::Lane::kUrgent, slot, 1, &urgent);
    if (n == 0) {
      *status = urgent;
      break;
    }
    stamp(n);
    if (sent == count) *status = Status::kOk;
  }
  if (sent < count) {
    if (*status == Status::kFull) {
      ++counts_.full;
    } else if (*status == Status::kTransport || *status == Status::kCorrupt) {
      *status = send_failed(*status);
    } else {
      ++counts_.refused;
    }
  }
  return sent;
}

// Turns a verified slot in place into a ReportRecord (true), or takes it as a session event.
RDMAORDER_ALWAYS_INLINE bool Session::accept_message(AliasingWord* slot_words,
                                                     std::uint64_t sequence,
                                                     std::uint64_t* now) noexcept {
  const std::uint64_t header_word = slot_words[0];
  wire::MessageHeader header;
  std::memcpy(&header, &header_word, sizeof header);
  if (header.schema_id == wire::kSchemaId &&
      header.template_id == static_cast<std::uint16_t>(wire::TemplateId::kExecutionReport)) {
    const std::uint64_t order_sequence = wire::widen_sequence(
        static_cast<std::uint32_t>(slot_words[6]), link_.writer().next_sequence() - 1);
    slot_words[0] = order_sequence;
    slot_words[7] = sequence;
    std::uint64_t& stamp = stamps_[order_sequence & (kStampCount - 1)];
    if (stamp != 0 && link_.writer().next_sequence() - order_sequence <= kStampCount) {
      if (*now == 0) *now = ticks();
      latency_ns_.record(rate_.to_ns(*now - stamp));
      stamp = 0;
    }
    return true;
  }
  if (header.schema_id == wire::kSchemaId &&
      header.template_id == static_cast<std::uint16_t>(wire::TemplateId::kSessionEvent)) {
    wire::SessionEvent event;
    std::memcpy(&event, slot_words + 1, sizeof event);
    push_event(event);
    if (event.kind == SessionEventKind::kThrottled) throttled_since_ns_ = event.time_ns;
    return false;
  }
  ++counts_.unknown_messages;
  return false;
}

std::uint32_t Session::poll(wire::ReportRecord* out, std::uint32_t max_count) noexcept {
  static_assert(offsetof(wire::ExecutionReport, order_sequence_low) == 40);
  std::uint32_t delivered = 0;
  std::uint64_t now = 0;
  Status status = Status::kOk;
  const bool narrow = slot_bytes_ == wire::kSlotBytesDefault;
  while (delivered < max_count) {
    const std::uint64_t sequence = link_.reader().next_sequence();
    // A 64-byte slot goes straight to where the caller wants the record.
    AliasingWord* words =
        narrow ? reinterpret_cast<AliasingWord*>(out + delivered) : wide_inbound_.data();
    status =
        narrow ? link_.reader().read<wire::kSlotBytesDefault>(words) : link_.reader().read(words);
    if (!ok(status)) break;
    if (accept_message(words, sequence, &now)) {
      if (!narrow) std::memcpy(out + delivered, words, sizeof *out);
      ++delivered;
    }
  }
  after_poll(delivered, status);
  return delivered;
}

std::uint32_t Session::poll_slots(std::uint64_t* out, std::uint32_t max_count) noexcept {
  const std::uint32_t slot_words = slot_bytes_ / 8;
  std::uint32_t delivered = 0;
  Status status = Status::kOk;
  for (; delivered < max_count; ++delivered) {
    const std::uint64_t sequence = link_.reader().next_sequence();
    std::uint64_t* slot = out + std::size_t{delivered} * slot_words;
    status = link_.reader().read(slot);
    if (!ok(status)) break;
    slot[slot_words - 1] = sequence;
  }
  after_poll(delivered, status);
  return delivered;
}

// Credits go back lazily: at once when a quarter of the ring is owed, else in the first poll that
// finds nothing, which is a moment in which the strategy waits anyway; where puts are costly once
// in kIntervalsPerLine heartbeat intervals instead (check_link_at).
void Session::after_poll(std::uint32_t delivered, Status status) noexcept {
  counts_.reports += delivered;
  if (RDMAORDER_LIKELY(status == Status::kEmpty && delivered == 0)) {
    torn_since_ticks_ = 0;
    if (link_.unpublished_count() != 0 && !link_.is_put_costly()) publish();
    if ((++idle_polls_ & (kIdlePollsPerLook - 1)) == 0) {
      const std::uint64_t now = ticks();
      if (now - last_check_ticks_ > interval_ticks_ / kIdleChecksPerInterval) check_link_at(now);
    }
    return;
  }
  if (link_.unpublished_count() >= link_.reader().geometry().slot_count / 4) publish();
  if (status == Status::kLapped) {
    fail(LinkState::kDead, "the gateway overran the report ring: sequence " +
                               std::to_string(link_.reader().next_sequence()) + " is lost");
  } else if (status == Status::kTorn) {
    const std::uint64_t now = ticks();
    if (torn_since_ticks_ == 0 || delivered != 0) torn_since_ticks_ = now;  // of this report
    if (rate_.to_ns(now - torn_since_ticks_) > config_.torn_timeout_ns) {
      fail(LinkState::kDead, "report " + std::to_string(link_.reader().next_sequence()) +
                                 " stayed torn: its CRC does not match its contents");
    }
    check_link_at(now);
  } else {
    torn_since_ticks_ = 0;
  }
}

void Session::publish() noexcept {
  if (state_ == LinkState::kDead || state_ == LinkState::kClosed) return;  // the cause stays
  OwnState own;
  own.applied = link_.reader().next_sequence() - 1;
  own.heartbeat = ++heartbeat_;
  const Status status = link_.publish(own);
  if (status == Status::kTransport) (void)send_failed(status);
}

}  // namespace rdmaorder
