#include <algorithm>
#include <cmath>

#include "rdmaorder/monitor.hpp"

namespace rdmaorder::monitor {

std::uint64_t Histogram::value_at(double q) const noexcept {
  if (total_ == 0) return 0;
  if (!(q > 0.0)) return min_;
  if (q >= 1.0) return max_;
  // 0.07 * 100 is a little above 7 in binary, and its ceiling would be the 8th sample. Twice the
  // rounding error of quotient and product is taken off first.
  const double exact = q * static_cast<double>(total_);
  const double rank_real = std::ceil(exact - exact * 0x1p-51);
  if (rank_real <= 1.0) return min_;
  if (rank_real >= static_cast<double>(total_)) return max_;
  const auto rank = static_cast<std::uint64_t>(rank_real);

  std::uint64_t seen_count = 0;
  for (std::size_t bucket = bucket_of(min_); bucket < kBucketCount; ++bucket) {
    seen_count += counts_[bucket];
    if (seen_count >= rank) return std::min(bucket_upper(bucket), max_);
  }
  return max_;
}

void Histogram::merge(const Histogram& other) noexcept {
  for (std::size_t bucket = 0; bucket < kBucketCount; ++bucket) {
    counts_[bucket] += other.counts_[bucket];
  }
  total_ += other.total_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

void Histogram::clear() noexcept {
  std::fill(counts_.begin(), counts_.end(), 0);
  total_ = 0;
  min_ = UINT64_MAX;
  max_ = 0;
}

}  // namespace rdmaorder::monitor
