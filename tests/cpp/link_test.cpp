// Two links over in-process memory, through a transport that can be told to fail: sending, batches,
// credit, the reserve, positions, and a peer whose status line lies.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <utility>

#include "fault_transport.hpp"
#include "rdmaorder/link.hpp"
#include "rdmaorder/transport/inproc.hpp"
#include "ring_support.hpp"

namespace rdmaorder {
namespace {

using namespace ring_support;
using transport::Fault;
using transport::FaultTransport;
using transport::Put;

struct End {
  std::shared_ptr<memory::Window> window;  ///< own: inbound ring and the peer's status line
  FaultTransport* faults = nullptr;        ///< into the peer's window
  std::unique_ptr<Link> link;
};

/// `out` sends to `in`; `in` answers with its status line only.
struct Pair {
  explicit Pair(const Geometry& geometry, std::uint32_t reserve_count = 0,
                std::uint64_t first = 1) {
    out.window = std::make_shared<memory::Window>(make_window(geometry.window_bytes()));
    in.window = std::make_shared<memory::Window>(make_window(geometry.window_bytes()));
    make(out, in.window, geometry, reserve_count, first);
    make(in, out.window, geometry, 0, first);
  }
  static void make(End& end, std::shared_ptr<memory::Window> peer, const Geometry& geometry,
                   std::uint32_t reserve_count, std::uint64_t first) {
    LinkConfig config;
    config.epoch = kEpoch;
    config.own_window_words = end.window->words();
    config.inbound = config.outbound = geometry;
    config.next_inbound_sequence = config.next_outbound_sequence = first;
    config.outbound_reserve_count = reserve_count;
    auto [transport, faults] = transport::with_faults(transport::make_inproc(std::move(peer)));
    end.faults = faults;
    end.link = std::make_unique<Link>(config, std::move(transport));
  }

  Status send(Lane lane = Lane::kNormal) {
    Words slot = message(slot_bytes(), out.link->writer().next_sequence());
    return out.link->send(lane, slot.data());
  }
  std::uint32_t send_batch(std::uint32_t count, Status* status, Lane lane = Lane::kNormal) {
    const std::uint32_t words = slot_bytes() / 8;
    Words slots(std::size_t{count} * words + 1);
    for (std::uint32_t i = 0; i < count; ++i) {
      fill(&slots[std::size_t{i} * words], slot_bytes(), out.link->writer().next_sequence() + i);
    }
    const Words before = slots;
    const std::uint32_t sent = out.link->send_batch(lane, slots.data(), count, status);
    EXPECT_EQ(slots, before) << "a batch is read only";
    return sent;
  }
  /// Takes one message and checks it.
  Status receive() {
    Words slot(slot_bytes() / 8);
    const std::uint64_t sequence = in.link->reader().next_sequence();
    const Status status = in.link->reader().read(slot.data());
    if (ok(status)) {
      EXPECT_TRUE(holds(slot.data(), slot_bytes(), sequence)) << "sequence " << sequence;
    }
    return status;
  }
  std::uint32_t receive_all() {
    std::uint32_t count = 0;
    while (ok(receive())) ++count;
    return count;
  }
  /// A line the peer of `out` could only write by mistake or malice, under the right epoch.
  void forge_line(std::uint64_t consumed, std::uint64_t version, std::uint64_t epoch = kEpoch) {
    wire::StatusLine line{};
    line.consumed = consumed;
    line.state = PeerState::kOpen;
    wire::seal_status_line(line, epoch, version);
    std::uint64_t words[8];
    std::memcpy(words, &line, sizeof words);
    for (int i = 0; i < 8; ++i) store_release(out.window->words() + i, words[i]);
  }
  [[nodiscard]] std::uint32_t slot_bytes() const {
    return out.link->writer().geometry().slot_bytes;
  }

  End out;
  End in;
};

Geometry ring_of(std::uint32_t slot_count, std::uint32_t slot_bytes = 64) {
  return {ring::kRingOffsetMinBytes, slot_bytes, slot_count};
}

TEST(Link, SendsUntilTheRingIsFullAndGoesOnWhenThePeerSaysWhatItTook) {
  Pair pair(ring_of(8));
  for (int i = 0; i < 8; ++i) ASSERT_EQ(pair.send(), Status::kOk);
  ASSERT_EQ(pair.send(), Status::kFull);
  EXPECT_EQ(pair.out.link->writer().next_sequence(), 9U) << "a refusal takes no sequence";
  ASSERT_EQ(pair.receive(), Status::kOk);
  ASSERT_EQ(pair.receive(), Status::kOk);
  EXPECT_EQ(pair.send(), Status::kFull) << "not told yet";
  EXPECT_EQ(pair.in.link->unpublished_count(), 2U);
  ASSERT_EQ(pair.in.link->publish({}), Status::kOk);
  EXPECT_EQ(pair.in.link->unpublished_count(), 0U);
  EXPECT_EQ(pair.send(), Status::kOk);
  EXPECT_EQ(pair.send(), Status::kOk);
  EXPECT_EQ(pair.send(), Status::kFull);
  EXPECT_EQ(pair.receive_all(), 8U);
}

TEST(Link, KeepsOrderThroughThousandsOfLapsOfMixedSinglesAndBatches) {
  for (const std::uint32_t slot_bytes : {64U, 128U, 4096U}) {
    Pair pair(ring_of(8, slot_bytes));
    std::mt19937 random(slot_bytes);
    std::uint64_t taken = 0;
    for (int round = 0; taken < 16'000; ++round) {
      ASSERT_LT(round, 100'000) << "no progress";
      Status status = Status::kOk;
      if (random() % 3 == 0) {
        (void)pair.send();
      } else {
        (void)pair.send_batch(static_cast<std::uint32_t>(random() % 12), &status);
        ASSERT_TRUE(status == Status::kOk || status == Status::kFull) << status_name(status);
      }
      for (auto reads = random() % 8; reads != 0 && ok(pair.receive()); --reads) ++taken;
      if (random() % 2 == 0) {
        ASSERT_EQ(pair.in.link->publish({}), Status::kOk);
      }
    }
    const ring::ReaderCounts& counts = pair.in.link->reader().counts();
    EXPECT_EQ(counts.torn + counts.garbage + counts.lapped + counts.repeated, 0U);
  }
}

TEST(Link, LosesNothingBetweenTwoThreadsThatShareNothingButTheWindows) {
  Pair pair(ring_of(16));
  constexpr std::uint64_t kLast = 60'000;
  std::atomic<bool> give_up{false};
  std::thread receiving([&] {
    while (pair.in.link->reader().next_sequence() <= kLast && !give_up) {
      if (!ok(pair.receive())) std::this_thread::yield();
      if (pair.in.link->unpublished_count() >= 4 ||
          pair.in.link->reader().next_sequence() > kLast) {
        EXPECT_EQ(pair.in.link->publish({}), Status::kOk);
      }
    }
  });
  std::mt19937 random(3);
  const bool all_sent = eventually([&] {
    const std::uint64_t next = pair.out.link->writer().next_sequence();
    Status status = Status::kOk;
    if (next % 2 == 0) {
      const auto batch = std::min<std::uint64_t>(random() % 20, kLast + 1 - next);
      (void)pair.send_batch(static_cast<std::uint32_t>(batch), &status);
    } else if (next <= kLast) {
      status = pair.send();
    }
    return pair.out.link->writer().next_sequence() > kLast;
  });
  give_up = !all_sent;
  receiving.join();
  EXPECT_TRUE(all_sent);
  EXPECT_EQ(pair.in.link->reader().next_sequence(), kLast + 1);
}

TEST(Link, PutsABatchInAsFewWritesAsTheEndOfTheRingAllows) {
  Pair pair(ring_of(16));
  Status status = Status::kOk;
  ASSERT_EQ(pair.send_batch(10, &status), 10U);
  EXPECT_EQ(pair.out.faults->put_count(), 1U);
  ASSERT_EQ(pair.receive_all(), 10U);
  ASSERT_EQ(pair.in.link->publish({}), Status::kOk);
  ASSERT_EQ(pair.send_batch(16, &status), 16U);  // 6 up to the end, 10 from the start
  EXPECT_EQ(pair.out.faults->put_count(), 3U);
  EXPECT_EQ(pair.receive_all(), 16U);
}

TEST(Link, SendsThatMuchOfABatchAsThereIsRoomFor) {
  Pair pair(ring_of(8));
  Status status = Status::kOk;
  EXPECT_EQ(pair.send_batch(20, &status), 8U);
  EXPECT_EQ(status, Status::kFull);
  EXPECT_EQ(pair.send_batch(1, &status), 0U);
  EXPECT_EQ(status, Status::kFull);
  EXPECT_EQ(pair.send_batch(0, &status), 0U);
  EXPECT_EQ(status, Status::kOk) << "all of nothing went";
  EXPECT_EQ(pair.receive_all(), 8U);
}

TEST(Link, KeepsTheReserveForTheUrgentAndTheirPlaceInTheOrder) {
  Pair pair(ring_of(8), 3);
  Status status = Status::kOk;
  EXPECT_EQ(pair.send_batch(8, &status), 5U);
  EXPECT_EQ(status, Status::kFull);
  EXPECT_EQ(pair.send(), Status::kFull);
  EXPECT_EQ(pair.send(Lane::kUrgent), Status::kOk);
  EXPECT_EQ(pair.send_batch(5, &status, Lane::kUrgent), 2U);
  EXPECT_EQ(pair.send(Lane::kUrgent), Status::kFull);
  EXPECT_EQ(pair.receive_all(), 8U) << "in the order they were sent";
}

TEST(Link, GoesOnAcrossTheSequenceWhoseLowHalfIsZero) {
  Pair pair(ring_of(8), 0, (std::uint64_t{1} << 32) - 20);
  for (int i = 0; i < 60; ++i) {
    ASSERT_EQ(pair.send(), Status::kOk);
    ASSERT_EQ(pair.receive(), Status::kOk);
    ASSERT_EQ(pair.in.link->publish({}), Status::kOk);
  }
  EXPECT_GT(pair.out.link->writer().next_sequence(), std::uint64_t{1} << 32);
}

TEST(Link, TellsItsPositionsAndState) {
  Pair pair(ring_of(8), 0, 100);
  ASSERT_EQ(pair.send(), Status::kOk);
  ASSERT_EQ(pair.receive(), Status::kOk);
  OwnState own;
  own.applied = 100;
  own.durable = 99;
  own.heartbeat = 5;
  own.time_ns = 77;
  own.state = PeerState::kHalted;
  own.reason = Reason::kKill;
  ASSERT_EQ(pair.in.link->publish(own), Status::kOk);
  ASSERT_EQ(pair.out.link->refresh_peer(), Status::kOk);
  const wire::StatusLine& seen = pair.out.link->peer();
  EXPECT_EQ(seen.consumed, 100U);
  EXPECT_EQ(seen.applied, 100U);
  EXPECT_EQ(seen.durable, 99U);
  EXPECT_EQ(seen.next_sequence, 100U);
  EXPECT_EQ(seen.heartbeat, 5U);
  EXPECT_EQ(seen.time_ns, 77U);
  EXPECT_EQ(seen.state, PeerState::kHalted);
  EXPECT_EQ(seen.reason, Reason::kKill);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kEmpty) << "nothing new since";
}

TEST(Link, ReadsATornStatusLineAgain) {
  Pair pair(ring_of(8));
  pair.in.faults->set_plan([](const Put&) { return Fault::kTear; });
  OwnState own;
  own.applied = 7;
  ASSERT_EQ(pair.in.link->publish(own), Status::kOk);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kTorn);
  EXPECT_EQ(pair.out.link->peer().applied, 0U) << "the line before stays";
  pair.in.faults->release();
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kOk);
  EXPECT_EQ(pair.out.link->peer().applied, 7U);
}

TEST(Link, TakesNoCreditFromTheLineOfAnotherEpoch) {
  Pair pair(ring_of(8));
  for (int i = 0; i < 8; ++i) ASSERT_EQ(pair.send(), Status::kOk);
  pair.forge_line(8, 1, kEpoch - 1);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kTorn);
  EXPECT_EQ(pair.send(), Status::kFull);
}

TEST(Link, IsDoneForWhenThePeerClaimsToHaveTakenWhatWasNeverWritten) {
  Pair pair(ring_of(8));
  ASSERT_EQ(pair.send(), Status::kOk);
  pair.forge_line(2, 1);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kCorrupt);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kCorrupt) << "a lie is not forgotten";
  pair.forge_line(1, 2);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kCorrupt) << "nor mended by a better one";
}

TEST(Link, TellsTheLieToASenderThatWaitsForCredit) {
  Pair pair(ring_of(8));
  for (int i = 0; i < 8; ++i) ASSERT_EQ(pair.send(), Status::kOk);
  pair.forge_line(1000, 1);
  EXPECT_EQ(pair.send(), Status::kCorrupt) << "credit will never come: not mere back-pressure";
  Status status = Status::kOk;
  EXPECT_EQ(pair.send_batch(3, &status), 0U);
  EXPECT_EQ(status, Status::kCorrupt);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kCorrupt);
  EXPECT_EQ(pair.out.link->writer().next_sequence(), 9U);
}

TEST(Link, KeepsTheSequenceOfAPutTheTransportDidNotTake) {
  Pair pair(ring_of(8));
  pair.out.faults->set_plan(
      [](const Put& put) { return put.index == 0 ? Fault::kFull : Fault::kNone; });
  EXPECT_EQ(pair.send(), Status::kFull);
  EXPECT_EQ(pair.send(), Status::kOk);
  EXPECT_EQ(pair.out.link->writer().next_sequence(), 2U);
  EXPECT_EQ(pair.receive_all(), 1U);
  pair.out.faults->die();
  EXPECT_EQ(pair.send(), Status::kTransport);
  Status status = Status::kOk;
  EXPECT_EQ(pair.send_batch(3, &status), 0U);
  EXPECT_EQ(status, Status::kTransport);
  EXPECT_EQ(pair.out.link->writer().next_sequence(), 2U);
}

TEST(Link, GivesAStatusLineThatDidNotGoOutTheSameNumberAgain) {
  Pair pair(ring_of(8));
  pair.in.faults->set_plan(
      [](const Put& put) { return put.index == 0 ? Fault::kFull : Fault::kNone; });
  ASSERT_EQ(pair.send(), Status::kOk);
  ASSERT_EQ(pair.receive(), Status::kOk);
  EXPECT_EQ(pair.in.link->publish({}), Status::kFull);
  EXPECT_EQ(pair.in.link->unpublished_count(), 1U) << "the peer was not told";
  EXPECT_EQ(pair.in.link->publish({}), Status::kOk);
  EXPECT_EQ(pair.out.link->refresh_peer(), Status::kOk);
  EXPECT_EQ(pair.out.link->peer().consumed, 1U);
}

TEST(Link, SurvivesDuplicatedTornAndDelayedPuts) {
  // Each put is repeated, torn or delayed at random; what is kept back is let go now and then.
  // Everything arrives once and in order whatever the interleaving.
  Pair pair(ring_of(8));
  std::mt19937 random(17);
  const auto plan = [&](const Put&) {
    const Fault faults[] = {Fault::kNone, Fault::kRepeat, Fault::kTear, Fault::kDelay};
    return faults[random() % 4];
  };
  pair.out.faults->set_plan(plan);
  std::uint64_t taken = 0;
  std::uint64_t torn = 0;
  for (int round = 0; taken < 20'000; ++round) {
    ASSERT_LT(round, 500'000) << "no progress";
    (void)pair.send();
    Status status = Status::kOk;
    while (ok(status = pair.receive())) ++taken;
    ASSERT_TRUE(status == Status::kEmpty || status == Status::kTorn) << status_name(status);
    if (status == Status::kTorn) ++torn;
    if (random() % 4 == 0) pair.out.faults->release();
    ASSERT_EQ(pair.in.link->publish({}), Status::kOk);
  }
  EXPECT_GT(torn, 0U);
  EXPECT_EQ(pair.in.link->reader().counts().lapped, 0U);
}

TEST(Link, StopsForGoodBehindALostPutAndDeliversNothingThatFollows) {
  Pair pair(ring_of(8));
  pair.out.faults->set_plan(
      [](const Put& put) { return put.index == 3 ? Fault::kDrop : Fault::kNone; });
  for (int i = 0; i < 8; ++i) ASSERT_EQ(pair.send(), Status::kOk);
  EXPECT_EQ(pair.receive_all(), 3U);
  EXPECT_EQ(pair.receive(), Status::kEmpty) << "an order is never delivered before the one before";
  ASSERT_EQ(pair.in.link->publish({}), Status::kOk);
  for (int i = 0; i < 3; ++i) ASSERT_EQ(pair.send(), Status::kOk);
  EXPECT_EQ(pair.send(), Status::kFull);
  EXPECT_EQ(pair.receive_all(), 0U);
}

}  // namespace
}  // namespace rdmaorder
