// Counters in a mapped file that any process can read at no cost to the writer, and a histogram
// that records in 2-3 ns.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "rdmaorder/platform.hpp"

namespace rdmaorder::monitor {

// Counters file (little-endian):
//   0    8  magic "ROCNT001"
//   8    4  version (1)
//   12   4  counter count (fixed when the file is made)
//   16   8  process id of the writer
//   24   8  start time, CLOCK_REALTIME ns
//   32   8  offset of the labels from the start of the file
//   40   8  offset of the values
//   48  80  label of the process, NUL-padded
//   labels: count x 128 bytes, NUL-padded, "name" (per-session ones: "name{session=alpha}"); all
//           zero when the place is free. Offset a multiple of 64, values follow at once.
//   values: count x u64, packed. Offset a multiple of 64
// Values are written relaxed by one thread each; a reader takes each on its own. A label's first 8
// bytes are stored last, so a label that begins with anything but NUL is whole and final.
inline constexpr char kCountersMagic[] = "ROCNT001";
inline constexpr std::uint32_t kCountersVersion = 1;
inline constexpr std::uint32_t kCountersHeaderBytes = 128;
inline constexpr std::uint32_t kCounterLabelBytes = 128;  // a session id has up to 64
inline constexpr std::uint32_t kCounterCountMax = 1U << 20;

/// One counter cell: a plain add for the writer, no lock prefix. Single writer.
class Counter {
 public:
  Counter() = default;
  explicit Counter(std::uint64_t* cell) noexcept : cell_(cell) {}
  RDMAORDER_ALWAYS_INLINE void add(std::uint64_t n = 1) noexcept { set(get() + n); }
  RDMAORDER_ALWAYS_INLINE void set(std::uint64_t value) noexcept {
    __atomic_store_n(cell_, value, __ATOMIC_RELAXED);
  }
  RDMAORDER_ALWAYS_INLINE void set_max(std::uint64_t value) noexcept {
    if (value > get()) set(value);
  }
  [[nodiscard]] std::uint64_t get() const noexcept {
    return __atomic_load_n(cell_, __ATOMIC_RELAXED);
  }

 private:
  inline static std::uint64_t sink_ = 0;
  std::uint64_t* cell_ = &sink_;
};

/// Creates (or replaces) the counters file. All counters are made before the hot path starts or by
/// `make` from a set-up thread; the file has a fixed capacity.
class CountersFile {
 public:
  /// `path` empty: anonymous memory (tests, embedded use). Mode 0600. A reader finds the file of
  /// before or this one whole, never a part; the file stays when this object goes. Until then it is
  /// locked (flock), and refused to others. `label` is cut to 79 bytes. `capacity` is
  /// 1 .. kCounterCountMax. Throws Error.
  static std::unique_ptr<CountersFile> create(const std::string& path, const std::string& label,
                                              std::uint32_t capacity);
  virtual ~CountersFile() = default;
  /// A new counter, or the existing one of that name: [A-Za-z0-9_]+, then optionally {key=value}
  /// with a value of [A-Za-z0-9_.:-]+. Throws Error(kConfig) when the name is not so or too long,
  /// or the file full. Thread-safe. The Counter must not be used after this object is gone.
  virtual Counter make(const std::string& name) = 0;
  [[nodiscard]] virtual const std::string& path() const noexcept = 0;
  /// Names and values now.
  [[nodiscard]] virtual std::vector<std::pair<std::string, std::uint64_t>> snapshot() const = 0;
};

/// Log-linear histogram of nanoseconds (or any u64): exact below 256, then 128 buckets an octave
/// (relative error below 0.8 %). Single writer; 58 KiB; no allocation after construction.
class Histogram {
 public:
  static constexpr unsigned kSubBits = 7;
  static constexpr std::size_t kBucketCount = (65 - kSubBits) << kSubBits;

  Histogram() : counts_(kBucketCount, 0) {}

  RDMAORDER_ALWAYS_INLINE static std::size_t bucket_of(std::uint64_t value) noexcept {
    if (value < (2U << kSubBits)) return static_cast<std::size_t>(value);
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - kSubBits - 1;
    return (static_cast<std::size_t>(shift) << kSubBits) + static_cast<std::size_t>(value >> shift);
  }
  /// Largest value that falls into `bucket` (what percentiles report).
  static std::uint64_t bucket_upper(std::size_t bucket) noexcept {
    if (bucket < (2U << kSubBits)) return bucket;
    const auto shift = (bucket >> kSubBits) - 1;
    const auto mantissa = (bucket & ((1U << kSubBits) - 1)) + (1U << kSubBits);
    return ((static_cast<std::uint64_t>(mantissa) + 1) << shift) - 1;
  }

  RDMAORDER_ALWAYS_INLINE void record(std::uint64_t value) noexcept {
    ++counts_[bucket_of(value)];
    ++total_;
    if (value < min_) min_ = value;
    if (value > max_) max_ = value;
  }
  /// The smallest value that at least ceil(q * count) samples (one or more) do not exceed, rounded
  /// up to the end of its bucket but never above max(): exact at min and max. q outside [0, 1]
  /// counts as the nearer end; 0 when empty.
  [[nodiscard]] std::uint64_t value_at(double q) const noexcept;
  void merge(const Histogram& other) noexcept;
  void clear() noexcept;
  [[nodiscard]] std::uint64_t count() const noexcept { return total_; }
  [[nodiscard]] std::uint64_t min() const noexcept { return total_ ? min_ : 0; }
  [[nodiscard]] std::uint64_t max() const noexcept { return max_; }
  [[nodiscard]] std::span<const std::uint64_t> counts() const noexcept { return counts_; }

 private:
  std::vector<std::uint64_t> counts_;
  std::uint64_t total_ = 0;
  std::uint64_t min_ = UINT64_MAX;
  std::uint64_t max_ = 0;
};

}  // namespace rdmaorder::monitor
