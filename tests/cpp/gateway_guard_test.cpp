// What the gateway refuses and why, the halt, and orders that the journal cannot take.
#include <gtest/gtest.h>

#include <thread>

#include <map>
#include <tuple>

#include "gateway_support.hpp"

namespace rdmaorder {
namespace {

using namespace gateway_support;
using journal::RecordKind;

GatewayConfig guarded() {
  GatewayConfig config = test_config();
  config.guard.instruments = {
      {1, 10}, {64, 64}, {GuardConfig::kInstrumentIdMax, GuardConfig::kInstrumentIdMax}};
  config.guard.max_quantity = 1000;
  return config;
}

struct Case {
  std::string name;
  wire::Slot64 slot;
  Reason reason;
};

Case new_order_case(const std::string& name, Reason reason,
                    const std::function<void(wire::NewOrder&)>& change) {
  wire::NewOrder block = order(5);
  change(block);
  return {name, slot_of(TemplateId::kNewOrder, block), reason};
}
Case replace_case(const std::string& name, Reason reason,
                  const std::function<void(wire::ReplaceOrder&)>& change) {
  wire::ReplaceOrder block{.cl_ord_id = 5,
                           .orig_cl_ord_id = 4,
                           .price = kPriceScale,
                           .quantity = 10,
                           .stale_after_ns = 0,
                           .instrument = 7,
                           .side = Side::kSell,
                           .ord_type = OrdType::kLimit,
                           .time_in_force = TimeInForce::kDay,
                           .flags = 0};
  change(block);
  return {name, slot_of(TemplateId::kReplaceOrder, block), reason};
}
Case cancel_case(const std::string& name, Reason reason,
                 const std::function<void(wire::CancelOrder&)>& change) {
  wire::CancelOrder block = cancel(5, 4);
  change(block);
  return {name, slot_of(TemplateId::kCancelOrder, block), reason};
}
Case mass_cancel_case(const std::string& name, Reason reason, MassCancelScope scope,
                      Side side = Side::kBuy) {
  wire::MassCancel block{};
  block.cl_ord_id = 5;
  block.scope = scope;
  block.side = side;
  return {name, slot_of(TemplateId::kMassCancel, block), reason};
}
Case header_case(const std::string& name, Reason reason,
                 const std::function<void(wire::MessageHeader&)>& change) {
  wire::Slot64 slot = order_slot(5);
  wire::MessageHeader header;
  std::memcpy(&header, slot.words, sizeof header);
  change(header);
  std::memcpy(slot.words, &header, sizeof header);
  return {name, slot, reason};
}

std::vector<Case> new_order_cases() {
  using O = wire::NewOrder;
  return {
      new_order_case("good", Reason::kNone, [](O&) {}),
      new_order_case("side 0", Reason::kInvalidSide, [](O& o) { o.side = Side{0}; }),
      new_order_case("side 3", Reason::kInvalidSide, [](O& o) { o.side = Side{3}; }),
      new_order_case("quantity 0", Reason::kInvalidQuantity, [](O& o) { o.quantity = 0; }),
      new_order_case("quantity -1", Reason::kInvalidQuantity, [](O& o) { o.quantity = -1; }),
      new_order_case("least quantity", Reason::kInvalidQuantity,
                     [](O& o) { o.quantity = INT64_MIN; }),
      new_order_case("largest allowed", Reason::kNone, [](O& o) { o.quantity = 1000; }),
      new_order_case("one more", Reason::kMaxQuantity, [](O& o) { o.quantity = 1001; }),
      new_order_case("most", Reason::kMaxQuantity, [](O& o) { o.quantity = INT64_MAX; }),
      new_order_case("limit without price", Reason::kInvalidPrice,
                     [](O& o) { o.price = kNoPrice; }),
      new_order_case("market without price", Reason::kNone,
                     [](O& o) {
                       o.ord_type = OrdType::kMarket;
                       o.price = kNoPrice;
                     }),
      new_order_case("market with a price", Reason::kInvalidPrice,
                     [](O& o) { o.ord_type = OrdType::kMarket; }),
      new_order_case("no id", Reason::kUnknownTemplate, [](O& o) { o.cl_ord_id = 0; }),
      new_order_case("possible resend", Reason::kNone, [](O& o) { o.flags = kFlagPossResend; }),
      new_order_case("unknown flag", Reason::kUnknownTemplate, [](O& o) { o.flags = 0x02; }),
      new_order_case("all flags", Reason::kUnknownTemplate, [](O& o) { o.flags = 0xff; }),
      new_order_case("negative price", Reason::kNone, [](O& o) { o.price = -1; }),
      new_order_case("type 0", Reason::kInvalidOrdType, [](O& o) { o.ord_type = OrdType{0}; }),
      new_order_case("type 3", Reason::kInvalidOrdType, [](O& o) { o.ord_type = OrdType{3}; }),
      new_order_case("tif 2", Reason::kInvalidTimeInForce,
                     [](O& o) { o.time_in_force = TimeInForce{2}; }),
      new_order_case("tif 5", Reason::kInvalidTimeInForce,
                     [](O& o) { o.time_in_force = TimeInForce{5}; }),
      new_order_case("instrument 0", Reason::kUnknownInstrument, [](O& o) { o.instrument = 0; }),
      new_order_case("first of a range", Reason::kNone, [](O& o) { o.instrument = 1; }),
      new_order_case("last of a range", Reason::kNone, [](O& o) { o.instrument = 10; }),
      new_order_case("behind a range", Reason::kUnknownInstrument, [](O& o) { o.instrument = 11; }),
      new_order_case("first of a word", Reason::kNone, [](O& o) { o.instrument = 64; }),
      new_order_case("before it", Reason::kUnknownInstrument, [](O& o) { o.instrument = 63; }),
      new_order_case("last of all", Reason::kNone,
                     [](O& o) { o.instrument = GuardConfig::kInstrumentIdMax; }),
      new_order_case("beyond all", Reason::kUnknownInstrument,
                     [](O& o) { o.instrument = UINT32_MAX; }),
      new_order_case("stale since 1970", Reason::kStale, [](O& o) { o.stale_after_ns = 1; }),
      new_order_case("stale an hour ago", Reason::kStale,
                     [](O& o) { o.stale_after_ns = realtime_ns() - kHour; }),
      new_order_case("stale in an hour", Reason::kNone,
                     [](O& o) { o.stale_after_ns = realtime_ns() + kHour; }),
      new_order_case("never stale", Reason::kNone, [](O& o) { o.stale_after_ns = UINT64_MAX; }),
  };
}

std::vector<Case> other_cases() {
  using R = wire::ReplaceOrder;
  using C = wire::CancelOrder;
  using H = wire::MessageHeader;
  return {
      replace_case("good replace", Reason::kNone, [](R&) {}),
      replace_case("replace side", Reason::kInvalidSide, [](R& r) { r.side = Side{9}; }),
      replace_case("replace quantity", Reason::kInvalidQuantity, [](R& r) { r.quantity = 0; }),
      replace_case("replace most", Reason::kMaxQuantity, [](R& r) { r.quantity = 1001; }),
      replace_case("replace price", Reason::kInvalidPrice, [](R& r) { r.price = kNoPrice; }),
      replace_case("replace type", Reason::kInvalidOrdType, [](R& r) { r.ord_type = OrdType{77}; }),
      replace_case("replace tif", Reason::kInvalidTimeInForce,
                   [](R& r) { r.time_in_force = TimeInForce{255}; }),
      replace_case("replace instrument", Reason::kUnknownInstrument,
                   [](R& r) { r.instrument = 12; }),
      replace_case("replace stale", Reason::kStale, [](R& r) { r.stale_after_ns = 1; }),
      replace_case("replace to market", Reason::kInvalidPrice,
                   [](R& r) { r.ord_type = OrdType::kMarket; }),
      replace_case("replace without id", Reason::kUnknownTemplate, [](R& r) { r.cl_ord_id = 0; }),
      replace_case("replace flag", Reason::kUnknownTemplate, [](R& r) { r.flags = 0x81; }),
      cancel_case("good cancel", Reason::kNone, [](C&) {}),
      cancel_case("cancel in part", Reason::kNone, [](C& c) { c.quantity = 5000; }),
      cancel_case("cancel of less than none", Reason::kInvalidQuantity,
                  [](C& c) { c.quantity = -1; }),
      cancel_case("cancel without id", Reason::kNone, [](C& c) { c.cl_ord_id = 0; }),
      cancel_case("cancel flag", Reason::kNone, [](C& c) { c.flags = 0x80; }),
      cancel_case("cancel of an unlisted instrument", Reason::kNone,
                  [](C& c) { c.instrument = 12; }),
      cancel_case("cancel stale", Reason::kStale, [](C& c) { c.stale_after_ns = 1; }),
      mass_cancel_case("session", Reason::kNone, MassCancelScope::kSession, Side{0}),
      mass_cancel_case("instrument", Reason::kNone, MassCancelScope::kInstrument, Side{0}),
      mass_cancel_case("account", Reason::kNone, MassCancelScope::kAccount, Side{0}),
      mass_cancel_case("side", Reason::kNone, MassCancelScope::kSide, Side::kSell),
      mass_cancel_case("no side", Reason::kInvalidSide, MassCancelScope::kSide, Side{0}),
      mass_cancel_case("no scope", Reason::kUnknownTemplate, MassCancelScope{0}),
      mass_cancel_case("scope 5", Reason::kUnknownTemplate, MassCancelScope{5}),
      header_case("template 0", Reason::kUnknownTemplate, [](H& h) { h.template_id = 0; }),
      header_case("template 5", Reason::kUnknownTemplate, [](H& h) { h.template_id = 5; }),
      header_case("a report", Reason::kUnknownTemplate, [](H& h) { h.template_id = 101; }),
      header_case("schema 2", Reason::kUnknownTemplate, [](H& h) { h.schema_id = 2; }),
      header_case("version 1", Reason::kUnknownTemplate, [](H& h) { h.version = 1; }),
      header_case("block of 47", Reason::kUnknownTemplate, [](H& h) { h.block_length = 47; }),
      header_case("block of 0", Reason::kUnknownTemplate, [](H& h) { h.block_length = 0; }),
      header_case("block of 65535", Reason::kUnknownTemplate, [](H& h) { h.block_length = 65535; }),
  };
}

TEST(Guard, GivesEachRequestTheFateItDeservesAndSaysWhy) {
  Rig rig(guarded(), std::make_unique<MemoryJournal>());
  Options options;
  options.order_slot_count = options.report_slot_count = 128;
  Strategy strategy = rig.connect("a", options);
  std::vector<Case> cases = new_order_cases();
  for (Case& one : other_cases()) cases.push_back(std::move(one));
  std::uint64_t sequence = 0;
  for (Case& one : cases) {
    ASSERT_EQ(strategy.session->try_send_slot(one.slot.words, ring::Lane::kUrgent, &sequence),
              Status::kOk);
  }
  rig.settle();
  const auto reports = strategy.poll();
  ASSERT_EQ(reports.size(), cases.size()) << "one fate each";
  const auto kept = rig.journal->of_kind(RecordKind::kOrder);
  ASSERT_EQ(kept.size(), cases.size());
  std::vector<std::uint64_t> passed;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const wire::ReportRecord& report = reports[i];
    EXPECT_EQ(report.order_sequence, i + 1) << "in the order of the requests";
    EXPECT_EQ(report.report.reason, cases[i].reason) << cases[i].name;
    EXPECT_EQ(report.report.cl_ord_id, cases[i].slot.words[1]) << cases[i].name;
    EXPECT_EQ(kept[i].detail, static_cast<std::uint16_t>(cases[i].reason)) << cases[i].name;
    if (cases[i].reason == Reason::kNone) {
      passed.push_back(i + 1);
      continue;
    }
    const bool stale = cases[i].reason == Reason::kStale;
    EXPECT_EQ(report.report.exec_type, stale ? ExecType::kExpired : ExecType::kRejected);
    EXPECT_EQ(report.report.ord_status, stale ? OrdStatus::kExpired : OrdStatus::kRejected);
  }
  EXPECT_EQ(rig.handler->sequences(), passed) << "the handler sees the admitted ones only";
  EXPECT_EQ(rig.view(strategy).rejected_count, cases.size() - passed.size());
}

TEST(Guard, JudgesStalenessByTheTimeOfThePickUpNotOfThePass) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());  // whose records need the pass's time
  Strategy first = rig.connect("a"), second = rig.connect("b");
  ASSERT_EQ(first.send(), Status::kOk);
  wire::NewOrder block = order(1);
  block.stale_after_ns = realtime_ns() + 20'000'000;
  std::uint64_t sequence = 0;
  ASSERT_EQ(second.session->try_new_order(block, &sequence), Status::kOk);
  rig.handler->before = [&](std::span<const wire::OrderRecord> orders) {  // the receiver is held up
    if (orders.front().session_index != first.index) return;
    while (realtime_ns() <= block.stale_after_ns) std::this_thread::yield();
  };
  ASSERT_TRUE(rig.gateway->run_pass());
  EXPECT_EQ(rig.handler->sequences(first.index), range(1, 1));
  EXPECT_EQ(rig.handler->sequences(second.index), range(1, 0)) << "it was too late";
  const auto reports = second.poll();
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].report.reason, Reason::kStale);
}

TEST(Guard, TakesEveryInstrumentWhenNoneIsListed) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  wire::NewOrder block = order(1);
  std::uint64_t sequence = 0;
  for (const std::uint32_t instrument : {0U, 1U << 24, UINT32_MAX}) {
    block.instrument = instrument;
    ASSERT_EQ(strategy.session->try_new_order(block, &sequence), Status::kOk);
  }
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 3));
}

TEST(Guard, RefusesAConfigurationThatMakesNoSense) {
  const auto kind_of = [](const std::function<void(GatewayConfig&)>& change) {
    GatewayConfig config = test_config();
    change(config);
    try {
      Rig rig(config);
    } catch (const Error& error) {
      return error.kind();
    }
    ADD_FAILURE() << "nothing was thrown";
    return ErrorKind::kSystem;
  };
  using C = GatewayConfig;
  EXPECT_EQ(kind_of([](C& c) { c.guard.max_quantity = 0; }), ErrorKind::kConfig);
  EXPECT_EQ(kind_of([](C& c) { c.guard.instruments = {{5, 4}}; }), ErrorKind::kConfig);
  EXPECT_EQ(kind_of([](C& c) { c.guard.instruments = {{0, 1U << 24}}; }), ErrorKind::kConfig);
  EXPECT_EQ(kind_of([](C& c) { c.max_session_count = 0; }), ErrorKind::kConfig);
  EXPECT_EQ(kind_of([](C& c) { c.batch_limit_count = 0; }), ErrorKind::kConfig);
  EXPECT_EQ(kind_of([](C& c) { c.max_ring_slot_count = 100; }), ErrorKind::kConfig);
  EXPECT_EQ(kind_of([](C& c) { c.heartbeat_interval_ns = 9'999; }), ErrorKind::kConfig);
  EXPECT_EQ(kind_of([](C& c) { c.cpu = 100'000; }), ErrorKind::kConfig);
}

// --- the halt -----------------------------------------------------------------------------------

TEST(Halt, RefusesOrdersAndReplacesByItsReasonAndLetsCancelsPass) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  // These are on their way when the halt comes: the session does not know yet.
  std::uint64_t sequence = 0;
  ASSERT_EQ(strategy.session->try_new_order(order(1), &sequence), Status::kOk);
  wire::Slot64 replace = replace_case("", Reason::kNone, [](wire::ReplaceOrder&) {}).slot;
  ASSERT_EQ(strategy.session->try_send_slot(replace.words, ring::Lane::kNormal, &sequence),
            Status::kOk);
  ASSERT_EQ(strategy.session->try_cancel_order(cancel(3, 1), &sequence), Status::kOk);
  wire::MassCancel mass{};
  mass.cl_ord_id = 4;
  mass.scope = MassCancelScope::kSession;
  ASSERT_EQ(strategy.session->try_mass_cancel(mass, &sequence), Status::kOk);
  rig.gateway->halt(Reason::kKill);
  rig.settle();
  const auto reports = strategy.poll();
  ASSERT_EQ(order_sequences(reports), range(1, 4));
  EXPECT_EQ(reports[0].report.reason, Reason::kKill);
  EXPECT_EQ(reports[1].report.reason, Reason::kKill);
  EXPECT_EQ(reports[2].report.reason, Reason::kNone);
  EXPECT_EQ(rig.handler->sequences(), range(3, 4));
  strategy.session->check_link();
  EXPECT_EQ(strategy.session->send_status(), Status::kHalted);
  EXPECT_EQ(strategy.session->peer().reason, Reason::kKill);
  rig.gateway->resume();
  strategy.session->check_link();
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(3, 5));
}

TEST(Halt, WithoutAReasonIsAHaltAllTheSame) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.gateway->halt(Reason::kNone);
  rig.settle();
  EXPECT_TRUE(rig.handler->sequences().empty());
  const auto reports = strategy.poll();
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].report.reason, Reason::kHalted);
}

TEST(Halt, HoldsForLinksMadeMeanwhile) {
  Rig rig;
  rig.gateway->halt(Reason::kHalted);
  Strategy strategy = rig.connect("a");
  strategy.session->check_link();
  EXPECT_EQ(strategy.send(), Status::kHalted);
}

// --- the throttle -------------------------------------------------------------------------------

TEST(Throttle, IsTheStateOfTheLineFromTheFirstRefusalUntilThereIsRoomAgain) {
  GatewayConfig config = test_config();
  config.throttle = {.orders_per_s = 1, .burst_count = 2, .disconnect_count = 0};
  Rig rig(config);
  Strategy strategy = rig.connect("a");
  Strategy other = rig.connect("b");
  for (int i = 0; i < 3; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  strategy.session->check_link();
  EXPECT_EQ(strategy.session->peer().state, PeerState::kThrottled);
  EXPECT_EQ(strategy.session->peer().reason, Reason::kThrottled);
  EXPECT_EQ(strategy.send(), Status::kThrottled);
  std::uint64_t sequence = 0;
  EXPECT_EQ(strategy.session->try_cancel_order(cancel(9, 1), &sequence), Status::kOk);
  other.session->check_link();
  EXPECT_EQ(other.session->peer().state, PeerState::kOpen) << "each session has its own rate";
  const auto open_again = [&] {
    rig.gateway->run_pass();
    strategy.session->check_link();
    return strategy.session->peer().state == PeerState::kOpen;
  };
  ASSERT_TRUE(eventually(open_again));
  EXPECT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), (std::vector<std::uint64_t>{1, 2, 4, 5}));
}

TEST(Throttle, IsToldWhenItBeginsAndWhenItEnds) {
  GatewayConfig config = test_config();
  config.throttle = {.orders_per_s = 5, .burst_count = 1, .disconnect_count = 0};
  Rig rig(config);
  Strategy strategy = rig.connect("a");
  for (int i = 0; i < 3; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  std::vector<SessionEventKind> told;
  const auto resumed = [&] {
    rig.gateway->run_pass();
    (void)strategy.poll();
    strategy.session->check_link();
    wire::SessionEvent event;
    while (ok(strategy.session->take_event(&event))) told.push_back(event.kind);
    return told.size() >= 2;
  };
  ASSERT_TRUE(eventually(resumed));
  EXPECT_EQ(told, (std::vector{SessionEventKind::kThrottled, SessionEventKind::kResumed}));
}

// --- the journal --------------------------------------------------------------------------------

TEST(JournalledGateway, HasAnOrderInTheJournalBeforeTheHandlerSeesIt) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Strategy strategy = rig.connect("a");
  std::vector<std::uint64_t> missing;
  rig.handler->before = [&](std::span<const wire::OrderRecord> orders) {
    const auto kept = rig.journal->of_kind(RecordKind::kOrder);
    for (const auto& one : orders) {
      if (kept.size() < one.sequence || kept[one.sequence - 1].sequence != one.sequence) {
        missing.push_back(one.sequence);
      }
    }
  };
  for (int i = 0; i < 30; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(missing, std::vector<std::uint64_t>{});
  const auto kept = rig.journal->of_kind(RecordKind::kOrder);
  ASSERT_EQ(kept.size(), 30U);
  const wire::Slot64 third = order_slot(3);
  EXPECT_EQ(std::memcmp(kept[2].payload.data(), third.words, 56), 0) << "header and block";
  EXPECT_EQ(rig.journal->of_kind(RecordKind::kReport).size(), 30U);
}

TEST(JournalledGateway, RefusesWhatTheJournalCannotTakeAndLetsCancelsPass) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Strategy strategy = rig.connect("a");
  rig.journal->full = true;
  std::uint64_t sequence = 0;
  ASSERT_EQ(strategy.send(), Status::kOk);
  ASSERT_EQ(strategy.session->try_cancel_order(cancel(2, 1), &sequence), Status::kOk);
  rig.settle();
  auto reports = strategy.poll();
  ASSERT_EQ(order_sequences(reports), range(1, 2));
  EXPECT_EQ(reports[0].report.reason, Reason::kJournalUnavailable);
  EXPECT_EQ(reports[1].report.reason, Reason::kNone);
  EXPECT_EQ(rig.handler->sequences(), range(2, 2));
  EXPECT_EQ(refusal_of([&] { rig.open("new one"); }), "Unspecified");
  rig.journal->full = false;  // room again
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(strategy.poll().at(0).report.reason, Reason::kNone);
  EXPECT_EQ(rig.handler->sequences(), range(2, 3));
  EXPECT_GT(rig.counter("journal_errors"), 0U);
}

TEST(JournalledGateway, ShowsNoOrderToTheHandlerThatDidNotReachStableStorage) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Strategy strategy = rig.connect("a");
  rig.journal->sync_fails = true;
  std::uint64_t sequence = 0;
  ASSERT_EQ(strategy.send(), Status::kOk);
  ASSERT_EQ(strategy.session->try_cancel_order(cancel(2, 1), &sequence), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(2, 2));
  EXPECT_EQ(strategy.poll().at(0).report.reason, Reason::kJournalUnavailable);
}

TEST(JournalledGateway, CallsDurableWhatIsOnStableStorageAndNotMore) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  rig.handler->answers = false;
  Strategy strategy = rig.connect("a");
  const auto durable = [&] {
    rig.settle();
    for (int i = 0; i < 3; ++i) rig.gateway->resume();  // tells every strategy its positions
    strategy.session->check_link();
    return strategy.session->peer().durable;
  };
  for (int i = 0; i < 3; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  EXPECT_EQ(durable(), 0U);
  EXPECT_EQ(strategy.session->peer().applied, 3U);
  rig.journal->durable = rig.journal->last_position() - 1;  // the third is missing
  EXPECT_LT(durable(), 3U);
  rig.journal->durable = rig.journal->last_position();
  EXPECT_EQ(durable(), 3U);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  EXPECT_EQ(durable(), 3U);
  rig.journal->durable = rig.journal->last_position();
  EXPECT_EQ(durable(), 6U);
}

TEST(JournalledGateway, NeverCallsDurableWhatTheJournalDidNotTake) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Strategy strategy = rig.connect("a");
  const auto durable = [&] {
    rig.settle();
    for (int i = 0; i < 3; ++i) rig.gateway->resume();
    strategy.session->check_link();
    return strategy.session->peer().durable;
  };
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  rig.journal->durable = rig.journal->last_position();
  EXPECT_EQ(durable(), 1U);
  rig.journal->full = true;
  std::uint64_t sequence = 0;
  ASSERT_EQ(strategy.session->try_cancel_order(cancel(2, 1), &sequence), Status::kOk);
  EXPECT_EQ(durable(), 1U) << "the cancel passed, but it is in no journal";
  EXPECT_EQ(strategy.session->peer().applied, 2U);
}

TEST(JournalledGateway, CallsTheOrdersOfTheRecoveredJournalDurable) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>(), {{"a", 0, 101, 1}});
  Strategy strategy = rig.connect("a");
  strategy.session->check_link();
  EXPECT_EQ(strategy.session->peer().durable, 100U);
}

TEST(JournalledGateway, AnswersInTheOrderOfTheRequestsWhoeverAnswers) {
  Rig rig(guarded());
  Strategy strategy = rig.connect("a");
  std::vector<Reason> expected;
  for (std::uint64_t i = 1; i <= 40; ++i) {
    wire::NewOrder block = order(i);
    if (i % 3 == 0) block.quantity = 0;
    expected.push_back(i % 3 == 0 ? Reason::kInvalidQuantity : Reason::kNone);
    std::uint64_t sequence = 0;
    ASSERT_EQ(strategy.session->try_new_order(block, &sequence), Status::kOk);
  }
  rig.settle();
  const auto reports = strategy.poll();
  ASSERT_EQ(order_sequences(reports), range(1, 40));
  for (std::size_t i = 0; i < reports.size(); ++i) {
    EXPECT_EQ(reports[i].report.reason, expected[i]) << i;
  }
}

}  // namespace
}  // namespace rdmaorder
