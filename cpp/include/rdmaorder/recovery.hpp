// What a gateway learns from its journal when it starts: sessions, their next sequences, and the
// requests whose answer is missing.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "rdmaorder/handler.hpp"
#include "rdmaorder/journal.hpp"
#include "rdmaorder/journal_marks.hpp"
#include "rdmaorder/types.hpp"
#include "rdmaorder/wire/messages.hpp"

namespace rdmaorder {

/// A request of the order schema that is in the journal and has no report there.
struct UnansweredRequest {
  wire::OrderRecord order{};
  Reason refusal = Reason::kNone;  ///< of the gateway itself; kNone: it went to the handler
  std::uint64_t position = 0;      ///< in the journal
};

/// A session known from an earlier run of the gateway.
struct RecoveredSession {
  std::string name;
  std::uint32_t session_index = 0;
  std::uint64_t next_order_sequence = 1;
  std::uint64_t next_report_sequence = 1;
  /// First report of its last link: nobody knows which of those from there on were delivered.
  std::uint64_t first_undelivered_report = 1;
  bool killed = false;                          ///< and not released since
  std::uint16_t schema_id = 0;                  ///< of its links or orders; 0: no record says
  std::vector<UnansweredRequest> unanswered{};  ///< in journal order
  JournalMarks marks{};
};

/// Collects the sessions of a journal while journal::Writer::open recovers it. One thread.
class SessionRecovery {
 public:
  /// `handler` (may be null) is given every report (Handler::restore) and outlives the object.
  explicit SessionRecovery(Handler* handler = nullptr) : handler_(handler) {}
  void operator()(const journal::Record& record);
  /// Complete once the journal was read to its end.
  [[nodiscard]] std::vector<RecoveredSession> sessions() const;
  /// Every session was killed and not all were released since: so are those yet to come.
  [[nodiscard]] bool all_killed() const noexcept { return all_killed_; }

 private:
  struct Known {
    RecoveredSession session;
    std::unordered_map<std::uint64_t, UnansweredRequest> unanswered;  ///< by sequence
  };
  Known& at(std::uint32_t session_index);
  static void mark(RecoveredSession& session, const journal::Record& record);
  void take_order(Known& known, const journal::Record& record);
  void take_report(Known& known, const journal::Record& record);

  Handler* handler_;
  std::vector<Known> known_;
  bool all_killed_ = false;
};

}  // namespace rdmaorder
