// Where in the journal a session's sequences are: a bounded, thinned-out index, so that a replay
// does not read the journal from its beginning.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rdmaorder/journal.hpp"

namespace rdmaorder {

/// One thread at a time. Allocates at construction only.
class JournalMarks {
 public:
  static constexpr std::size_t kMarkCountMax = 512;

  JournalMarks() { marks_.reserve(kMarkCountMax); }

  /// Whether so many sequences have passed since the last mark that a new one is due.
  [[nodiscard]] bool is_due(std::uint64_t next_order, std::uint64_t next_report) const noexcept {
    return next_order + next_report >= next_due_;
  }
  /// Every record of an order from `next_order` on, and of a report from `next_report` on, lies at
  /// `location` or behind it.
  void add(std::uint64_t next_order, std::uint64_t next_report,
           const journal::Location& location) noexcept;

  /// Where to begin reading for these sequences (0: not wanted).
  [[nodiscard]] journal::Location find(std::uint64_t order, std::uint64_t report) const noexcept;

 private:
  struct Mark {
    std::uint64_t next_order;
    std::uint64_t next_report;
    journal::Location location;
  };
  std::vector<Mark> marks_;  ///< ascending
  std::uint64_t stride_ = 1024;
  std::uint64_t next_due_ = 0;
};

}  // namespace rdmaorder
