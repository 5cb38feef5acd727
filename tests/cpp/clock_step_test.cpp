// What a step of the system's clock does to a gateway, and a pause to the measuring of its clock.
// CLOCK_REALTIME of this test program can be set back, for itself alone: nobody may do that to the
// machine. Not under sanitizers, whose runtimes answer clock_gettime themselves.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "control/message.hpp"
#include "gateway_support.hpp"
#include "rdmaorder/control.hpp"

namespace {
std::atomic<std::int64_t> realtime_step_s{0};
/// How long a thread loses the processor right after it has read a clock.
std::atomic<long> pause_ns{0};
}  // namespace

// The C library's, for everything linked into this program.
extern "C" int clock_gettime(clockid_t id, timespec* time) noexcept {
  const auto result = static_cast<int>(syscall(SYS_clock_gettime, id, time));
  if (result == 0 && id == CLOCK_REALTIME) time->tv_sec += realtime_step_s.load();
  if (const timespec pause{0, pause_ns.load()}; pause.tv_nsec != 0) nanosleep(&pause, nullptr);
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

/// A gateway with this host's clock, which answers at once.
class SameClock final : public control::Connection {
 public:
  control::Message ask(control::MessageWriter& /*question*/, control::Turn /*turn*/,
                       std::uint64_t /*timeout_ns*/) override {
    const std::string frame = control::MessageWriter("Clock").number("time_ns", now_ns()).frame();
    return control::Message::parse(std::string_view(frame).substr(4));
  }
  control::PeerCheck check(std::string* /*text*/) noexcept override { return {}; }
  bool terminate(std::uint64_t /*last*/, std::uint64_t /*timeout_ns*/,
                 std::uint64_t* /*confirmed*/) noexcept override {
    return false;
  }
  [[nodiscard]] int fd() const noexcept override { return -1; }

 private:
  static std::uint64_t now_ns() {  // its thread loses nothing
    timespec now{};
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
  }
};

TEST(ClockOffset, IsWithinItsBoundWhereverTheThreadLosesTheProcessor) {
  SameClock connection;
  pause_ns = 2'000'000;
  const control::ClockOffset measured = control::measure_clock(connection, kHour);
  pause_ns = 0;
  EXPECT_LE(std::abs(measured.offset_ns), static_cast<std::int64_t>(measured.bound_ns));
  EXPECT_GE(measured.bound_ns, 2'000'000U) << "the pause is in it";
}

}  // namespace
}  // namespace rdmaorder

#endif
