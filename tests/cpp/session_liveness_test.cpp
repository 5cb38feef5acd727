// Is the gateway alive? Heartbeats, the control socket, and what a session says when it has ended.
#include <gtest/gtest.h>

#include <thread>

#include "session_support.hpp"

namespace rdmaorder {
namespace {

using namespace session_support;

void nap_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

TEST(Liveness, GoesFromLiveToSuspectAndBackWithTheHeartbeat) {
  PlayedGateway gateway({.suspect_after_ns = 100'000'000, .dead_after_ns = kHour});
  gateway.beat();
  gateway.session->check_link();
  ASSERT_EQ(gateway.session->state(), LinkState::kLive);
  ASSERT_TRUE(gateway.becomes(LinkState::kSuspect));
  EXPECT_NE(gateway.session->cause().find("no heartbeat"), std::string::npos);
  EXPECT_EQ(gateway.send(), Status::kNotConnected);
  EXPECT_EQ(gateway.send_cancel(), Status::kNotConnected) << "not even a cancel: it may be lost";
  const wire::Slot64 slot = cancel_slot(1);
  Status status = Status::kOk;
  EXPECT_EQ(gateway.session->try_send_batch(slot.words, 1, &status), 0U);
  EXPECT_EQ(status, Status::kNotConnected);
  EXPECT_EQ(gateway.session->next_sequence(), 1U);
  EXPECT_TRUE(gateway.take().empty());
  gateway.beat();
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kLive);
  EXPECT_EQ(gateway.session->cause(), "");
  EXPECT_EQ(gateway.send(), Status::kOk);
}

TEST(Liveness, EndsInDeadWhenNoBeatComes) {
  PlayedGateway gateway({.suspect_after_ns = 5'000'000, .dead_after_ns = 10'000'000});
  gateway.beat();
  ASSERT_TRUE(gateway.becomes(LinkState::kDead));
  EXPECT_NE(gateway.session->cause().find("no heartbeat"), std::string::npos);
  gateway.beat();  // too late: the application may have acted on it
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kDead);
  EXPECT_EQ(gateway.send(), Status::kNotConnected);
}

TEST(Liveness, IsOverAtOnceWhenTheGatewayHasSaidItIsClosingAndEndsTheLink) {
  PlayedGateway gateway({.heartbeat_interval_ns = kHour, .with_socket = true});  // no beat is late
  gateway.beat(PeerState::kClosing);
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kLive) << "reports may still come";
  EXPECT_EQ(gateway.send(), Status::kClosed);
  gateway.terminate("the gateway is shutting down");
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kClosed);
  EXPECT_NE(gateway.session->cause().find("is shutting down"), std::string::npos);
}

// A look at the line delays the sight of a report, and the gateway's next write of the line.
TEST(Liveness, IsSeldomTheBusinessOfAPollThatFindsNothing) {
  PlayedGateway seldom({.heartbeat_interval_ns = kHour}), often;
  seldom.beat();
  often.beat();
  wire::ReportRecord report;
  for (int i = 0; i < 100'000; ++i) ASSERT_EQ(seldom.session->poll(&report, 1), 0U);
  EXPECT_EQ(seldom.session->peer().heartbeat, 0U);
  ASSERT_TRUE(eventually([&] {
    (void)often.session->poll(&report, 1);
    return often.session->peer().heartbeat == 1;
  }));
}

TEST(Liveness, CountsBeatsAndNotLines) {
  PlayedGateway gateway({.suspect_after_ns = 5'000'000, .dead_after_ns = kHour});
  OwnState stuck;
  stuck.heartbeat = 1;
  ASSERT_TRUE(eventually([&] {  // lines go on, the loop does not
    stuck.time_ns = realtime_ns();
    EXPECT_EQ(gateway.link->publish(stuck), Status::kOk);
    gateway.session->check_link();
    return gateway.session->state() == LinkState::kSuspect;
  }));
}

TEST(Liveness, DoesNotSuspectAGatewayBecauseTheStrategySlept) {
  PlayedGateway gateway({.suspect_after_ns = 100'000'000, .dead_after_ns = 120'000'000});
  gateway.beat();
  gateway.session->check_link();
  nap_ms(150);
  gateway.beat();  // it beat all the while
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kLive) << gateway.session->cause();
}

TEST(Liveness, TakesTheNextBeatForProofWhereTheClocksDiffer) {
  PlayedGateway gateway({.heartbeat_interval_ns = 100'000'000,
                         .suspect_after_ns = 400'000'000,
                         .dead_after_ns = kHour});
  gateway.clock_ahead_ns = kHour;
  {
    std::jthread beating([&](const std::stop_token& stop) {
      for (; !stop.stop_requested(); nap_ms(1)) gateway.beat();
    });
    nap_ms(450);  // sends are rare
    EXPECT_EQ(gateway.send(), Status::kOk) << gateway.session->cause();
  }
  nap_ms(450);
  gateway.beat();
  EXPECT_EQ(gateway.send(), Status::kOk) << "how far the clocks are apart is known now";
  gateway.beat();
  nap_ms(450);
  EXPECT_EQ(gateway.send(), Status::kNotConnected) << "silent since";
  gateway.beat();
  EXPECT_EQ(gateway.send(), Status::kOk);
}

TEST(Liveness, LearnsTheGatewaysClockFromBeatsSeenAtOnce) {
  PlayedGateway gateway({.heartbeat_interval_ns = 1'000'000,
                         .suspect_after_ns = 400'000'000,
                         .dead_after_ns = kHour});
  gateway.clock_ahead_ns = kHour;
  gateway.beat();
  gateway.session->check_link();
  nap_ms(450);
  gateway.beat();
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kLive) << gateway.session->cause();
  gateway.beat();
  nap_ms(450);
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kSuspect);
}

TEST(Liveness, IsNoticedBySendingAndByPollingAlone) {
  for (const bool by_sending : {true, false}) {
    PlayedGateway gateway({.suspect_after_ns = 2'000'000, .dead_after_ns = 4'000'000});
    ASSERT_TRUE(eventually([&] {
      if (by_sending) {
        (void)gateway.send();
      } else {
        (void)gateway.poll();
      }
      return gateway.session->state() == LinkState::kDead;
    })) << (by_sending ? "sending" : "polling");
  }
}

TEST(Liveness, TakesTheEndOfTheSocketForTheEndOfTheGateway) {
  PlayedGateway gateway({.with_socket = true});
  gateway.beat();
  gateway.session->check_link();
  ASSERT_EQ(gateway.session->state(), LinkState::kLive);
  gateway.socket.reset();
  ASSERT_TRUE(gateway.becomes(LinkState::kDead));
  EXPECT_NE(gateway.session->cause().find("gone"), std::string::npos) << gateway.session->cause();
}

TEST(Liveness, AsksTheSocketOnlyWhenABeatIsLate) {
  PlayedGateway gateway({.heartbeat_interval_ns = kHour / 4, .with_socket = true});
  gateway.socket.reset();
  gateway.beat();
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kLive) << "the loop beats: nobody asked";
}

TEST(Liveness, TakesTerminateForAnEndAndSaysWhy) {
  PlayedGateway gateway({.with_socket = true});
  gateway.terminate("maintenance at noon");
  ASSERT_TRUE(gateway.becomes(LinkState::kClosed));
  EXPECT_NE(gateway.session->cause().find("maintenance at noon"), std::string::npos)
      << gateway.session->cause();
  EXPECT_EQ(gateway.send(), Status::kClosed);
}

TEST(Liveness, KeepsItsEndAndItsCauseWhileTheLastReportsAreRead) {
  PlayedGateway gateway({.with_socket = true});
  for (std::uint64_t i = 1; i <= 10; ++i) ASSERT_EQ(gateway.report(i), Status::kOk);
  gateway.terminate("maintenance at noon");
  ASSERT_TRUE(gateway.becomes(LinkState::kClosed));
  EXPECT_EQ(gateway.poll().size(), 10U);
  EXPECT_TRUE(gateway.poll().empty());
  EXPECT_EQ(gateway.session->state(), LinkState::kClosed);
  EXPECT_NE(gateway.session->cause().find("maintenance at noon"), std::string::npos)
      << gateway.session->cause();
  EXPECT_EQ(gateway.send(), Status::kClosed);
}

TEST(Liveness, KeepsTheFirstCauseOfDeath) {
  PlayedGateway gateway({.report_slot_count = 8, .with_socket = true});
  for (std::uint64_t i = 1; i <= 4; ++i) ASSERT_EQ(gateway.report(i), Status::kOk);
  gateway.socket.reset();
  ASSERT_TRUE(gateway.becomes(LinkState::kDead));
  const std::string cause = gateway.session->cause();
  EXPECT_EQ(gateway.poll().size(), 4U);
  ring_support::store(gateway.report_window.words(), gateway.report_geometry, 13,
                      Strategy::sealed_order(kSessionEpoch, 13));  // a lap, as if it mattered now
  EXPECT_TRUE(gateway.poll().empty());
  EXPECT_EQ(gateway.session->cause(), cause);
}

TEST(Liveness, EndsByCloseOnceAndForGood) {
  PlayedGateway gateway;
  EXPECT_FALSE(gateway.session->close(0)) << "nobody confirmed";
  EXPECT_EQ(gateway.session->state(), LinkState::kClosed);
  EXPECT_FALSE(gateway.session->close(0));
  EXPECT_EQ(gateway.send(), Status::kClosed);
  gateway.beat();
  gateway.session->check_link();
  EXPECT_EQ(gateway.session->state(), LinkState::kClosed);
}

TEST(Liveness, IsGivenNoNewLinkOnceThisSideClosed) {
  PlayedGateway gateway;
  gateway.session->close(0);
  try {
    gateway.session->reconnect(kHour);
    ADD_FAILURE() << "reconnected";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kClosed) << error.what();
  }
  EXPECT_EQ(gateway.session->state(), LinkState::kClosed);
}

TEST(Liveness, ConfirmsACloseOnlyWhenTheGatewayHasEveryOrder) {
  for (const std::uint64_t confirmed : {3U, 2U}) {
    PlayedGateway gateway({.with_socket = true});
    for (int i = 0; i < 3; ++i) ASSERT_EQ(gateway.send(), Status::kOk);
    const std::string frame = control::MessageWriter("Terminate")
                                  .text("code", "Finished")
                                  .number("last_sequence", confirmed)
                                  .text("text", "")
                                  .frame();
    ASSERT_EQ(::send(gateway.socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(frame.size()));
    EXPECT_EQ(gateway.session->close(1'000'000'000), confirmed == 3);
  }
}

TEST(Liveness, LingersForTheLastOrdersButNotForAGatewayThatIsDead) {
  PlayedGateway alive;
  ASSERT_EQ(alive.send(), Status::kOk);
  (void)alive.session->close(0);
  EXPECT_EQ(alive.to_gateway->linger_count(), 1);
  PlayedOptions options;
  options.suspect_after_ns = 1'000'000;
  options.dead_after_ns = 2'000'000;
  PlayedGateway dead(options);
  ASSERT_EQ(dead.send(), Status::kOk);
  ASSERT_TRUE(dead.becomes(LinkState::kDead));
  (void)dead.session->close(0);
  EXPECT_EQ(dead.to_gateway->linger_count(), 0);
}

TEST(Liveness, OfARealReceiverShowsWhenItStopsTurning) {
  GatewayConfig config = test_config();
  config.heartbeat_interval_ns = 1'000'000;
  Rig rig(config);
  Options options;
  options.session.suspect_after_ns = 100'000'000;
  options.session.dead_after_ns = 60'000'000'000;
  Strategy strategy = rig.connect("a", options);
  const auto is = [&](LinkState state) {
    strategy.session->check_link();
    return strategy.session->state() == state;
  };
  ASSERT_TRUE(eventually([&] {
    rig.gateway->run_pass();
    return is(LinkState::kLive) && strategy.session->peer().heartbeat > 2;
  }));
  ASSERT_TRUE(eventually([&] { return is(LinkState::kSuspect); }));
  EXPECT_EQ(strategy.send(), Status::kNotConnected);
  ASSERT_TRUE(eventually([&] {
    for (int i = 0; i < 64; ++i) rig.gateway->run_pass();
    return is(LinkState::kLive);
  }));
  EXPECT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(rig.handler->sequences(), range(1, 1));
}

}  // namespace
}  // namespace rdmaorder
