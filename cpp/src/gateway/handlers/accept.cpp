// Says yes to everything: one report a request, none unasked. It keeps no state, so it knows no
// order ids (order_id is 0).
#include "gateway/handlers/reports.hpp"
#include "rdmaorder/clock.hpp"
#include "rdmaorder/handler.hpp"

namespace rdmaorder {
namespace {

using gateway::make_report;

template <typename Request>
wire::ExecutionReport accept_open(const Request& request, ExecType type) noexcept {
  // All fields at once: words stored whole can be read back whole (wire::copy_block).
  return {.cl_ord_id = request.cl_ord_id,
          .order_id = 0,
          .price = request.price,
          .quantity = request.quantity,
          .leaves_quantity = request.quantity,
          .order_sequence_low = 0,
          .exec_type = type,
          .ord_status = OrdStatus::kNew,
          .reason = Reason::kNone,
          .flags = 0};
}

}  // namespace

wire::ExecutionReport acceptance_of(const wire::OrderRecord& request) noexcept {
  switch (static_cast<wire::TemplateId>(request.template_id)) {
    case wire::TemplateId::kNewOrder:
      return accept_open(request.new_order, ExecType::kNew);
    case wire::TemplateId::kReplaceOrder:
      return accept_open(request.replace_order, ExecType::kReplaced);
    case wire::TemplateId::kCancelOrder: {
      auto report =
          make_report(request.cancel_order.cl_ord_id, ExecType::kCanceled, OrdStatus::kCanceled);
      report.quantity = request.cancel_order.quantity;
      return report;
    }
    case wire::TemplateId::kMassCancel:
      return make_report(request.mass_cancel.cl_ord_id, ExecType::kCanceled, OrdStatus::kCanceled);
    default:
      return rejection_of(request, Reason::kUnknownTemplate);
  }
}

wire::ExecutionReport rejection_of(const wire::OrderRecord& request, Reason reason) noexcept {
  const bool stale = reason == Reason::kStale;
  // The first word of every request block is its cl_ord_id; of a message of another schema it is as
  // good a name as any.
  return make_report(request.block_words[0], stale ? ExecType::kExpired : ExecType::kRejected,
                     stale ? OrdStatus::kExpired : OrdStatus::kRejected, reason);
}

bool is_stale(const wire::OrderRecord& request, std::uint64_t now_ns) noexcept {
  std::uint64_t stale_after_ns = 0;
  switch (static_cast<wire::TemplateId>(request.template_id)) {
    case wire::TemplateId::kNewOrder:
      stale_after_ns = request.new_order.stale_after_ns;
      break;
    case wire::TemplateId::kReplaceOrder:
      stale_after_ns = request.replace_order.stale_after_ns;
      break;
    case wire::TemplateId::kCancelOrder:
      stale_after_ns = request.cancel_order.stale_after_ns;
      break;
    default:
      break;
  }
  return stale_after_ns != 0 && now_ns > stale_after_ns;
}

void take_as_new(Handler& handler, std::span<const wire::OrderRecord> in_doubt,
                 ReportSink& sink) noexcept {
  const std::uint64_t now_ns = realtime_ns();
  for (const wire::OrderRecord& request : in_doubt) {
    if (is_stale(request, now_ns)) {
      static_cast<void>(sink.send(request.session_index, request.sequence,
                                  rejection_of(request, Reason::kStale)));
    } else {
      handler.on_orders({&request, 1}, sink);
    }
  }
}

namespace {

class AcceptHandler final : public Handler {
 public:
  /// It has no state that a death could have left half changed: in doubt or new is the same.
  void recover(std::span<const wire::OrderRecord> in_doubt, ReportSink& sink) noexcept override {
    take_as_new(*this, in_doubt, sink);
  }

  void on_orders(std::span<const wire::OrderRecord> orders, ReportSink& sink) noexcept override {
    for (const auto& order : orders) {
      // A report the strategy cannot take now is in the journal; there is nothing to undo.
      static_cast<void>(sink.send(order.session_index, order.sequence, acceptance_of(order)));
    }
  }
};

}  // namespace

std::unique_ptr<Handler> make_accept_handler() { return std::make_unique<AcceptHandler>(); }

}  // namespace rdmaorder
