// The strategy's side: what a send promises, what a poll delivers, and what the session makes of a
// gateway that is full, halted, slow, silent, dead or lying.
#include <gtest/gtest.h>

#include <thread>

#include "session_support.hpp"

namespace rdmaorder {
namespace {

using namespace session_support;

constexpr auto kNew = static_cast<std::uint16_t>(TemplateId::kNewOrder);
constexpr auto kReplace = static_cast<std::uint16_t>(TemplateId::kReplaceOrder);
constexpr auto kCancel = static_cast<std::uint16_t>(TemplateId::kCancelOrder);
constexpr auto kMass = static_cast<std::uint16_t>(TemplateId::kMassCancel);

using Ids = std::vector<std::uint16_t>;

// --- sending ------------------------------------------------------------------------------------

TEST(Session, GivesConsecutiveSequencesToWhateverIsSent) {
  PlayedGateway gateway({.next_order_sequence = 41});
  Session& session = *gateway.session;
  std::uint64_t sequence = 0;
  ASSERT_EQ(session.try_new_order(order(1), &sequence), Status::kOk);
  EXPECT_EQ(sequence, 41U);
  wire::ReplaceOrder replace{};
  replace.cl_ord_id = 2;
  ASSERT_EQ(session.try_replace_order(replace, &sequence), Status::kOk);
  EXPECT_EQ(sequence, 42U);
  ASSERT_EQ(session.try_cancel_order(cancel(3, 2), &sequence), Status::kOk);
  EXPECT_EQ(sequence, 43U);
  ASSERT_EQ(session.try_mass_cancel({}, &sequence), Status::kOk);
  EXPECT_EQ(sequence, 44U);
  wire::Slot64 own = order_slot(9);
  ASSERT_EQ(session.try_send_slot(own.words, ring::Lane::kNormal, &sequence), Status::kOk);
  EXPECT_EQ(sequence, 45U);
  EXPECT_EQ(session.next_sequence(), 46U);
  EXPECT_EQ(session.counts().sent, 5U);
  EXPECT_EQ(gateway.take(), (Ids{kNew, kReplace, kCancel, kMass, kNew}));
}

TEST(Session, RefusesAnOrderForWantOfRoomAndTouchesNothing) {
  PlayedGateway gateway({.order_slot_count = 8});
  for (int i = 0; i < 8; ++i) ASSERT_EQ(gateway.send(), Status::kOk);
  std::uint64_t sequence = 77;
  EXPECT_EQ(gateway.session->try_new_order(order(9), &sequence), Status::kFull);
  EXPECT_EQ(sequence, 77U);
  EXPECT_EQ(gateway.session->next_sequence(), 9U);
  EXPECT_EQ(gateway.session->counts().full, 1U);
  EXPECT_EQ(gateway.session->state(), LinkState::kLive);
  EXPECT_EQ(gateway.take().size(), 8U);
  gateway.beat();
  EXPECT_EQ(gateway.send(), Status::kOk);
  EXPECT_EQ(gateway.take().size(), 1U);
}

TEST(Session, KeepsRoomForCancelsAndTheirPlaceBehindTheOrders) {
  PlayedGateway gateway({.order_slot_count = 8, .cancel_reserve_count = 3});
  EXPECT_EQ(gateway.session->credit_count(ring::Lane::kNormal), 5U);
  for (int i = 0; i < 5; ++i) ASSERT_EQ(gateway.send(), Status::kOk);
  EXPECT_EQ(gateway.send(), Status::kFull);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(gateway.send_cancel(), Status::kOk);
  EXPECT_EQ(gateway.send_cancel(), Status::kFull);
  EXPECT_EQ(gateway.take(), (Ids{kNew, kNew, kNew, kNew, kNew, kCancel, kCancel, kCancel}));
}

TEST(Session, SendsABatchFromTheFirstAndSaysHowFarItCame) {
  PlayedGateway gateway({.order_slot_count = 8});
  std::vector<wire::Slot64> batch;
  for (std::uint64_t id = 1; id <= 12; ++id) batch.push_back(order_slot(id));
  Status status = Status::kOk;
  EXPECT_EQ(gateway.session->try_send_batch(batch[0].words, 12, &status), 8U);
  EXPECT_EQ(status, Status::kFull);
  EXPECT_EQ(gateway.take().size(), 8U);
  gateway.beat();
  EXPECT_EQ(gateway.session->try_send_batch(batch[8].words, 4, &status), 4U);
  EXPECT_EQ(status, Status::kOk);
  EXPECT_EQ(gateway.session->counts().sent, 12U);
}

TEST(Session, SendsTheCancelsOfABatchWhenTheOrdersHaveNoRoomLeft) {
  PlayedGateway gateway({.order_slot_count = 8, .cancel_reserve_count = 4});
  std::vector<wire::Slot64> batch;
  for (std::uint64_t id = 1; id <= 4; ++id) batch.push_back(order_slot(id));
  for (std::uint64_t id = 5; id <= 7; ++id) batch.push_back(cancel_slot(id));
  Status status = Status::kFull;
  EXPECT_EQ(gateway.session->try_send_batch(batch[0].words, 7, &status), 7U);
  EXPECT_EQ(status, Status::kOk);
  // The next in line is an order: it and all behind it wait, so that nothing passes it.
  const std::vector<wire::Slot64> more = {cancel_slot(8), order_slot(9), cancel_slot(10)};
  EXPECT_EQ(gateway.session->try_send_batch(more[0].words, 3, &status), 1U);
  EXPECT_EQ(status, Status::kFull);
  EXPECT_EQ(gateway.session->try_send_batch(more[2].words, 1, &status), 0U) << "reserve is used up";
  EXPECT_EQ(gateway.take(), (Ids{kNew, kNew, kNew, kNew, kCancel, kCancel, kCancel, kCancel}));
}

TEST(Session, TakesNoSlotOfAnotherSchemaForACancel) {
  PlayedGateway gateway({.order_slot_count = 8, .cancel_reserve_count = 7});
  ASSERT_EQ(gateway.send(), Status::kOk);
  wire::Slot64 foreign = cancel_slot(2);
  foreign.words[0] ^= std::uint64_t{1} << 40;  // schema id
  Status status = Status::kOk;
  EXPECT_EQ(gateway.session->try_send_batch(foreign.words, 1, &status), 0U);
  EXPECT_EQ(status, Status::kFull);
}

TEST(Session, RefusesOrdersForAHaltedGatewayAndLetsCancelsPass) {
  for (const auto& [state, refusal] : {std::pair{PeerState::kHalted, Status::kHalted},
                                       std::pair{PeerState::kThrottled, Status::kThrottled}}) {
    PlayedGateway gateway;
    gateway.beat(state);
    gateway.session->check_link();
    EXPECT_EQ(gateway.session->send_status(), refusal);
    EXPECT_EQ(gateway.send(), refusal);
    EXPECT_EQ(gateway.send_cancel(), Status::kOk);
    const std::vector<wire::Slot64> batch = {cancel_slot(1), cancel_slot(2), order_slot(3)};
    Status status = Status::kOk;
    EXPECT_EQ(gateway.session->try_send_batch(batch[0].words, 3, &status), 2U);
    EXPECT_EQ(status, refusal);
    EXPECT_EQ(gateway.session->counts().refused, 2U);
    EXPECT_EQ(gateway.take(), (Ids{kCancel, kCancel, kCancel}));
    gateway.beat();
    gateway.session->check_link();
    EXPECT_EQ(gateway.send(), Status::kOk);
  }
}

TEST(Session, SendsNothingToAGatewayThatIsClosing) {
  PlayedGateway gateway;
  gateway.beat(PeerState::kClosing);
  gateway.session->check_link();
  EXPECT_EQ(gateway.send(), Status::kClosed);
  EXPECT_EQ(gateway.send_cancel(), Status::kClosed);
  EXPECT_TRUE(gateway.take().empty());
}

TEST(Session, IsDeadWithTheCauseWhenTheTransportFails) {
  // Slow beats, so that the order is the first write to fail and not a beat on the way to it.
  PlayedGateway gateway({.heartbeat_interval_ns = kHour});
  gateway.to_gateway->die();
  EXPECT_EQ(gateway.send(), Status::kTransport);
  EXPECT_EQ(gateway.session->state(), LinkState::kDead);
  EXPECT_NE(gateway.session->cause().find("the injected fault"), std::string::npos)
      << gateway.session->cause();
  EXPECT_EQ(gateway.session->next_sequence(), 1U);
  EXPECT_EQ(gateway.send(), Status::kNotConnected);
  EXPECT_EQ(gateway.send_cancel(), Status::kNotConnected);
}

// --- a gateway that lies ------------------------------------------------------------------------

TEST(Session, IsDeadWhenTheGatewayClaimsToHaveTakenOrdersNeverSent) {
  PlayedGateway gateway({.order_slot_count = 8});
  wire::StatusLine line{};
  line.consumed = 123'456;
  line.heartbeat = 1;
  line.state = PeerState::kOpen;
  wire::seal_status_line(line, kSessionEpoch, 1);
  std::memcpy(gateway.report_window.data(), &line, sizeof line);
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kDead);
  EXPECT_NE(gateway.session->cause().find("123456"), std::string::npos) << gateway.session->cause();
}

TEST(Session, SeesTheSameLieWhenASendLookedAtTheLineFirst) {
  // Slow beats, so that no check comes between: the send itself reads the line for credit.
  PlayedGateway gateway({.order_slot_count = 8, .heartbeat_interval_ns = kHour});
  for (int i = 0; i < 8; ++i) ASSERT_EQ(gateway.send(), Status::kOk);
  wire::StatusLine line{};
  line.consumed = 123'456;
  line.state = PeerState::kOpen;
  wire::seal_status_line(line, kSessionEpoch, 1);
  std::memcpy(gateway.report_window.data(), &line, sizeof line);
  EXPECT_EQ(gateway.send(), Status::kTransport);
  EXPECT_EQ(gateway.session->state(), LinkState::kDead);
  EXPECT_NE(gateway.session->cause().find("123456"), std::string::npos) << gateway.session->cause();
}

TEST(Session, IsDeadWhenTheGatewayOverranTheReportRing) {
  PlayedGateway gateway({.report_slot_count = 8});
  const auto slot = Strategy::sealed_order(kSessionEpoch, 9);
  ring_support::store(gateway.report_window.words(), gateway.report_geometry, 9, slot);
  EXPECT_TRUE(gateway.poll().empty());
  EXPECT_EQ(gateway.session->state(), LinkState::kDead);
  EXPECT_NE(gateway.session->cause().find("sequence 1 is lost"), std::string::npos)
      << gateway.session->cause();
}

TEST(Session, IsReadableWhenAReportIsThereWhateverItsNumber) {
  for (const std::uint64_t next : {1ULL, 1ULL << 32, 3ULL << 32}) {
    PlayedGateway gateway({.next_report_sequence = next});
    EXPECT_FALSE(gateway.session->readable()) << next << ": its low half is that of an empty slot";
    ASSERT_EQ(gateway.send(), Status::kOk);
    ASSERT_EQ(gateway.report(1), Status::kOk);
    EXPECT_TRUE(gateway.session->readable()) << next;
  }
}

TEST(Session, WaitsForATornReportAndDeliversItHealed) {
  PlayedGateway gateway;
  gateway.to_strategy->set_plan([](const Put&) { return Fault::kTear; });
  ASSERT_EQ(gateway.send(), Status::kOk);
  ASSERT_EQ(gateway.report(1), Status::kOk);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(gateway.poll().empty());
  EXPECT_TRUE(gateway.session->readable());
  gateway.to_strategy->release();
  EXPECT_EQ(order_sequences(gateway.poll()), range(1, 1));
  EXPECT_EQ(gateway.session->state(), LinkState::kLive);
}

TEST(Session, GivesUpAReportThatStaysTorn) {
  PlayedGateway gateway({.torn_timeout_ns = 1'000'000});
  gateway.to_strategy->set_plan([](const Put&) { return Fault::kTear; });
  ASSERT_EQ(gateway.report(1), Status::kOk);
  ASSERT_TRUE(eventually([&] {
    EXPECT_TRUE(gateway.poll().empty());
    return gateway.session->state() == LinkState::kDead;
  }));
  EXPECT_NE(gateway.session->cause().find("report 1 stayed torn"), std::string::npos)
      << gateway.session->cause();
}

TEST(Session, StartsTheClockOfATornReportAnewForEachReport) {
  PlayedGateway gateway({.torn_timeout_ns = 20'000'000});
  gateway.to_strategy->set_plan([](const Put&) { return Fault::kTear; });
  ASSERT_EQ(gateway.report(1), Status::kOk);
  EXPECT_TRUE(gateway.poll().empty());
  gateway.to_strategy->release();
  std::this_thread::sleep_for(std::chrono::milliseconds(25));
  ASSERT_EQ(gateway.report(2), Status::kOk);  // torn for the first time when 1 is delivered
  EXPECT_EQ(gateway.poll().size(), 1U);
  EXPECT_EQ(gateway.session->state(), LinkState::kLive) << gateway.session->cause();
  gateway.to_strategy->release();
  EXPECT_EQ(gateway.poll().size(), 1U);
}

TEST(Session, StartsTheClockOfATornReportAnewAfterItWasGone) {
  PlayedGateway gateway({.torn_timeout_ns = 20'000'000});
  const auto store = [&](const ring_support::Words& slot) {
    ring_support::store(gateway.report_window.words(), gateway.report_geometry, 1, slot);
  };
  ring_support::Words torn = Strategy::sealed_order(kSessionEpoch, 1);
  torn[3] ^= 1;
  store(torn);
  EXPECT_TRUE(gateway.poll().empty());
  store(ring_support::Words(8, 5));  // overwritten by something else
  EXPECT_TRUE(gateway.poll().empty());
  std::this_thread::sleep_for(std::chrono::milliseconds(25));
  store(torn);
  EXPECT_TRUE(gateway.poll().empty());
  EXPECT_EQ(gateway.session->state(), LinkState::kLive) << gateway.session->cause();
}

TEST(Session, CountsMessagesItDoesNotKnowAndGoesOn) {
  PlayedGateway gateway;
  ASSERT_EQ(gateway.send(), Status::kOk);
  ASSERT_EQ(gateway.put(static_cast<TemplateId>(999), order(1)), Status::kOk);
  ASSERT_EQ(gateway.report(1), Status::kOk);
  const auto reports = gateway.poll();
  EXPECT_EQ(order_sequences(reports), range(1, 1));
  EXPECT_EQ(reports[0].sequence, 2U) << "the sequence is that of the slot";
  EXPECT_EQ(gateway.session->counts().unknown_messages, 1U);
}

// --- receiving ----------------------------------------------------------------------------------

TEST(Session, DeliversReportsInOrderWithTheWholeSequenceOfTheirOrder) {
  const std::uint64_t first = (std::uint64_t{1} << 32) - 3;
  PlayedGateway gateway({.next_order_sequence = first, .next_report_sequence = first - 5});
  for (int i = 0; i < 6; ++i) ASSERT_EQ(gateway.send(), Status::kOk);
  for (std::uint64_t sequence = first; sequence < first + 6; ++sequence) {
    ASSERT_EQ(gateway.report(sequence), Status::kOk);
  }
  const auto reports = gateway.poll();
  EXPECT_EQ(order_sequences(reports), range(first, first + 5));
  EXPECT_EQ(reports.front().sequence, first - 5);
  EXPECT_EQ(reports.back().sequence, first);
  ASSERT_EQ(gateway.report(first), Status::kOk);  // a late fill of the first
  EXPECT_EQ(order_sequences(gateway.poll()), range(first, first));
}

TEST(Session, DeliversNoMoreThanAskedAndTheRestNext) {
  PlayedGateway gateway;
  for (int i = 0; i < 5; ++i) ASSERT_EQ(gateway.send(), Status::kOk);
  for (std::uint64_t i = 1; i <= 5; ++i) ASSERT_EQ(gateway.report(i), Status::kOk);
  EXPECT_EQ(order_sequences(gateway.poll(2)), range(1, 2));
  EXPECT_EQ(order_sequences(gateway.poll(0)), std::vector<std::uint64_t>{});
  EXPECT_TRUE(gateway.session->readable());
  EXPECT_EQ(order_sequences(gateway.poll()), range(3, 5));
  EXPECT_FALSE(gateway.session->readable());
  EXPECT_EQ(gateway.session->counts().reports, 5U);
  EXPECT_EQ(gateway.session->next_report_sequence(), 6U);
}

TEST(Session, CarriesReportsInWiderSlots) {
  PlayedGateway gateway({.slot_bytes = 192});
  for (int i = 0; i < 40; ++i) {
    ASSERT_EQ(gateway.send(), Status::kOk);
    ASSERT_EQ(gateway.take(), Ids{kNew});
    ASSERT_EQ(gateway.report(static_cast<std::uint64_t>(i) + 1), Status::kOk);
    gateway.beat();
    const auto reports = gateway.poll();
    ASSERT_EQ(order_sequences(reports), range(reports[0].sequence, reports[0].sequence));
    EXPECT_TRUE(gateway.poll().empty());
    (void)gateway.link->refresh_peer();
  }
}

TEST(Session, GivesCreditsBackAfterAQuarterOfTheRingOrWhenIdle) {
  PlayedGateway gateway({.report_slot_count = 8});
  const auto free_reports = [&] {
    (void)gateway.link->refresh_peer();
    return gateway.link->writer().credit_count(ring::Lane::kNormal);
  };
  ASSERT_EQ(gateway.report(1), Status::kOk);
  (void)gateway.poll(1);
  EXPECT_EQ(free_reports(), 7U) << "one is not worth a write";
  EXPECT_TRUE(gateway.poll().empty());
  EXPECT_EQ(free_reports(), 8U) << "an idle moment is";
  for (int i = 0; i < 2; ++i) ASSERT_EQ(gateway.report(1), Status::kOk);
  EXPECT_EQ(gateway.poll(2).size(), 2U);
  EXPECT_EQ(free_reports(), 8U) << "a quarter is";
}

TEST(Session, MeasuresTheFirstAnswerOfEachRequestOnce) {
  PlayedGateway gateway;
  std::vector<wire::Slot64> batch = {order_slot(2), order_slot(3)};
  Status status = Status::kOk;
  ASSERT_EQ(gateway.send(), Status::kOk);
  ASSERT_EQ(gateway.session->try_send_batch(batch[0].words, 2, &status), 2U);
  for (const std::uint64_t sequence : {1U, 2U, 2U, 1U, 3U}) {
    ASSERT_EQ(gateway.report(sequence), Status::kOk);
  }
  EXPECT_EQ(gateway.poll().size(), 5U);
  EXPECT_EQ(gateway.session->latency_ns().count(), 3U);
  ASSERT_EQ(gateway.report(4), Status::kOk);           // of an order never sent
  ASSERT_EQ(gateway.report(0x80000000), Status::kOk);  // of none that can be
  EXPECT_EQ(gateway.poll().size(), 2U);
  EXPECT_EQ(gateway.session->latency_ns().count(), 3U);
}

TEST(Session, KeepsTheNewestEventsAndCountsTheOnesNobodyTook) {
  PlayedGateway gateway({.report_slot_count = 512});
  for (std::uint64_t i = 1; i <= 300; ++i) ASSERT_EQ(gateway.event(i), Status::kOk);
  EXPECT_TRUE(gateway.poll().empty());
  EXPECT_EQ(gateway.session->counts().events_dropped, 44U);
  wire::SessionEvent event{};
  for (std::uint64_t i = 45; i <= 300; ++i) {
    ASSERT_EQ(gateway.session->take_event(&event), Status::kOk);
    ASSERT_EQ(event.from_sequence, i);
  }
  EXPECT_EQ(gateway.session->take_event(&event), Status::kEmpty);
}

TEST(Session, TellsAGapOfTheHandshakeAsAnEvent) {
  PlayedGateway gateway({.next_order_sequence = 50, .not_applied_count = 7});
  wire::SessionEvent event{};
  ASSERT_EQ(gateway.session->take_event(&event), Status::kOk);
  EXPECT_EQ(event.kind, SessionEventKind::kNotApplied);
  EXPECT_EQ(event.from_sequence, 43U);
  EXPECT_EQ(event.count, 7U);
}

TEST(Session, HandsOutWholeSlotsWithTheirSequence) {
  PlayedGateway gateway({.slot_bytes = 128, .next_report_sequence = 9});
  ASSERT_EQ(gateway.report(1), Status::kOk);
  ASSERT_EQ(gateway.event(3), Status::kOk);
  std::vector<std::uint64_t> slots(16 * 4, 0);
  ASSERT_EQ(gateway.session->poll_slots(slots.data(), 4), 2U);
  EXPECT_EQ(slots[15], 9U);
  EXPECT_EQ(slots[31], 10U);
  wire::MessageHeader header;
  std::memcpy(&header, &slots[16], sizeof header);
  EXPECT_EQ(header.template_id, static_cast<std::uint16_t>(TemplateId::kSessionEvent));
}

}  // namespace
}  // namespace rdmaorder
