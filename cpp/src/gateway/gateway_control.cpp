// What operators and control threads ask of a gateway besides sessions and links: fates, cancels,
// the kill switch, fencing.
#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "gateway/inquiry.hpp"
#include "gateway/receiver.hpp"
#include "gateway/refuse.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/transport/verbs.hpp"

namespace rdmaorder {
namespace {

using gateway::refuse;

std::string no_session(std::uint32_t session_index) {
  return "there is no session with index " + std::to_string(session_index);
}

GatewaySession& existing(GatewaySession* session, std::uint32_t session_index) {
  if (session == nullptr) refuse("UnknownSession", no_session(session_index));
  return *session;
}

/// The peer can write no more when this returns: its permission is taken; where the device did not
/// confirm that, the queue pair is gone. Over shared memory nobody looks at the window any more.
void take_permission(transport::Transport& transport) noexcept {
  auto* verbs = dynamic_cast<transport::VerbsTransport*>(&transport);
  if (verbs != nullptr && !ok(verbs->fence())) transport.close();
}

}  // namespace

/// Only once the peer's permission is taken do the last reports get their time, unless the session
/// was killed.
std::uint64_t Gateway::fence(std::uint32_t session_index, std::unique_ptr<Link> link,
                             memory::Window window, std::uint64_t since_ns) {
  transport::Transport& transport = link->transport();
  take_permission(transport);
  const std::uint64_t fence_ns = monotonic_ns() - since_ns;
  bool killed = false;
  receiver_->call([&] {
    receiver_->count_fence(session_index, fence_ns);
    killed = existing(receiver_->find(session_index), session_index).killed;
  });
  if (!killed) transport.linger();
  transport.close();
  link.reset();
  {
    const memory::Window gone = std::move(window);
  }
  return fence_ns;
}

KillResult Gateway::kill(std::uint32_t session_index) {
  KillResult result = std::move(kill(std::span(&session_index, 1)).front());
  if (!result.refusal.empty()) refuse("UnknownSession", result.refusal);
  return result;
}

std::vector<KillResult> Gateway::kill(std::span<const std::uint32_t> session_indices,
                                      std::uint64_t since_ns) {
  return kill_chosen(session_indices, since_ns);
}

std::vector<KillResult> Gateway::kill_all(std::uint64_t since_ns) {
  return kill_chosen(std::nullopt, since_ns);
}

/// `chosen`: nullopt: all.
std::vector<KillResult> Gateway::kill_chosen(std::optional<std::span<const std::uint32_t>> chosen,
                                             std::uint64_t since_ns) {
  struct Ended {
    memory::Window window;  // outlives the link that has it written
    std::unique_ptr<Link> link;
  };
  std::vector<KillResult> results;
  std::vector<Ended> ended;
  bool any_recorded = false;
  receiver_->call([&] {
    const bool all_recorded = !chosen && receiver_->set_all_killed(true);
    const std::size_t count = chosen ? chosen->size() : receiver_->sessions().size();
    results.resize(count);
    ended.resize(count);
    any_recorded = all_recorded;
    for (std::size_t i = 0; i < count; ++i) {
      KillResult& result = results[i];
      result.session_index = chosen ? (*chosen)[i] : static_cast<std::uint32_t>(i);
      GatewaySession* found = receiver_->find(result.session_index);
      if (found == nullptr) {
        result.refusal = no_session(result.session_index);
        continue;
      }
      GatewaySession& session = *found;
      session.killed = true;
      result.name = session.request.name;
      result.recorded = chosen ? receiver_->record_kill(session) : all_recorded;
      any_recorded = any_recorded || result.recorded;
      ended[i].link = receiver_->remove(session, false);
      if (ended[i].link == nullptr && session.pending.link != nullptr) {
        ended[i].link = std::move(session.pending.link);
        receiver_->abandon(session);
      }
      if (ended[i].link == nullptr) continue;
      ended[i].window = std::move(session.window);
      result.epoch = ended[i].link->epoch();
    }
  });
  const std::size_t count = results.size();
  // First every permission: to close a link may take its time.
  for (std::size_t i = 0; i < count; ++i) {
    if (ended[i].link == nullptr) continue;
    take_permission(ended[i].link->transport());
    results[i].fence_ns = monotonic_ns() - since_ns;
  }
  receiver_->call([&] {
    for (std::size_t i = 0; i < count; ++i) {
      if (ended[i].link != nullptr) {
        receiver_->count_fence(results[i].session_index, results[i].fence_ns);
      }
    }
  });
  for (Ended& each : ended) {
    if (each.link == nullptr) continue;
    each.link->transport().close();
    each.link.reset();
    each.window = {};
  }
  // Only now: a disk may take its time, the fences may not.
  const bool synced = any_recorded && ok(journal_writer()->sync_now());
  for (std::size_t i = 0; i < count; ++i) {
    if (!results[i].refusal.empty()) continue;
    results[i].recorded = results[i].recorded && synced;
    results[i].canceled_count =
        cancel_orders(results[i].session_index, gateway::every_order(), Reason::kKill);
  }
  return results;
}

bool Gateway::release(std::span<const std::uint32_t> session_indices) {
  bool recorded = true;
  receiver_->call([&] {
    for (const std::uint32_t index : session_indices) (void)existing(receiver_->find(index), index);
    for (const std::uint32_t index : session_indices) {
      GatewaySession& session = *receiver_->find(index);
      session.killed = false;
      recorded = receiver_->record_kill(session) && recorded;
    }
  });
  if (session_indices.empty() || !recorded) return recorded;
  return ok(journal_writer()->sync_now());
}

bool Gateway::release_all() {
  bool recorded = false;
  receiver_->call([&] {
    recorded = receiver_->set_all_killed(false);
    for (const auto& session : receiver_->sessions()) session->killed = false;
  });
  return recorded && ok(journal_writer()->sync_now());
}

std::uint64_t Gateway::cancel_orders(std::uint32_t session_index, const wire::MassCancel& scope,
                                     Reason why) {
  std::uint64_t count = 0;
  receiver_->call([&] {
    GatewaySession& session = existing(receiver_->find(session_index), session_index);
    count = receiver_->cancel_orders(session, scope, why);
  });
  return count;
}

std::optional<std::uint64_t> Gateway::cancel_gone(std::uint32_t session_index,
                                                  std::uint64_t gone_for_ns, Reason why) {
  std::optional<std::uint64_t> count;
  receiver_->call([&] {
    GatewaySession& session = existing(receiver_->find(session_index), session_index);
    if (session.link != nullptr || session.attaching) return;
    // Without a link in this run it is gone for as long as anybody asks, whatever the uptime.
    if (session.gone_since_ns != 0 && monotonic_ns() - session.gone_since_ns < gone_for_ns) return;
    count = receiver_->cancel_orders(session, gateway::every_order(), why);
  });
  return count;
}

std::vector<OrderFate> Gateway::fates(std::uint32_t session_index, std::uint64_t from,
                                      std::uint32_t count) {
  const gateway::Inquiry inquiry = receiver_->inquire(session_index, from);
  return gateway::find_fates(inquiry, from, std::min(count, kFatesMax));
}

std::vector<OrderFate> Gateway::open_orders(std::uint32_t session_index, std::uint64_t from) {
  return gateway::find_open_orders(receiver_->inquire(session_index, from), from);
}

// --- the receiver's part ------------------------------------------------------------------------

/// Whether the session is killed, for the next run of the gateway. False: it will not know.
bool Gateway::Receiver::record_kill(const GatewaySession& session) noexcept {
  return append_kill(session.index, session.next_order_sequence, session.killed);
}

bool Gateway::Receiver::set_all_killed(bool killed) noexcept {
  all_killed_ = killed;
  return append_kill(journal::kEverySession, 0, killed);
}

bool Gateway::Receiver::append_kill(std::uint32_t session_index, std::uint64_t sequence,
                                    bool killed) noexcept {
  const std::uint64_t payload = killed ? 1 : 0;
  if (journal_ == nullptr) return false;
  if (ok(journal_->append(journal::RecordKind::kKill, 0, session_index, sequence, now_ns(),
                          &payload, sizeof payload))) {
    return true;
  }
  counters_.journal_errors.add();
  return false;
}

// Once more at each heartbeat while the journal is full: without the record these orders are ones
// that it misses.
void Gateway::Receiver::record_not_applied(GatewaySession& session) noexcept {
  std::erase_if(session.unrecorded, [&](const auto& orders) {
    return ok(journal_->append(journal::RecordKind::kNotApplied, 0, session.index, orders.first,
                               now_ns(), &orders.second, sizeof orders.second));
  });
}

void Gateway::Receiver::mark(GatewaySession& session) noexcept {
  if (journal_ == nullptr ||
      !session.marks.is_due(session.next_order_sequence, session.next_report_sequence)) {
    return;
  }
  session.marks.add(session.next_order_sequence, session.next_report_sequence,
                    journal_->location());
}

constexpr std::uint64_t kSecondNs = 1'000'000'000;

/// An order that comes now is within the rate.
bool Gateway::Receiver::conforms(const GatewaySession& session) noexcept {
  const std::uint64_t interval_ns = kSecondNs / config_.throttle.orders_per_s;
  return session.due_ns <= ticks_ns() + interval_ns * (config_.throttle.burst_count - 1);
}

// Only when halted or throttled; not for cancels.
Reason Gateway::Receiver::restriction(GatewaySession& session) noexcept {
  if (halted_) return halt_reason_;
  const std::uint64_t now = ticks_ns();
  if (conforms(session)) {
    session.due_ns = std::max(session.due_ns, now) + kSecondNs / config_.throttle.orders_per_s;
    return Reason::kNone;
  }
  session.throttled = true;
  if (now > session.throttled_since_ns + kSecondNs) {
    session.throttled_since_ns = now;
    session.throttled_count = 0;
    tell(session, SessionEventKind::kThrottled, Reason::kThrottled, config_.throttle.orders_per_s);
  }
  ++session.throttled_count;
  return Reason::kThrottled;
}

// At each heartbeat: the end of the first level, and the second.
void Gateway::Receiver::check_throttled(GatewaySession& session) noexcept {
  if (session.throttled && conforms(session)) session.throttled = false;
  const std::uint64_t limit = config_.throttle.disconnect_count;
  if (limit == 0 || session.throttled_count < limit || !session.failure.empty()) return;
  fail(session, "throttled: " + std::to_string(session.throttled_count) +
                    " orders within a second were refused for their rate; the limit is " +
                    std::to_string(config_.throttle.orders_per_s) + " orders a second");
  session.throttled_count = 0;
}

void Gateway::Receiver::tell(GatewaySession& session, SessionEventKind kind, Reason reason,
                             std::uint64_t count) noexcept {
  if (session.opaque) return;
  wire::SessionEvent event{};
  event.kind = kind;
  event.reason = reason;
  event.count = count;
  event.time_ns = now_ns();
  wire::Slot64 slot;
  const wire::MessageHeader header = wire::header_of(wire::TemplateId::kSessionEvent);
  std::memcpy(&slot.words[0], &header, sizeof header);
  std::memcpy(&slot.words[1], &event, sizeof event);
  (void)send_slot(session, slot.words, wire::kHeaderBytes + wire::kBlockBytes);
}

gateway::Inquiry Gateway::Receiver::inquire(std::uint32_t session_index, std::uint64_t from) {
  gateway::Inquiry inquiry;
  call([&] {
    const GatewaySession& session = existing(find(session_index), session_index);
    if (journal_ == nullptr || journal_->directory().empty()) {
      refuse("NoJournal", "this gateway has no journal, so it does not know what became of orders");
    }
    inquiry = {journal_->directory(), session.marks.find(from, 0), journal_->last_position(),
               session_index, session.next_order_sequence};
  });
  return inquiry;
}

void Gateway::Receiver::count_fence(std::uint32_t /*session_index*/,
                                    std::uint64_t fence_ns) noexcept {
  counters_.last_fence_ns.set(fence_ns);
  counters_.max_fence_ns.set_max(fence_ns);
}

namespace {

/// Gives the handler's reports on a mass cancel that no strategy sent their reason, and keeps the
/// answer to the request itself, which is nobody's.
class CancelSink final : public ReportSink {
 public:
  CancelSink(ReportSink& inner, Reason why) : inner_(inner), why_(why) {}
  Status send(std::uint32_t session_index, std::uint64_t order_sequence,
              const wire::ExecutionReport& report) noexcept override {
    if (order_sequence == 0) return Status::kOk;
    wire::ExecutionReport told = report;
    if (told.reason == Reason::kMassCancel) told.reason = why_;
    if (told.exec_type == ExecType::kCanceled) ++count_;
    return inner_.send(session_index, order_sequence, told);
  }
  Status send_message(std::uint32_t session_index,
                      std::span<const std::byte> message) noexcept override {
    return inner_.send_message(session_index, message);
  }
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }

 private:
  ReportSink& inner_;
  Reason why_;
  std::uint64_t count_ = 0;
};

}  // namespace

std::uint64_t Gateway::Receiver::cancel_orders(GatewaySession& session,
                                               const wire::MassCancel& scope, Reason why) noexcept {
  if (session.opaque) return 0;  // no message that its handler could read
  wire::OrderRecord order{};
  order.block_length = wire::kBlockBytes;
  order.template_id = static_cast<std::uint16_t>(wire::TemplateId::kMassCancel);
  order.session_index = session.index;
  order.mass_cancel = scope;
  CancelSink sink(*this, why);
  handler_->on_orders({&order, 1}, sink);
  if (sink.count() != 0) tell(session, SessionEventKind::kCanceled, why, sink.count());
  return sink.count();
}

}  // namespace rdmaorder
