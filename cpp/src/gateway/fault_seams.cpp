#include "gateway/fault_seams.hpp"

#include <utility>

#include "rdmaorder/fault_point.hpp"

namespace rdmaorder::gateway {
namespace {

using fault::Step;

class WatchedHandler final : public Handler {
 public:
  explicit WatchedHandler(std::unique_ptr<Handler> inner) : inner_(std::move(inner)) {}

  void restore(const wire::OrderRecord* request, const RestoredReport& report) noexcept override {
    inner_->restore(request, report);
  }
  void recover(std::span<const wire::OrderRecord> in_doubt, ReportSink& sink) noexcept override {
    inner_->recover(in_doubt, sink);
  }
  void on_orders(std::span<const wire::OrderRecord> orders, ReportSink& sink) noexcept override {
    fault::reach(Step::kBeforeHandler, orders.size());
    inner_->on_orders(orders, sink);
    fault::reach(Step::kAfterHandler, orders.size());
  }
  void on_message(std::uint32_t session_index, std::uint64_t sequence,
                  std::span<const std::byte> message, ReportSink& sink) noexcept override {
    fault::reach(Step::kBeforeHandler);
    inner_->on_message(session_index, sequence, message, sink);
    fault::reach(Step::kAfterHandler);
  }
  void on_idle(ReportSink& sink) noexcept override { inner_->on_idle(sink); }

 private:
  std::unique_ptr<Handler> inner_;
};

class WatchedJournal final : public journal::Writer {
 public:
  explicit WatchedJournal(std::unique_ptr<Writer> inner) : inner_(std::move(inner)) {}

  Status append(journal::RecordKind kind, std::uint16_t detail, std::uint32_t session_index,
                std::uint64_t sequence, std::uint64_t time_ns, const void* payload,
                std::uint32_t payload_bytes) noexcept override {
    if (kind == journal::RecordKind::kReport) fault::reach(Step::kBeforeReport);
    const Status status =
        inner_->append(kind, detail, session_index, sequence, time_ns, payload, payload_bytes);
    if (kind == journal::RecordKind::kReport) fault::reach(Step::kAfterReport);
    if (kind == journal::RecordKind::kOrder) fault::reach(Step::kAfterJournal);
    return status;
  }
  Status sync_batch() noexcept override { return inner_->sync_batch(); }
  Status sync_now() noexcept override { return inner_->sync_now(); }
  void close() noexcept override { inner_->close(); }
  void note_reports(std::uint32_t session_index,
                    std::uint64_t next_report_sequence) noexcept override {
    inner_->note_reports(session_index, next_report_sequence);
  }
  [[nodiscard]] std::uint64_t noted_reports(std::uint32_t session_index) const noexcept override {
    return inner_->noted_reports(session_index);
  }
  void note_refused(std::uint64_t first_position) noexcept override {
    inner_->note_refused(first_position);
  }
  [[nodiscard]] bool is_noted_refused(std::uint64_t position) const noexcept override {
    return inner_->is_noted_refused(position);
  }
  [[nodiscard]] journal::Location location() const noexcept override { return inner_->location(); }
  [[nodiscard]] std::string directory() const override { return inner_->directory(); }
  [[nodiscard]] std::uint64_t last_position() const noexcept override {
    return inner_->last_position();
  }
  [[nodiscard]] std::uint64_t durable_position() const noexcept override {
    return inner_->durable_position();
  }
  [[nodiscard]] std::string last_error() const override { return inner_->last_error(); }
  [[nodiscard]] journal::SyncPolicy sync_policy() const noexcept override {
    return inner_->sync_policy();
  }

 private:
  std::unique_ptr<Writer> inner_;
};

}  // namespace

std::unique_ptr<Handler> with_fault_points(std::unique_ptr<Handler> handler) {
  return std::make_unique<WatchedHandler>(std::move(handler));
}

std::unique_ptr<journal::Writer> with_fault_points(std::unique_ptr<journal::Writer> writer) {
  if (writer == nullptr) return nullptr;
  return std::make_unique<WatchedJournal>(std::move(writer));
}

}  // namespace rdmaorder::gateway
