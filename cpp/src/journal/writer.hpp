// The journal's writer: an append path of plain stores, and a helper thread that keeps the next
// segment ready, its first pages in memory, and (policy) brings data to stable storage.
//
// Who touches what:
//   append thread   cursor, end, next position, the current segment's contents; never waits for a
//                   lock except at a segment change that nobody prepared
//   helper thread   prepared segment, prefaulting, syncing, unmapping
//   sync_mutex_     one sync at a time; the lists of closed and retired segments
//   create_mutex_   one segment creation at a time
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "journal/files.hpp"
#include "journal/recovery.hpp"
#include "rdmaorder/journal.hpp"

namespace rdmaorder::journal {

class SegmentWriter final : public Writer {
 public:
  SegmentWriter(Config config, FileCalls& calls, memory::UniqueFd lock, Recovered recovered);
  ~SegmentWriter() override;
  SegmentWriter(const SegmentWriter&) = delete;
  SegmentWriter& operator=(const SegmentWriter&) = delete;

  Status append(RecordKind kind, std::uint16_t detail, std::uint32_t session_index,
                std::uint64_t sequence, std::uint64_t time_ns, const void* payload,
                std::uint32_t payload_bytes) noexcept override;
  Status sync_batch() noexcept override;
  Status sync_now() noexcept override;
  void close() noexcept override;
  void note_reports(std::uint32_t session_index,
                    std::uint64_t next_report_sequence) noexcept override;
  [[nodiscard]] std::uint64_t noted_reports(std::uint32_t session_index) const noexcept override;
  void note_refused(std::uint64_t first_position) noexcept override;
  [[nodiscard]] bool is_noted_refused(std::uint64_t position) const noexcept override;

  [[nodiscard]] Location location() const noexcept override {
    const MappedSegment* segment = current_.load(std::memory_order_relaxed);
    return {segment->number,
            static_cast<std::uint64_t>(cursor_.load(std::memory_order_relaxed) - segment->data),
            next_position_};
  }
  [[nodiscard]] std::string directory() const override { return config_.directory; }
  [[nodiscard]] std::uint64_t last_position() const noexcept override {
    return last_position_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint64_t durable_position() const noexcept override {
    return durable_position_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::string last_error() const override;
  [[nodiscard]] SyncPolicy sync_policy() const noexcept override { return config_.sync; }

 private:
  /// Where note_reports keeps it, in the header page of the current segment; null: nowhere.
  [[nodiscard]] std::uint64_t* note_of(std::uint32_t session_index) const noexcept;
  // writer.cpp, append thread
  /// `facts`: the words of session_index, kind and detail together.
  Status append_record(std::uint64_t facts, std::uint64_t sequence, std::uint64_t time_ns,
                       const void* payload, std::uint32_t payload_bytes) noexcept;
  [[nodiscard]] bool change_segment() noexcept;
  void enter(MappedSegment& segment, std::uint64_t offset) noexcept;

  // writer_helper.cpp
  /// Creates the next segment unless there is one or a creation failed less than kRetryNs ago.
  void prepare_next() noexcept;
  /// Syncs closed segments and, if asked, the current one; moves the durable position.
  [[nodiscard]] bool sync_segments(bool include_current) noexcept;
  void fail(int error, const std::string& path) noexcept;
  void help() noexcept;
  /// Brings the pages just ahead of the cursor into memory. Bytes appended since the last call.
  std::uint64_t prefault_current() noexcept;
  void prefault(MappedSegment& segment, std::uint64_t offset) noexcept;
  void unmap_retired() noexcept;

  // Append thread's line. The cursor is atomic only so that the helper may look at it.
  alignas(kCacheLineBytes) std::atomic<std::byte*> cursor_{nullptr};
  std::byte* end_ = nullptr;
  std::uint64_t next_position_ = 1;
  RecordCrc crc_;
  /// A sync failed, or it was closed: for good (read often, written once).
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> last_position_{0};

  alignas(kCacheLineBytes) std::atomic<MappedSegment*> current_{nullptr};
  std::atomic<MappedSegment*> prepared_{nullptr};
  std::atomic<MappedSegment*> closed_{
      nullptr};  ///< stack; pushed by append, taken under sync_mutex_
  /// CLOCK_MONOTONIC, no creation before this; 0: the last one did not fail.
  std::atomic<std::uint64_t> next_attempt_ns_{0};

  alignas(kCacheLineBytes) std::atomic<std::uint64_t> durable_position_{0};
  const Config config_;
  FileCalls& calls_;
  memory::UniqueFd lock_;

  std::mutex sync_mutex_;
  MappedSegment* retired_ = nullptr;  ///< synced, to be unmapped by the helper
  std::mutex create_mutex_;
  std::uint64_t next_number_ = 0;  ///< under create_mutex_

  mutable std::mutex error_mutex_;
  std::string sync_error_;    ///< stays
  std::string create_error_;  ///< until a creation succeeds

  // Helper thread.
  std::atomic<bool> can_prefault_{true};
  std::mutex stop_mutex_;
  std::condition_variable stop_condition_;
  bool stop_ = false;
  std::byte* seen_cursor_ = nullptr;
  std::thread helper_;
};

/// Writer::open with the system calls given.
std::unique_ptr<Writer> open_writer(const Config& config,
                                    const std::function<void(const Record&)>& recover_visit,
                                    ScanResult* recovered, FileCalls& calls);

}  // namespace rdmaorder::journal
