// Time on the order path. The TSC is read in about 10 ns, clock_gettime in about 23 ns.
#pragma once

#include <cstdint>
#include <ctime>

#include "rdmaorder/platform.hpp"

namespace rdmaorder {

inline std::uint64_t clock_ns(clockid_t id) noexcept {
  timespec t{};
  clock_gettime(id, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(t.tv_nsec);
}
inline std::uint64_t monotonic_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }
inline std::uint64_t realtime_ns() noexcept { return clock_ns(CLOCK_REALTIME); }

/// A cycle counter that runs at a constant rate on every core (TSC, or the generic timer of Arm).
/// Not serialising: may move by the depth of the pipeline.
RDMAORDER_ALWAYS_INLINE std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  return __rdtsc();
#elif defined(__aarch64__)
  std::uint64_t value;
  asm volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#else
  return monotonic_ns();
#endif
}

/// The TSC and another clock at one moment.
struct ClockPair {
  std::uint64_t tick_count = 0;
  std::uint64_t ns = 0;
};

/// Of up to `tries` readings of `clock` between two of the TSC the one with the least time between
/// those, so that a preemption in the middle does not enter; the first whose is at most
/// `good_ticks`.
ClockPair read_clock_pair(std::uint64_t (*clock)() noexcept, int tries,
                          std::uint64_t good_ticks) noexcept;

/// Converts ticks to nanoseconds. Calibrated once per process against CLOCK_MONOTONIC (10 ms at
/// first use, so construct before the hot path). Thread-safe, immutable.
class TickRate {
 public:
  static const TickRate& get();

  [[nodiscard]] std::uint64_t to_ns(std::uint64_t tick_count) const noexcept {
    return static_cast<std::uint64_t>((Wide{tick_count} * ns_per_tick_q32_) >> 32);
  }
  [[nodiscard]] std::uint64_t from_ns(std::uint64_t ns) const noexcept {
    return static_cast<std::uint64_t>((Wide{ns} << 32) / ns_per_tick_q32_);
  }
  [[nodiscard]] double ticks_per_ns() const noexcept {
    return 4294967296.0 / static_cast<double>(ns_per_tick_q32_);
  }

 private:
  __extension__ using Wide = unsigned __int128;  // for programs compiled with -Wpedantic
  TickRate();
  std::uint64_t ns_per_tick_q32_;
};

/// CLOCK_REALTIME extrapolated by the TSC: one multiplication per reading. `anchor()` re-reads the
/// kernel clock and is called from idle moments; between anchors the error is the TSC drift
/// (below 1 µs a second) and a step of the clock is seen at the next anchor. Single-threaded.
class RealtimeClock {
 public:
  RealtimeClock() : rate_(TickRate::get()) { anchor(); }
  void anchor() noexcept { anchor_ = read_clock_pair(realtime_ns, 4, rate_.from_ns(1000)); }
  [[nodiscard]] std::uint64_t at(std::uint64_t tick_count) const noexcept {
    return anchor_.ns + rate_.to_ns(tick_count - anchor_.tick_count);
  }
  [[nodiscard]] std::uint64_t now_ns() const noexcept { return at(ticks()); }

 private:
  const TickRate& rate_;
  ClockPair anchor_;
};

}  // namespace rdmaorder
