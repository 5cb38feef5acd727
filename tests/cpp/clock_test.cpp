#include "rdmaorder/clock.hpp"

#include <gtest/gtest.h>

#include "rdmaorder/platform.hpp"

namespace rdmaorder {
namespace {

// A clock that counts its readings; the first ones are held up like a thread that loses its
// processor after the reading.
int readings = 0;
int held_up = 0;

std::uint64_t halting_clock() noexcept {
  const int number = ++readings;
  if (number <= held_up) {
    const std::uint64_t end = ticks() + TickRate::get().from_ns(20'000'000);
    while (ticks() < end) cpu_relax();
  }
  return static_cast<std::uint64_t>(number);
}

ClockPair read(int first_held_up, int tries, std::uint64_t good_ns) {
  readings = 0;
  held_up = first_held_up;
  return read_clock_pair(halting_clock, tries, TickRate::get().from_ns(good_ns));
}

TEST(ClockPair, AReadingThatWasHeldUpIsNotTheOneThatCounts) {
  const std::uint64_t start = ticks();
  const ClockPair pair = read(2, 32, 10'000'000);
  EXPECT_GE(pair.ns, 3U);
  // Its moment lies behind the two that were held up.
  EXPECT_GE(TickRate::get().to_ns(pair.tick_count - start), 39'000'000U);
  EXPECT_LE(pair.tick_count, ticks());
}

TEST(ClockPair, WhereNoneIsGoodTheBestCounts) {
  EXPECT_EQ(read(1, 1, 0).ns, 1U);
  EXPECT_EQ(readings, 1);
}

TEST(RealtimeClock, TellsTheKernelsTime) {
  RealtimeClock clock;
  for (int i = 0; i < 100; ++i) {
    clock.anchor();
    const std::uint64_t before = realtime_ns();
    const std::uint64_t now = clock.now_ns();
    const std::uint64_t after = realtime_ns();
    EXPECT_GE(now + 1'000'000, before);
    EXPECT_LE(now, after + 1'000'000);
  }
}

}  // namespace
}  // namespace rdmaorder
