#include "rdmaorder/link.hpp"

#include <algorithm>
#include <cstring>

namespace rdmaorder {
static_assert(Link::kBatchBytes >= wire::kSlotBytesMax);

bool Link::refresh_credit(ring::Lane lane) noexcept {
  // Credit is looked for when the peer gives it, so its line is often being written just now: whole
  // a few looks later over shared memory. Else the caller's next send looks again.
  for (int look = 0; look < kTornLooks && refresh_peer() == Status::kTorn; ++look) {
  }
  return writer_.has_credit(lane);
}

Status Link::refresh_peer() noexcept {
  if (corrupt_) return Status::kCorrupt;
  const Status status = peer_.refresh();
  if (!ok(status)) return status;
  corrupt_ = !ok(writer_.on_consumed(peer_.latest().consumed));
  return corrupt_ ? Status::kCorrupt : Status::kOk;
}

std::uint32_t Link::send_batch(ring::Lane lane, const std::uint64_t* slots, std::uint32_t count,
                               Status* status) noexcept {
  const std::uint32_t slot_bytes = writer_.geometry().slot_bytes;
  const std::uint32_t slot_words = slot_bytes / 8;
  const std::uint32_t staging_slots = kBatchBytes / slot_bytes;
  std::uint32_t sent = 0;
  *status = Status::kOk;
  while (sent < count) {
    std::uint32_t run = std::min(count - sent, staging_slots);
    if (writer_.credit_count(lane) < run) refresh_credit(lane);
    run = std::min(run, writer_.credit_count(lane));
    if (run == 0) {
      *status = corrupt_ ? Status::kCorrupt : Status::kFull;
      break;
    }
    std::memcpy(staging_, slots + std::size_t{sent} * slot_words, std::size_t{run} * slot_bytes);
    for (std::uint32_t i = 0; i < run; ++i) {
      writer_.seal_ahead(staging_ + std::size_t{i} * slot_words, i);
    }
    const std::uint32_t put_count = put_run(run, status);
    writer_.advance(put_count);
    sent += put_count;
    if (!ok(*status)) break;
  }
  return sent;
}

// One contiguous write, or at the ring's end two under one doorbell.
std::uint32_t Link::put_run(std::uint32_t count, Status* status) noexcept {
  const std::uint32_t slot_bytes = writer_.geometry().slot_bytes;
  const std::uint32_t before_end = writer_.contiguous_count();
  if (count <= before_end) {
    *status = transport_->put(writer_.next_offset_bytes(), staging_, count * slot_bytes);
    return ok(*status) ? count : 0;
  }
  const std::uint64_t behind = writer_.next_sequence() + before_end;
  const transport::PutRequest puts[] = {
      {writer_.next_offset_bytes(), staging_, before_end * slot_bytes},
      {writer_.geometry().slot_offset_bytes(behind),
       staging_ + std::size_t{before_end} * (slot_bytes / 8), (count - before_end) * slot_bytes}};
  const std::uint32_t taken = transport_->put_list(puts, status);
  return taken == 2 ? count : taken * before_end;
}

Status Link::publish(const OwnState& own) noexcept {
  wire::StatusLine line{};
  line.consumed = reader_.next_sequence() - 1;
  line.applied = own.applied;
  line.durable = own.durable;
  line.next_sequence = writer_.next_sequence();
  line.heartbeat = own.heartbeat;
  line.time_ns = own.time_ns;
  line.state = own.state;
  line.reason = own.reason;
  wire::seal_status_line(line, epoch_, own_version_ + 1);
  const Status status = transport_->put(ring::kStatusLineOffsetBytes, &line, sizeof line);
  if (ok(status)) {
    ++own_version_;
    published_consumed_ = line.consumed;
  }
  return status;
}

}  // namespace rdmaorder
