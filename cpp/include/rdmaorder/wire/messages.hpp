// Message blocks of schema 1 ("rdmaorder.orders", rdmaorder/schema/orders.xml): 48 bytes each, so
// that header + block + commit word fill one 64-byte slot. Fixed layouts, little-endian, no
// floating point: prices are int64 mantissas with exponent -9, quantities int64 in the
// instrument's smallest unit, times nanoseconds of CLOCK_REALTIME.
//
// Three descriptions of these bytes exist on purpose, because three kinds of reader need one: this
// file, the numpy dtypes of rdmaorder/messages.py and the SBE schema. tests/unit/test_layout.py
// holds them (and docs/wire-format.md) to each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "rdmaorder/types.hpp"
#include "rdmaorder/wire/slot.hpp"

namespace rdmaorder::wire {

inline constexpr std::uint16_t kSchemaId = 1;
inline constexpr std::uint16_t kSchemaVersion = 0;
inline constexpr std::uint16_t kBlockBytes = 48;

enum class TemplateId : std::uint16_t {
  kNewOrder = 1,
  kReplaceOrder = 2,
  kCancelOrder = 3,
  kMassCancel = 4,
  kExecutionReport = 101,
  kSessionEvent = 102,
};

/// Template 1. An order not picked up by stale_after_ns is refused as expired (0: never stale).
struct NewOrder {
  std::uint64_t cl_ord_id;       //  0  unique in the session, never 0
  std::int64_t price;            //  8  mantissa, kNoPrice for a market order
  std::int64_t quantity;         // 16  > 0
  std::uint64_t stale_after_ns;  // 24  CLOCK_REALTIME; 0 = no limit
  std::uint32_t instrument;      // 32
  std::uint32_t account;         // 36
  std::uint32_t smp_id;          // 40  SelfMatchPreventionID, carried through
  Side side;                     // 44
  OrdType ord_type;              // 45
  TimeInForce time_in_force;     // 46
  std::uint8_t flags;            // 47  kFlag*
};

/// Template 2. Replaces price and quantity of the live order orig_cl_ord_id; it is cl_ord_id after.
struct ReplaceOrder {
  std::uint64_t cl_ord_id;       //  0
  std::uint64_t orig_cl_ord_id;  //  8
  std::int64_t price;            // 16
  std::int64_t quantity;         // 24  new open quantity, > 0
  std::uint64_t stale_after_ns;  // 32
  std::uint32_t instrument;      // 40
  Side side;                     // 44
  OrdType ord_type;              // 45
  TimeInForce time_in_force;     // 46
  std::uint8_t flags;            // 47
};

/// Template 3. quantity 0 cancels the whole order, otherwise that much is taken off.
struct CancelOrder {
  std::uint64_t cl_ord_id;       //  0  id of this request
  std::uint64_t orig_cl_ord_id;  //  8
  std::int64_t quantity;         // 16  >= 0
  std::uint64_t stale_after_ns;  // 24
  std::uint32_t instrument;      // 32
  std::uint32_t account;         // 36
  std::uint32_t reserved;        // 40  0
  Side side;                     // 44
  std::uint8_t reserved2[2];     // 45  0
  std::uint8_t flags;            // 47
};

/// Template 4. Cancels every live order of this session in the scope.
struct MassCancel {
  std::uint64_t cl_ord_id;    //  0  id of this request
  std::uint64_t reserved[3];  //  8  0
  std::uint32_t instrument;   // 32  scope kInstrument
  std::uint32_t account;      // 36  scope kAccount
  std::uint32_t reserved2;    // 40  0
  Side side;                  // 44  scope kSide, else 0
  MassCancelScope scope;      // 45
  std::uint8_t reserved3;     // 46  0
  std::uint8_t flags;         // 47
};

/// Template 101. Fate of the request whose sequence ends in order_sequence_low, or a later event of
/// the order it opened. The receiver widens the sequence: a request is always less than 2^31 old.
struct ExecutionReport {
  std::uint64_t cl_ord_id;  //  0  of the request; for fills and unsolicited cancels, of the order
  std::uint64_t order_id;   //  8  the handler's id of the order, 0 if none
  std::int64_t price;       // 16  order price; for kTrade the fill price
  std::int64_t quantity;    // 24  order quantity; kTrade: filled; kCanceled: taken off
  std::int64_t leaves_quantity;      // 32  open quantity after this event
  std::uint32_t order_sequence_low;  // 40
  ExecType exec_type;                // 44
  OrdStatus ord_status;              // 45  of the order after this event
  Reason reason;                     // 46
  std::uint8_t flags;                // 47  kFlagPossResend on replay
};

/// Template 102. Something that concerns the session and not one order.
struct SessionEvent {
  std::uint64_t from_sequence;  //  0  kNotApplied: first order sequence concerned
  std::uint64_t count;          //  8  kNotApplied: how many
  std::uint64_t time_ns;        // 16  CLOCK_REALTIME of the gateway
  std::uint64_t reserved[2];    // 24  0
  std::uint32_t reserved2;      // 40  0
  SessionEventKind kind;        // 44
  Reason reason;                // 45
  std::uint8_t reserved3[2];    // 46  0
};

#define RDMAORDER_CHECK_BLOCK(T)                                                                  \
  static_assert(sizeof(T) == kBlockBytes && alignof(T) == 8 && std::is_trivially_copyable_v<T> && \
                std::is_standard_layout_v<T>)
RDMAORDER_CHECK_BLOCK(NewOrder);
RDMAORDER_CHECK_BLOCK(ReplaceOrder);
RDMAORDER_CHECK_BLOCK(CancelOrder);
RDMAORDER_CHECK_BLOCK(MassCancel);
RDMAORDER_CHECK_BLOCK(ExecutionReport);
RDMAORDER_CHECK_BLOCK(SessionEvent);
#undef RDMAORDER_CHECK_BLOCK
static_assert(kHeaderBytes + kBlockBytes + kCommitBytes == kSlotBytesDefault);
static_assert(offsetof(NewOrder, side) == 44 && offsetof(ReplaceOrder, side) == 44 &&
              offsetof(CancelOrder, side) == 44 && offsetof(MassCancel, side) == 44);
static_assert(offsetof(NewOrder, flags) == 47 && offsetof(ReplaceOrder, flags) == 47 &&
              offsetof(CancelOrder, flags) == 47 && offsetof(MassCancel, flags) == 47);
static_assert(offsetof(ExecutionReport, order_sequence_low) == 40);

[[nodiscard]] constexpr MessageHeader header_of(TemplateId id) noexcept {
  return {kBlockBytes, static_cast<std::uint16_t>(id), kSchemaId, kSchemaVersion};
}
/// Copies a block into the words of a slot. Its words are put together from the fields: reading
/// back wider than the fields were stored would wait until the stores have left the store buffer.
/// The last word of every block holds a u32 and four bytes, the one before it often two u32.
[[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint64_t pack_word(std::uint32_t low,
                                                              std::uint32_t high) noexcept {
  return low | std::uint64_t{high} << 32;
}
template <class A, class B, class C, class D>
[[nodiscard]] RDMAORDER_ALWAYS_INLINE std::uint64_t pack_word(std::uint32_t low, A a, B b, C c,
                                                              D d) noexcept {
  static_assert(sizeof(A) == 1 && sizeof(B) == 1 && sizeof(C) == 1 && sizeof(D) == 1);
  return pack_word(low, static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b) << 8 |
                            static_cast<std::uint32_t>(c) << 16 |
                            static_cast<std::uint32_t>(d) << 24);
}
RDMAORDER_ALWAYS_INLINE void copy_block(const NewOrder& from, std::uint64_t* to) noexcept {
  to[0] = from.cl_ord_id;
  to[1] = static_cast<std::uint64_t>(from.price);
  to[2] = static_cast<std::uint64_t>(from.quantity);
  to[3] = from.stale_after_ns;
  to[4] = pack_word(from.instrument, from.account);
  to[5] = pack_word(from.smp_id, from.side, from.ord_type, from.time_in_force, from.flags);
}
RDMAORDER_ALWAYS_INLINE void copy_block(const ReplaceOrder& from, std::uint64_t* to) noexcept {
  to[0] = from.cl_ord_id;
  to[1] = from.orig_cl_ord_id;
  to[2] = static_cast<std::uint64_t>(from.price);
  to[3] = static_cast<std::uint64_t>(from.quantity);
  to[4] = from.stale_after_ns;
  to[5] = pack_word(from.instrument, from.side, from.ord_type, from.time_in_force, from.flags);
}
RDMAORDER_ALWAYS_INLINE void copy_block(const ExecutionReport& from, std::uint64_t* to) noexcept {
  to[0] = from.cl_ord_id;
  to[1] = from.order_id;
  to[2] = static_cast<std::uint64_t>(from.price);
  to[3] = static_cast<std::uint64_t>(from.quantity);
  to[4] = static_cast<std::uint64_t>(from.leaves_quantity);
  to[5] =
      pack_word(from.order_sequence_low, from.exec_type, from.ord_status, from.reason, from.flags);
}
/// Of the cancels, which have reserved bytes.
template <class Block>
RDMAORDER_ALWAYS_INLINE void copy_block(const Block& from, std::uint64_t* to) noexcept {
  static_assert(sizeof(Block) == kBlockBytes);
  std::memcpy(to, &from, sizeof from);
}

[[nodiscard]] constexpr bool is_cancel(std::uint16_t template_id) noexcept {
  return template_id == static_cast<std::uint16_t>(TemplateId::kCancelOrder) ||
         template_id == static_cast<std::uint16_t>(TemplateId::kMassCancel);
}

/// An order as the gateway hands it to a handler: the verified private copy of the slot, in which
/// the part of the header that verification made redundant and the commit word are replaced by
/// facts the handler needs. Same bytes as rdmaorder.messages.ORDER_RECORD.
struct OrderRecord {
  std::uint16_t block_length;   //  0
  std::uint16_t template_id;    //  2
  std::uint32_t session_index;  //  4  dense number of the session within the gateway
  union {                       //  8
    NewOrder new_order;
    ReplaceOrder replace_order;
    CancelOrder cancel_order;
    MassCancel mass_cancel;
    std::uint64_t block_words[6];
  };
  std::uint64_t sequence;  // 56
};
static_assert(sizeof(OrderRecord) == 64 && offsetof(OrderRecord, new_order) == 8 &&
              offsetof(OrderRecord, sequence) == 56);

/// A report as Session::poll delivers it: the block in place, the header replaced by the full
/// sequence of the order it answers, the commit word by the report's own sequence. Same bytes as
/// rdmaorder.messages.REPORT_RECORD.
struct ReportRecord {
  std::uint64_t order_sequence;  //  0
  ExecutionReport report;        //  8
  std::uint64_t sequence;        // 56
};
static_assert(sizeof(ReportRecord) == 64 && offsetof(ReportRecord, sequence) == 56);

/// The 64-bit sequence nearest to `reference` whose low half is `low`.
[[nodiscard]] constexpr std::uint64_t widen_sequence(std::uint32_t low,
                                                     std::uint64_t reference) noexcept {
  const auto delta = static_cast<std::int32_t>(low - static_cast<std::uint32_t>(reference));
  return reference + static_cast<std::uint64_t>(static_cast<std::int64_t>(delta));
}
static_assert(widen_sequence(0xFFFFFFFFU, 0x1'0000'0001ULL) == 0xFFFFFFFFULL);
static_assert(widen_sequence(2, 0xFFFFFFFFULL) == 0x1'0000'0002ULL);

}  // namespace rdmaorder::wire
