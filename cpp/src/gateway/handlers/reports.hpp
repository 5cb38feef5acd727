// What the built-in handlers' reports have in common.
#pragma once

#include <cstdint>

#include "rdmaorder/wire/messages.hpp"

namespace rdmaorder::gateway {

/// A report with nothing but these fields; no price, quantities 0, no order id.
[[nodiscard]] inline wire::ExecutionReport make_report(std::uint64_t cl_ord_id, ExecType type,
                                                       OrdStatus status,
                                                       Reason reason = Reason::kNone) noexcept {
  wire::ExecutionReport report{};
  report.cl_ord_id = cl_ord_id;
  report.price = kNoPrice;
  report.exec_type = type;
  report.ord_status = status;
  report.reason = reason;
  return report;
}

/// Refusal of a message that is none of this schema's requests. Every request block begins with
/// its cl_ord_id; of a message of another schema the first word is as good a name as any.
[[nodiscard]] inline wire::ExecutionReport make_unknown_template_report(
    const wire::OrderRecord& order) noexcept {
  return make_report(order.block_words[0], ExecType::kRejected, OrdStatus::kRejected,
                     Reason::kUnknownTemplate);
}

}  // namespace rdmaorder::gateway
