// A sink that keeps reports and a client that makes requests, for the tests of handlers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "rdmaorder/handler.hpp"

namespace rdmaorder::handler_support {

using wire::ExecutionReport;
using wire::OrderRecord;
using wire::TemplateId;

struct Sent {
  std::uint32_t session_index;
  std::uint64_t order_sequence;
  ExecutionReport report;
};

class RecordingSink final : public ReportSink {
 public:
  Status send(std::uint32_t session_index, std::uint64_t order_sequence,
              const ExecutionReport& report) noexcept override {
    sent.push_back({session_index, order_sequence, report});
    return result;
  }
  Status send_message(std::uint32_t /*session_index*/,
                      std::span<const std::byte> /*message*/) noexcept override {
    return result;
  }
  std::vector<Sent> sent;
  Status result = Status::kOk;
};

inline OrderRecord make_record(TemplateId id, std::uint64_t sequence, std::uint32_t session_index) {
  OrderRecord record{};
  record.block_length = wire::kBlockBytes;
  record.template_id = static_cast<std::uint16_t>(id);
  record.session_index = session_index;
  record.sequence = sequence;
  return record;
}

struct Terms {
  std::int64_t price = 5 * kPriceScale;
  std::int64_t quantity = 100;
  std::uint32_t instrument = 7;
  std::uint32_t account = 1;
  Side side = Side::kBuy;
  OrdType ord_type = OrdType::kLimit;
  TimeInForce time_in_force = TimeInForce::kDay;
};

/// Makes requests with consecutive sequences and passes them one by one.
class Client {
 public:
  explicit Client(Handler& handler, std::uint32_t session_index = 0)
      : handler_(handler), session_index_(session_index) {}

  std::vector<Sent> new_order(std::uint64_t id, const Terms& terms = {}) {
    auto record = make_record(TemplateId::kNewOrder, ++sequence_, session_index_);
    record.new_order = {.cl_ord_id = id,
                        .price = terms.price,
                        .quantity = terms.quantity,
                        .stale_after_ns = 0,
                        .instrument = terms.instrument,
                        .account = terms.account,
                        .smp_id = 0,
                        .side = terms.side,
                        .ord_type = terms.ord_type,
                        .time_in_force = terms.time_in_force,
                        .flags = 0};
    return pass(record);
  }
  std::vector<Sent> replace(std::uint64_t id, std::uint64_t original, const Terms& terms = {}) {
    auto record = make_record(TemplateId::kReplaceOrder, ++sequence_, session_index_);
    record.replace_order = {.cl_ord_id = id,
                            .orig_cl_ord_id = original,
                            .price = terms.price,
                            .quantity = terms.quantity,
                            .stale_after_ns = 0,
                            .instrument = terms.instrument,
                            .side = terms.side,
                            .ord_type = terms.ord_type,
                            .time_in_force = terms.time_in_force,
                            .flags = 0};
    return pass(record);
  }
  std::vector<Sent> cancel(std::uint64_t id, std::uint64_t original, std::int64_t quantity = 0) {
    auto record = make_record(TemplateId::kCancelOrder, ++sequence_, session_index_);
    record.cancel_order.cl_ord_id = id;
    record.cancel_order.orig_cl_ord_id = original;
    record.cancel_order.quantity = quantity;
    return pass(record);
  }
  std::vector<Sent> mass_cancel(std::uint64_t id, MassCancelScope scope, const Terms& terms = {}) {
    auto record = make_record(TemplateId::kMassCancel, ++sequence_, session_index_);
    record.mass_cancel.cl_ord_id = id;
    record.mass_cancel.scope = scope;
    record.mass_cancel.instrument = terms.instrument;
    record.mass_cancel.account = terms.account;
    record.mass_cancel.side = terms.side;
    return pass(record);
  }
  std::vector<Sent> pass(const OrderRecord& record) {
    RecordingSink sink;
    sink.result = sink_result;
    handler_.on_orders({&record, 1}, sink);
    return sink.sent;
  }
  [[nodiscard]] std::uint64_t sequence() const { return sequence_; }

  Status sink_result = Status::kOk;

 private:
  Handler& handler_;
  std::uint32_t session_index_;
  std::uint64_t sequence_ = 0;
};

inline std::string text_of(const Sent& sent) {
  const auto& r = sent.report;
  std::string text = "session " + std::to_string(sent.session_index) + " order " +
                     std::to_string(sent.order_sequence) + " id " + std::to_string(r.cl_ord_id) +
                     " venue " + std::to_string(r.order_id) + " price " + std::to_string(r.price) +
                     " quantity " + std::to_string(r.quantity) + " leaves " +
                     std::to_string(r.leaves_quantity) + " exec ";
  text += static_cast<char>(r.exec_type);
  text += " status ";
  text += static_cast<char>(r.ord_status);
  return text + " reason " + std::to_string(static_cast<int>(r.reason)) + " flags " +
         std::to_string(r.flags);
}

}  // namespace rdmaorder::handler_support
