#include "gateway/inquiry.hpp"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "rdmaorder/journal_reader.hpp"
#include "rdmaorder/recovery.hpp"

namespace rdmaorder::gateway {
namespace {

using journal::RecordKind;

/// What a request says of the order it is about.
void take_request(OrderFate& fate, const wire::OrderRecord& order) {
  fate.sequence = order.sequence;
  fate.template_id = order.template_id;
  fate.cl_ord_id = order.block_words[0];  // the first field of every order message
  fate.side = order.new_order.side;       // at one place in all of them
  switch (static_cast<wire::TemplateId>(order.template_id)) {
    case wire::TemplateId::kNewOrder:
      fate.price = order.new_order.price;
      fate.leaves_quantity = order.new_order.quantity;
      fate.instrument = order.new_order.instrument;
      fate.account = order.new_order.account;
      return;
    case wire::TemplateId::kReplaceOrder:
      fate.price = order.replace_order.price;
      fate.leaves_quantity = order.replace_order.quantity;
      fate.instrument = order.replace_order.instrument;
      return;
    case wire::TemplateId::kCancelOrder:
      fate.instrument = order.cancel_order.instrument;
      fate.account = order.cancel_order.account;
      return;
    default:
      return;
  }
}

void take_answer(OrderFate& fate, const wire::ExecutionReport& report) {
  fate.fate = Fate::kAnswered;
  fate.order_id = report.order_id;
  fate.leaves_quantity = report.leaves_quantity;
  fate.exec_type = report.exec_type;
  fate.ord_status = report.ord_status;
  fate.reason = report.reason;
}

/// The orders of one session that its reports leave open, by the id each bears now.
class OpenOrders final : public Handler {
 public:
  explicit OpenOrders(std::uint32_t session_index) : session_index_(session_index) {}
  void on_orders(std::span<const wire::OrderRecord> /*orders*/,
                 ReportSink& /*sink*/) noexcept override {}

  void restore(const wire::OrderRecord* request, const RestoredReport& restored) noexcept override {
    if (restored.session_index != session_index_) return;
    const wire::ExecutionReport& report = restored.report;
    if (report.exec_type == ExecType::kRejected || report.reason == Reason::kStale) return;
    const auto id = request == nullptr ? wire::TemplateId{}
                                       : static_cast<wire::TemplateId>(request->template_id);
    if (id == wire::TemplateId::kNewOrder) {
      OrderFate& order = open_[report.cl_ord_id];
      take_request(order, *request);
      return update(report.cl_ord_id, report);
    }
    if (id == wire::TemplateId::kReplaceOrder) {
      const auto found = open_.find(request->replace_order.orig_cl_ord_id);
      if (found == open_.end()) return;
      OrderFate order = found->second;
      open_.erase(found);
      order.cl_ord_id = report.cl_ord_id;
      order.price = request->replace_order.price;
      open_.insert_or_assign(report.cl_ord_id, order);
      return update(report.cl_ord_id, report);
    }
    if (id == wire::TemplateId::kMassCancel) return;  // its orders have reports of their own
    update(id == wire::TemplateId::kCancelOrder ? request->cancel_order.orig_cl_ord_id
                                                : report.cl_ord_id,
           report);
  }

  [[nodiscard]] std::vector<OrderFate> take() const {
    std::vector<OrderFate> all;
    for (const auto& [id, order] : open_) all.push_back(order);
    return all;
  }

 private:
  void update(std::uint64_t cl_ord_id, const wire::ExecutionReport& report) {
    const auto found = open_.find(cl_ord_id);
    if (found == open_.end()) return;
    if (report.leaves_quantity == 0) {
      open_.erase(found);
      return;
    }
    take_answer(found->second, report);
  }

  std::uint32_t session_index_;
  std::unordered_map<std::uint64_t, OrderFate> open_;
};

}  // namespace

std::vector<OrderFate> find_fates(const Inquiry& inquiry, std::uint64_t from, std::uint32_t count) {
  std::vector<OrderFate> fates(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    fates[i].sequence = from + i;
    // Below the session's next: taken while the journal could not write, unless a record is found.
    const bool taken = from + i < inquiry.next_order_sequence;
    fates[i].fate = taken ? Fate::kTaken : Fate::kNotTaken;
    if (taken) fates[i].reason = Reason::kJournalUnavailable;
  }
  const auto at = [&](std::uint64_t sequence) -> OrderFate* {
    return sequence >= from && sequence - from < count ? &fates[sequence - from] : nullptr;
  };
  journal::Reader reader(inquiry.directory, inquiry.begin);
  journal::Record record;
  while (reader.next_position() <= inquiry.last_position && reader.next(record)) {
    if (record.session_index != inquiry.session_index) continue;
    if (record.kind == RecordKind::kNotApplied) {
      std::uint64_t missing = 0;
      std::memcpy(&missing, record.payload.data(), std::min(sizeof missing, record.payload.size()));
      for (std::uint32_t i = 0; i < count; ++i) {
        if (fates[i].sequence - record.sequence >= missing) continue;
        fates[i].fate = Fate::kNotApplied;
        fates[i].reason = Reason::kNone;
      }
      continue;
    }
    if (record.payload.size() < wire::kHeaderBytes + wire::kBlockBytes) continue;
    wire::MessageHeader header;
    std::memcpy(&header, record.payload.data(), sizeof header);
    if (header.schema_id != wire::kSchemaId) continue;
    const std::byte* block = record.payload.data() + wire::kHeaderBytes;
    if (record.kind == RecordKind::kOrder) {
      OrderFate* fate = at(record.sequence);
      if (fate == nullptr) continue;
      wire::OrderRecord order{};
      order.template_id = header.template_id;
      order.sequence = record.sequence;
      std::memcpy(order.block_words, block, wire::kBlockBytes);
      take_request(*fate, order);
      fate->reason = static_cast<Reason>(record.detail);
    } else if (record.kind == RecordKind::kReport &&
               header.template_id ==
                   static_cast<std::uint16_t>(wire::TemplateId::kExecutionReport)) {
      wire::ExecutionReport report;
      std::memcpy(&report, block, sizeof report);
      OrderFate* fate =
          at(wire::widen_sequence(report.order_sequence_low, inquiry.next_order_sequence - 1));
      if (fate == nullptr) continue;
      take_answer(*fate, report);
      fate->report_sequence = record.sequence;
    }
  }
  return fates;
}

std::vector<OrderFate> find_open_orders(const Inquiry& inquiry, std::uint64_t from) {
  OpenOrders open(inquiry.session_index);
  SessionRecovery recovery(&open);
  journal::Reader reader(inquiry.directory);
  journal::Record record;
  while (reader.next_position() <= inquiry.last_position && reader.next(record)) recovery(record);
  std::vector<OrderFate> all = open.take();
  for (const RecoveredSession& session : recovery.sessions()) {
    if (session.session_index != inquiry.session_index) continue;
    for (const UnansweredRequest& request : session.unanswered) {
      OrderFate& fate = all.emplace_back();
      take_request(fate, request.order);
      fate.fate = Fate::kTaken;
      fate.reason = request.refusal;
    }
  }
  std::erase_if(all, [&](const OrderFate& fate) { return fate.sequence < from; });
  std::sort(all.begin(), all.end(),
            [](const OrderFate& a, const OrderFate& b) { return a.sequence < b.sequence; });
  return all;
}

}  // namespace rdmaorder::gateway
