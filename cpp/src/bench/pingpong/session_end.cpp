#include "bench/pingpong/loops.hpp"

namespace rdmaorder::pingpong {
namespace {

/// Orders that differ from one to the next in id, price and quantity; the accepting handler has to
/// send all three back.
class SessionEnd {
 public:
  explicit SessionEnd(Session& session)
      : session_(session),
        first_sequence_(session.next_sequence()),
        torn_before_(session.reader_counts().torn) {
    order_.instrument = 7;
    order_.side = Side::kBuy;
    order_.ord_type = OrdType::kLimit;
  }

  RDMAORDER_ALWAYS_INLINE Status send(std::uint64_t index) noexcept {
    std::uint64_t sequence = 0;
    order_.cl_ord_id = first_sequence_ + index;
    order_.price = price_of(index);
    order_.quantity = quantity_of(index);
    return session_.try_new_order(order_, &sequence);
  }

  template <class Answered>
  RDMAORDER_ALWAYS_INLINE std::uint32_t poll(Answered&& answered) noexcept {
    const std::uint32_t count = session_.poll(reports_, kReportCount);
    for (std::uint32_t i = 0; i < count; ++i) {
      const wire::ReportRecord& record = reports_[i];
      const std::uint64_t index = record.order_sequence - first_sequence_;
      if (record.report.cl_ord_id != record.order_sequence ||
          record.report.exec_type != ExecType::kNew || record.report.price != price_of(index) ||
          record.report.quantity != quantity_of(index)) {
        ++bad_payloads_;
      }
      answered(index);
    }
    return count;
  }

  void settle() const noexcept {}
  bool alive() noexcept {
    session_.check_link();
    return session_.state() == LinkState::kLive || session_.state() == LinkState::kSuspect;
  }
  [[nodiscard]] std::string cause() const { return session_.cause(); }
  void finish(Outcome& outcome) const noexcept {
    outcome.bad_payloads += bad_payloads_;
    outcome.torn += session_.reader_counts().torn - torn_before_;
  }

 private:
  static constexpr std::uint32_t kReportCount = 16;

  static std::int64_t price_of(std::uint64_t index) noexcept {
    return 187'250'000'000 + static_cast<std::int64_t>((index & 0xFFFF) * 10'000'000);
  }
  static std::int64_t quantity_of(std::uint64_t index) noexcept {
    return 100 + static_cast<std::int64_t>(index & 0xFF);
  }

  Session& session_;
  std::uint64_t first_sequence_;
  std::uint64_t torn_before_;
  std::uint64_t bad_payloads_ = 0;
  wire::NewOrder order_{};
  wire::ReportRecord reports_[kReportCount];
};

}  // namespace

Outcome run_session(Session& session, const Plan& plan) {
  SessionEnd end(session);
  return Loop<SessionEnd>(end, plan).run();
}

}  // namespace rdmaorder::pingpong
