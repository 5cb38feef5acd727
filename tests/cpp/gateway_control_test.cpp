// Control threads against each other: kills, links and questions that come at the same time.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "gateway_support.hpp"

namespace rdmaorder {
namespace {

using namespace gateway_support;

/// A request for a link of session `grant` into memory of its own.
AttachRequest attach_request(const SessionGrant& grant) {
  AttachRequest request;
  request.session_index = grant.session_index;
  request.report_geometry = {ring::kRingOffsetMinBytes, 64, grant.report_slot_count};
  return request;
}

std::unique_ptr<transport::Transport> transport_of(const AttachRequest& request) {
  return transport::make_shm(ring_support::make_window(request.report_geometry.window_bytes()));
}

TEST(GatewayKill, LeavesNoLinkThatWasBeingMade) {
  for (const bool hold : {false, true}) {
    Rig rig(test_config(), std::make_unique<MemoryJournal>());
    const SessionGrant grant = rig.open("a");
    std::vector<std::string> told;
    AttachRequest request = attach_request(grant);
    request.hold = hold;
    auto made = std::make_unique<TellingTransport>(told, transport_of(request));
    request.connect = [&](const memory::Window&) {  // a queue pair takes its time
      EXPECT_EQ(rig.gateway->kill(grant.session_index).fence_ns, 0U) << "nothing to fence";
      return std::move(made);
    };
    EXPECT_EQ(refusal_of([&] { rig.gateway->attach(std::move(request)); }), "SessionBlocked");
    EXPECT_EQ(told, std::vector<std::string>{"gone"});
    const SessionView view = rig.gateway->sessions().at(grant.session_index);
    EXPECT_TRUE(view.killed);
    EXPECT_FALSE(view.live);
    EXPECT_TRUE(rig.journal->of_kind(journal::RecordKind::kLink).empty());
    // Nothing of it is left behind: released, the session has links as before.
    EXPECT_TRUE(rig.gateway->release(grant.session_index));
    Strategy strategy = rig.connect("a");
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    EXPECT_EQ(rig.handler->sequences().back(), 1U);
  }
}

TEST(GatewayKill, OfManyTakesAllOutBeforeItWaitsForAnyAndOneSyncServesAllBothWays) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  std::vector<std::string> told;
  std::vector<std::uint64_t> epochs;
  for (const char* name : {"a", "b"}) {
    AttachRequest request = attach_request(rig.open(name));
    request.transport = std::make_unique<TellingTransport>(told, transport_of(request));
    epochs.push_back(rig.gateway->attach(std::move(request)).epoch);
  }
  rig.open("c");
  rig.handler->before = [&](std::span<const wire::OrderRecord> orders) {
    told.push_back("cancel " + std::to_string(orders[0].session_index));
  };
  const std::uint32_t all[] = {0, 7, 1, 2};
  constexpr std::uint64_t kMinute = 60'000'000'000;
  const auto results = rig.gateway->kill(all, monotonic_ns() - kMinute);
  EXPECT_EQ(told, (std::vector<std::string>{"fenced", "fenced", "closed", "gone", "closed", "gone",
                                            "cancel 0", "cancel 1", "cancel 2"}));
  EXPECT_EQ(rig.journal->sync_now_count, 1U) << "one for all";
  EXPECT_EQ(rig.journal->of_kind(journal::RecordKind::kKill).size(), 3U);
  ASSERT_EQ(results.size(), 4U);
  EXPECT_EQ(results[1].refusal, "there is no session with index 7");
  EXPECT_EQ(results[0].epoch, epochs[0]);
  EXPECT_EQ(results[2].epoch, epochs[1]);
  EXPECT_EQ(results[3].epoch, 0U);
  for (const std::size_t i : {0U, 2U, 3U}) {
    EXPECT_TRUE(results[i].recorded) << i;
    EXPECT_TRUE(results[i].refusal.empty()) << i;
  }
  EXPECT_GE(results[0].fence_ns, kMinute) << "counted from the request";
  EXPECT_EQ(results[3].fence_ns, 0U) << "nothing to fence";
  for (const SessionView& view : rig.gateway->sessions()) EXPECT_TRUE(view.killed) << view.name;
  EXPECT_EQ(refusal_of([&] { (void)rig.gateway->kill(7); }), "UnknownSession");
  EXPECT_EQ(refusal_of([&] { (void)rig.gateway->release(all); }), "UnknownSession");
  for (const SessionView& view : rig.gateway->sessions()) EXPECT_TRUE(view.killed) << view.name;
  const std::uint32_t existing[] = {0, 1, 2};
  EXPECT_TRUE(rig.gateway->release(existing));
  EXPECT_EQ(rig.journal->sync_now_count, 2U) << "one for all";
  EXPECT_EQ(rig.journal->of_kind(journal::RecordKind::kKill).size(), 6U);
  for (const SessionView& view : rig.gateway->sessions()) EXPECT_FALSE(view.killed) << view.name;
}

TEST(GatewayKill, OfAllHoldsForSessionsThatComeLaterUntilTheyAreReleased) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  const Strategy there = rig.connect("there");
  const auto results = rig.gateway->kill_all();
  ASSERT_EQ(results.size(), 1U);
  EXPECT_EQ(results[0].session_index, there.index);
  EXPECT_EQ(results[0].name, "there");
  EXPECT_EQ(results[0].epoch, there.attached.epoch);
  EXPECT_TRUE(results[0].recorded);
  const auto kills = rig.journal->of_kind(journal::RecordKind::kKill);
  ASSERT_EQ(kills.size(), 1U);
  EXPECT_EQ(kills[0].session_index, journal::kEverySession);
  for (const char* name : {"there", "later", "latest"}) {
    EXPECT_EQ(refusal_of([&] { (void)rig.connect(name); }), "SessionBlocked") << name;
  }
  EXPECT_TRUE(rig.gateway->release(1U));
  (void)rig.connect("later");
  EXPECT_EQ(refusal_of([&] { (void)rig.connect("another"); }), "SessionBlocked");
  EXPECT_TRUE(rig.gateway->release_all());
  for (const char* name : {"there", "latest", "another", "last"}) (void)rig.connect(name);
  EXPECT_EQ(rig.journal->sync_now_count, 3U);
}

TEST(GatewayKill, OfAllHoldsInTheNextRun) {
  Rig rig(test_config(), nullptr, {{"a", 0, 5, 5}}, true);
  (void)rig.connect("a");  // was released alone
  EXPECT_EQ(refusal_of([&] { (void)rig.connect("b"); }), "SessionBlocked");
  EXPECT_FALSE(rig.gateway->release_all()) << "without a journal";
  (void)rig.connect("b");
}

TEST(GatewayKill, LeavesTheOrderWindowsDescriptorToWhoIsToSendIt) {
  Rig rig;
  AttachRequest request = attach_request(rig.open("a"));
  request.transport = transport_of(request);
  const AttachResult attached = rig.gateway->attach(std::move(request));
  const int of_session = attached.order_window->fd();
  (void)rig.gateway->kill(0U);
  EXPECT_EQ(fcntl(of_session, F_GETFD), -1) << "closed; the next file gets this number";
  struct stat facts{};
  ASSERT_EQ(fstat(attached.order_window_fd.get(), &facts), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(facts.st_size), attached.order_window_bytes);
}

// --- orders of a session that is gone -----------------------------------------------------------

TEST(GatewayCancel, OfAGoneSessionWaitsForNoLinkAndHitsNoneThatIsBack) {
  Rig rig(test_config(), nullptr, {{"a", 0, 5, 5}});
  int cancels = 0;
  rig.handler->before = [&](std::span<const wire::OrderRecord> orders) {
    cancels += orders[0].template_id == static_cast<std::uint16_t>(TemplateId::kMassCancel);
  };
  const auto cancel = [&](std::uint64_t gone_for_ns) {
    return rig.gateway->cancel_gone(0, gone_for_ns, Reason::kDisconnect).has_value();
  };
  EXPECT_TRUE(cancel(kHour)) << "no link in this run";
  AttachRequest request = attach_request(rig.open("a"));
  auto made = transport_of(request);
  request.hold = true;
  request.connect = [&](const memory::Window&) {
    EXPECT_FALSE(cancel(0)) << "a link is being made";
    return std::move(made);
  };
  const AttachResult held = rig.gateway->attach(std::move(request));
  EXPECT_FALSE(cancel(0)) << "it is made";
  rig.gateway->detach(0, held.epoch, true);
  EXPECT_TRUE(cancel(kHour)) << "it came to nothing";
  Strategy strategy = rig.connect("a");
  EXPECT_FALSE(cancel(0));
  (void)rig.detach(strategy);
  EXPECT_FALSE(cancel(kHour)) << "gone again just now";
  EXPECT_TRUE(cancel(0));
  EXPECT_EQ(cancels, 3);
}

// --- links that are being made ------------------------------------------------------------------

TEST(GatewayAttach, HoldsUpNeitherOtherSessionsNorTheShutdown) {
  Rig rig;
  AttachRequest request = attach_request(rig.open("a"));
  auto made = transport_of(request);
  std::atomic<int> done{0};
  std::thread others;
  request.connect = [&](const memory::Window&) {  // an address that nobody answers for
    others = std::thread([&] {
      (void)rig.connect("b");
      done = 1;
      rig.gateway->announce_closing();
      done = 2;
    });
    EXPECT_TRUE(eventually([&] { return done == 2; })) << "came to " << done;
    return std::move(made);
  };
  EXPECT_EQ(refusal_of([&] { rig.gateway->attach(std::move(request)); }), "Draining")
      << "strategies have been told by now";
  others.join();
  EXPECT_FALSE(rig.gateway->sessions()[0].live);
  EXPECT_TRUE(rig.gateway->sessions()[1].live);
}

/// Says when it goes whether the order window that it was made for is there.
class WindowTransport final : public transport::Transport {
 public:
  WindowTransport(const memory::Window& window, std::vector<std::string>& told)
      : memory_(window.words()), told_(told) {}
  ~WindowTransport() override {
    told_.emplace_back(msync(memory_, 1, MS_ASYNC) == 0 ? "mapped" : "unmapped");
  }
  Status put(std::uint64_t, const void*, std::uint32_t) noexcept override { return Status::kOk; }
  Status progress() noexcept override { return Status::kOk; }
  [[nodiscard]] const transport::Info& info() const noexcept override { return info_; }
  [[nodiscard]] std::string failure() const override { return {}; }
  void close() noexcept override {}

 private:
  void* memory_;
  std::vector<std::string>& told_;
  transport::Info info_{};
};

TEST(GatewayAttach, ReleasesTheTransportBeforeTheMemoryThatItWasGiven) {
  Rig rig;
  std::vector<std::string> told;
  AttachRequest request = attach_request(rig.open("a"));
  request.connect = [&](const memory::Window& window) {  // to a peer with a window of no bytes
    return std::make_unique<WindowTransport>(window, told);
  };
  EXPECT_EQ(refusal_of([&] { rig.gateway->attach(std::move(request)); }), "BadWindow");
  EXPECT_EQ(told, std::vector<std::string>{"mapped"});
}

TEST(GatewayAttach, AsksToTryAgainWhereReportsCameFasterThanTheLink) {
  GatewayConfig config = test_config();
  config.backlog_limit_count = 5;
  Rig rig(config);
  AttachRequest request = attach_request(rig.open("a"));
  auto made = transport_of(request);
  request.connect = [&](const memory::Window&) {  // a queue pair takes its time
    rig.handler->idle = [&](ReportSink& sink) {
      for (int i = 0; i < 6; ++i) (void)sink.send(0, 1, {});
    };
    rig.gateway->run_pass();
    rig.handler->idle = nullptr;
    return std::move(made);
  };
  EXPECT_EQ(refusal_of([&] { rig.gateway->attach(std::move(request)); }), "TooSlow");
  (void)rig.connect("a");
}

TEST(GatewayAttach, TakesNoSequenceThatLeavesNoRoomForFurtherOnes) {
  constexpr std::uint64_t kMost = 1ULL << 62;
  Rig rig;
  const auto attach = [&](std::uint64_t order, std::uint64_t report) {
    AttachRequest request = attach_request(rig.open("a"));
    request.next_order_sequence = order;
    request.next_report_sequence = report;
    request.transport = transport_of(request);
    const AttachResult result = rig.gateway->attach(std::move(request));
    rig.gateway->detach(0, result.epoch, true);
  };
  for (const std::uint64_t wild : {kMost + 1, std::uint64_t{INT64_MAX}}) {
    EXPECT_EQ(refusal_of([&] { attach(wild, 0); }), "BadRequest");
    EXPECT_EQ(refusal_of([&] { attach(0, wild); }), "BadRequest");
  }
  EXPECT_EQ(rig.gateway->sessions()[0].next_order_sequence, 1U) << "a refusal changes nothing";
  EXPECT_EQ(rig.gateway->sessions()[0].next_report_sequence, 1U);
  attach(kMost, kMost);
  Strategy strategy = rig.connect("a");
  for (std::uint64_t n = 0; n < 100; ++n) {
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    const auto reports = strategy.poll();
    ASSERT_EQ(order_sequences(reports), range(kMost + n, kMost + n));
    ASSERT_EQ(reports[0].sequence, kMost + n);
    strategy.session->check_link();
  }
  (void)rig.detach(strategy);
  attach(kMost + 100, kMost + 100);  // where both stand: no jump
}

}  // namespace
}  // namespace rdmaorder
