// Reads a journal record by record (pull), for callers that cannot use the callback of `scan`.
// Bounded memory (one buffer of kBufferBytes), only pread: safe beside a live writer, no SIGBUS
// when a file shrinks, and bytes of any kind in a segment are never followed outside it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rdmaorder/journal.hpp"
#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::journal {

/// Why reading stopped.
enum class EndKind : std::uint8_t {
  kClean,           ///< zero bytes, or the end of the last segment
  kUnfinished,      ///< clean, but the bytes of one append that never completed lie there
  kBadRecord,       ///< size, checksum or position not right
  kHole,            ///< zero bytes, yet more of the journal behind them
  kShortFile,       ///< the file ends before its header says
  kMissingSegment,  ///< a later segment exists, the next one does not
  kOverlap,         ///< the next segment repeats positions already read
};

class Reader {
 public:
  static constexpr std::size_t kBufferBytes = 1U << 20;

  /// Nothing is opened yet.
  explicit Reader(std::string directory);
  /// Reads from `from` on, as a writer or an earlier reading of this directory gave it. Throws as
  /// next().
  Reader(std::string directory, const Location& from);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  /// The next record; its payload is valid until the next call. False at the end, then `result()`,
  /// `end_kind()`, `end_segment()` and `end_offset()` say how and where. Throws Error(kJournal)
  /// when the directory or a segment header cannot be read, Error(kSystem) when a read fails.
  [[nodiscard]] bool next(Record& record);

  /// Counts so far; `clean` and `damage` once `next` returned false.
  [[nodiscard]] const ScanResult& result() const noexcept { return result_; }
  [[nodiscard]] EndKind end_kind() const noexcept { return end_kind_; }
  /// Segment that was being read (0: none yet) and the offset just behind its last good record.
  [[nodiscard]] std::uint64_t end_segment() const noexcept { return number_; }
  [[nodiscard]] std::uint64_t end_offset() const noexcept { return offset_; }
  /// Position of the record that next() would give.
  [[nodiscard]] std::uint64_t next_position() const noexcept { return expected_; }

 private:
  enum class Check : std::uint8_t { kGood, kZero, kBad, kEnd };
  enum class Next : std::uint8_t { kContinue, kStop };
  struct Segment;

  [[nodiscard]] Check check(Record& record, std::string& cause);
  [[nodiscard]] Check check_again(Record& record, std::string& cause);
  [[nodiscard]] Next advance();
  [[nodiscard]] Next judge_end(bool next_exists);
  [[nodiscard]] std::uint64_t find_data_behind(std::uint64_t nonzero_end);
  [[nodiscard]] bool later_segment_has_data(const std::vector<std::uint64_t>& numbers);
  void stop(EndKind kind, const std::string& cause);

  std::string directory_;
  std::unique_ptr<Segment> segment_;
  std::uint64_t number_ = 0;
  std::uint64_t offset_ = 0;
  std::uint64_t expected_ = 1;  ///< position of the next record
  bool done_ = false;
  EndKind end_kind_ = EndKind::kClean;
  ScanResult result_;
};

}  // namespace rdmaorder::journal
