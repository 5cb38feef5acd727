// Field values of the wire messages. Numbers follow FIX (and FIX's SBE encodings): ExecType and
// OrdStatus keep FIX's characters, Side, OrdType and TimeInForce FIX's digits as small integers.
// Mirrored by rdmaorder/messages.py and rdmaorder/schema/orders.xml; a test compares the three.
#pragma once

#include <cstdint>

namespace rdmaorder {

enum class Side : std::uint8_t { kBuy = 1, kSell = 2 };
enum class OrdType : std::uint8_t { kMarket = 1, kLimit = 2 };
enum class TimeInForce : std::uint8_t {
  kDay = 0,
  kGoodTillCancel = 1,
  kImmediateOrCancel = 3,
  kFillOrKill = 4
};

/// What this report says happened to the request named by its order_sequence.
enum class ExecType : std::uint8_t {
  kNew = '0',       ///< NewOrder accepted
  kCanceled = '4',  ///< cancelled, wholly (leaves 0) or in part (leaves > 0)
  kReplaced = '5',
  kRejected = '8',  ///< the request (new, replace or cancel) was refused; reason says why
  kExpired = 'C',   ///< stale at pick-up, or an IOC/FOK remainder
  kTrade = 'F',     ///< a fill: price and quantity are the fill's
};

enum class OrdStatus : std::uint8_t {
  kNew = '0',
  kPartiallyFilled = '1',
  kFilled = '2',
  kCanceled = '4',
  kReplaced = '5',
  kRejected = '8',
  kExpired = 'C',
};

enum class Reason : std::uint8_t {
  kNone = 0,
  kUnknownOrder = 1,       ///< cancel or replace names an order never seen
  kTooLate = 2,            ///< cancel or replace names an order already done
  kDuplicateClOrdId = 3,   ///< ClOrdID used before in this session
  kUnknownInstrument = 4,  ///< not in the gateway's configured list
  kInvalidSide = 5,
  kInvalidPrice = 6,
  kInvalidQuantity = 7,
  kInvalidOrdType = 8,
  kInvalidTimeInForce = 9,
  kUnknownTemplate = 10,  ///< not an order message of this schema
  kMaxQuantity = 11,      ///< above the configured limit
  kMaxNotional = 12,
  kPriceCollar = 13,
  kStale = 14,  ///< picked up after the order's stale_after_ns
  kThrottled = 15,
  kHalted = 16,              ///< gateway or session halted (kill switch)
  kJournalUnavailable = 17,  ///< the journal cannot take the order (disk full, I/O error)
  kHandlerFailed = 18,       ///< the handler raised on the batch that held this order
  kCapacity = 19,            ///< the handler's order table is full
  kNotEntitled = 20,
  kDraining = 21,     ///< the gateway is shutting down
  kNoLiquidity = 22,  ///< IOC/FOK remainder
  kMassCancel = 23,
  kDisconnect = 24,  ///< cancel-on-disconnect
  kKill = 25,
};
inline constexpr std::uint8_t kReasonCount = 26;

/// Stable lower_snake_case name, "unknown_reason" for a value outside the enumeration.
const char* reason_name(Reason reason) noexcept;
const char* exec_type_name(ExecType type) noexcept;

/// What MassCancel cancels; a scope narrows by the message's instrument, side or account.
enum class MassCancelScope : std::uint8_t {
  kSession = 1,
  kInstrument = 2,
  kSide = 3,
  kAccount = 4
};

/// State in a status line: what that side will take now.
enum class PeerState : std::uint8_t {
  kOpen = 1,
  kThrottled = 2,
  kHalted = 3,   ///< new orders are refused; cancels pass
  kClosing = 4,  ///< draining; nothing further will be read
};

enum class SessionEventKind : std::uint8_t {
  kNotApplied = 1,  ///< from_sequence, count: never applied, never will be
  kHalted = 2,
  kResumed = 3,  ///< from halted or throttled
  kThrottled = 4,
  kTerminated = 5,   ///< the gateway ended the link in order
  kReportsLost = 6,  ///< from_sequence, count: reports that no record holds (a journal that failed)
  kCanceled = 7,     ///< the gateway cancelled the session's orders; reason says why
  // Of the strategy's own library, never on the wire:
  kEstablished = 64,  ///< a new link; from_sequence: the next order's
  kSuspect = 65,
  kLive = 66,  ///< heartbeats again after kSuspect
  kDead = 67,
  /// what kNotApplied just told and had no report was sent again, in its order, from from_sequence
  /// on
  kResent = 68,
};

/// flags of order messages and reports
inline constexpr std::uint8_t kFlagPossResend = 0x01;
inline constexpr std::uint8_t kKnownFlags = kFlagPossResend;

/// Prices are int64 mantissas with this exponent: 1.5 is 1'500'000'000.
inline constexpr int kPriceExponent = -9;
inline constexpr std::int64_t kPriceScale = 1'000'000'000;
/// "no price" (market orders; SBE null of int64)
inline constexpr std::int64_t kNoPrice = INT64_MIN;

}  // namespace rdmaorder
