// Names of the closed enumerations. No switch has a default: an enumerator without a name does not
// compile (-Wswitch). The last line of each serves values that no enumerator has, which a damaged
// or newer peer can send.
#include "rdmaorder/status.hpp"
#include "rdmaorder/types.hpp"

namespace rdmaorder {

const char* status_name(Status status) noexcept {
  switch (status) {
    case Status::kOk:
      return "ok";
    case Status::kEmpty:
      return "empty";
    case Status::kFull:
      return "full";
    case Status::kNotConnected:
      return "not_connected";
    case Status::kClosed:
      return "closed";
    case Status::kHalted:
      return "halted";
    case Status::kThrottled:
      return "throttled";
    case Status::kInvalid:
      return "invalid";
    case Status::kTooLarge:
      return "too_large";
    case Status::kTorn:
      return "torn";
    case Status::kCorrupt:
      return "corrupt";
    case Status::kLapped:
      return "lapped";
    case Status::kTimeout:
      return "timeout";
    case Status::kIo:
      return "io";
    case Status::kTransport:
      return "transport";
  }
  return "unknown_status";
}

const char* exec_type_name(ExecType type) noexcept {
  switch (type) {
    case ExecType::kNew:
      return "new";
    case ExecType::kCanceled:
      return "canceled";
    case ExecType::kReplaced:
      return "replaced";
    case ExecType::kRejected:
      return "rejected";
    case ExecType::kExpired:
      return "expired";
    case ExecType::kTrade:
      return "trade";
  }
  return "unknown_exec_type";
}

const char* reason_name(Reason reason) noexcept {
  switch (reason) {
    case Reason::kNone:
      return "none";
    case Reason::kUnknownOrder:
      return "unknown_order";
    case Reason::kTooLate:
      return "too_late";
    case Reason::kDuplicateClOrdId:
      return "duplicate_cl_ord_id";
    case Reason::kUnknownInstrument:
      return "unknown_instrument";
    case Reason::kInvalidSide:
      return "invalid_side";
    case Reason::kInvalidPrice:
      return "invalid_price";
    case Reason::kInvalidQuantity:
      return "invalid_quantity";
    case Reason::kInvalidOrdType:
      return "invalid_ord_type";
    case Reason::kInvalidTimeInForce:
      return "invalid_time_in_force";
    case Reason::kUnknownTemplate:
      return "unknown_template";
    case Reason::kMaxQuantity:
      return "max_quantity";
    case Reason::kMaxNotional:
      return "max_notional";
    case Reason::kPriceCollar:
      return "price_collar";
    case Reason::kStale:
      return "stale";
    case Reason::kThrottled:
      return "throttled";
    case Reason::kHalted:
      return "halted";
    case Reason::kJournalUnavailable:
      return "journal_unavailable";
    case Reason::kHandlerFailed:
      return "handler_failed";
    case Reason::kCapacity:
      return "capacity";
    case Reason::kNotEntitled:
      return "not_entitled";
    case Reason::kDraining:
      return "draining";
    case Reason::kNoLiquidity:
      return "no_liquidity";
    case Reason::kMassCancel:
      return "mass_cancel";
    case Reason::kDisconnect:
      return "disconnect";
    case Reason::kKill:
      return "kill";
  }
  return "unknown_reason";
}

}  // namespace rdmaorder
