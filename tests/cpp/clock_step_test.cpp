// What a step of the system's clock does to a gateway. CLOCK_REALTIME of this test program can be
// set back, for itself alone: nobody may do that to the machine. Not under sanitizers, whose
// runtimes answer clock_gettime themselves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "gateway_support.hpp"

namespace {
std::atomic<std::int64_t> realtime_step_s{0};
}  // namespace

// The C library's, for everything linked into this program.
extern "C" int clock_gettime(clockid_t id, timespec* time) noexcept {
  const auto result = static_cast<int>(syscall(SYS_clock_gettime, id, time));
  if (result == 0 && id == CLOCK_REALTIME) time->tv_sec += realtime_step_s.load();
  return result;
}

namespace rdmaorder {
namespace {

using namespace gateway_support;

class ClockStep : public ::testing::Test {
 protected:
  void TearDown() override { realtime_step_s = 0; }

  /// Ten minutes back, and the gateway has looked at its clock since.
  static void step_back(Rig& rig) {
    realtime_step_s = -600;
    const std::uint64_t beat = rig.counter("heartbeat");
    ASSERT_TRUE(eventually([&] {
      rig.gateway->run_pass();
      return rig.counter("heartbeat") > beat + 1;
    }));
  }
};

TEST_F(ClockStep, BackHoldsUpNoOrderThatIsWithinTheRate) {
  GatewayConfig config = test_config();
  config.throttle = {.orders_per_s = 1000, .burst_count = 1, .disconnect_count = 0};
  Rig rig(config);
  Strategy strategy = rig.connect("a");
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  ASSERT_EQ(strategy.poll().at(0).report.reason, Reason::kNone);
  step_back(rig);
  const std::uint64_t due_ns = monotonic_ns() + 1'000'000;
  while (monotonic_ns() <= due_ns) cpu_relax();
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(strategy.poll().at(0).report.reason, Reason::kNone);
}

TEST_F(ClockStep, BackTellsOfTheThrottleNoMoreOftenThanOnceASecond) {
  GatewayConfig config = test_config();
  config.throttle = {.orders_per_s = 1, .burst_count = 1, .disconnect_count = 0};
  Rig rig(config);
  Strategy strategy = rig.connect("a");
  const std::uint64_t begin_ns = monotonic_ns();
  ASSERT_EQ(strategy.send(), Status::kOk);
  ASSERT_EQ(strategy.send(), Status::kOk);  // the first refused one
  rig.settle();
  step_back(rig);
  for (std::uint64_t sequence = 3; sequence <= 20; ++sequence) {  // what was on its way
    strategy.forge(sequence, Strategy::sealed_order(strategy.attached.epoch, sequence));
  }
  rig.settle();
  const std::uint64_t end_ns = monotonic_ns();
  (void)strategy.poll();
  std::uint64_t told_count = 0;
  wire::SessionEvent event;
  while (ok(strategy.session->take_event(&event))) {
    if (event.kind == SessionEventKind::kThrottled) ++told_count;
  }
  EXPECT_GE(told_count, 1U);
  EXPECT_LE(told_count, 1 + (end_ns - begin_ns) / 1'000'000'000);
}

}  // namespace
}  // namespace rdmaorder

#endif
