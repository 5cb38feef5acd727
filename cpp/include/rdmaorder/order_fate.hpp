// What became of an order, as the gateway's journal knows it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "rdmaorder/types.hpp"

namespace rdmaorder {

enum class Fate : std::uint8_t {
  kUnknown = 0,     ///< to the strategy: sent, no report yet, and nobody was asked
  kNotTaken = 1,    ///< the gateway has not taken it; on a live link it may yet
  kNotApplied = 2,  ///< never arrived and never will be applied
  kTaken = 3,       ///< journalled and handed on; no report (yet)
  kAnswered = 4,    ///< exec_type, ord_status and reason of its newest report say how
};

/// 64 bytes, little-endian; travels in Resolved (docs/control-plane.md) and is one record of
/// rdmaorder.messages.FATE_RECORD.
struct OrderFate {
  std::uint64_t sequence = 0;         //  0  of the request; of an open order: that opened it
  std::uint64_t cl_ord_id = 0;        //  8  the one it bears now
  std::uint64_t order_id = 0;         // 16  the handler's
  std::int64_t price = 0;             // 24
  std::int64_t leaves_quantity = 0;   // 32
  std::uint64_t report_sequence = 0;  // 40  of the newest report, 0: none
  std::uint32_t instrument = 0;       // 48
  std::uint32_t account = 0;          // 52
  std::uint16_t template_id = 0;      // 56
  Fate fate = Fate::kUnknown;         // 58
  ExecType exec_type{};               // 59
  OrdStatus ord_status{};             // 60
  Reason reason = Reason::kNone;      // 61
  Side side{};                        // 62
  std::uint8_t reserved = 0;          // 63
};
static_assert(sizeof(OrderFate) == 64 && std::is_trivially_copyable_v<OrderFate> &&
              offsetof(OrderFate, instrument) == 48 && offsetof(OrderFate, fate) == 58 &&
              offsetof(OrderFate, side) == 62);

}  // namespace rdmaorder
