// Samples of one run and their percentiles.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rdmaorder/clock.hpp"

namespace rdmaorder::bench {

/// Tick counts of single operations. Room is taken at construction: adding never allocates, and
/// what does not fit is dropped.
class Samples {
 public:
  explicit Samples(std::size_t capacity) { ticks_.reserve(capacity); }

  RDMAORDER_ALWAYS_INLINE void add(std::uint64_t tick_count) noexcept {
    if (RDMAORDER_LIKELY(ticks_.size() < ticks_.capacity())) ticks_.push_back(tick_count);
  }
  void clear() noexcept { ticks_.clear(); }
  [[nodiscard]] std::size_t size() const noexcept { return ticks_.size(); }
  [[nodiscard]] bool full() const noexcept { return ticks_.size() == ticks_.capacity(); }

  /// Percentile in nanoseconds. The TSC moves in steps of several nanoseconds, so thousands of
  /// samples share one value: a sample stands for the interval half-way to its neighbours and the
  /// percentile is interpolated inside it (the median of grouped data). `sort` first.
  [[nodiscard]] double at_ns(double q) const {
    if (ticks_.empty()) return 0;
    const double rank = q * static_cast<double>(ticks_.size());
    const auto index = std::min(static_cast<std::size_t>(rank), ticks_.size() - 1);
    const std::uint64_t value = ticks_[index];
    const auto [first, last] = std::equal_range(ticks_.begin(), ticks_.end(), value);
    const double here = static_cast<double>(value);
    const double below = first == ticks_.begin() ? here : static_cast<double>(*(first - 1));
    const double above = last == ticks_.end() ? here : static_cast<double>(*last);
    const double low = (here + below) / 2;
    const double high = (here + above) / 2;
    const double part =
        (rank - static_cast<double>(first - ticks_.begin())) / static_cast<double>(last - first);
    return (low + (high - low) * std::clamp(part, 0.0, 1.0)) / TickRate::get().ticks_per_ns();
  }
  void sort() { std::sort(ticks_.begin(), ticks_.end()); }

 private:
  std::vector<std::uint64_t> ticks_;
};

/// Median of a small set of doubles.
[[nodiscard]] inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace rdmaorder::bench
