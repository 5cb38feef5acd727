// The gateway's journal: what was taken from each session and what was answered, in one order.
//
// A directory of preallocated segments NNNNNNNNNN.rojl, each
//   segment header (4096 bytes, one page):
//     0   8  magic "ROJRNL01"
//     8   4  version (1)
//     12  4  crc32c of bytes 16 .. 64
//     16  8  segment number, from 1, no gaps
//     24  8  position of the first record (records count from 1 over the whole journal)
//     32  8  segment bytes
//     40  8  created, CLOCK_REALTIME ns
//     48  8  salt: random; enters every record's CRC, so bytes of an older file never verify
//     56  8  reserved, 0
//     64  .. u64 by session index, 0: nothing: next report sequence of a session, where it has had
//            reports that could not be appended (Writer::note_reports)
//     4080 8  positions [first, end) of orders that were refused after their record had been made
//     4088 8  (Writer::note_refused); end 0: none
//     64 .. 4096 goes along from segment to segment
//   records, each starting on a 32-byte boundary:
//     0   4  crc32c over (salt u64, bytes 4 .. 40 + payload_bytes)
//     4   4  payload_bytes
//     8   8  position of this record
//     16  8  time_ns, CLOCK_REALTIME
//     24  8  sequence (of the order, report or, for session records, the next order sequence)
//     32  4  session_index
//     36  2  kind
//     38  2  detail (orders: Reason of a refusal at the gateway, 0 = went to the handler;
//            links: schema of the session's messages)
//     40  .. payload: for orders and reports the slot without its commit word (56 bytes of 64)
// A reader stops at the first record whose position, size or CRC is not right; zero bytes there
// mean the clean end. An append is a copy into mapped, preallocated memory: no system call, and
// what was appended survives kill -9 of the process at once. Stable storage is reached by sync
// (policy), which moves the durable position.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "rdmaorder/status.hpp"

namespace rdmaorder::journal {

enum class SyncPolicy : std::uint8_t {
  kNone,      ///< the kernel writes back when it likes; durable moves when a segment is closed
  kInterval,  ///< a helper thread syncs every sync_interval_ns
  kBatch,     ///< the receiver syncs each pick-up batch before the handler sees it
};

enum class RecordKind : std::uint16_t {
  kSession = 1,     ///< payload: the session's name; introduces session_index
  kOrder = 2,       ///< payload: header + block of an order taken from the ring
  kReport = 3,      ///< payload: header + block of a report; sequence is the report's
  kLink = 4,        ///< payload: epoch u64, first order sequence u64, first report sequence u64
  kNotApplied = 5,  ///< sequence: first order sequence never applied; payload: count u64
  /// sequence: the next order's; payload: 1 u64 killed, 0 u64 released. With session_index
  /// kEverySession (sequence 0) of every session there is and of those introduced behind it.
  kKill = 6
};
inline constexpr std::uint32_t kEverySession = UINT32_MAX;

/// A place in the journal from which reading can begin.
struct Location {
  std::uint64_t segment = 0;   ///< 0: the beginning
  std::uint64_t offset = 0;    ///< bytes into it, where a record starts or the written part ends
  std::uint64_t position = 1;  ///< of the record there
};

struct Record {
  std::uint64_t position = 0;
  std::uint64_t time_ns = 0;
  std::uint64_t sequence = 0;
  std::uint32_t session_index = 0;
  RecordKind kind{};
  std::uint16_t detail = 0;
  std::span<const std::byte> payload;  ///< valid during the callback only
  std::uint64_t segment = 0;           ///< where it was read, for Location
  std::uint64_t offset = 0;
};

struct Config {
  std::string directory;
  std::uint64_t segment_bytes = 64ULL << 20;  ///< multiple of 4096, >= 64 KiB
  SyncPolicy sync = SyncPolicy::kInterval;
  std::uint64_t sync_interval_ns = 10'000'000;
};

/// Result of reading a journal to its end.
struct ScanResult {
  std::uint64_t record_count = 0;
  std::uint64_t last_position = 0;
  bool clean = true;   ///< ended at zero bytes or the end of the last segment
  std::string damage;  ///< else what and where: file, offset, position, cause
  std::uint64_t segment_count = 0;
};

/// Reads every record in order; `visit` returns false to stop early. Throws Error(kJournal) when
/// the directory or a segment header cannot be read. Safe beside a live writer (sees a prefix).
ScanResult scan(const std::string& directory, const std::function<bool(const Record&)>& visit);

/// One writing thread (append, sync_batch); durable_position from any thread.
class Writer {
 public:
  /// Opens or creates. Recovers: scans what is there through `recover` (may be empty), cuts off a
  /// damaged tail only after copying it to <segment>.damaged, continues after the last good record.
  /// Takes an exclusive lock on the directory. Throws Error.
  static std::unique_ptr<Writer> open(const Config& config,
                                      const std::function<void(const Record&)>& recover,
                                      ScanResult* recovered = nullptr);
  virtual ~Writer() = default;

  /// kOk, or kIo when there is no room (next segment could not be preallocated: disk full); then
  /// nothing was written and a later call may succeed. No system call except at a segment change
  /// that the helper thread did not prepare in time.
  virtual Status append(RecordKind kind, std::uint16_t detail, std::uint32_t session_index,
                        std::uint64_t sequence, std::uint64_t time_ns, const void* payload,
                        std::uint32_t payload_bytes) noexcept = 0;

  /// Policy kBatch: brings everything appended to stable storage. kOk at once for other policies.
  virtual Status sync_batch() noexcept = 0;
  /// Brings everything to stable storage whatever the policy (shutdown). kOk or kIo.
  virtual Status sync_now() noexcept = 0;
  /// The writer's end before its destruction: everything to stable storage as the policy says, and
  /// the lock released, so that another may open the directory. Appends are refused (kIo) from now
  /// on. The appending thread, or any once that has ended. Idempotent.
  virtual void close() noexcept {}

  /// Where the next record goes, or a place not far before. The appending thread. A writer that
  /// keeps nothing to read back says the beginning, and no directory.
  [[nodiscard]] virtual Location location() const noexcept { return {}; }
  [[nodiscard]] virtual std::string directory() const { return {}; }

  /// Reports of the session below that sequence are out although no record could be made of them:
  /// kept where there always is room, so that the next run does not use their numbers again. Of the
  /// first kNotedSessionCount sessions. The appending thread.
  static constexpr std::uint32_t kNotedSessionCount = 502;
  virtual void note_reports(std::uint32_t /*session_index*/,
                            std::uint64_t /*next_report_sequence*/) noexcept {}
  /// What note_reports kept last, in this run or one before; 0: nothing.
  [[nodiscard]] virtual std::uint64_t noted_reports(
      std::uint32_t /*session_index*/) const noexcept {
    return 0;
  }

  /// New orders and replaces from that position to the newest record were refused
  /// (kJournalUnavailable) although their records say otherwise: kept like note_reports, for the
  /// next run. The appending thread.
  virtual void note_refused(std::uint64_t /*first_position*/) noexcept {}
  /// What note_refused kept last, in this run or the one before, names that position.
  [[nodiscard]] virtual bool is_noted_refused(std::uint64_t /*position*/) const noexcept {
    return false;
  }

  /// Position of the last appended record.
  [[nodiscard]] virtual std::uint64_t last_position() const noexcept = 0;
  /// Highest position known to be on stable storage. Any thread.
  [[nodiscard]] virtual std::uint64_t durable_position() const noexcept = 0;
  /// errno and file of the last storage failure, empty if none. Any thread.
  [[nodiscard]] virtual std::string last_error() const = 0;
  [[nodiscard]] virtual SyncPolicy sync_policy() const noexcept = 0;
};

}  // namespace rdmaorder::journal
