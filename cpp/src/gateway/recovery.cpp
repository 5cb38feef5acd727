#include "rdmaorder/recovery.hpp"

#include <algorithm>
#include <cstring>

#include "rdmaorder/error.hpp"

namespace rdmaorder {
namespace {

/// Header and block of a message of the order schema; false for any other payload.
bool read_message(const journal::Record& record, wire::MessageHeader* header, void* block) {
  if (record.payload.size() < wire::kHeaderBytes + wire::kBlockBytes) return false;
  std::memcpy(header, record.payload.data(), sizeof *header);
  if (header->schema_id != wire::kSchemaId || header->block_length != wire::kBlockBytes) {
    return false;
  }
  std::memcpy(block, record.payload.data() + wire::kHeaderBytes, wire::kBlockBytes);
  return true;
}

/// The words at the start of the payload; those it does not have stay as they are.
void read_words(const journal::Record& record, std::span<std::uint64_t> words) {
  std::copy_n(record.payload.begin(), std::min(words.size_bytes(), record.payload.size()),
              std::as_writable_bytes(words).begin());
}

}  // namespace

SessionRecovery::Known& SessionRecovery::at(std::uint32_t session_index) {
  if (session_index >= known_.size()) {
    throw Error(ErrorKind::kJournal, "a journal record names session index " +
                                         std::to_string(session_index) +
                                         " before the session was introduced");
  }
  return known_[session_index];
}

void SessionRecovery::operator()(const journal::Record& record) {
  switch (record.kind) {
    case journal::RecordKind::kSession: {
      const auto* name = reinterpret_cast<const char*>(record.payload.data());
      if (record.session_index != known_.size()) {
        throw Error(ErrorKind::kJournal, "the journal introduces session index " +
                                             std::to_string(record.session_index) +
                                             " out of order");
      }
      Known& known = known_.emplace_back();
      known.session.name.assign(name, record.payload.size());
      known.session.session_index = record.session_index;
      known.session.killed = all_killed_;
      return;
    }
    case journal::RecordKind::kOrder:
      return take_order(at(record.session_index), record);
    case journal::RecordKind::kReport:
      return take_report(at(record.session_index), record);
    case journal::RecordKind::kNotApplied: {
      std::uint64_t count = 0;
      read_words(record, std::span(&count, 1));
      RecoveredSession& session = at(record.session_index).session;
      // A journal that was full meanwhile has it behind later orders.
      session.next_order_sequence = std::max(session.next_order_sequence, record.sequence + count);
      return;
    }
    case journal::RecordKind::kLink: {
      RecoveredSession& session = at(record.session_index).session;
      // Where the link's reports begin: before the newest one when it had some replayed, which
      // nothing in the journal shows to have been polled.
      std::uint64_t begin[3] = {0, 0, session.next_report_sequence};
      read_words(record, begin);
      session.first_undelivered_report = begin[2];
      if (record.detail != 0) session.schema_id = record.detail;
      return;
    }
    case journal::RecordKind::kKill: {
      std::uint64_t killed = 0;
      read_words(record, std::span(&killed, 1));
      if (record.session_index != journal::kEverySession) {
        at(record.session_index).session.killed = killed != 0;
        return;
      }
      all_killed_ = killed != 0;
      for (Known& known : known_) known.session.killed = all_killed_;
      return;
    }
  }
}

void SessionRecovery::mark(RecoveredSession& session, const journal::Record& record) {
  if (!session.marks.is_due(session.next_order_sequence, session.next_report_sequence)) return;
  session.marks.add(session.next_order_sequence, session.next_report_sequence,
                    {record.segment, record.offset, record.position});
}

void SessionRecovery::take_order(Known& known, const journal::Record& record) {
  mark(known.session, record);
  known.session.next_order_sequence = record.sequence + 1;
  UnansweredRequest request;
  wire::MessageHeader header;
  if (!read_message(record, &header, request.order.block_words)) return;
  // Links did not always say it.
  if (known.session.schema_id == 0) known.session.schema_id = wire::kSchemaId;
  request.order.block_length = header.block_length;
  request.order.template_id = header.template_id;
  request.order.session_index = record.session_index;
  request.order.sequence = record.sequence;
  request.refusal = static_cast<Reason>(record.detail);
  request.position = record.position;
  known.unanswered.insert_or_assign(record.sequence, request);
}

void SessionRecovery::take_report(Known& known, const journal::Record& record) {
  mark(known.session, record);
  known.session.next_report_sequence = record.sequence + 1;
  RestoredReport restored;
  wire::MessageHeader header;
  if (!read_message(record, &header, &restored.report) ||
      header.template_id != static_cast<std::uint16_t>(wire::TemplateId::kExecutionReport)) {
    return;
  }
  restored.session_index = record.session_index;
  restored.order_sequence = wire::widen_sequence(restored.report.order_sequence_low,
                                                 known.session.next_order_sequence - 1);
  const auto found = known.unanswered.find(restored.order_sequence);
  if (found == known.unanswered.end()) {
    if (handler_ != nullptr) handler_->restore(nullptr, restored);
    return;
  }
  // A refusal of the gateway's own never was the handler's business.
  if (handler_ != nullptr && found->second.refusal == Reason::kNone) {
    handler_->restore(&found->second.order, restored);
  }
  known.unanswered.erase(found);
}

std::vector<RecoveredSession> SessionRecovery::sessions() const {
  std::vector<RecoveredSession> sessions;
  sessions.reserve(known_.size());
  for (const Known& known : known_) {
    RecoveredSession& session = sessions.emplace_back(known.session);
    for (const auto& [sequence, request] : known.unanswered) session.unanswered.push_back(request);
    std::sort(session.unanswered.begin(), session.unanswered.end(),
              [](const auto& a, const auto& b) { return a.position < b.position; });
  }
  return sessions;
}

}  // namespace rdmaorder
