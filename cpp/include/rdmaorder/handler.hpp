// What a gateway passes orders on to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "rdmaorder/status.hpp"
#include "rdmaorder/wire/messages.hpp"

namespace rdmaorder {

/// Where a handler sends its reports. Given to each call; not kept beyond it.
class ReportSink {
 public:
  /// Journals the report and writes it to the session's report ring (or its backlog when the ring
  /// is full, so this never blocks). `order_sequence` names the request answered; its low half goes
  /// in place of the report's order_sequence_low. kInvalid: no such session; kClosed: backlog over
  /// its bound (a strategy that stopped reading; the journal still has the report).
  virtual Status send(std::uint32_t session_index, std::uint64_t order_sequence,
                      const wire::ExecutionReport& report) noexcept = 0;

  /// For sessions with a schema of their own: header and block, at most slot_bytes - 8.
  virtual Status send_message(std::uint32_t session_index,
                              std::span<const std::byte> message) noexcept = 0;

 protected:
  ~ReportSink() = default;
};

/// A report as the journal has it.
struct RestoredReport {
  std::uint32_t session_index = 0;
  std::uint64_t order_sequence = 0;
  wire::ExecutionReport report{};
};

/// Runs in the receiver's thread; every call is from that thread. Orders arrive verified, past the
/// guard and already in the journal; each span is from one session, in sequence order.
class Handler {
 public:
  Handler() = default;
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;
  virtual ~Handler() = default;

  // A gateway that starts on a journal calls restore() and then recover(), before anything else and
  // from the thread that makes it.

  /// Each report of the journal, oldest first, for a handler that builds its state from them.
  /// `request`: what it answers, null for a further report on a request that was answered before.
  virtual void restore(const wire::OrderRecord* /*request*/,
                       const RestoredReport& /*report*/) noexcept {}
  /// Once. `in_doubt`: orders of any session, in journal order, that went to the handler and have
  /// no report in the journal; the process died before, in or just after on_orders. They are marked
  /// kFlagPossResend. A handler that passes orders on asks its venue what became of each; one whose
  /// state is what restore() built may take them as new (take_as_new). Either way a request that
  /// is_stale by now must not take effect anew. Not overridden, they stay without an outcome until
  /// a report names them.
  virtual void recover(std::span<const wire::OrderRecord> /*in_doubt*/,
                       ReportSink& /*sink*/) noexcept {}

  virtual void on_orders(std::span<const wire::OrderRecord> orders, ReportSink& sink) noexcept = 0;
  /// A message of a session that negotiated a schema of its own: header and block, opaque to the
  /// gateway (journalled, not guarded). Answer with ReportSink::send_message.
  virtual void on_message(std::uint32_t /*session_index*/, std::uint64_t /*sequence*/,
                          std::span<const std::byte> /*message*/, ReportSink& /*sink*/) noexcept {}
  /// After a pass that found no order. Keep it short: it delays the next pick-up.
  virtual void on_idle(ReportSink& /*sink*/) noexcept {}
};

/// The report that grants a request: a new order or a replace as it stands, a cancel as if its
/// order had been live (leaves 0; quantity: what was asked for). kRejected, kUnknownTemplate for
/// what is none of these.
[[nodiscard]] wire::ExecutionReport acceptance_of(const wire::OrderRecord& request) noexcept;
/// The report that refuses a request; with kStale, as expired.
[[nodiscard]] wire::ExecutionReport rejection_of(const wire::OrderRecord& request,
                                                 Reason reason) noexcept;

/// Its stale_after_ns has passed at `now_ns` (CLOCK_REALTIME): picked up now, it would be refused.
[[nodiscard]] bool is_stale(const wire::OrderRecord& request, std::uint64_t now_ns) noexcept;
/// Handler::recover of a handler in which a request without a report had no effect that outlived
/// the process: those that are stale by now are refused as such, the others are its on_orders.
void take_as_new(Handler& handler, std::span<const wire::OrderRecord> in_doubt,
                 ReportSink& sink) noexcept;

/// Gives every request its acceptance_of; keeps no state.
std::unique_ptr<Handler> make_accept_handler();

struct VenueConfig {
  std::uint32_t max_order_count = 1U << 20;  ///< ClOrdIDs remembered; then kCapacity
};

/// A simulated exchange: keeps live orders per session by ClOrdID and answers as an exchange would.
/// New: duplicate ClOrdID refused (for good: an id is never used twice in a session); accepted
/// otherwise; IOC and FOK expire at once (nothing to trade against).
/// Replace and cancel: kUnknownOrder for an id never seen, kTooLate for one that is done, a
/// duplicate new id refused. A cancel of at least the open quantity cancels the order.
/// Mass cancel: one kCanceled report a live order in scope (reason kMassCancel), then one for the
/// request itself whose quantity is the number of orders cancelled.
/// After a restart its live orders and the ids used are those of the journal.
std::unique_ptr<Handler> make_venue_handler(const VenueConfig& config);

/// Takes orders and says nothing (throughput benchmarks).
std::unique_ptr<Handler> make_null_handler();

}  // namespace rdmaorder
