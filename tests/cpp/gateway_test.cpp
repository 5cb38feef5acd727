// The receiver with real sessions: exactly once and in order, whatever the strategies write, how
// slowly they read, and however their links come and go.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "gateway_support.hpp"

namespace rdmaorder {
namespace {

using namespace gateway_support;
using ring_support::Words;

/// Sends a random batch of orders and cancels, ClOrdID = sequence.
std::uint32_t send_some(Session& session, std::mt19937& random, std::uint64_t last) {
  std::vector<wire::Slot64> batch;
  const std::uint64_t first = session.next_sequence();
  const std::uint64_t count = std::min<std::uint64_t>(random() % 24, last + 1 - first);
  for (std::uint64_t i = 0; i < count; ++i) {
    batch.push_back(random() % 8 == 0 ? cancel_slot(first + i) : order_slot(first + i));
  }
  Status status = Status::kOk;
  return session.try_send_batch(batch.empty() ? nullptr : batch[0].words,
                                static_cast<std::uint32_t>(count), &status);
}

TEST(Gateway, AppliesEveryOrderOfEverySessionOnceAndInOrderOverThousandsOfLaps) {
  Rig rig;
  constexpr std::uint64_t kLast = 16'000;
  std::vector<Strategy> strategies;
  for (const std::uint32_t slot_count : {8U, 16U, 256U}) {
    Options options;
    options.order_slot_count = options.report_slot_count = slot_count;
    options.slot_bytes = slot_count == 16 ? 128 : 64;
    strategies.push_back(rig.connect(std::to_string(slot_count), options));
  }
  std::mt19937 random(1);
  std::vector<std::uint64_t> answered(strategies.size(), 0);
  for (int round = 0; *std::min_element(answered.begin(), answered.end()) < kLast; ++round) {
    ASSERT_LT(round, 200'000) << "no progress";
    for (std::size_t i = 0; i < strategies.size(); ++i) {
      Session& session = *strategies[i].session;
      if (session.slot_bytes() == 64) {
        (void)send_some(session, random, kLast);
      } else if (session.next_sequence() <= kLast) {
        (void)strategies[i].send();
      }
      for (const auto& report : strategies[i].poll(static_cast<std::uint32_t>(random() % 32))) {
        ASSERT_EQ(report.order_sequence, ++answered[i]) << "session " << i;
        ASSERT_EQ(report.sequence, answered[i]);
        ASSERT_EQ(report.report.cl_ord_id, answered[i]);
      }
    }
    if (random() % 3 == 0) rig.gateway->run_pass();
    rig.gateway->run_pass();
  }
  for (const Strategy& strategy : strategies) {
    EXPECT_EQ(rig.handler->sequences(strategy.index), range(1, kLast));
    for (const auto& taken : rig.handler->applied[strategy.index]) {
      ASSERT_EQ(taken.new_order.cl_ord_id, taken.sequence);
    }
  }
  EXPECT_EQ(rig.counter("orders_applied"), 3 * kLast);
  EXPECT_EQ(rig.counter("reports_undelivered"), 0U);
}

TEST(Gateway, LosesNothingBetweenItsThreadAndThoseOfTheStrategies) {
  Rig rig;
  constexpr std::uint64_t kLast = 20'000;
  Options options;
  options.order_slot_count = options.report_slot_count = 32;
  std::vector<Strategy> strategies;
  for (int i = 0; i < 2; ++i) {
    strategies.push_back(rig.connect(std::string(1, static_cast<char>('a' + i)), options));
  }
  rig.gateway->start();
  std::vector<std::thread> threads;
  for (Strategy& strategy : strategies) {
    threads.emplace_back([&strategy] {
      std::mt19937 random(strategy.index);
      std::uint64_t answered = 0;
      std::uint64_t wrong = 0;
      EXPECT_TRUE(eventually([&] {
        const bool sent = strategy.session->next_sequence() <= kLast &&
                          send_some(*strategy.session, random, kLast);
        const auto reports = strategy.poll(64);
        for (const auto& report : reports) {
          if (report.order_sequence != ++answered || report.report.cl_ord_id != answered) ++wrong;
        }
        if (!sent && reports.empty()) std::this_thread::yield();
        return answered == kLast;
      })) << strategy.session->cause();
      EXPECT_EQ(wrong, 0U);
    });
  }
  for (std::thread& thread : threads) thread.join();
  rig.gateway->stop();
  for (const Strategy& strategy : strategies) {
    EXPECT_EQ(rig.handler->sequences(strategy.index), range(1, kLast));
  }
}

TEST(Gateway, GoesOnAcrossTheSequenceWhoseLowHalfIsZero) {
  const std::uint64_t first = (std::uint64_t{1} << 32) - 30;
  Rig rig(test_config(), nullptr, {{"a", 0, first, first}});
  Options options;
  options.order_slot_count = options.report_slot_count = 8;
  Strategy strategy = rig.connect("a", options);
  for (std::uint64_t sequence = first; sequence < first + 60; ++sequence) {
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    const auto reports = strategy.poll();
    ASSERT_EQ(order_sequences(reports), range(sequence, sequence));
    ASSERT_EQ(reports[0].sequence, sequence);
    (void)strategy.poll();  // an empty poll gives the credit back
  }
  EXPECT_EQ(rig.handler->sequences(), range(first, first + 59));
}

// --- what a peer can put into its ring -----------------------------------------------------------

TEST(Gateway, WaitsForATornOrderAndTakesItHealed) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  strategy.to_gateway->set_plan([](const Put&) { return Fault::kTear; });
  ASSERT_EQ(strategy.send(), Status::kOk);
  for (int pass = 0; pass < 10; ++pass) EXPECT_FALSE(rig.gateway->run_pass());
  EXPECT_TRUE(rig.handler->sequences().empty());
  strategy.to_gateway->release();
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
  EXPECT_EQ(rig.view(strategy).failure, "");
  (void)rig.detach(strategy);
  EXPECT_EQ(rig.counter("slots_torn"), 10U);
}

TEST(Gateway, GivesUpALinkWhoseOrderStaysTornAndSaysWhy) {
  GatewayConfig config = test_config();
  config.torn_timeout_ns = 1'000'000;
  Rig rig(config);
  Strategy torn = rig.connect("torn");
  Strategy other = rig.connect("other");
  torn.to_gateway->set_plan([](const Put& put) {
    return put.bytes == 64 && put.offset_bytes != 0 ? Fault::kTear : Fault::kNone;
  });
  ASSERT_EQ(torn.send(), Status::kOk);
  ASSERT_TRUE(eventually([&] {
    rig.gateway->run_pass();
    return !rig.view(torn).failure.empty();
  }));
  EXPECT_NE(rig.view(torn).failure.find("order slot 1 stayed torn"), std::string::npos)
      << rig.view(torn).failure;
  EXPECT_FALSE(rig.view(torn).live);
  torn.to_gateway->release();  // too late: the link is done for
  ASSERT_EQ(other.send(), Status::kOk);
  rig.settle();
  EXPECT_TRUE(rig.handler->sequences(torn.index).empty());
  EXPECT_EQ(rig.handler->sequences(other.index), range(1, 1));
  torn.session->check_link();
  EXPECT_EQ(torn.session->send_status(), Status::kClosed);
  EXPECT_EQ(rig.counter("links_failed"), 1U);
}

TEST(Gateway, StartsTheClockOfATornOrderAnewAfterItWasGone) {
  GatewayConfig config = test_config();
  config.torn_timeout_ns = 20'000'000;
  Rig rig(config);
  Strategy strategy = rig.connect("a");
  Words torn = Strategy::sealed_order(strategy.attached.epoch, 1);
  torn[2] ^= 1;
  strategy.forge(1, torn);
  rig.gateway->run_pass();
  torn[7] = wire::make_commit_word(1, 5);  // overwritten by something else
  strategy.forge(1, torn);
  rig.gateway->run_pass();
  std::this_thread::sleep_for(std::chrono::milliseconds(25));
  torn = Strategy::sealed_order(strategy.attached.epoch, 1);
  torn[2] ^= 1;
  strategy.forge(1, torn);  // torn for the first time in this life
  rig.gateway->run_pass();
  EXPECT_EQ(rig.view(strategy).failure, "");
  strategy.forge(1, Strategy::sealed_order(strategy.attached.epoch, 1));
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
}

TEST(Gateway, NeverAppliesALateWriteOfTheLinkBefore) {
  Rig rig;
  const std::uint64_t old_epoch = [&] {
    Strategy first = rig.connect("a");
    EXPECT_EQ(first.send(), Status::kOk);
    EXPECT_EQ(rig.detach(first).last_order_sequence, 1U);
    return first.attached.epoch;
  }();
  Strategy second = rig.connect("a");
  ASSERT_NE(second.attached.epoch, old_epoch);
  second.forge(2, Strategy::sealed_order(old_epoch, 2));
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
  ASSERT_EQ(second.send(), Status::kOk);  // the real 2
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 2));
  (void)rig.detach(second);
  EXPECT_EQ(rig.counter("slots_stale"), 1U);
  EXPECT_EQ(rig.counter("slots_torn"), 0U);
}

TEST(Gateway, NeverAppliesAnOrderThatWasWrittenAgain) {
  Rig rig;
  Options options;
  options.order_slot_count = 8;
  Strategy strategy = rig.connect("a", options);
  strategy.to_gateway->set_plan([](const Put&) { return Fault::kRepeat; });
  for (int i = 0; i < 16; ++i) {
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    (void)strategy.poll();
    strategy.session->check_link();
  }
  for (std::uint64_t old = 1; old <= 16; ++old) {
    strategy.forge(old, Strategy::sealed_order(strategy.attached.epoch, old));
    rig.settle();
  }
  EXPECT_EQ(rig.handler->sequences(), range(1, 16));
  EXPECT_EQ(rig.view(strategy).failure, "");
}

TEST(Gateway, EndsTheLinkOfAStrategyThatOverranItsRing) {
  Rig rig;
  Options options;
  options.order_slot_count = 8;
  Strategy strategy = rig.connect("a", options);
  strategy.forge(1, Strategy::sealed_order(strategy.attached.epoch, 9));
  rig.settle();
  EXPECT_NE(rig.view(strategy).failure.find("overran"), std::string::npos)
      << rig.view(strategy).failure;
  EXPECT_TRUE(rig.handler->sequences().empty());
}

TEST(Gateway, CountsGarbageOnceAndTakesTheOrderThatFollows) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  strategy.forge(1, Words(8, 0xABABABABABABABAB));
  for (int pass = 0; pass < 10; ++pass) EXPECT_FALSE(rig.gateway->run_pass());
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
  (void)rig.detach(strategy);
  EXPECT_EQ(rig.counter("slots_garbage"), 1U);
}

TEST(Gateway, IsNotHeldUpByAPeerThatFillsItsRingWithNoise) {
  Rig rig;
  Strategy hostile = rig.connect("hostile");
  Strategy good = rig.connect("good");
  std::mt19937_64 random(23);
  for (int round = 0; round < 50; ++round) {
    for (std::uint64_t sequence = 1; sequence <= 64; ++sequence) {
      Words noise(8);
      for (auto& word : noise) word = random();
      hostile.forge(sequence, noise);
    }
    ASSERT_EQ(good.send(), Status::kOk);
    rig.settle();
    (void)good.poll();
  }
  EXPECT_TRUE(rig.handler->sequences(hostile.index).empty());
  EXPECT_EQ(rig.handler->sequences(good.index), range(1, 50));
}

TEST(Gateway, EndsTheLinkOfAStrategyThatClaimsReportsItNeverGot) {
  Rig rig;
  Options options;
  options.report_slot_count = 8;
  Strategy strategy = rig.connect("a", options);
  wire::StatusLine line{};
  line.consumed = 1'000'000;
  line.state = PeerState::kOpen;
  wire::seal_status_line(line, strategy.attached.epoch, 2);
  std::memcpy(strategy.order_memory.data(), &line, sizeof line);
  for (int i = 0; i < 12; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_NE(rig.view(strategy).failure.find("1000000"), std::string::npos)
      << rig.view(strategy).failure;
  EXPECT_EQ(rig.handler->sequences(), range(1, 12)) << "orders taken are not undone";
}

TEST(Gateway, BelievesNoStrategyThatHasTakenMoreReportsThanWereMade) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  for (const std::uint64_t claimed : {std::uint64_t{1} << 63, UINT64_MAX}) {
    wire::StatusLine line{};
    line.applied = claimed;
    line.state = PeerState::kOpen;
    wire::seal_status_line(line, strategy.attached.epoch, 2);
    std::memcpy(strategy.order_memory.data(), &line, sizeof line);
    (void)rig.detach(strategy);
    EXPECT_EQ(rig.open("a").undelivered_report_sequence, 2U) << "the next one";
    strategy = rig.connect("a");
  }
}

TEST(Gateway, EndsALinkWhoseTransportFailedWithTheCause) {
  Rig rig;
  Strategy strategy = rig.connect("a");
  strategy.to_strategy->die();
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_NE(rig.view(strategy).failure.find("the injected fault broke the link"), std::string::npos)
      << rig.view(strategy).failure;
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
}

// --- slow strategies ----------------------------------------------------------------------------

TEST(Gateway, KeepsTheReportsOfASlowStrategyInOrderAndHurtsNobodyElse) {
  Rig rig;
  Options options;
  options.report_slot_count = 8;
  Strategy slow = rig.connect("slow", options);
  Strategy other = rig.connect("other", options);
  for (int i = 0; i < 40; ++i) {
    ASSERT_EQ(slow.send(), Status::kOk);
    rig.settle();
    slow.session->check_link();
  }
  EXPECT_EQ(rig.view(slow).backlog_count, 32U);
  EXPECT_EQ(rig.counter("reports_backlogged"), 32U);
  ASSERT_EQ(other.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(order_sequences(other.poll()), range(1, 1));
  std::vector<std::uint64_t> answered;
  for (int round = 0; answered.size() < 40; ++round) {
    ASSERT_LT(round, 100) << "no progress";
    const auto reports = order_sequences(slow.poll());
    answered.insert(answered.end(), reports.begin(), reports.end());
    (void)slow.poll();
    rig.settle();
  }
  EXPECT_EQ(answered, range(1, 40));
  EXPECT_EQ(rig.view(slow).backlog_count, 0U);
  EXPECT_EQ(rig.view(slow).failure, "");
}

TEST(Gateway, EndsTheLinkOfAStrategyThatNeverReads) {
  GatewayConfig config = test_config();
  config.backlog_limit_count = 5;
  auto disk = std::make_unique<MemoryJournal>();
  Rig rig(config, std::move(disk));
  Options options;
  options.report_slot_count = 8;
  Strategy strategy = rig.connect("a", options);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_NE(rig.view(strategy).failure.find("unread"), std::string::npos)
      << rig.view(strategy).failure;
  EXPECT_EQ(std::count(rig.handler->results.begin(), rig.handler->results.end(), Status::kClosed),
            1);
  EXPECT_EQ(rig.handler->sequences(), range(1, 20));
  EXPECT_EQ(rig.journal->of_kind(journal::RecordKind::kReport).size(), 20U)
      << "the journal has all";
  EXPECT_EQ(order_sequences(strategy.poll()), range(1, 8)) << "what was written stays readable";
}

}  // namespace
}  // namespace rdmaorder
