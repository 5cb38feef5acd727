// What a session tells besides reports: a bounded queue, oldest first.
#include "rdmaorder/session.hpp"

namespace rdmaorder {

Status Session::take_event(wire::SessionEvent* event) noexcept {
  if (event_count_ == 0) return Status::kEmpty;
  *event = events_[event_head_];
  event_head_ = (event_head_ + 1) % kEventCount;
  --event_count_;
  return Status::kOk;
}

void Session::push_event(const wire::SessionEvent& event) noexcept {
  if (event.kind == SessionEventKind::kReportsLost && event_count_ != 0) {
    // Each lost report has a slot of its own; a run of them is one event.
    wire::SessionEvent& last = events_[(event_head_ + event_count_ - 1) % kEventCount];
    if (last.kind == event.kind && last.from_sequence + last.count == event.from_sequence) {
      last.count += event.count;
      return;
    }
  }
  if (event_count_ == kEventCount) {
    event_head_ = (event_head_ + 1) % kEventCount;
    --event_count_;
    ++counts_.events_dropped;
  }
  events_[(event_head_ + event_count_) % kEventCount] = event;
  ++event_count_;
}

void Session::tell(SessionEventKind kind, Reason reason, std::uint64_t from_sequence,
                   std::uint64_t count) noexcept {
  wire::SessionEvent event{};
  event.kind = kind;
  event.reason = reason;
  event.from_sequence = from_sequence;
  event.count = count;
  event.time_ns = realtime_ns();
  push_event(event);
}

/// What EstablishmentAck said of the time between two links.
void Session::tell_handshake() noexcept {
  if (established_.not_applied_count != 0) {
    told_not_applied_end_ = established_.next_order_sequence;
    tell(SessionEventKind::kNotApplied, Reason::kNone,
         established_.next_order_sequence - established_.not_applied_count,
         established_.not_applied_count);
  }
  if (established_.lost_report_count != 0) {
    tell(SessionEventKind::kReportsLost, Reason::kJournalUnavailable,
         established_.next_report_sequence - established_.lost_report_count,
         established_.lost_report_count);
  }
}

}  // namespace rdmaorder
