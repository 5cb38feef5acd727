// The writer's slow half: segment creation, stable storage, the helper thread.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "journal/writer.hpp"
#include "rdmaorder/clock.hpp"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14; older kernels answer EINVAL
#endif

namespace rdmaorder::journal {
namespace {

/// A creation that failed (disk full) is tried again after this long, by the helper.
constexpr std::uint64_t kRetryNs = 100'000'000;
/// Pages this far ahead of the cursor are in memory before the append thread reaches them.
constexpr std::uint64_t kPrefaultBytes = 1U << 20;
/// The helper looks this often; halved while the appends use up the prefaulted bytes quickly.
constexpr std::uint64_t kTickMinNs = 1'000'000;
constexpr std::uint64_t kTickMaxNs = 16'000'000;
static_assert(kRetryNs > kTickMaxNs);

}  // namespace

void SegmentWriter::close() noexcept {
  {
    const std::lock_guard guard(stop_mutex_);
    if (stop_) return;
    stop_ = true;
  }
  stop_condition_.notify_one();
  helper_.join();
  if (config_.sync != SyncPolicy::kNone) static_cast<void>(sync_now());
  failed_.store(true, std::memory_order_relaxed);
  // Before the lock goes: the next writer may make a segment of the same name.
  if (MappedSegment* unused = prepared_.exchange(nullptr, std::memory_order_acquire)) {
    ::unlink(unused->path.c_str());
    delete unused;
  }
  lock_.reset();
}

SegmentWriter::~SegmentWriter() {
  close();
  for (MappedSegment* list : {retired_, closed_.load(std::memory_order_acquire)}) {
    while (list != nullptr) delete std::exchange(list, list->next);
  }
  delete current_.load(std::memory_order_relaxed);
}

void SegmentWriter::prepare_next() noexcept {
  if (monotonic_ns() < next_attempt_ns_.load(std::memory_order_relaxed)) return;
  const std::lock_guard guard(create_mutex_);
  if (prepared_.load(std::memory_order_acquire) != nullptr) return;
  StorageFailure failure;
  std::unique_ptr<MappedSegment> segment;
  try {
    segment =
        create_segment(config_.directory, next_number_, config_.segment_bytes, calls_, &failure);
  } catch (const std::exception& error) {  // out of memory
    failure = {ENOMEM, error.what()};
  }
  {
    const std::lock_guard error_guard(error_mutex_);
    create_error_ = std::move(failure.what);
  }
  if (segment == nullptr) {
    next_attempt_ns_.store(monotonic_ns() + kRetryNs, std::memory_order_relaxed);
    return;
  }
  next_attempt_ns_.store(0, std::memory_order_relaxed);
  ++next_number_;
  prefault(*segment, 0);
  // SYNC the prepared segment: release here, acquire in change_segment.
  prepared_.store(segment.release(), std::memory_order_release);
}

bool SegmentWriter::sync_segments(bool include_current) noexcept {
  const std::lock_guard guard(sync_mutex_);
  if (failed_.load(std::memory_order_relaxed)) return false;
  // In this order: every record up to `position` is in `current`, or in a segment that was closed
  // before `current` was read and so is found in the list taken after.
  const std::uint64_t position = last_position_.load(std::memory_order_acquire);
  MappedSegment* current = current_.load(std::memory_order_acquire);
  MappedSegment* newest_first = closed_.exchange(nullptr, std::memory_order_acquire);
  MappedSegment* oldest_first = nullptr;
  while (newest_first != nullptr) {
    MappedSegment* segment = std::exchange(newest_first, newest_first->next);
    segment->next = std::exchange(oldest_first, segment);
  }
  std::uint64_t durable = durable_position_.load(std::memory_order_relaxed);
  while (oldest_first != nullptr) {
    MappedSegment* segment = std::exchange(oldest_first, oldest_first->next);
    if (!failed_.load(std::memory_order_relaxed)) {
      if (const int error = calls_.data_sync(segment->fd.get())) {
        fail(error, segment->path);
      } else {
        durable = std::max(durable, segment->last_position);
        durable_position_.store(durable, std::memory_order_release);
      }
    }
    segment->next = std::exchange(retired_, segment);
  }
  if (failed_.load(std::memory_order_relaxed)) return false;
  if (!include_current || position <= durable) return true;
  if (const int error = calls_.data_sync(current->fd.get())) {
    fail(error, current->path);
    return false;
  }
  durable_position_.store(position, std::memory_order_release);
  return true;
}

/// A failed sync is final: the kernel forgets which pages it could not write, so a later success
/// would prove nothing about them.
void SegmentWriter::fail(int error, const std::string& path) noexcept {
  failed_.store(true, std::memory_order_relaxed);
  const std::lock_guard guard(error_mutex_);
  try {
    sync_error_ = "sync " + path + ": " + std::strerror(error);
  } catch (const std::exception&) {
    sync_error_ = "sync failed";  // fits the string's own storage
  }
}

void SegmentWriter::help() noexcept {
  std::uint64_t tick_ns = kTickMinNs;
  std::uint64_t next_sync_ns = monotonic_ns() + config_.sync_interval_ns;
  std::unique_lock lock(stop_mutex_);
  while (!stop_) {
    lock.unlock();
    if (prepared_.load(std::memory_order_acquire) == nullptr) prepare_next();
    const std::uint64_t appended_bytes = prefault_current();
    const std::uint64_t now = monotonic_ns();
    const bool interval_due = config_.sync == SyncPolicy::kInterval && now >= next_sync_ns;
    if (interval_due || closed_.load(std::memory_order_relaxed) != nullptr) {
      static_cast<void>(sync_segments(interval_due));
      if (interval_due) next_sync_ns = now + config_.sync_interval_ns;
    }
    unmap_retired();
    if (appended_bytes > kPrefaultBytes / 4) {
      tick_ns = std::max(tick_ns / 2, kTickMinNs);
    } else if (appended_bytes < kPrefaultBytes / 16) {
      tick_ns = std::min(tick_ns * 2, kTickMaxNs);
    }
    std::uint64_t wait_ns = tick_ns;
    if (config_.sync == SyncPolicy::kInterval) {
      const std::uint64_t then = monotonic_ns();
      wait_ns = std::min(wait_ns, next_sync_ns > then ? next_sync_ns - then : 0);
    }
    lock.lock();
    stop_condition_.wait_for(lock, std::chrono::nanoseconds(wait_ns), [this] { return stop_; });
  }
}

std::uint64_t SegmentWriter::prefault_current() noexcept {
  // Only this thread destroys segments (unmap_retired), so `current` stays valid here.
  MappedSegment* current = current_.load(std::memory_order_acquire);
  std::byte* cursor = cursor_.load(std::memory_order_relaxed);
  const auto begin = reinterpret_cast<std::uintptr_t>(current->data);
  const auto at = reinterpret_cast<std::uintptr_t>(cursor);
  const auto before = reinterpret_cast<std::uintptr_t>(std::exchange(seen_cursor_, cursor));
  if (at < begin || at > begin + current->bytes) return kPrefaultBytes;  // just changed segment
  prefault(*current, at - begin);
  return before >= begin && before <= at ? at - before : kPrefaultBytes;
}

void SegmentWriter::prefault(MappedSegment& segment, std::uint64_t offset) noexcept {
  const std::uint64_t from = std::max(segment.prefault_end, offset / kPageBytes * kPageBytes);
  const std::uint64_t to =
      std::min(offset + kPrefaultBytes, segment.bytes) / kPageBytes * kPageBytes;
  if (from >= to || !can_prefault_.load(std::memory_order_relaxed)) return;
  segment.prefault_end = to;
  // A help, not a need: without it the append thread takes the page faults itself.
  if (madvise(segment.data + from, to - from, MADV_POPULATE_WRITE) != 0 && errno == EINVAL) {
    can_prefault_.store(false, std::memory_order_relaxed);
  }
}

void SegmentWriter::unmap_retired() noexcept {
  MappedSegment* list = nullptr;
  {
    const std::lock_guard guard(sync_mutex_);
    list = std::exchange(retired_, nullptr);
  }
  while (list != nullptr) delete std::exchange(list, list->next);
}

}  // namespace rdmaorder::journal
