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

}  // namespace rdmaorder::gateway
