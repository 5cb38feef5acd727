#include "rdmaorder/clock.hpp"

#include <algorithm>

namespace rdmaorder {

ClockPair read_clock_pair(std::uint64_t (*clock)() noexcept, int tries,
                          std::uint64_t good_ticks) noexcept {
  ClockPair best;
  std::uint64_t best_gap = UINT64_MAX;
  for (int i = 0; i < tries && best_gap > good_ticks; ++i) {
    const std::uint64_t before = ticks();
    const std::uint64_t ns = clock();
    const std::uint64_t gap = ticks() - before;
    if (gap < best_gap) {
      best_gap = gap;
      best = {before + gap / 2, ns};
    }
  }
  return best;
}

TickRate::TickRate() : ns_per_tick_q32_(0) {
  constexpr int kTries = 32;
  const ClockPair start = read_clock_pair(monotonic_ns, kTries, 0);
  while (monotonic_ns() - start.ns < 10'000'000) cpu_relax();
  const ClockPair end = read_clock_pair(monotonic_ns, kTries, 0);
  const std::uint64_t tick_count = std::max<std::uint64_t>(1, end.tick_count - start.tick_count);
  ns_per_tick_q32_ = static_cast<std::uint64_t>(
      (static_cast<unsigned __int128>(end.ns - start.ns) << 32) / tick_count);
}

const TickRate& TickRate::get() {
  static const TickRate rate;
  return rate;
}

}  // namespace rdmaorder
