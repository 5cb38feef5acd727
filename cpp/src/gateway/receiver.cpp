// The receiver's per-order path: find, copy, verify, guard, journal, hand on, answer. No system
// call, allocation, lock or exception per order, except where sync policy "batch" asks for the
// call.
#include "gateway/receiver.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace rdmaorder {

RDMAORDER_ALWAYS_INLINE Reason Gateway::Receiver::admit(GatewaySession& session,
                                                        std::uint64_t header_word,
                                                        const wire::OrderRecord& order) noexcept {
  constexpr std::uint64_t kTemplateMask = 0xFFFF0000;
  static_assert(offsetof(wire::MessageHeader, template_id) == 2);
  constexpr auto kHeader = std::bit_cast<std::uint64_t>(wire::header_of(wire::TemplateId{}));
  if ((header_word & ~kTemplateMask) != kHeader) return Reason::kUnknownTemplate;
  if (RDMAORDER_UNLIKELY(restricted_) && !wire::is_cancel(order.template_id)) {
    const Reason reason = restriction(session);
    if (reason != Reason::kNone) return reason;
  }
  // Not the pass's time: whatever held the pass up since would be taken off the order's age.
  return guard_.check(order, [this] { return clock_.now_ns(); });
}

template <bool kNarrow>
RDMAORDER_ALWAYS_INLINE bool Gateway::Receiver::journal_order(GatewaySession& session,
                                                              const AliasingWord* slot_words,
                                                              std::uint64_t sequence,
                                                              Reason reason) noexcept {
  const std::uint32_t slot_bytes = kNarrow ? wire::kSlotBytesDefault : session.request.slot_bytes;
  const Status status = journal_->append(
      journal::RecordKind::kOrder, static_cast<std::uint16_t>(reason), session.index, sequence,
      now_ns(), slot_words, slot_bytes - wire::kCommitBytes);
  if (RDMAORDER_UNLIKELY(!ok(status))) {
    counters_.journal_errors.add();
    counters_.unjournalled.add();
    return false;
  }
  session.journal_sequence = sequence;
  return true;
}

// Copies, verifies, guards and journals up to batch_limit_count orders of one session. `kNarrow`:
// 64-byte slots, which go straight to where the handler finds them.
template <bool kNarrow, bool kStamped>
RDMAORDER_ALWAYS_INLINE std::uint32_t Gateway::Receiver::take_orders(GatewaySession& session,
                                                                     Status* status) noexcept {
  constexpr std::uint32_t kSlotBytes = kNarrow ? wire::kSlotBytesDefault : 0;
  ring::Reader& reader = session.link->reader();
  wire::OrderRecord* order = orders_.data();
  std::uint32_t count = 0;
  for (const std::uint32_t most = config_.batch_limit_count; count < most; ++order) {
    const std::uint64_t sequence = reader.next_sequence();
    AliasingWord* const words = kNarrow ? reinterpret_cast<AliasingWord*>(order) : wide_in_;
    [[maybe_unused]] std::uint64_t seen_ticks = 0;
    if constexpr (kStamped) seen_ticks = ticks();
    *status = reader.read<kSlotBytes>(words);
    if (!ok(*status)) break;
    if constexpr (kStamped) stamps_of(sequence) = {sequence, seen_ticks, ticks()};
    session.next_order_sequence = sequence + 1;
    const std::uint64_t header_word = words[0];
    if (!kNarrow) std::memcpy(order, words, sizeof *order);
    Reason reason = admit(session, header_word, *order);
    if constexpr (kStamped) stamps_of(sequence).guarded = ticks();
    if (journal_ != nullptr && !journal_order<kNarrow>(session, words, sequence, reason) &&
        reason == Reason::kNone && !wire::is_cancel(order->template_id)) {
      reason = Reason::kJournalUnavailable;  // cancels reduce risk: they pass unjournalled
    }
    if constexpr (kStamped) stamps_of(sequence).journalled = ticks();
    // Only now: the journal keeps the header as it came.
    order->session_index = session.index;
    order->sequence = sequence;
    reasons_[count++] = reason;
    if (RDMAORDER_UNLIKELY(reason != Reason::kNone)) ++refused_count_;
    if (!reader.has_next()) break;  // the next pass finds out what stands there instead
  }
  return count;
}

template <bool kStamped>
std::uint32_t Gateway::Receiver::take_wide_orders(GatewaySession& session,
                                                  Status* status) noexcept {
  return take_orders<false, kStamped>(session, status);
}

RDMAORDER_ALWAYS_INLINE void Gateway::Receiver::count_taken(GatewaySession& session,
                                                            std::uint32_t taken) noexcept {
  session.torn_since_ticks = 0;
  session.applied_counter.add(taken);
  session.high_water_counter.set_max(taken);
  counters_.orders_applied.add(taken);
}

// The session's line has something new to tell.
RDMAORDER_ALWAYS_INLINE void Gateway::Receiver::owe_line(GatewaySession& session) noexcept {
  // A quarter of the ring is owed: at once, so that a busy strategy never waits for credit.
  if (RDMAORDER_UNLIKELY(session.link->unpublished_count() >=
                         session.link->reader().geometry().slot_count / 4)) {
    publish(session);
  }
  if (!session.dirty) {
    session.dirty = true;
    dirty_.push_back(&session);  // reserved for every session at open
  }
}

void Gateway::Receiver::nothing_taken(GatewaySession& session, Status status) noexcept {
  if (status == Status::kEmpty) {
    session.torn_since_ticks = 0;
  } else {
    trouble(session, status);
  }
}

template <bool kStamped>
RDMAORDER_ALWAYS_INLINE bool Gateway::Receiver::service_watch(std::size_t watch_index) noexcept {
  GatewaySession& session = *watched_[watch_index];
  if (RDMAORDER_UNLIKELY(session.opaque)) return service_opaque(watch_index);
  Status status = Status::kOk;
  refused_count_ = 0;
  const bool narrow = session.request.slot_bytes == wire::kSlotBytesDefault;
  const std::uint32_t taken = narrow ? take_orders<true, kStamped>(session, &status)
                                     : take_wide_orders<kStamped>(session, &status);
  const ring::Reader& reader = session.link->reader();
  watches_[watch_index] = {reader.commit_word_address(), reader.idle_word()};
  if (taken == 0) {
    nothing_taken(session, status);
    return false;
  }
  if (journal_ != nullptr) session.journal_position = journal_->last_position();
  count_taken(session, taken);
  if (RDMAORDER_UNLIKELY(sync_each_batch_)) sync_orders(taken);
  if (RDMAORDER_LIKELY(refused_count_ == 0)) {
    if constexpr (kStamped) {
      hand_on_stamped(taken);
    } else {
      handler_->on_orders({orders_.data(), taken}, *this);
    }
  } else {
    dispatch_around_refused(taken);
  }
  owe_line(session);
  return true;
}

bool Gateway::Receiver::service_opaque(std::size_t watch_index) noexcept {
  GatewaySession& session = *watched_[watch_index];
  Status status = Status::kOk;
  const std::uint32_t taken = take_opaque(session, &status);
  if (session.failure.empty()) {  // else its watch is on a word that never changes
    const ring::Reader& reader = session.link->reader();
    watches_[watch_index] = {reader.commit_word_address(), reader.idle_word()};
  }
  if (taken == 0) {
    nothing_taken(session, status);
    return false;
  }
  if (journal_ != nullptr) session.journal_position = journal_->last_position();
  count_taken(session, taken);
  owe_line(session);
  return true;
}

bool Gateway::Receiver::service(std::size_t watch_index) noexcept {
  return service_watch<false>(watch_index);
}

/// Between a handler and the receiver: notes when each answer came and when it was out.
class Gateway::Receiver::StampingSink final : public ReportSink {
 public:
  explicit StampingSink(Receiver& receiver) noexcept : receiver_(receiver) {}
  Status send(std::uint32_t session_index, std::uint64_t order_sequence,
              const wire::ExecutionReport& report) noexcept override {
    OrderStamps& stamps = receiver_.stamps_of(order_sequence);
    stamps.handled = ticks();
    const Status status = receiver_.send(session_index, order_sequence, report);
    stamps.reported = ticks();
    return status;
  }
  Status send_message(std::uint32_t session_index,
                      std::span<const std::byte> message) noexcept override {
    return receiver_.send_message(session_index, message);
  }

 private:
  Receiver& receiver_;
};

void Gateway::Receiver::hand_on_stamped(std::uint32_t taken) noexcept {
  StampingSink sink(*this);
  handler_->on_orders({orders_.data(), taken}, sink);
}

template <bool kStamped>
RDMAORDER_ALWAYS_INLINE bool Gateway::Receiver::pass() noexcept {
  bool progress = false;
  now_ns_ = 0;
  ++pass_count_;
  for (std::size_t i = 0; i < watches_.size(); ++i) {
    // Relaxed: only a hint. Reader::read acquires the word again before it trusts anything.
    if (load_relaxed(watches_[i].commit_word_address) != watches_[i].idle_word) {
      progress |= service_watch<kStamped>(i);
    }
  }
  if (RDMAORDER_UNLIKELY(!backlogged_.empty())) flush_backlogs();
  if (RDMAORDER_UNLIKELY(beating_)) beat();
  if (progress) {
    // Passes that took orders are longer, with a Python handler much longer: look more often.
    if ((pass_count_ & (kBusyPassesPerHousekeeping - 1)) == 0) {
      housekeep();
      if ((pass_count_ & (kBusyPassesPerPublish - 1)) == 0) publish_dirty();
    }
    return true;
  }
  publish_dirty();
  ++idle_passes_;
  handler_->on_idle(*this);
  if ((pass_count_ & (kPassesPerHousekeeping - 1)) == 0) housekeep();
  return false;
}

bool Gateway::Receiver::run_pass() noexcept { return pass<false>(); }

bool Gateway::Receiver::run_pass_stamped() noexcept { return pass<true>(); }

// Policy "batch": no handler sees an order that is not on stable storage.
void Gateway::Receiver::sync_orders(std::uint32_t count) noexcept {
  const std::uint64_t before = std::exchange(synced_position_, journal_->last_position());
  if (ok(journal_->sync_batch())) return;
  counters_.journal_errors.add();
  bool refused = false;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (reasons_[i] == Reason::kNone && !wire::is_cancel(orders_[i].template_id)) {
      reasons_[i] = Reason::kJournalUnavailable;
      ++refused_count_;
      refused = true;
    }
  }
  // Their records say that they went to the handler. Before any strategy is told that they did not.
  if (refused) journal_->note_refused(before + 1);
}

// Hands runs of admitted orders to the handler and answers the refused ones between them, so that
// reports keep the order of the requests.
void Gateway::Receiver::dispatch_around_refused(std::uint32_t count) noexcept {
  std::uint32_t run_start = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (RDMAORDER_LIKELY(reasons_[i] == Reason::kNone)) continue;
    if (i > run_start) handler_->on_orders({&orders_[run_start], i - run_start}, *this);
    reject(orders_[i], reasons_[i]);
    run_start = i + 1;
  }
  if (count > run_start) handler_->on_orders({&orders_[run_start], count - run_start}, *this);
}

void Gateway::Receiver::reject(const wire::OrderRecord& order, Reason reason) noexcept {
  counters_.orders_rejected.add();
  sessions_[order.session_index]->rejected_counter.add();
  // Full goes to the backlog.
  (void)send(order.session_index, order.sequence, rejection_of(order, reason));
}

// Nothing can be refused in a message the gateway cannot read; a journal failure is counted.
std::uint32_t Gateway::Receiver::take_opaque(GatewaySession& session, Status* status) noexcept {
  ring::Reader& reader = session.link->reader();
  std::uint32_t count = 0;
  for (; count < config_.batch_limit_count; ++count) {
    const std::uint64_t sequence = reader.next_sequence();
    *status = reader.read(wide_in_);
    if (!ok(*status)) break;
    session.next_order_sequence = sequence + 1;
    if (journal_ != nullptr) (void)journal_order<false>(session, wide_in_, sequence, Reason::kNone);
    const auto* bytes = reinterpret_cast<const std::byte*>(wide_in_);
    handler_->on_message(session.index, sequence,
                         {bytes, session.request.slot_bytes - wire::kCommitBytes}, *this);
  }
  return count;
}

Status Gateway::Receiver::send(std::uint32_t session_index, std::uint64_t order_sequence,
                               const wire::ExecutionReport& report) noexcept {
  if (session_index >= sessions_.size() || sessions_[session_index]->opaque) {
    return Status::kInvalid;
  }
  GatewaySession& session = *sessions_[session_index];
  wire::Slot64 slot;
  const wire::MessageHeader header = wire::header_of(wire::TemplateId::kExecutionReport);
  std::memcpy(&slot.words[0], &header, sizeof header);
  wire::copy_block(report, slot.words + 1);
  slot.words[6] = wire::pack_word(static_cast<std::uint32_t>(order_sequence),
                                  static_cast<std::uint32_t>(slot.words[6] >> 32));
  return send_slot(session, slot.words, wire::kHeaderBytes + wire::kBlockBytes);
}

Status Gateway::Receiver::send_message(std::uint32_t session_index,
                                       std::span<const std::byte> message) noexcept {
  if (session_index >= sessions_.size() || !sessions_[session_index]->opaque ||
      message.size() < wire::kHeaderBytes) {
    return Status::kInvalid;
  }
  GatewaySession& session = *sessions_[session_index];
  if (message.size() > session.request.slot_bytes - wire::kCommitBytes) return Status::kTooLarge;
  std::memset(wide_out_, 0, session.request.slot_bytes);
  std::memcpy(wide_out_, message.data(), message.size());
  return send_slot(session, wide_out_, session.request.slot_bytes - wire::kCommitBytes);
}

// `slot_words`: at least `used_bytes`; for 64-byte slots a whole slot, whose commit word is
// written.
Status Gateway::Receiver::send_slot(GatewaySession& session, std::uint64_t* slot_words,
                                    std::uint32_t used_bytes) noexcept {
  const std::uint32_t slot_bytes = session.request.slot_bytes;
  const std::uint64_t sequence = session.next_report_sequence++;
  if (journal_ != nullptr && !ok(journal_->append(journal::RecordKind::kReport, 0, session.index,
                                                  sequence, now_ns(), slot_words, used_bytes))) {
    counters_.journal_errors.add();
    counters_.unjournalled.add();
    journal_->note_reports(session.index, session.next_report_sequence);
  }
  session.reports_counter.add();
  counters_.reports_sent.add();
  const bool live = session.link != nullptr && session.failure.empty();
  if (!live && !session.attaching) {
    counters_.reports_undelivered.add();  // the journal has it
    return Status::kOk;
  }
  std::uint64_t* words = slot_words;
  if (RDMAORDER_UNLIKELY(slot_bytes != wire::kSlotBytesDefault) && slot_words != wide_out_) {
    words = wide_out_;
    std::memset(wide_out_, 0, slot_bytes);
    std::memcpy(wide_out_, slot_words, used_bytes);
  }
  if (RDMAORDER_LIKELY(live && !session.queued)) {
    const Status status =
        RDMAORDER_LIKELY(slot_bytes == wire::kSlotBytesDefault)
            ? session.link->send<wire::kSlotBytesDefault>(ring::Lane::kNormal, words)
            : session.link->send(ring::Lane::kNormal, words);
    if (RDMAORDER_LIKELY(ok(status))) return status;
    if (status != Status::kFull) {
      send_failed(session, status);
      return Status::kOk;
    }
    session.queued = true;
    backlogged_.push_back(&session);
  }
  if (session.replaying) return Status::kOk;  // read back from the journal when its turn comes
  // The strategy does not read (or is not there yet): off the hot path by its own doing.
  if (session.backlog.size() >= config_.backlog_limit_count) {
    if (live) {
      fail(session, "the strategy left " + std::to_string(session.backlog.size()) +
                        " reports unread; they are in the journal");
    }
    return Status::kClosed;
  }
  session.backlog.emplace_back(words, words + slot_bytes / 8);
  counters_.reports_backlogged.add();
  return Status::kOk;
}

void Gateway::Receiver::flush_backlogs() noexcept {
  std::erase_if(backlogged_, [this](GatewaySession* session) {
    auto& backlog = session->backlog;
    if (session->link == nullptr || !session->failure.empty()) {
      backlog.clear();
      session->queued = false;
      return true;
    }
    while (!backlog.empty()) {
      const Status status = session->link->send(ring::Lane::kNormal, backlog.front().data());
      if (status == Status::kFull) return false;
      if (!ok(status)) {
        send_failed(*session, status);
        return true;
      }
      backlog.pop_front();
    }
    session->queued = false;
    return true;
  });
}

// SYNC of positions is the commit word of the line (transport put, StatusLineReader::refresh).
void Gateway::Receiver::publish(GatewaySession& session) noexcept {
  if (journal_ != nullptr) {
    const std::uint64_t durable = journal_->durable_position();
    if (durable >= session.checkpoint_position) {
      session.durable_sequence = session.checkpoint_sequence;
      session.checkpoint_sequence = session.journal_sequence;
      session.checkpoint_position = session.journal_position;
      if (durable >= session.checkpoint_position) {
        session.durable_sequence = session.checkpoint_sequence;
      }
    }
  }
  OwnState own;
  own.applied = session.next_order_sequence - 1;
  own.durable = session.durable_sequence;
  own.heartbeat = heartbeat_;
  own.time_ns = now_ns();
  own.state = closing_ || !session.failure.empty() ? PeerState::kClosing
              : halted_                            ? PeerState::kHalted
              : session.throttled                  ? PeerState::kThrottled
                                                   : PeerState::kOpen;
  own.reason = own.state == PeerState::kThrottled ? Reason::kThrottled : halt_reason_;
  (void)session.link->publish(own);  // a failed transport shows at the next send or progress
}

// Lines go out in a pass that found nothing, off the path of a lone order, and every few passes
// when other sessions keep the receiver busy.
void Gateway::Receiver::publish_dirty() noexcept {
  for (GatewaySession* session : dirty_) {
    if (session->link != nullptr) publish(*session);
    session->dirty = false;
  }
  dirty_.clear();
}

void Gateway::Receiver::trouble(GatewaySession& session, Status status) noexcept {
  const std::uint64_t sequence = session.link->reader().next_sequence();
  if (status == Status::kLapped) {
    fail(session, "the strategy overran its order ring: order " + std::to_string(sequence) +
                      " was overwritten before it was read");
    return;
  }
  const std::uint64_t now = ticks();
  if (session.torn_since_ticks == 0) {
    session.torn_since_ticks = now;
  } else if (rate_.to_ns(now - session.torn_since_ticks) > config_.torn_timeout_ns) {
    fail(session, "order slot " + std::to_string(sequence) +
                      " stayed torn: its CRC does not match its contents under this link's epoch");
  }
}

void Gateway::Receiver::send_failed(GatewaySession& session, Status status) noexcept {
  if (status == Status::kCorrupt) {
    fail(session, "the strategy claims to have taken report " +
                      std::to_string(session.link->peer().consumed) + ", which was never written");
  } else {
    fail(session, "transport failed: " + session.link->transport().failure());
  }
}

// The link is done for; the control plane sees `failure`, tells the strategy and detaches.
void Gateway::Receiver::fail(GatewaySession& session, const std::string& cause) noexcept {
  if (!session.failure.empty()) return;
  session.failure = cause;
  counters_.links_failed.add();
  publish(session);
  // The dense arrays are being walked: the watch is pointed at a word that never changes.
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    if (watched_[i] == &session) watches_[i] = {&kNeverChanges, 0};
  }
}

}  // namespace rdmaorder
