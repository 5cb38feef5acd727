// The venue against a model that keeps the same promises with std::map and no thought for speed:
// long random streams over few ids, so that duplicates, late cancels and full tables are common.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "handler_support.hpp"

namespace rdmaorder {
namespace {

using handler_support::make_record;
using handler_support::RecordingSink;
using handler_support::Sent;
using handler_support::text_of;
using wire::ExecutionReport;
using wire::OrderRecord;
using wire::TemplateId;

class Model {
 public:
  explicit Model(std::size_t max_id_count) : max_id_count_(max_id_count) {}

  void apply(const OrderRecord& record) {
    switch (static_cast<TemplateId>(record.template_id)) {
      case TemplateId::kNewOrder:
        return open(record, record.new_order);
      case TemplateId::kReplaceOrder:
        return replace(record, record.replace_order);
      case TemplateId::kCancelOrder:
        return cancel(record, record.cancel_order);
      case TemplateId::kMassCancel:
        return mass_cancel(record, record.mass_cancel);
      default:
        return say(record.session_index, record.sequence, record.block_words[0], 0, kNoPrice, 0, 0,
                   ExecType::kRejected, OrdStatus::kRejected, Reason::kUnknownTemplate);
    }
  }

  std::vector<Sent> sent;
  std::map<std::pair<ExecType, Reason>, int> outcomes;

 private:
  using Key = std::pair<std::uint32_t, std::uint64_t>;
  struct Order {
    std::uint64_t order_id;
    std::uint64_t opened_by;
    wire::NewOrder terms;  // as they are now; quantity is what is open
  };

  void say(std::uint32_t session, std::uint64_t sequence, std::uint64_t id, std::uint64_t order_id,
           std::int64_t price, std::int64_t quantity, std::int64_t leaves, ExecType type,
           OrdStatus status, Reason reason) {
    sent.push_back({session, sequence,
                    ExecutionReport{.cl_ord_id = id,
                                    .order_id = order_id,
                                    .price = price,
                                    .quantity = quantity,
                                    .leaves_quantity = leaves,
                                    .order_sequence_low = 0,
                                    .exec_type = type,
                                    .ord_status = status,
                                    .reason = reason,
                                    .flags = 0}});
    ++outcomes[{type, reason}];
  }

  bool used(const Key& key) const { return live_.contains(key) || done_.contains(key); }
  bool full() const { return live_.size() + done_.size() >= max_id_count_; }

  void expire_if_immediate(const Key& key) {
    const Order& order = live_.at(key);
    if (order.terms.ord_type != OrdType::kMarket &&
        order.terms.time_in_force != TimeInForce::kImmediateOrCancel &&
        order.terms.time_in_force != TimeInForce::kFillOrKill) {
      return;
    }
    say(key.first, order.opened_by, key.second, order.order_id, order.terms.price,
        order.terms.quantity, 0, ExecType::kExpired, OrdStatus::kExpired, Reason::kNoLiquidity);
    done_[key] = OrdStatus::kExpired;
    live_.erase(key);
  }

  void open(const OrderRecord& record, const wire::NewOrder& request) {
    const Key key{record.session_index, request.cl_ord_id};
    const auto reason = used(key) ? Reason::kDuplicateClOrdId
                        : full()  ? Reason::kCapacity
                                  : Reason::kNone;
    if (reason != Reason::kNone) {
      return say(key.first, record.sequence, key.second, 0, request.price, request.quantity, 0,
                 ExecType::kRejected, OrdStatus::kRejected, reason);
    }
    live_[key] = {++order_count_, record.sequence, request};
    say(key.first, record.sequence, key.second, order_count_, request.price, request.quantity,
        request.quantity, ExecType::kNew, OrdStatus::kNew, Reason::kNone);
    expire_if_immediate(key);
  }

  void replace(const OrderRecord& record, const wire::ReplaceOrder& request) {
    const Key from{record.session_index, request.orig_cl_ord_id};
    const Key to{record.session_index, request.cl_ord_id};
    if (!live_.contains(from)) {
      const bool is_done = done_.contains(from);
      return say(from.first, record.sequence, to.second, 0, request.price, request.quantity, 0,
                 ExecType::kRejected, is_done ? done_.at(from) : OrdStatus::kRejected,
                 is_done ? Reason::kTooLate : Reason::kUnknownOrder);
    }
    Order order = live_.at(from);
    Reason reason = Reason::kNone;
    if (full()) reason = Reason::kCapacity;
    if (used(to)) reason = Reason::kDuplicateClOrdId;
    if (request.side != order.terms.side) reason = Reason::kInvalidSide;
    if (request.instrument != order.terms.instrument) reason = Reason::kUnknownInstrument;
    if (reason != Reason::kNone) {
      return say(from.first, record.sequence, to.second, order.order_id, request.price,
                 request.quantity, order.terms.quantity, ExecType::kRejected, OrdStatus::kNew,
                 reason);
    }
    order.terms.price = request.price;
    order.terms.quantity = request.quantity;
    order.terms.ord_type = request.ord_type;
    order.terms.time_in_force = request.time_in_force;
    live_.erase(from);
    done_[from] = OrdStatus::kReplaced;
    live_[to] = order;
    say(from.first, record.sequence, to.second, order.order_id, request.price, request.quantity,
        request.quantity, ExecType::kReplaced, OrdStatus::kNew, Reason::kNone);
    expire_if_immediate(to);
  }

  void cancel(const OrderRecord& record, const wire::CancelOrder& request) {
    const Key key{record.session_index, request.orig_cl_ord_id};
    if (!live_.contains(key)) {
      const bool is_done = done_.contains(key);
      return say(key.first, record.sequence, request.cl_ord_id, 0, kNoPrice, request.quantity, 0,
                 ExecType::kRejected, is_done ? done_.at(key) : OrdStatus::kRejected,
                 is_done ? Reason::kTooLate : Reason::kUnknownOrder);
    }
    Order& order = live_.at(key);
    const auto before = order.terms.quantity;
    order.terms.quantity =
        request.quantity == 0 ? 0 : std::max<std::int64_t>(0, before - request.quantity);
    const auto left = order.terms.quantity;
    say(key.first, record.sequence, request.cl_ord_id, order.order_id, order.terms.price,
        before - left, left, ExecType::kCanceled,
        left == 0 ? OrdStatus::kCanceled : OrdStatus::kNew, Reason::kNone);
    if (left == 0) {
      done_[key] = OrdStatus::kCanceled;
      live_.erase(key);
    }
  }

  void mass_cancel(const OrderRecord& record, const wire::MassCancel& request) {
    std::map<std::uint64_t, Key> hit;  // by the venue's id: oldest first
    for (const auto& [key, order] : live_) {
      const bool in_scope =
          request.scope == MassCancelScope::kSession ||
          (request.scope == MassCancelScope::kInstrument &&
           order.terms.instrument == request.instrument) ||
          (request.scope == MassCancelScope::kSide && order.terms.side == request.side) ||
          (request.scope == MassCancelScope::kAccount && order.terms.account == request.account);
      if (key.first == record.session_index && in_scope) hit[order.order_id] = key;
    }
    for (const auto& [order_id, key] : hit) {
      const Order& order = live_.at(key);
      say(key.first, order.opened_by, key.second, order_id, order.terms.price, order.terms.quantity,
          0, ExecType::kCanceled, OrdStatus::kCanceled, Reason::kMassCancel);
      done_[key] = OrdStatus::kCanceled;
      live_.erase(key);
    }
    say(record.session_index, record.sequence, request.cl_ord_id, 0, kNoPrice,
        static_cast<std::int64_t>(hit.size()), 0, ExecType::kCanceled, OrdStatus::kCanceled,
        Reason::kNone);
  }

  std::size_t max_id_count_;
  std::uint64_t order_count_ = 0;
  std::map<Key, Order> live_;
  std::map<Key, OrdStatus> done_;
};

class RandomStream {
 public:
  RandomStream(std::uint64_t seed, std::uint64_t id_range) : random_(seed), id_range_(id_range) {}

  /// One batch: a span of one session's consecutive requests, as the gateway hands them over.
  std::vector<OrderRecord> next_batch() {
    const auto session = static_cast<std::uint32_t>(below(3));
    std::vector<OrderRecord> batch(1 + below(20));
    for (auto& record : batch) record = next(session, ++sequences_[session]);
    return batch;
  }

 private:
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  Side side() { return below(2) == 0 ? Side::kBuy : Side::kSell; }
  TimeInForce time_in_force() {
    constexpr TimeInForce kAll[] = {TimeInForce::kDay, TimeInForce::kGoodTillCancel,
                                    TimeInForce::kImmediateOrCancel, TimeInForce::kFillOrKill};
    return kAll[below(8) == 0 ? 2 + below(2) : below(2)];
  }
  OrdType ord_type() { return below(16) == 0 ? OrdType::kMarket : OrdType::kLimit; }

  OrderRecord next(std::uint32_t session, std::uint64_t sequence) {
    const auto dice = below(100);
    const auto id = below(id_range_);
    const auto original = below(id_range_);
    const auto quantity = static_cast<std::int64_t>(1 + below(50));
    const auto price = static_cast<std::int64_t>(below(1000)) * kPriceScale;
    if (dice < 45) {
      auto record = make_record(TemplateId::kNewOrder, sequence, session);
      record.new_order = {id,     price,      quantity,        0, instrument(), account(), 0,
                          side(), ord_type(), time_in_force(), 0};
      return record;
    }
    if (dice < 70) {
      auto record = make_record(TemplateId::kReplaceOrder, sequence, session);
      record.replace_order = {id,           original, price,      quantity,        0,
                              instrument(), side(),   ord_type(), time_in_force(), 0};
      return record;
    }
    if (dice < 97) {
      auto record = make_record(TemplateId::kCancelOrder, sequence, session);
      record.cancel_order = {
          id, original, below(3) == 0 ? quantity : 0, 0, instrument(), account(), 0, side(), {}, 0};
      return record;
    }
    if (dice < 99) {
      auto record = make_record(TemplateId::kMassCancel, sequence, session);
      record.mass_cancel = {
          id, {}, instrument(), account(), 0, side(), static_cast<MassCancelScope>(1 + below(4)),
          0,  0};
      return record;
    }
    auto record = make_record(static_cast<TemplateId>(5 + below(90)), sequence, session);
    record.block_words[0] = id;
    return record;
  }
  std::uint32_t instrument() { return static_cast<std::uint32_t>(below(2)); }
  std::uint32_t account() { return static_cast<std::uint32_t>(below(2)); }

  std::mt19937_64 random_;
  std::uint64_t id_range_;
  std::uint64_t sequences_[3] = {};
};

struct Scenario {
  std::uint32_t max_order_count;
  std::uint64_t id_range;
  int batch_count;
};

TEST(VenueModelTest, EveryReportOfRandomStreamsIsTheModels) {
  // Few ids in a roomy table; a table that fills; many ids in a table of awkward size.
  const Scenario scenarios[] = {{1024, 40, 60}, {50, 64, 60}, {20'011, 6000, 1500}};
  std::map<std::pair<ExecType, Reason>, int> outcomes;
  for (const auto& scenario : scenarios) {
    const int seed_count = scenario.batch_count > 1000 ? 6 : 300;
    for (int seed = 0; seed < seed_count; ++seed) {
      const auto venue = make_venue_handler({.max_order_count = scenario.max_order_count});
      Model model(scenario.max_order_count);
      RandomStream stream(static_cast<std::uint64_t>(seed), scenario.id_range);
      for (int batch_index = 0; batch_index < scenario.batch_count; ++batch_index) {
        const auto batch = stream.next_batch();
        RecordingSink sink;
        venue->on_orders(batch, sink);
        model.sent.clear();
        for (const auto& record : batch) model.apply(record);
        ASSERT_EQ(sink.sent.size(), model.sent.size()) << "seed " << seed;
        for (std::size_t i = 0; i < sink.sent.size(); ++i) {
          ASSERT_EQ(text_of(sink.sent[i]), text_of(model.sent[i]))
              << "seed " << seed << " batch " << batch_index << " report " << i;
        }
      }
      for (const auto& [outcome, count] : model.outcomes) outcomes[outcome] += count;
    }
  }
  // The streams reached every outcome the venue has.
  std::set<std::pair<ExecType, Reason>> seen;
  std::transform(outcomes.begin(), outcomes.end(), std::inserter(seen, seen.end()),
                 [](const auto& entry) { return entry.first; });
  const std::set<std::pair<ExecType, Reason>> all = {
      {ExecType::kNew, Reason::kNone},
      {ExecType::kReplaced, Reason::kNone},
      {ExecType::kCanceled, Reason::kNone},
      {ExecType::kCanceled, Reason::kMassCancel},
      {ExecType::kExpired, Reason::kNoLiquidity},
      {ExecType::kRejected, Reason::kUnknownOrder},
      {ExecType::kRejected, Reason::kTooLate},
      {ExecType::kRejected, Reason::kDuplicateClOrdId},
      {ExecType::kRejected, Reason::kUnknownInstrument},
      {ExecType::kRejected, Reason::kInvalidSide},
      {ExecType::kRejected, Reason::kUnknownTemplate},
      {ExecType::kRejected, Reason::kCapacity}};
  EXPECT_EQ(seen, all);
}

}  // namespace
}  // namespace rdmaorder
