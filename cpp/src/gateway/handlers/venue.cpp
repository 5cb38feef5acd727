// A simulated exchange without a counterparty: nothing ever trades.
//
// Each request gets exactly one report with its own cl_ord_id and sequence that answers it. Events
// that nobody asked for by themselves bear the order's cl_ord_id and the sequence of the NewOrder
// that opened the order. In the order in which they are sent:
//
//   request      taken                                    refused (kRejected, in this order)
//   New          kNew [, kExpired kNoLiquidity]           kDuplicateClOrdId, kCapacity
//   Replace      kReplaced [, kExpired kNoLiquidity]      kUnknownOrder | kTooLate,
//                                                         kUnknownInstrument, kInvalidSide,
//                                                         kDuplicateClOrdId, kCapacity
//   Cancel       kCanceled, quantity = taken off          kUnknownOrder | kTooLate
//   Mass cancel  kCanceled kMassCancel for each order,    kUnknownTemplate (scope not in the
//   schema)
//                oldest first; last kCanceled for the
//                request, quantity = orders cancelled
//
// - An id is used up when an order bore it, as a new order or by a replace; the ids of cancels and
//   of refused requests are not. An id that a replace took away is done: naming it is kTooLate.
// - kExpired follows at once for IOC, FOK and market orders, whatever their time in force, and for
//   orders replaced into one. Its cl_ord_id is the order's.
// - A cancel names its order by id alone: a wrong side or instrument does not stop a cancel. A
//   quantity below the open one is taken off and leaves the order live (ord_status kNew).
// - A replace keeps the order's id at the venue (order_id), its account and its place in the
//   session's list; its quantity is the new open quantity.
// - A refusal tells the state of the order it names: leaves_quantity and order_id of a live one,
//   else ord_status says how it ended under that id. It repeats the request's price and quantity.
// - Orders outlive their links and, with a journal, the gateway: only a cancel ends them.
//
// What the venue did is what its reports say, and a request without a report has changed nothing
// that outlived the process. So restore() builds the state out of the reports, and recover() takes
// requests in doubt as new ones, or refuses them as stale.
#include <algorithm>
#include <vector>

#include "gateway/handlers/order_table.hpp"
#include "gateway/handlers/reports.hpp"
#include "rdmaorder/handler.hpp"

namespace rdmaorder {
namespace {

using gateway::LiveOrder;
using gateway::make_report;
using gateway::OrderIndex;
using wire::ExecutionReport;
using wire::OrderRecord;
using wire::TemplateId;

OrdStatus status_of(OrderIndex state) noexcept {
  switch (state) {
    case gateway::kNeverSeen:
      return OrdStatus::kRejected;
    case gateway::kDoneCanceled:
      return OrdStatus::kCanceled;
    case gateway::kDoneReplaced:
      return OrdStatus::kReplaced;
    case gateway::kDoneExpired:
      return OrdStatus::kExpired;
    default:
      return OrdStatus::kNew;
  }
}

bool expires_at_once(OrdType ord_type, TimeInForce time_in_force) noexcept {
  return ord_type == OrdType::kMarket || time_in_force == TimeInForce::kImmediateOrCancel ||
         time_in_force == TimeInForce::kFillOrKill;
}

bool in_scope(const LiveOrder& order, const wire::MassCancel& request) noexcept {
  switch (request.scope) {
    case MassCancelScope::kInstrument:
      return order.instrument == request.instrument;
    case MassCancelScope::kSide:
      return order.side == request.side;
    case MassCancelScope::kAccount:
      return order.account == request.account;
    default:
      return true;
  }
}

bool is_known(MassCancelScope scope) noexcept {
  return scope >= MassCancelScope::kSession && scope <= MassCancelScope::kAccount;
}

/// What is true of a live order now, under the cl_ord_id of the request that made it so.
ExecutionReport report_on(const LiveOrder& order, std::uint64_t cl_ord_id, ExecType type) noexcept {
  auto report = make_report(cl_ord_id, type, OrdStatus::kNew);
  report.order_id = order.order_id;
  report.price = order.price;
  report.quantity = order.open_quantity;
  report.leaves_quantity = order.open_quantity;
  return report;
}

class VenueHandler final : public Handler {
 public:
  explicit VenueHandler(const VenueConfig& config) : table_(config.max_order_count) {}

  void restore(const OrderRecord* request, const RestoredReport& restored) noexcept override {
    const ExecutionReport& report = restored.report;
    // Of a request that did nothing: refused, or stale when it was recovered.
    if (report.exec_type == ExecType::kRejected || report.reason == Reason::kStale) return;
    last_order_id_ = std::max(last_order_id_, report.order_id);
    switch (request == nullptr ? TemplateId{} : static_cast<TemplateId>(request->template_id)) {
      case TemplateId::kNewOrder:
        return restore_new(*request, report);
      case TemplateId::kReplaceOrder:
        return restore_replaced(*request, report);
      case TemplateId::kCancelOrder:
        return restore_canceled(restored.session_index, request->cancel_order.orig_cl_ord_id,
                                report);
      case TemplateId::kMassCancel:
        return;  // its orders have reports of their own
      default:
        return restore_canceled(restored.session_index, report.cl_ord_id, report);
    }
  }

  void recover(std::span<const OrderRecord> in_doubt, ReportSink& sink) noexcept override {
    // Accepted, and the process died before it could say that nothing was there to trade with.
    for (const OrderRecord& record : to_expire_) {
      const auto cell = table_.locate(record.session_index, record.new_order.cl_ord_id);
      const auto index = table_.state(cell);
      if (index >= gateway::kFirstLive) expire(record, index, sink);
    }
    to_expire_ = {};
    take_as_new(*this, in_doubt, sink);
  }

  void on_orders(std::span<const OrderRecord> orders, ReportSink& sink) noexcept override {
    for (std::size_t i = 0; i < std::min(orders.size(), kLookaheadCount); ++i) prefetch(orders[i]);
    for (std::size_t i = 0; i < orders.size(); ++i) {
      if (i + kLookaheadCount < orders.size()) prefetch(orders[i + kLookaheadCount]);
      apply(orders[i], sink);
    }
  }

 private:
  /// Records whose cells are on their way from memory while one is worked on.
  static constexpr std::size_t kLookaheadCount = 8;

  void prefetch(const OrderRecord& record) const noexcept {
    const auto id = static_cast<TemplateId>(record.template_id);
    if (id == TemplateId::kNewOrder || id == TemplateId::kReplaceOrder) {
      table_.prefetch(record.session_index, record.new_order.cl_ord_id);
    }
    if (id == TemplateId::kReplaceOrder || id == TemplateId::kCancelOrder) {
      table_.prefetch(record.session_index, record.cancel_order.orig_cl_ord_id);
    }
  }
  static_assert(offsetof(wire::NewOrder, cl_ord_id) == offsetof(wire::ReplaceOrder, cl_ord_id));
  static_assert(offsetof(wire::ReplaceOrder, orig_cl_ord_id) ==
                offsetof(wire::CancelOrder, orig_cl_ord_id));

  void apply(const OrderRecord& record, ReportSink& sink) noexcept {
    switch (static_cast<TemplateId>(record.template_id)) {
      case TemplateId::kNewOrder:
        return apply_new(record, sink);
      case TemplateId::kReplaceOrder:
        return apply_replace(record, sink);
      case TemplateId::kCancelOrder:
        return apply_cancel(record, sink);
      case TemplateId::kMassCancel:
        return apply_mass_cancel(record, sink);
      default:
        return send(record, rejection_of(record, Reason::kUnknownTemplate), sink);
    }
  }

  void apply_new(const OrderRecord& record, ReportSink& sink) noexcept {
    const auto& request = record.new_order;
    const auto cell = table_.locate(record.session_index, request.cl_ord_id);
    const auto reason = refusal_of_id(record, cell);
    if (reason != Reason::kNone) {
      return refuse(record, request, OrdStatus::kRejected, gateway::kNeverSeen, reason, sink);
    }
    const auto index = table_.open(cell, record.session_index, request.cl_ord_id);
    auto& order = table_.order(index);
    order.order_id = ++last_order_id_;
    order.opening_sequence = record.sequence;
    order.price = request.price;
    order.open_quantity = request.quantity;
    order.instrument = request.instrument;
    order.account = request.account;
    order.side = request.side;
    send(record, report_on(order, request.cl_ord_id, ExecType::kNew), sink);
    if (expires_at_once(request.ord_type, request.time_in_force)) expire(record, index, sink);
  }

  void apply_replace(const OrderRecord& record, ReportSink& sink) noexcept {
    const auto& request = record.replace_order;
    const auto index = table_.state(table_.locate(record.session_index, request.orig_cl_ord_id));
    const auto cell = table_.locate(record.session_index, request.cl_ord_id);
    auto reason = refusal_of_target(index);
    if (reason == Reason::kNone) {
      const auto& order = table_.order(index);
      if (order.instrument != request.instrument) {
        reason = Reason::kUnknownInstrument;
      } else if (order.side != request.side) {
        reason = Reason::kInvalidSide;
      } else {
        reason = refusal_of_id(record, cell);
      }
    }
    if (reason != Reason::kNone) {
      return refuse(record, request, status_of(index), index, reason, sink);
    }
    table_.rename(index, cell, record.session_index, request.cl_ord_id);
    auto& order = table_.order(index);
    order.price = request.price;
    order.open_quantity = request.quantity;
    send(record, report_on(order, request.cl_ord_id, ExecType::kReplaced), sink);
    if (expires_at_once(request.ord_type, request.time_in_force)) expire(record, index, sink);
  }

  void apply_cancel(const OrderRecord& record, ReportSink& sink) noexcept {
    const auto& request = record.cancel_order;
    const auto index = table_.state(table_.locate(record.session_index, request.orig_cl_ord_id));
    const auto reason = refusal_of_target(index);
    if (reason != Reason::kNone) {
      auto report = make_report(request.cl_ord_id, ExecType::kRejected, status_of(index), reason);
      report.quantity = request.quantity;
      return send(record, report, sink);
    }
    auto& order = table_.order(index);
    const bool is_whole = request.quantity <= 0 || request.quantity >= order.open_quantity;
    const auto taken = is_whole ? order.open_quantity : request.quantity;
    order.open_quantity -= taken;
    auto report = report_on(order, request.cl_ord_id, ExecType::kCanceled);
    report.quantity = taken;
    if (is_whole) {
      report.ord_status = OrdStatus::kCanceled;
      table_.close(index, record.session_index, gateway::kDoneCanceled);
    }
    send(record, report, sink);
  }

  /// Takes time in proportion to the session's live orders, and the other sessions wait for it.
  void apply_mass_cancel(const OrderRecord& record, ReportSink& sink) noexcept {
    const auto& request = record.mass_cancel;
    if (!is_known(request.scope)) {
      return send(record, rejection_of(record, Reason::kUnknownTemplate), sink);
    }
    std::int64_t cancelled_count = 0;
    OrderIndex next = gateway::kNeverSeen;
    for (auto index = table_.first_live(record.session_index); index != gateway::kNeverSeen;
         index = next) {
      const auto& order = table_.order(index);
      next = order.next;  // close() links the order elsewhere
      if (!in_scope(order, request)) continue;
      end(record, index, gateway::kDoneCanceled, ExecType::kCanceled, Reason::kMassCancel, sink);
      ++cancelled_count;
    }
    auto report = make_report(request.cl_ord_id, ExecType::kCanceled, OrdStatus::kCanceled);
    report.quantity = cancelled_count;
    send(record, report, sink);
  }

  void restore_new(const OrderRecord& record, const ExecutionReport& report) noexcept {
    const auto& request = record.new_order;
    const auto cell = table_.locate(record.session_index, request.cl_ord_id);
    if (refusal_of_id(record, cell) != Reason::kNone) return;  // a smaller table than before
    auto& order = table_.order(table_.open(cell, record.session_index, request.cl_ord_id));
    order.order_id = report.order_id;
    order.opening_sequence = record.sequence;
    order.price = request.price;
    order.open_quantity = request.quantity;
    order.instrument = request.instrument;
    order.account = request.account;
    order.side = request.side;
    if (expires_at_once(request.ord_type, request.time_in_force)) to_expire_.push_back(record);
  }

  void restore_replaced(const OrderRecord& record, const ExecutionReport& report) noexcept {
    const auto& request = record.replace_order;
    const auto index = table_.state(table_.locate(record.session_index, request.orig_cl_ord_id));
    const auto cell = table_.locate(record.session_index, request.cl_ord_id);
    if (index < gateway::kFirstLive || refusal_of_id(record, cell) != Reason::kNone) return;
    table_.rename(index, cell, record.session_index, request.cl_ord_id);
    table_.order(index).price = request.price;
    table_.order(index).open_quantity = report.leaves_quantity;
    if (expires_at_once(request.ord_type, request.time_in_force)) to_expire_.push_back(record);
  }

  void restore_canceled(std::uint32_t session_index, std::uint64_t cl_ord_id,
                        const ExecutionReport& report) noexcept {
    const auto index = table_.state(table_.locate(session_index, cl_ord_id));
    if (index < gateway::kFirstLive) return;
    table_.order(index).open_quantity = report.leaves_quantity;
    if (report.leaves_quantity != 0) return;
    const bool expired = report.exec_type == ExecType::kExpired;
    table_.close(index, session_index, expired ? gateway::kDoneExpired : gateway::kDoneCanceled);
    // Most orders that expire at once did.
    if (expired && !to_expire_.empty() && to_expire_.back().new_order.cl_ord_id == cl_ord_id) {
      to_expire_.pop_back();
    }
  }

  /// Why this id may not become an order's.
  [[nodiscard]] Reason refusal_of_id(const OrderRecord& record, std::uint32_t cell) const noexcept {
    if (table_.state(cell) != gateway::kNeverSeen) return Reason::kDuplicateClOrdId;
    return table_.has_room(record.session_index) ? Reason::kNone : Reason::kCapacity;
  }
  /// Why a replace or cancel cannot act on what it names.
  [[nodiscard]] static Reason refusal_of_target(OrderIndex index) noexcept {
    if (index == gateway::kNeverSeen) return Reason::kUnknownOrder;
    return index < gateway::kFirstLive ? Reason::kTooLate : Reason::kNone;
  }

  template <typename Request>
  void refuse(const OrderRecord& record, const Request& request, OrdStatus status,
              OrderIndex target, Reason reason, ReportSink& sink) noexcept {
    auto report = make_report(request.cl_ord_id, ExecType::kRejected, status, reason);
    report.price = request.price;
    report.quantity = request.quantity;
    if (target >= gateway::kFirstLive) {
      report.order_id = table_.order(target).order_id;
      report.leaves_quantity = table_.order(target).open_quantity;
    }
    send(record, report, sink);
  }

  void expire(const OrderRecord& record, OrderIndex index, ReportSink& sink) noexcept {
    end(record, index, gateway::kDoneExpired, ExecType::kExpired, Reason::kNoLiquidity, sink);
  }

  /// Ends a live order without a request of its own.
  void end(const OrderRecord& cause, OrderIndex index, OrderIndex done, ExecType type,
           Reason reason, ReportSink& sink) noexcept {
    const auto& order = table_.order(index);
    auto report = report_on(order, order.cl_ord_id, type);
    report.leaves_quantity = 0;
    report.ord_status = status_of(done);
    report.reason = reason;
    const auto opening_sequence = order.opening_sequence;
    table_.close(index, cause.session_index, done);
    static_cast<void>(sink.send(cause.session_index, opening_sequence, report));
  }

  /// A report the strategy cannot take now is in the journal, and the order's state stands.
  static void send(const OrderRecord& record, const ExecutionReport& report,
                   ReportSink& sink) noexcept {
    static_cast<void>(sink.send(record.session_index, record.sequence, report));
  }

  gateway::OrderTable table_;
  std::vector<OrderRecord> to_expire_;  ///< restored, and not yet seen to expire
  std::uint64_t last_order_id_ = 0;
};

}  // namespace

std::unique_ptr<Handler> make_venue_handler(const VenueConfig& config) {
  return std::make_unique<VenueHandler>(config);
}

}  // namespace rdmaorder
