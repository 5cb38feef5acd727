// A gateway and its strategies in one process, without a control plane: the handshake is done by
// hand, single-stepped or with real threads, with a fault injector in either direction.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fault_transport.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/gateway.hpp"
#include "rdmaorder/session.hpp"
#include "rdmaorder/transport/inproc.hpp"
#include "rdmaorder/transport/shm.hpp"
#include "rdmaorder/transport/verbs.hpp"
#include "ring_support.hpp"

namespace rdmaorder::gateway_support {

using ring_support::eventually;
using transport::Fault;
using transport::FaultTransport;
using transport::Put;
using wire::TemplateId;

inline constexpr std::uint64_t kHour = 3'600'000'000'000;

inline wire::NewOrder order(std::uint64_t id) {
  return {.cl_ord_id = id,
          .price = 5 * kPriceScale,
          .quantity = 100,
          .stale_after_ns = 0,
          .instrument = 7,
          .account = 1,
          .smp_id = 0,
          .side = Side::kBuy,
          .ord_type = OrdType::kLimit,
          .time_in_force = TimeInForce::kDay,
          .flags = 0};
}
inline wire::CancelOrder cancel(std::uint64_t id, std::uint64_t original) {
  wire::CancelOrder message{};
  message.cl_ord_id = id;
  message.orig_cl_ord_id = original;
  message.side = Side::kBuy;
  return message;
}
/// A whole 64-byte slot as a batch takes it.
template <class Block>
wire::Slot64 slot_of(TemplateId id, const Block& block) {
  wire::Slot64 slot{};
  const wire::MessageHeader header = wire::header_of(id);
  std::memcpy(&slot.words[0], &header, sizeof header);
  std::memcpy(&slot.words[1], &block, sizeof block);
  return slot;
}
inline wire::Slot64 order_slot(std::uint64_t id) {
  return slot_of(TemplateId::kNewOrder, order(id));
}
inline wire::Slot64 cancel_slot(std::uint64_t id) {
  return slot_of(TemplateId::kCancelOrder, cancel(id, id));
}

/// Keeps what it is given and accepts it; everything is read while no thread runs.
class RecordingHandler final : public Handler {
 public:
  void on_orders(std::span<const wire::OrderRecord> orders, ReportSink& sink) noexcept override {
    if (before) before(orders);
    for (const wire::OrderRecord& taken : orders) {
      applied[taken.session_index].push_back(taken);
      if (!answers) continue;
      wire::ExecutionReport report{};
      report.cl_ord_id = taken.block_words[0];
      report.exec_type = wire::is_cancel(taken.template_id) ? ExecType::kCanceled : ExecType::kNew;
      report.ord_status = OrdStatus::kNew;
      results.push_back(sink.send(taken.session_index, taken.sequence, report));
    }
  }
  void on_message(std::uint32_t session_index, std::uint64_t sequence,
                  std::span<const std::byte> message, ReportSink& sink) noexcept override {
    messages.emplace_back(sequence, std::vector<std::byte>(message.begin(), message.end()));
    results.push_back(sink.send_message(session_index, message));
  }
  void on_idle(ReportSink& sink) noexcept override {
    if (idle) idle(sink);
  }
  [[nodiscard]] std::vector<std::uint64_t> sequences(std::uint32_t session_index = 0) const {
    std::vector<std::uint64_t> all;
    if (const auto found = applied.find(session_index); found != applied.end()) {
      for (const auto& taken : found->second) all.push_back(taken.sequence);
    }
    return all;
  }

  bool answers = true;
  std::function<void(std::span<const wire::OrderRecord>)> before;
  std::function<void(ReportSink&)> idle;
  std::map<std::uint32_t, std::vector<wire::OrderRecord>> applied;
  std::vector<std::pair<std::uint64_t, std::vector<std::byte>>> messages;
  std::vector<Status> results;
};

/// A journal in memory that fails when told to and is as durable as told.
class MemoryJournal final : public journal::Writer {
 public:
  struct Entry {
    journal::RecordKind kind;
    std::uint16_t detail;
    std::uint32_t session_index;
    std::uint64_t sequence;
    std::vector<std::byte> payload;
  };
  Status append(journal::RecordKind kind, std::uint16_t detail, std::uint32_t session_index,
                std::uint64_t sequence, std::uint64_t /*time_ns*/, const void* payload,
                std::uint32_t payload_bytes) noexcept override {
    if (full) return Status::kIo;
    const auto* bytes = static_cast<const std::byte*>(payload);
    entries.push_back({kind, detail, session_index, sequence, {bytes, bytes + payload_bytes}});
    return Status::kOk;
  }
  Status sync_batch() noexcept override { return sync_fails ? Status::kIo : Status::kOk; }
  Status sync_now() noexcept override {
    ++sync_now_count;
    return Status::kOk;
  }
  [[nodiscard]] std::uint64_t last_position() const noexcept override { return entries.size(); }
  [[nodiscard]] std::uint64_t durable_position() const noexcept override { return durable; }
  [[nodiscard]] std::string last_error() const override { return full ? "disk full" : ""; }
  [[nodiscard]] journal::SyncPolicy sync_policy() const noexcept override {
    return journal::SyncPolicy::kBatch;
  }
  [[nodiscard]] std::vector<Entry> of_kind(journal::RecordKind kind) const {
    std::vector<Entry> found;
    std::copy_if(entries.begin(), entries.end(), std::back_inserter(found),
                 [&](const Entry& entry) { return entry.kind == kind; });
    return found;
  }

  bool full = false;
  bool sync_fails = false;
  std::uint64_t durable = 0;
  std::uint64_t sync_now_count = 0;
  std::vector<Entry> entries;
};

/// Says what is done to it. An RDMA link in that its peer's permission can be taken.
class TellingTransport final : public transport::VerbsTransport {
 public:
  TellingTransport(std::vector<std::string>& told, std::unique_ptr<transport::Transport> inner)
      : told_(told), inner_(std::move(inner)) {}
  ~TellingTransport() override { told_.emplace_back("gone"); }
  Status put(std::uint64_t offset_bytes, const void* source,
             std::uint32_t bytes) noexcept override {
    return inner_->put(offset_bytes, source, bytes);
  }
  Status progress() noexcept override { return inner_->progress(); }
  [[nodiscard]] const transport::Info& info() const noexcept override { return inner_->info(); }
  [[nodiscard]] std::string failure() const override { return inner_->failure(); }
  void linger() noexcept override { told_.emplace_back("lingered"); }
  void close() noexcept override {
    told_.emplace_back("closed");
    inner_->close();
  }
  Status fence() noexcept override {
    told_.emplace_back("fenced");
    return fences ? Status::kOk : Status::kTransport;
  }
  void set_peer_data_in_order(bool /*data_in_order*/) noexcept override {}
  [[nodiscard]] transport::VerbsFacts facts() const override { return {}; }
  [[nodiscard]] const transport::VerbsConfig& asked() const noexcept override { return config_; }

  bool fences = true;

 private:
  std::vector<std::string>& told_;
  std::unique_ptr<transport::Transport> inner_;
  transport::VerbsConfig config_;
};

struct Options {
  std::uint32_t slot_bytes = 64;
  std::uint32_t order_slot_count = 64;
  std::uint32_t report_slot_count = 64;
  std::uint16_t schema_id = wire::kSchemaId;
  std::uint64_t next_order_sequence = 0;
  std::uint32_t transport_depth = 0;  ///< what both transports say; 0: puts cost nothing
  SessionConfig session = {.connect = {},
                           .suspect_after_ns = kHour,
                           .dead_after_ns = 2 * kHour,
                           .torn_timeout_ns = kHour};
};

/// One strategy: its session, the way into its faults, and the gateway's memory as a peer that
/// keeps to no rule would use it.
struct Strategy {
  std::uint32_t index = 0;
  AttachResult attached;
  FaultTransport* to_gateway = nullptr;
  FaultTransport* to_strategy = nullptr;
  memory::Window order_memory;   ///< the gateway's window, mapped once more
  memory::Window report_memory;  ///< the strategy's window, mapped once more
  std::unique_ptr<Session> session;

  /// A new order whose ClOrdID is its sequence.
  Status send() {
    std::uint64_t sequence = 0;
    return session->try_new_order(order(session->next_sequence()), &sequence);
  }
  std::vector<wire::ReportRecord> poll(std::uint32_t max_count = 4096) {
    std::vector<wire::ReportRecord> reports(max_count);
    reports.resize(session->poll(reports.data(), max_count));
    return reports;
  }
  /// Stores a slot into the order ring beside the session: the hand of a hostile peer.
  void forge(std::uint64_t sequence, const ring_support::Words& slot) {
    ring_support::store(order_memory.words(), attached.order_geometry, sequence, slot);
  }
  /// A valid order slot of any epoch and sequence.
  [[nodiscard]] static ring_support::Words sealed_order(std::uint64_t epoch,
                                                        std::uint64_t sequence) {
    const wire::Slot64 slot = order_slot(sequence);
    ring_support::Words words(slot.words, slot.words + 8);
    words[7] = wire::make_commit_word(
        wire::slot_crc(wire::slot_crc_prefix(epoch, sequence), words.data(), 64), sequence);
    return words;
  }
};

inline GatewayConfig test_config() {
  GatewayConfig config;
  config.max_session_count = 16;
  config.huge_pages = memory::HugePages::kOff;
  config.idle = IdleStrategy::kYield;
  config.heartbeat_interval_ns = 100'000;
  return config;
}

class Rig {
 public:
  explicit Rig(GatewayConfig config = test_config(), std::unique_ptr<MemoryJournal> disk = nullptr,
               const std::vector<RecoveredSession>& recovered = {}, bool all_killed = false)
      : handler(new RecordingHandler), journal(disk.get()) {
    gateway = std::make_unique<Gateway>(std::move(config), std::unique_ptr<Handler>(handler),
                                        std::move(disk), recovered, all_killed);
  }

  /// With a handler and a journal of the caller's choice.
  Rig(std::unique_ptr<Handler> chosen, std::unique_ptr<journal::Writer> disk,
      const std::vector<RecoveredSession>& recovered)
      : handler(nullptr), journal(nullptr) {
    gateway =
        std::make_unique<Gateway>(test_config(), std::move(chosen), std::move(disk), recovered);
  }

  SessionGrant open(const std::string& name, const Options& options = {}) {
    SessionRequest request;
    request.name = name;
    request.slot_bytes = options.slot_bytes;
    request.order_slot_count = options.order_slot_count;
    request.report_slot_count = options.report_slot_count;
    request.schema_id = options.schema_id;
    return gateway->open_session(request);
  }
  Strategy connect(const std::string& name, const Options& options = {}) {
    const SessionGrant grant = open(name, options);
    Strategy strategy;
    strategy.index = grant.session_index;
    control::Established made;
    made.report_geometry = {ring::kRingOffsetMinBytes, options.slot_bytes, grant.report_slot_count};
    made.report_window = ring_support::make_window(made.report_geometry.window_bytes());
    strategy.report_memory = ring_support::map_again(made.report_window);

    AttachRequest request;
    request.session_index = grant.session_index;
    request.next_order_sequence = options.next_order_sequence;
    request.report_geometry = made.report_geometry;
    auto [down, down_faults] = transport::with_faults(
        transport::make_shm(ring_support::map_again(made.report_window)), options.transport_depth);
    request.transport = std::move(down);
    strategy.to_strategy = down_faults;
    strategy.attached = gateway->attach(std::move(request));

    strategy.order_memory = ring_support::map_again(*strategy.attached.order_window);
    made.epoch = strategy.attached.epoch;
    made.session_index = grant.session_index;
    made.order_geometry = strategy.attached.order_geometry;
    made.next_order_sequence = strategy.attached.next_order_sequence;
    made.next_report_sequence = strategy.attached.next_report_sequence;
    made.not_applied_count = strategy.attached.not_applied_count;
    made.cancel_reserve_count = gateway->config().cancel_reserve_count;
    made.heartbeat_interval_ns = gateway->config().heartbeat_interval_ns;
    auto [up, up_faults] = transport::with_faults(
        transport::make_shm(ring_support::map_again(*strategy.attached.order_window)),
        options.transport_depth);
    strategy.to_gateway = up_faults;
    strategy.session = std::make_unique<Session>(options.session, std::move(made), std::move(up));
    return strategy;
  }
  DetachResult detach(const Strategy& strategy, bool drain = true) {
    return gateway->detach(strategy.index, strategy.attached.epoch, drain);
  }

  /// Passes until nothing is found, and two more so that positions are told.
  void settle() {
    while (gateway->run_pass()) {
    }
    gateway->run_pass();
    gateway->run_pass();
  }
  SessionView view(const Strategy& strategy) { return gateway->sessions().at(strategy.index); }
  std::uint64_t counter(const std::string& name) {
    for (const auto& [label, value] : gateway->counters().snapshot()) {
      if (label == name) return value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }

  RecordingHandler* handler;  ///< the gateway owns it; null when it is another
  MemoryJournal* journal;     ///< the gateway owns it; null without one, or when it is another
  std::unique_ptr<Gateway> gateway;
};

/// first, first + 1 … last.
inline std::vector<std::uint64_t> range(std::uint64_t first, std::uint64_t last) {
  std::vector<std::uint64_t> all;
  for (std::uint64_t value = first; value <= last; ++value) all.push_back(value);
  return all;
}
inline std::vector<std::uint64_t> order_sequences(const std::vector<wire::ReportRecord>& reports) {
  std::vector<std::uint64_t> all;
  for (const auto& report : reports) all.push_back(report.order_sequence);
  return all;
}

/// The code of the refusal that `call` throws.
template <class Call>
std::string refusal_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kRefused) << error.what();
    return error.code();
  }
  return "no refusal";
}

}  // namespace rdmaorder::gateway_support
