// The built-in handlers, one answer at a time. venue_model_test.cpp drives the venue with long
// random streams.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "handler_support.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder {
namespace {

using handler_support::Client;
using handler_support::make_record;
using handler_support::Sent;
using handler_support::Terms;
using handler_support::text_of;
using wire::TemplateId;

void expect_report(const Sent& sent, ExecType type, OrdStatus status, Reason reason) {
  EXPECT_EQ(sent.report.exec_type, type) << text_of(sent);
  EXPECT_EQ(sent.report.ord_status, status) << text_of(sent);
  EXPECT_EQ(sent.report.reason, reason) << text_of(sent);
}

class VenueTest : public ::testing::Test {
 protected:
  std::unique_ptr<Handler> venue = make_venue_handler({.max_order_count = 64});
  Client client{*venue};
};

TEST_F(VenueTest, ANewOrderIsAcceptedWithItsTermsAndTheVenuesIdAndIsAllOpen) {
  const auto sent = client.new_order(11, {.price = 42, .quantity = 9});
  ASSERT_EQ(sent.size(), 1U);
  expect_report(sent[0], ExecType::kNew, OrdStatus::kNew, Reason::kNone);
  EXPECT_EQ(sent[0].order_sequence, 1U);
  EXPECT_EQ(sent[0].report.cl_ord_id, 11U);
  EXPECT_EQ(sent[0].report.price, 42);
  EXPECT_EQ(sent[0].report.quantity, 9);
  EXPECT_EQ(sent[0].report.leaves_quantity, 9);
  const auto later = client.new_order(12);
  EXPECT_GT(later.at(0).report.order_id, sent[0].report.order_id);
}

TEST_F(VenueTest, ImmediateFillOrKillAndMarketOrdersAreAcceptedAndThenExpire) {
  const Terms kinds[] = {
      {.time_in_force = TimeInForce::kImmediateOrCancel},
      {.time_in_force = TimeInForce::kFillOrKill},
      {.price = kNoPrice, .ord_type = OrdType::kMarket, .time_in_force = TimeInForce::kDay}};
  std::uint64_t id = 0;
  for (const auto& terms : kinds) {
    const auto sent = client.new_order(++id, terms);
    ASSERT_EQ(sent.size(), 2U);
    expect_report(sent[0], ExecType::kNew, OrdStatus::kNew, Reason::kNone);
    expect_report(sent[1], ExecType::kExpired, OrdStatus::kExpired, Reason::kNoLiquidity);
    EXPECT_EQ(sent[1].order_sequence, client.sequence());
    EXPECT_EQ(sent[1].report.quantity, 100);
    EXPECT_EQ(sent[1].report.leaves_quantity, 0);
    const auto late = client.cancel(90, id);
    expect_report(late.at(0), ExecType::kRejected, OrdStatus::kExpired, Reason::kTooLate);
  }
}

TEST_F(VenueTest, AnIdIsNeverUsedTwiceEvenAfterItsOrderIsDone) {
  client.new_order(5);
  const auto live = client.new_order(5);
  expect_report(live.at(0), ExecType::kRejected, OrdStatus::kRejected, Reason::kDuplicateClOrdId);
  client.cancel(6, 5);
  const auto done = client.new_order(5);
  expect_report(done.at(0), ExecType::kRejected, OrdStatus::kRejected, Reason::kDuplicateClOrdId);
  EXPECT_EQ(done[0].report.order_id, 0U);
  EXPECT_EQ(done[0].report.leaves_quantity, 0);
}

TEST_F(VenueTest, TheIdOfACancelIsNotUsedUpByIt) {
  client.new_order(5);
  client.cancel(6, 5);
  expect_report(client.new_order(6).at(0), ExecType::kNew, OrdStatus::kNew, Reason::kNone);
}

TEST_F(VenueTest, SessionsDoNotSeeEachOthersIds) {
  Client other(*venue, 1);
  client.new_order(5);
  expect_report(other.cancel(1, 5).at(0), ExecType::kRejected, OrdStatus::kRejected,
                Reason::kUnknownOrder);
  expect_report(other.new_order(5).at(0), ExecType::kNew, OrdStatus::kNew, Reason::kNone);
  EXPECT_EQ(other.mass_cancel(2, MassCancelScope::kSession).size(), 2U);
  expect_report(client.cancel(6, 5).at(0), ExecType::kCanceled, OrdStatus::kCanceled,
                Reason::kNone);
}

TEST_F(VenueTest, AReplaceKeepsTheVenuesIdAndTakesTheNewTerms) {
  const auto opened = client.new_order(1);
  const auto sent = client.replace(2, 1, {.price = 77, .quantity = 30});
  ASSERT_EQ(sent.size(), 1U);
  expect_report(sent[0], ExecType::kReplaced, OrdStatus::kNew, Reason::kNone);
  EXPECT_EQ(sent[0].order_sequence, 2U);
  EXPECT_EQ(sent[0].report.cl_ord_id, 2U);
  EXPECT_EQ(sent[0].report.order_id, opened.at(0).report.order_id);
  EXPECT_EQ(sent[0].report.price, 77);
  EXPECT_EQ(sent[0].report.quantity, 30);
  EXPECT_EQ(sent[0].report.leaves_quantity, 30);
}

TEST_F(VenueTest, ACancelOfAReplacedIdIsTooLateAndTheOrderLivesOnUnderItsNewId) {
  client.new_order(1);
  client.replace(2, 1);
  expect_report(client.cancel(8, 1).at(0), ExecType::kRejected, OrdStatus::kReplaced,
                Reason::kTooLate);
  expect_report(client.replace(3, 1).at(0), ExecType::kRejected, OrdStatus::kReplaced,
                Reason::kTooLate);
  expect_report(client.cancel(9, 2).at(0), ExecType::kCanceled, OrdStatus::kCanceled,
                Reason::kNone);
}

TEST_F(VenueTest, ARefusedReplaceLeavesTheOrderAsItWas) {
  const auto opened = client.new_order(1);
  client.new_order(2);
  const struct {
    std::uint64_t new_id;
    Terms terms;
    Reason reason;
  } cases[] = {{3, {.instrument = 8}, Reason::kUnknownInstrument},
               {3, {.side = Side::kSell}, Reason::kInvalidSide},
               {2, {.quantity = 5}, Reason::kDuplicateClOrdId},
               {1, {.quantity = 5}, Reason::kDuplicateClOrdId}};
  for (const auto& c : cases) {
    const auto sent = client.replace(c.new_id, 1, c.terms);
    ASSERT_EQ(sent.size(), 1U);
    expect_report(sent[0], ExecType::kRejected, OrdStatus::kNew, c.reason);
    EXPECT_EQ(sent[0].report.order_id, opened.at(0).report.order_id);
    EXPECT_EQ(sent[0].report.leaves_quantity, 100);
  }
  const auto sent = client.cancel(9, 1);
  EXPECT_EQ(sent.at(0).report.quantity, 100);
}

TEST_F(VenueTest, AReplaceIntoAnImmediateOrderExpiresUnderTheNewIdAndTheOpeningSequence) {
  client.new_order(1);
  const auto sent = client.replace(2, 1, {.time_in_force = TimeInForce::kImmediateOrCancel});
  ASSERT_EQ(sent.size(), 2U);
  expect_report(sent[0], ExecType::kReplaced, OrdStatus::kNew, Reason::kNone);
  expect_report(sent[1], ExecType::kExpired, OrdStatus::kExpired, Reason::kNoLiquidity);
  EXPECT_EQ(sent[1].report.cl_ord_id, 2U);
  EXPECT_EQ(sent[1].order_sequence, 1U);
}

TEST_F(VenueTest, ACancelOfPartLeavesTheRestOpenUntilNothingIsLeft) {
  client.new_order(1, {.quantity = 10});
  const auto part = client.cancel(20, 1, 4);
  expect_report(part.at(0), ExecType::kCanceled, OrdStatus::kNew, Reason::kNone);
  EXPECT_EQ(part[0].report.cl_ord_id, 20U);
  EXPECT_EQ(part[0].report.quantity, 4);
  EXPECT_EQ(part[0].report.leaves_quantity, 6);
  const auto rest = client.cancel(21, 1, 6);
  expect_report(rest.at(0), ExecType::kCanceled, OrdStatus::kCanceled, Reason::kNone);
  EXPECT_EQ(rest[0].report.quantity, 6);
  EXPECT_EQ(rest[0].report.leaves_quantity, 0);
  expect_report(client.cancel(22, 1, 1).at(0), ExecType::kRejected, OrdStatus::kCanceled,
                Reason::kTooLate);
}

TEST_F(VenueTest, ACancelOfMoreThanIsOpenTakesWhatIsOpen) {
  client.new_order(1, {.quantity = 10});
  const auto sent = client.cancel(20, 1, 11);
  expect_report(sent.at(0), ExecType::kCanceled, OrdStatus::kCanceled, Reason::kNone);
  EXPECT_EQ(sent[0].report.quantity, 10);
}

TEST_F(VenueTest, AMassCancelEndsWhatIsInScopeOldestFirstAndItsOwnAnswerCountsThem) {
  client.new_order(1, {.instrument = 7});
  client.new_order(2, {.instrument = 8});
  client.new_order(3, {.quantity = 40, .instrument = 7});
  client.replace(4, 3, {.quantity = 40, .instrument = 7});
  const auto sent = client.mass_cancel(50, MassCancelScope::kInstrument, {.instrument = 7});
  ASSERT_EQ(sent.size(), 3U);
  expect_report(sent[0], ExecType::kCanceled, OrdStatus::kCanceled, Reason::kMassCancel);
  EXPECT_EQ(sent[0].report.cl_ord_id, 1U);
  EXPECT_EQ(sent[0].order_sequence, 1U);
  EXPECT_EQ(sent[1].report.cl_ord_id, 4U);
  EXPECT_EQ(sent[1].order_sequence, 3U);
  EXPECT_EQ(sent[1].report.quantity, 40);
  EXPECT_EQ(sent[1].report.leaves_quantity, 0);
  expect_report(sent[2], ExecType::kCanceled, OrdStatus::kCanceled, Reason::kNone);
  EXPECT_EQ(sent[2].report.cl_ord_id, 50U);
  EXPECT_EQ(sent[2].order_sequence, 5U);
  EXPECT_EQ(sent[2].report.quantity, 2);
  expect_report(client.cancel(60, 2).at(0), ExecType::kCanceled, OrdStatus::kCanceled,
                Reason::kNone);
}

TEST_F(VenueTest, AMassCancelWithNothingInScopeStillAnswers) {
  const auto sent = client.mass_cancel(50, MassCancelScope::kSession);
  ASSERT_EQ(sent.size(), 1U);
  EXPECT_EQ(sent[0].report.quantity, 0);
}

TEST_F(VenueTest, AMassCancelOfAnUnknownScopeIsRefusedAndCancelsNothing) {
  client.new_order(1);
  const auto sent = client.mass_cancel(50, static_cast<MassCancelScope>(9));
  ASSERT_EQ(sent.size(), 1U);
  expect_report(sent[0], ExecType::kRejected, OrdStatus::kRejected, Reason::kUnknownTemplate);
  EXPECT_EQ(client.cancel(2, 1).at(0).report.quantity, 100);
}

TEST_F(VenueTest, AFullTableRefusesNewIdsForGoodButStillCancels) {
  for (std::uint64_t id = 1; id <= 64; ++id) client.new_order(id);
  expect_report(client.new_order(65).at(0), ExecType::kRejected, OrdStatus::kRejected,
                Reason::kCapacity);
  const auto replace = client.replace(65, 1);
  expect_report(replace.at(0), ExecType::kRejected, OrdStatus::kNew, Reason::kCapacity);
  expect_report(client.cancel(99, 1).at(0), ExecType::kCanceled, OrdStatus::kCanceled,
                Reason::kNone);
  expect_report(client.new_order(65).at(0), ExecType::kRejected, OrdStatus::kRejected,
                Reason::kCapacity);
  expect_report(client.new_order(1).at(0), ExecType::kRejected, OrdStatus::kRejected,
                Reason::kDuplicateClOrdId);
  EXPECT_EQ(client.mass_cancel(98, MassCancelScope::kSession).size(), 64U);
}

TEST_F(VenueTest, ASessionBeyondTheTablesReachIsRefusedAndHarmsNothing) {
  Client far(*venue, 1U << 16);
  expect_report(far.new_order(1).at(0), ExecType::kRejected, OrdStatus::kRejected,
                Reason::kCapacity);
  EXPECT_EQ(far.mass_cancel(2, MassCancelScope::kSession).size(), 1U);
  Client last(*venue, (1U << 16) - 1);
  expect_report(last.new_order(1).at(0), ExecType::kNew, OrdStatus::kNew, Reason::kNone);
}

TEST_F(VenueTest, AMessageOfAnotherTemplateIsRefused) {
  auto record = make_record(static_cast<TemplateId>(77), 3, 0);
  record.block_words[0] = 123;
  const auto sent = client.pass(record);
  ASSERT_EQ(sent.size(), 1U);
  expect_report(sent[0], ExecType::kRejected, OrdStatus::kRejected, Reason::kUnknownTemplate);
  EXPECT_EQ(sent[0].report.cl_ord_id, 123U);
  EXPECT_EQ(sent[0].order_sequence, 3U);
}

TEST_F(VenueTest, AReportTheSinkCannotTakeDoesNotUndoTheOrder) {
  client.sink_result = Status::kClosed;
  client.new_order(1);
  client.sink_result = Status::kOk;
  expect_report(client.cancel(2, 1).at(0), ExecType::kCanceled, OrdStatus::kCanceled,
                Reason::kNone);
}

TEST(VenueConfigTest, ACountOfNothingOrTooMuchIsRefusedByName) {
  for (const std::uint32_t count : {0U, 0xFFFF'FFFFU}) {
    try {
      static_cast<void>(make_venue_handler({.max_order_count = count}));
      FAIL() << count;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(std::string(error.what()).find("max_order_count"), std::string::npos);
    }
  }
}

TEST(AcceptHandlerTest, EveryRequestGetsOneReportThatSaysYes) {
  const auto handler = make_accept_handler();
  Client client(*handler);
  const auto opened = client.new_order(1, {.time_in_force = TimeInForce::kImmediateOrCancel});
  ASSERT_EQ(opened.size(), 1U);
  expect_report(opened[0], ExecType::kNew, OrdStatus::kNew, Reason::kNone);
  EXPECT_EQ(opened[0].report.leaves_quantity, 100);
  const auto replaced = client.replace(2, 999);
  ASSERT_EQ(replaced.size(), 1U);
  expect_report(replaced[0], ExecType::kReplaced, OrdStatus::kNew, Reason::kNone);
  const auto cancelled = client.cancel(3, 999, 5);
  ASSERT_EQ(cancelled.size(), 1U);
  expect_report(cancelled[0], ExecType::kCanceled, OrdStatus::kCanceled, Reason::kNone);
  EXPECT_EQ(cancelled[0].report.quantity, 5);
  EXPECT_EQ(cancelled[0].order_sequence, 3U);
  const auto all = client.mass_cancel(4, MassCancelScope::kSession);
  ASSERT_EQ(all.size(), 1U);
  expect_report(all[0], ExecType::kCanceled, OrdStatus::kCanceled, Reason::kNone);
  EXPECT_EQ(client.new_order(1).at(0).report.exec_type, ExecType::kNew);  // keeps no state
  const auto other = client.pass(make_record(static_cast<TemplateId>(77), 6, 0));
  expect_report(other.at(0), ExecType::kRejected, OrdStatus::kRejected, Reason::kUnknownTemplate);
}

TEST(NullHandlerTest, ItTakesOrdersAndSaysNothing) {
  const auto handler = make_null_handler();
  Client client(*handler);
  EXPECT_TRUE(client.new_order(1).empty());
  EXPECT_TRUE(client.mass_cancel(2, MassCancelScope::kSession).empty());
}

}  // namespace
}  // namespace rdmaorder
