// Field and limit checks on a verified private copy of an order. Pure: no state changes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "rdmaorder/error.hpp"
#include "rdmaorder/gateway.hpp"
#include "rdmaorder/wire/messages.hpp"

namespace rdmaorder::gateway {

class Guard {
 public:
  explicit Guard(const GuardConfig& config)
      : max_quantity_(static_cast<std::uint64_t>(config.max_quantity)) {
    if (config.max_quantity <= 0) {
      throw Error(ErrorKind::kConfig,
                  "max_quantity must be positive, not " + std::to_string(config.max_quantity));
    }
    for (const auto& [first, last] : config.instruments) add_range(first, last);
  }

  /// kNone: pass. `now_ns` is called only for orders that carry a stale_after_ns.
  template <class Now>
  RDMAORDER_ALWAYS_INLINE Reason check(const wire::OrderRecord& order,
                                       Now&& now_ns) const noexcept {
    std::uint64_t stale_after_ns = 0;
    Reason reason = Reason::kUnknownTemplate;
    switch (static_cast<wire::TemplateId>(order.template_id)) {
      [[likely]] case wire::TemplateId::kNewOrder:
        stale_after_ns = order.new_order.stale_after_ns;
        reason = check_order(order.new_order);
        break;
      case wire::TemplateId::kReplaceOrder:
        stale_after_ns = order.replace_order.stale_after_ns;
        reason = check_order(order.replace_order);
        break;
      case wire::TemplateId::kCancelOrder:
        stale_after_ns = order.cancel_order.stale_after_ns;
        reason = order.cancel_order.quantity < 0 ? Reason::kInvalidQuantity : Reason::kNone;
        break;
      case wire::TemplateId::kMassCancel:
        reason = check_scope(order.mass_cancel);
        break;
      default:
        return reason;
    }
    if (reason != Reason::kNone) return reason;
    if (RDMAORDER_UNLIKELY(stale_after_ns != 0) && now_ns() > stale_after_ns) return Reason::kStale;
    return Reason::kNone;
  }

 private:
  static bool is_side(Side side) noexcept { return side == Side::kBuy || side == Side::kSell; }
  static bool is_time_in_force(TimeInForce value) noexcept {
    return value == TimeInForce::kDay || value == TimeInForce::kGoodTillCancel ||
           value == TimeInForce::kImmediateOrCancel || value == TimeInForce::kFillOrKill;
  }

  // The fields NewOrder and ReplaceOrder share. Which of them is wrong is asked once one is.
  template <class Order>
  RDMAORDER_ALWAYS_INLINE Reason check_order(const Order& order) const noexcept {
    const auto open_from_1 = static_cast<std::uint64_t>(order.quantity) - 1;  // 0 and less: huge
    if (RDMAORDER_UNLIKELY(!has_known_codes(order) || open_from_1 >= max_quantity_ ||
                           order.cl_ord_id == 0)) {
      return reason_of(order);
    }
    if (!allowed_.empty() && !is_allowed(order.instrument)) return Reason::kUnknownInstrument;
    return Reason::kNone;
  }

  template <class Order>
  static bool is_market(const Order& order) noexcept {
    return order.ord_type == OrdType::kMarket;
  }

  // side, ord_type, time_in_force and flags, which end both blocks, in one look. With 1 for no
  // price on top of it, ord_type has to be kLimit.
  template <class Order>
  RDMAORDER_ALWAYS_INLINE static bool has_known_codes(const Order& order) noexcept {
    static_assert(offsetof(Order, side) == 44 && offsetof(Order, ord_type) == 45 &&
                  offsetof(Order, time_in_force) == 46 && offsetof(Order, flags) == 47);
    static_assert(static_cast<int>(OrdType::kMarket) + 1 == static_cast<int>(OrdType::kLimit));
    constexpr std::uint32_t kFirst = 0x00000201;  // buy, limit, day, no flags
    // What may be set besides: sell, a time in force up to 7, the known flags.
    constexpr std::uint32_t kBesides = 0x00070001 | std::uint32_t{kKnownFlags} << 24;
    constexpr std::uint32_t kTimesInForce = 1U << 0 | 1U << 1 | 1U << 3 | 1U << 4;
    std::uint32_t codes = 0;
    std::memcpy(&codes, reinterpret_cast<const std::byte*>(&order) + 44, sizeof codes);
    const std::uint32_t no_price = order.price == kNoPrice ? 1 : 0;
    return ((codes + (no_price << 8) - kFirst) & ~kBesides) == 0 &&
           (kTimesInForce >> (codes >> 16 & 31) & 1) != 0;
  }

  template <class Order>
  [[gnu::cold, gnu::noinline]] Reason reason_of(const Order& order) const noexcept {
    if (!is_side(order.side)) return Reason::kInvalidSide;
    if (order.quantity <= 0) return Reason::kInvalidQuantity;
    if (static_cast<std::uint64_t>(order.quantity) > max_quantity_) return Reason::kMaxQuantity;
    if (!is_market(order) && order.ord_type != OrdType::kLimit) return Reason::kInvalidOrdType;
    if (is_market(order) != (order.price == kNoPrice)) return Reason::kInvalidPrice;
    if (!is_time_in_force(order.time_in_force)) return Reason::kInvalidTimeInForce;
    return Reason::kUnknownTemplate;  // no id, or flags that this schema does not have
  }

  static Reason check_scope(const wire::MassCancel& cancel) noexcept {
    switch (cancel.scope) {
      case MassCancelScope::kSession:
      case MassCancelScope::kInstrument:
      case MassCancelScope::kAccount:
        return Reason::kNone;
      case MassCancelScope::kSide:
        return is_side(cancel.side) ? Reason::kNone : Reason::kInvalidSide;
    }
    return Reason::kUnknownTemplate;
  }

  [[nodiscard]] bool is_allowed(std::uint32_t instrument) const noexcept {
    const std::size_t word = instrument / 64;
    return word < allowed_.size() && ((allowed_[word] >> (instrument % 64)) & 1U) != 0;
  }

  void add_range(std::uint32_t first, std::uint32_t last) {
    if (first > last || last > GuardConfig::kInstrumentIdMax) {
      throw Error(ErrorKind::kConfig, "instrument range " + std::to_string(first) + "-" +
                                          std::to_string(last) + " is empty or goes beyond " +
                                          std::to_string(GuardConfig::kInstrumentIdMax));
    }
    if (allowed_.size() <= last / 64) allowed_.resize(last / 64 + 1, 0);
    for (std::uint32_t id = first; id <= last; ++id) {
      allowed_[id / 64] |= std::uint64_t{1} << (id % 64);
    }
  }

  std::uint64_t max_quantity_;
  std::vector<std::uint64_t> allowed_;  ///< one bit an instrument id; empty: all
};

}  // namespace rdmaorder::gateway
