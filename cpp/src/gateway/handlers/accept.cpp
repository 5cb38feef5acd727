// Says yes to everything: one report a request, none unasked. It keeps no state, so it knows no
// order ids (order_id is 0) and takes every cancel for a whole one (leaves 0); the quantity of a
// confirmed cancel is the one asked for (0: whole order), of a mass cancel 0.
#include "gateway/handlers/reports.hpp"
#include "rdmaorder/handler.hpp"

namespace rdmaorder {
namespace {

using gateway::make_report;
using gateway::make_unknown_template_report;

template <typename Request>
wire::ExecutionReport accept_open(const Request& request, ExecType type) noexcept {
  auto report = make_report(request.cl_ord_id, type, OrdStatus::kNew);
  report.price = request.price;
  report.quantity = request.quantity;
  report.leaves_quantity = request.quantity;
  return report;
}

wire::ExecutionReport answer(const wire::OrderRecord& order) noexcept {
  switch (static_cast<wire::TemplateId>(order.template_id)) {
    case wire::TemplateId::kNewOrder:
      return accept_open(order.new_order, ExecType::kNew);
    case wire::TemplateId::kReplaceOrder:
      return accept_open(order.replace_order, ExecType::kReplaced);
    case wire::TemplateId::kCancelOrder: {
      auto report =
          make_report(order.cancel_order.cl_ord_id, ExecType::kCanceled, OrdStatus::kCanceled);
      report.quantity = order.cancel_order.quantity;
      return report;
    }
    case wire::TemplateId::kMassCancel:
      return make_report(order.mass_cancel.cl_ord_id, ExecType::kCanceled, OrdStatus::kCanceled);
    default:
      return make_unknown_template_report(order);
  }
}

class AcceptHandler final : public Handler {
 public:
  /// It has no state that a death could have left half changed: in doubt or new is the same.
  void recover(std::span<const wire::OrderRecord> in_doubt, ReportSink& sink) noexcept override {
    on_orders(in_doubt, sink);
  }

  void on_orders(std::span<const wire::OrderRecord> orders, ReportSink& sink) noexcept override {
    for (const auto& order : orders) {
      // A report the strategy cannot take now is in the journal; there is nothing to undo.
      static_cast<void>(sink.send(order.session_index, order.sequence, answer(order)));
    }
  }
};

}  // namespace

std::unique_ptr<Handler> make_accept_handler() { return std::make_unique<AcceptHandler>(); }

}  // namespace rdmaorder
