#include "rdmaorder/journal_marks.hpp"

namespace rdmaorder {

void JournalMarks::add(std::uint64_t next_order, std::uint64_t next_report,
                       const journal::Location& location) noexcept {
  if (marks_.size() == kMarkCountMax) {  // every second one goes, from now on half as many come
    std::size_t kept = 0;
    for (std::size_t i = 0; i < marks_.size(); i += 2) marks_[kept++] = marks_[i];
    marks_.resize(kept);
    stride_ *= 2;
  }
  marks_.push_back({next_order, next_report, location});
  next_due_ = next_order + next_report + stride_;
}

journal::Location JournalMarks::find(std::uint64_t order, std::uint64_t report) const noexcept {
  for (auto mark = marks_.rbegin(); mark != marks_.rend(); ++mark) {
    const bool before_order = order == 0 || mark->next_order <= order;
    const bool before_report = report == 0 || mark->next_report <= report;
    if (before_order && before_report) return mark->location;
  }
  return {};
}

}  // namespace rdmaorder
