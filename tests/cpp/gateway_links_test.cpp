// Links that come and go under a session, sessions that come back, shutdown.
#include <gtest/gtest.h>

#include <thread>

#include "gateway_support.hpp"
#include "rdmaorder/transport/verbs.hpp"

namespace rdmaorder {
namespace {

using namespace gateway_support;
using journal::RecordKind;

// --- sessions -----------------------------------------------------------------------------------

TEST(GatewaySessions, AreRefusedByNameSizeAndNumberWithACode) {
  GatewayConfig config = test_config();
  config.max_session_count = 2;
  Rig rig(config);
  EXPECT_EQ(refusal_of([&] { rig.open(""); }), "BadRequest");
  EXPECT_EQ(refusal_of([&] { rig.open(std::string(65, 'x')); }), "BadRequest");
  for (const std::uint32_t slot_bytes : {0U, 65U, 4160U}) {
    Options options;
    options.slot_bytes = slot_bytes;
    EXPECT_EQ(refusal_of([&] { rig.open("a", options); }), "BadRequest") << slot_bytes;
  }
  SessionRequest newer;
  newer.name = "a";
  newer.schema_version = wire::kSchemaVersion + 1;
  EXPECT_EQ(refusal_of([&] { rig.gateway->open_session(newer); }), "VersionMismatch");
  EXPECT_EQ(rig.open("a").session_index, 0U);
  EXPECT_EQ(rig.open(std::string(64, 'b')).session_index, 1U);
  EXPECT_EQ(refusal_of([&] { rig.open("c"); }), "TooManySessions");
  EXPECT_EQ(rig.open("a").session_index, 0U) << "a known one is found, not made";
}

TEST(GatewaySessions, AreGrantedRingsTheGatewayCanHold) {
  GatewayConfig config = test_config();
  config.max_ring_slot_count = 128;
  Rig rig(config);
  Options options;
  options.order_slot_count = 100'000;
  options.report_slot_count = 1;
  const SessionGrant grant = rig.open("a", options);
  EXPECT_EQ(grant.order_slot_count, 128U);
  EXPECT_EQ(grant.report_slot_count, ring::kSlotCountMin);
  options.order_slot_count = 33;
  EXPECT_EQ(rig.open("b", options).order_slot_count, 64U);
}

TEST(GatewaySessions, TakeNoSecondLinkWhileOneLives) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  EXPECT_TRUE(rig.open("a").live);
  EXPECT_EQ(refusal_of([&] { rig.connect("a"); }), "AlreadyEstablished");
  ASSERT_EQ(strategy.send(), Status::kOk);  // the first is unharmed
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
  (void)rig.detach(strategy);
  EXPECT_FALSE(rig.open("a").live);
  EXPECT_EQ(rig.connect("a").attached.next_order_sequence, 2U);
}

TEST(GatewaySessions, RefuseAWindowThatDoesNotHoldItsRing) {
  Rig rig;
  Options options;
  options.report_slot_count = 16;
  const SessionGrant grant = rig.open("a", options);
  const auto attach = [&](ring::Geometry geometry) {
    AttachRequest request;
    request.session_index = grant.session_index;
    request.report_geometry = geometry;
    request.transport = transport::make_shm(ring_support::make_window(4096));
    return refusal_of([&] { rig.gateway->attach(std::move(request)); });
  };
  EXPECT_EQ(attach({3136, 64, 16}), "BadWindow") << "4160 bytes do not fit 4096";
  EXPECT_EQ(attach({128, 64, 12}), "BadWindow") << "no power of two";
  EXPECT_EQ(attach({0, 64, 8}), "BadWindow") << "over the status line";
  EXPECT_EQ(attach({128, 128, 8}), "BadWindow") << "not the slot size agreed";
  EXPECT_EQ(attach({128, 64, 32}), "BadWindow") << "more slots than were granted";
  Strategy strategy = rig.connect("a");  // a refusal leaves the session usable
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
}

TEST(GatewaySessions, OfUnknownIndexCannotBeAttached) {
  Rig rig;
  AttachRequest request;
  request.session_index = 3;
  EXPECT_EQ(refusal_of([&] { rig.gateway->attach(std::move(request)); }), "Unnegotiated");
}

// --- links that come and go
// -----------------------------------------------------------------------

TEST(GatewayLinks, EndWithEveryOrderTakenWhenDrained) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  for (int i = 0; i < 20; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  const DetachResult result = rig.detach(strategy, true);
  EXPECT_EQ(result.last_order_sequence, 20U);
  EXPECT_EQ(result.last_report_sequence, 20U);
  EXPECT_EQ(rig.handler->sequences(), range(1, 20));
  EXPECT_EQ(order_sequences(strategy.poll()), range(1, 20)) << "the last reports are readable";
}

TEST(GatewayLinks, EndAtOnceWhenNotDrainedAndTellHowFarTheyCame) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  for (int i = 0; i < 3; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  for (int i = 0; i < 5; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  EXPECT_EQ(rig.detach(strategy, false).last_order_sequence, 3U);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 3));
}

TEST(GatewayLinks, LoseTheirPermissionFirstAndAreGoneBeforeOrdersAreCancelled) {
  using Steps = std::vector<std::string>;
  Steps told;
  Rig rig;
  const SessionGrant grant = rig.open("a");
  const auto attach = [&](bool fences) {
    AttachRequest request;
    request.session_index = grant.session_index;
    request.report_geometry = {ring::kRingOffsetMinBytes, 64, grant.report_slot_count};
    auto transport = std::make_unique<TellingTransport>(
        told,
        transport::make_shm(ring_support::make_window(request.report_geometry.window_bytes())));
    transport->fences = fences;
    request.transport = std::move(transport);
    told.clear();
    return rig.gateway->attach(std::move(request)).epoch;
  };
  rig.gateway->detach(grant.session_index, attach(true), true);
  EXPECT_EQ(told, (Steps{"fenced", "lingered", "closed", "gone"}));
  rig.gateway->detach(grant.session_index, attach(false), true);
  EXPECT_EQ(told, (Steps{"fenced", "closed", "lingered", "closed", "gone"}))
      << "a device that did not confirm: closed at once";
  attach(true);
  rig.handler->before = [&](std::span<const wire::OrderRecord>) { told.emplace_back("cancel"); };
  EXPECT_GT(rig.gateway->kill(grant.session_index).fence_ns, 0U);
  EXPECT_EQ(told, (Steps{"fenced", "closed", "gone", "cancel"})) << "a kill waits for nothing";
}

TEST(GatewayLinks, AreNotEndedByTheEpochOfAnEarlierOne) {
  Rig rig;
  Strategy first = rig.connect("a");
  (void)rig.detach(first);
  Strategy second = rig.connect("a");
  EXPECT_EQ(rig.detach(first).last_order_sequence, 0U);
  ASSERT_EQ(second.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
  EXPECT_TRUE(rig.view(second).live);
}

TEST(GatewayLinks, ContinueTheSequencesOfTheSession) {
  Rig rig;
  std::uint64_t next = 1;
  for (int link = 0; link < 5; ++link) {
    Strategy strategy = rig.connect("a");
    ASSERT_EQ(strategy.session->next_sequence(), next);
    ASSERT_EQ(strategy.session->next_report_sequence(), next);
    for (int i = 0; i < 100; ++i) {
      ASSERT_EQ(strategy.send(), Status::kOk);
      rig.settle();
      const auto reports = strategy.poll();
      ASSERT_EQ(order_sequences(reports), range(next, next));
      ASSERT_EQ(reports[0].sequence, next);
      ++next;
      strategy.session->check_link();
    }
    (void)rig.detach(strategy);
  }
  EXPECT_EQ(rig.handler->sequences(), range(1, 500));
}

TEST(GatewayLinks, SayNotAppliedForAGapAndGoOnBehindIt) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Strategy first = rig.connect("a");
  for (int i = 0; i < 3; ++i) ASSERT_EQ(first.send(), Status::kOk);
  rig.settle();
  for (int i = 0; i < 5; ++i) ASSERT_EQ(first.send(), Status::kOk);
  (void)rig.detach(first, false);  // 4 … 8 are lost
  Options options;
  options.next_order_sequence = first.session->next_sequence();
  Strategy second = rig.connect("a", options);
  EXPECT_EQ(second.attached.next_order_sequence, 9U);
  EXPECT_EQ(second.attached.not_applied_count, 5U);
  const auto gaps = rig.journal->of_kind(RecordKind::kNotApplied);
  ASSERT_EQ(gaps.size(), 1U);
  EXPECT_EQ(gaps[0].sequence, 4U);
  std::uint64_t count = 0;
  std::memcpy(&count, gaps[0].payload.data(), sizeof count);
  EXPECT_EQ(count, 5U);
  ASSERT_EQ(second.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), (std::vector<std::uint64_t>{1, 2, 3, 9}));
}

TEST(GatewayLinks, SayNotAppliedAgainWhenTheStrategyMayNotHaveGotTheAnswer) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  const SessionGrant grant = rig.open("a");
  const auto attach = [&](std::uint64_t next) {  // and the answer is lost
    AttachRequest request;
    request.session_index = grant.session_index;
    request.next_order_sequence = next;
    request.report_geometry = {ring::kRingOffsetMinBytes, 64, grant.report_slot_count};
    request.transport =
        transport::make_shm(ring_support::make_window(request.report_geometry.window_bytes()));
    const AttachResult result = rig.gateway->attach(std::move(request));
    rig.gateway->detach(grant.session_index, result.epoch, true);
    return result.not_applied_count;
  };
  EXPECT_EQ(attach(10), 9U);
  EXPECT_EQ(attach(10), 9U);
  EXPECT_EQ(attach(15), 14U) << "what was written meanwhile as well";
  const auto told = rig.journal->of_kind(RecordKind::kNotApplied);
  ASSERT_EQ(told.size(), 2U) << "each order is declared once";
  EXPECT_EQ(told[1].sequence, 10U);
  Options options;
  options.next_order_sequence = 15;
  Strategy strategy = rig.connect("a", options);
  EXPECT_EQ(strategy.attached.not_applied_count, 14U);
  rig.settle();
  (void)rig.detach(strategy);  // this one lived: it has written its line
  EXPECT_EQ(attach(15), 0U);
}

TEST(GatewayLinks, NeverGoBackWhateverTheStrategySays) {
  Rig rig;
  Strategy first = rig.connect("a");
  for (int i = 0; i < 5; ++i) ASSERT_EQ(first.send(), Status::kOk);
  (void)rig.detach(first);
  Options options;
  options.next_order_sequence = 2;
  Strategy second = rig.connect("a", options);
  EXPECT_EQ(second.attached.next_order_sequence, 6U);
  EXPECT_EQ(second.attached.not_applied_count, 0U);
  second.forge(2, Strategy::sealed_order(second.attached.epoch, 2));
  ASSERT_EQ(second.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 6));
}

TEST(GatewayLinks, NumberReportsMadeWhileALinkIsBeingMadeAsTheJournalDoes) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  const SessionGrant grant = rig.open("a");
  rig.handler->idle = [&](ReportSink& sink) {
    (void)sink.send(grant.session_index, 0, wire::ExecutionReport{});
  };
  rig.gateway->run_pass();  // one report before there is any link
  memory::Window window = ring_support::make_window(8192);
  AttachRequest request;
  request.session_index = grant.session_index;
  request.report_geometry = {128, 64, 64};
  // The loop turns while the transport is being made.
  request.connect = [&](const memory::Window&) {
    rig.gateway->run_pass();
    rig.gateway->run_pass();
    return transport::make_shm(ring_support::map_again(window));
  };
  request.hold = true;
  const AttachResult attached = rig.gateway->attach(std::move(request));
  EXPECT_EQ(attached.next_report_sequence, 2U);
  rig.gateway->run_pass();
  EXPECT_EQ(window.words()[128 / 8 + 7], 0U) << "nothing is written before activate()";
  EXPECT_FALSE(rig.gateway->activate(grant.session_index, attached.epoch + 1));
  ASSERT_TRUE(rig.gateway->activate(grant.session_index, attached.epoch));
  rig.gateway->run_pass();
  rig.handler->idle = nullptr;
  rig.settle();
  ring::Reader reader(window.words(), {128, 64, 64}, attached.epoch, 2);
  std::uint64_t slot[8];
  while (ok(reader.read(slot))) {
  }
  EXPECT_EQ(reader.next_sequence(), 6U);
  const auto kept = rig.journal->of_kind(RecordKind::kReport);
  ASSERT_EQ(kept.size(), 5U);
  for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_EQ(kept[i].sequence, i + 1);
}

TEST(GatewayLinks, SkipNobodysHeartbeatWhenAnotherLinkEnds) {
  GatewayConfig config = test_config();
  config.heartbeat_interval_ns = kHour;  // one beat, at the first housekeeping
  Rig rig(config);
  std::vector<Strategy> strategies;
  for (int i = 0; i < 8; ++i) strategies.push_back(rig.connect(std::to_string(i)));
  const auto beat_of = [](Strategy& strategy) {
    strategy.session->check_link();
    return strategy.session->peer().heartbeat;
  };
  ASSERT_TRUE(eventually([&] {  // until the round of beats has begun
    rig.gateway->run_pass();
    return beat_of(strategies[0]) == 1;
  }));
  (void)rig.detach(strategies[0]);
  for (int i = 0; i < 4; ++i) rig.gateway->run_pass();
  for (std::size_t i = 1; i < strategies.size(); ++i) {
    EXPECT_EQ(beat_of(strategies[i]), 1U) << "session " << i;
  }
}

TEST(GatewayLinks, LeaveStatusLinesToTheHeartbeatWherePutsAreCostly) {
  GatewayConfig config = test_config();
  config.heartbeat_interval_ns = kHour;  // one beat, at the first housekeeping
  Rig rig(config);
  Strategy costly = rig.connect("costly", {.transport_depth = 16});
  Strategy cheap = rig.connect("cheap");
  ASSERT_TRUE(eventually([&] {
    rig.gateway->run_pass();
    costly.session->check_link();
    return costly.session->peer().heartbeat == 1;
  }));
  rig.settle();
  // One put an order, one a report, until a quarter of the 64 slots is owed.
  const auto puts = [](const Strategy& of) {
    return std::pair{of.to_gateway->put_count(), of.to_strategy->put_count()};
  };
  const auto exchange = [&](Strategy& of) {
    const auto before = puts(of);
    EXPECT_EQ(of.send(), Status::kOk);
    rig.settle();
    EXPECT_EQ(of.poll().size(), 1U);
    EXPECT_EQ(of.poll().size(), 0U);
    const auto after = puts(of);
    return std::pair{after.first - before.first, after.second - before.second};
  };
  using Puts = std::pair<std::uint64_t, std::uint64_t>;
  for (int lap = 0; lap < 3; ++lap) {
    for (int i = 1; i < 16; ++i) EXPECT_EQ(exchange(costly), (Puts{1, 1})) << lap << ' ' << i;
    EXPECT_EQ(exchange(costly), (Puts{2, 2})) << lap;
  }
  EXPECT_EQ(exchange(cheap), (Puts{2, 2}));
}

TEST(GatewayLinks, TellPositionsWithTheHeartbeatWherePutsAreCostly) {
  GatewayConfig config = test_config();
  config.heartbeat_interval_ns = 5'000'000;
  Rig rig(config);
  const std::uint64_t start = ticks();
  Strategy costly = rig.connect("a", {.transport_depth = 16});
  ASSERT_EQ(costly.send(), Status::kOk);
  const std::uint64_t sent = costly.to_gateway->put_count();
  ASSERT_TRUE(eventually([&] {
    rig.gateway->run_pass();
    (void)costly.poll();
    return costly.session->peer().applied == 1 && costly.to_gateway->put_count() > sent;
  }));
  EXPECT_GE(TickRate::get().to_ns(ticks() - start), 8 * config.heartbeat_interval_ns)
      << "reports are told of once in eight intervals";
}

// --- recovery -----------------------------------------------------------------------------------

TEST(GatewayRecovery, ContinuesTheSessionsOfTheJournal) {
  Rig rig(test_config(), nullptr, {{"a", 0, 101, 205}, {"b", 1, 7, 1}});
  Strategy b = rig.connect("b");
  Strategy a = rig.connect("a");
  EXPECT_EQ(a.index, 0U);
  EXPECT_EQ(b.index, 1U);
  EXPECT_EQ(a.session->next_sequence(), 101U);
  EXPECT_EQ(b.session->next_sequence(), 7U);
  a.forge(100, Strategy::sealed_order(a.attached.epoch, 100));
  ASSERT_EQ(a.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(a.index), range(101, 101));
  const auto reports = a.poll();
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_EQ(reports[0].sequence, 205U);
}

TEST(GatewayRecovery, ReadsTheNextSequencesOutOfTheRecords) {
  SessionRecovery recovery;
  const auto feed = [&](RecordKind kind, std::uint32_t index, std::uint64_t sequence,
                        std::span<const std::byte> payload = {}) {
    journal::Record record;
    record.kind = kind;
    record.session_index = index;
    record.sequence = sequence;
    record.payload = payload;
    recovery(record);
  };
  const std::string name = "alpha";
  const auto bytes = std::as_bytes(std::span(name));
  const std::uint64_t count = 5;
  feed(RecordKind::kSession, 0, 1, bytes);
  feed(RecordKind::kSession, 1, 1, bytes.first(3));
  feed(RecordKind::kLink, 0, 1);
  feed(RecordKind::kOrder, 0, 1);
  feed(RecordKind::kOrder, 0, 2);
  feed(RecordKind::kReport, 0, 9);
  feed(RecordKind::kNotApplied, 1, 1, std::as_bytes(std::span(&count, 1)));
  ASSERT_EQ(recovery.sessions().size(), 2U);
  EXPECT_EQ(recovery.sessions()[0].name, "alpha");
  EXPECT_EQ(recovery.sessions()[0].next_order_sequence, 3U);
  EXPECT_EQ(recovery.sessions()[0].next_report_sequence, 10U);
  EXPECT_EQ(recovery.sessions()[1].name, "alp");
  EXPECT_EQ(recovery.sessions()[1].next_order_sequence, 6U);
  EXPECT_THROW(feed(RecordKind::kOrder, 2, 1), Error);
  EXPECT_THROW(feed(RecordKind::kSession, 5, 1, bytes), Error);
}

// --- shutdown -----------------------------------------------------------------------------------

TEST(GatewayShutdown, TakesWhatIsInTheRingsAndTellsEverybody) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Strategy strategy = rig.connect("a");
  for (int i = 0; i < 10; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  rig.gateway->stop();
  EXPECT_EQ(rig.handler->sequences(), range(1, 10));
  EXPECT_EQ(order_sequences(strategy.poll()), range(1, 10));
  strategy.session->check_link();
  EXPECT_EQ(strategy.send(), Status::kClosed);
  EXPECT_EQ(strategy.session->peer().applied, 10U);
  EXPECT_EQ(rig.journal->sync_now_count, 1U);
  EXPECT_EQ(refusal_of([&] { rig.open("b"); }), "Draining");
  rig.gateway->stop();
  EXPECT_EQ(rig.journal->sync_now_count, 1U) << "idempotent";
}

TEST(GatewayShutdown, IsNotHeldUpByAStrategyThatGoesOnWriting) {
  Rig rig;
  Options options;
  options.order_slot_count = 8;
  Strategy strategy = rig.connect("a", options);
  // Writes the next order from within the handler, without regard to credit, 1000 times.
  std::uint64_t next = 1;
  const auto write = [&] {
    strategy.forge(next, Strategy::sealed_order(strategy.attached.epoch, next));
    ++next;
  };
  write();
  rig.handler->before = [&](std::span<const wire::OrderRecord>) {
    if (next <= 1000) write();
  };
  (void)rig.detach(strategy, true);
  EXPECT_LE(rig.handler->sequences().size(), 16U) << "a lap, not as much as it likes to write";
}

}  // namespace
}  // namespace rdmaorder
