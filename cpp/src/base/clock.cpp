#include "rdmaorder/clock.hpp"

#include <algorithm>

namespace rdmaorder {
namespace {

struct Pair {
  std::uint64_t tick_count;
  std::uint64_t ns;
};

// The reading of both clocks with the smallest gap between two TSC reads around clock_gettime, so
// that a preemption between the two does not enter the rate.
Pair read_both() noexcept {
  Pair best{};
  std::uint64_t best_gap = UINT64_MAX;
  for (int i = 0; i < 32; ++i) {
    const std::uint64_t before = ticks();
    const std::uint64_t ns = monotonic_ns();
    const std::uint64_t gap = ticks() - before;
    if (gap < best_gap) {
      best_gap = gap;
      best = {before + gap / 2, ns};
    }
  }
  return best;
}

}  // namespace

TickRate::TickRate() : ns_per_tick_q32_(0) {
  const Pair start = read_both();
  while (monotonic_ns() - start.ns < 10'000'000) cpu_relax();
  const Pair end = read_both();
  const std::uint64_t tick_count = std::max<std::uint64_t>(1, end.tick_count - start.tick_count);
  ns_per_tick_q32_ = static_cast<std::uint64_t>(
      (static_cast<unsigned __int128>(end.ns - start.ns) << 32) / tick_count);
}

const TickRate& TickRate::get() {
  static const TickRate rate;
  return rate;
}

}  // namespace rdmaorder
