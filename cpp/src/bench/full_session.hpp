// The whole way: Session -> order ring -> Gateway (verify, guard, journal, handler) -> report ring
// -> Session, the gateway in the peer process.
#pragma once

#include <vector>

#include "bench/local_links.hpp"
#include "bench/scenario.hpp"

namespace rdmaorder::bench {

struct SessionSetup {
  std::string name;
  std::string journal_directory{};  ///< empty: no journal
  journal::SyncPolicy sync = journal::SyncPolicy::kNone;
  std::uint32_t idle_session_count = 0;
  std::uint32_t order_slot_count = 256;
  bool answers = true;  ///< accept handler; false: null handler
};

/// A gateway in the peer and a session here; what scenarios and throughput runs share.
class SplitSession {
 public:
  explicit SplitSession(SessionSetup setup)
      : setup_(std::move(setup)),
        report_geometry_(ring_of(1024)),
        report_window_(make_window(report_geometry_, "bench-reports")),
        attached_(make_shared<AttachedLink>()) {}

  void prepare_peer() {
    GatewayConfig config;
    config.max_session_count = setup_.idle_session_count + 1;
    config.huge_pages = memory::HugePages::kOff;
    gateway_ = std::make_unique<Gateway>(
        config, setup_.answers ? make_accept_handler() : make_null_handler(),
        open_journal(setup_.journal_directory, setup_.sync));
    for (std::uint32_t i = 0; i < setup_.idle_session_count; ++i) {
      const ring::Geometry geometry = ring_of(64);
      auto window = std::make_shared<memory::Window>(make_window(geometry, "bench-idle"));
      (void)attach_link(*gateway_, "idle-" + std::to_string(i), 64, geometry,
                        transport::make_inproc(std::move(window)));
    }
    *attached_ = attach_link(*gateway_, "active", setup_.order_slot_count, report_geometry_,
                             transport::make_shm(map_again(getpid(), report_window_.fd(),
                                                           report_geometry_.window_bytes())));
  }

  void prepare_own(pid_t peer) {
    session_ = make_session(
        *attached_, map_again(peer, attached_->order_window_fd, attached_->order_window_bytes),
        std::move(report_window_), report_geometry_);
  }

  void serve(const Pair& pair) {
    while (!pair.stopped()) (void)gateway_->run_pass();
  }

  [[nodiscard]] Session& session() noexcept { return *session_; }
  [[nodiscard]] const SessionSetup& setup() const noexcept { return setup_; }

 private:
  SessionSetup setup_;
  ring::Geometry report_geometry_;
  memory::Window report_window_;
  AttachedLink* attached_;
  std::unique_ptr<Gateway> gateway_;  ///< in the peer
  std::unique_ptr<Session> session_;  ///< in this process
};

/// try_new_order, then poll until its report is here.
class SessionRoundTrip final : public Scenario {
 public:
  explicit SessionRoundTrip(SessionSetup setup) : Scenario(setup.name), split_(std::move(setup)) {}
  void prepare_peer() override { split_.prepare_peer(); }
  void prepare_own(pid_t peer) override { split_.prepare_own(peer); }
  void serve(const Pair& pair) override { split_.serve(pair); }
  void run(RoundTrips& round_trips) override {
    Session& session = split_.session();
    wire::ReportRecord reports[8];
    wire::NewOrder order = sample_order(0);
    round_trips([&] {
      std::uint64_t sequence = 0;
      ++order.cl_ord_id;
      Status status = session.try_new_order(order, &sequence);
      while (status == Status::kFull) status = session.try_new_order(order, &sequence);
      if (!ok(status)) throw std::runtime_error("order refused: " + session.cause());
      while (session.poll(reports, 8) == 0) {
      }
    });
  }

 private:
  SplitSession split_;
};

}  // namespace rdmaorder::bench
