// Gateway and session in one thread: what each step costs by itself, without the distance between
// two cores in it.
#pragma once

#include "bench/local_links.hpp"

namespace rdmaorder::bench {

class OneThread {
 public:
  static constexpr std::uint32_t kRingCount = 1024;

  OneThread(std::unique_ptr<Handler> handler, std::unique_ptr<journal::Writer> journal_writer,
            std::uint32_t idle_session_count = 0, std::uint64_t heartbeat_interval_ns = 1'000'000) {
    GatewayConfig config;
    config.heartbeat_interval_ns = heartbeat_interval_ns;
    config.max_session_count = idle_session_count + 1;
    config.huge_pages = memory::HugePages::kOff;
    gateway_ = std::make_unique<Gateway>(config, std::move(handler), std::move(journal_writer));
    for (std::uint32_t i = 0; i < idle_session_count; ++i) {
      const ring::Geometry geometry = ring_of(64);
      auto window = std::make_shared<memory::Window>(make_window(geometry, "bench-idle"));
      (void)attach_link(*gateway_, "idle-" + std::to_string(i), 64, geometry,
                        transport::make_inproc(std::move(window)));
    }
    const ring::Geometry geometry = ring_of(kRingCount);
    memory::Window reports = make_window(geometry, "bench-reports");
    const AttachedLink link =
        attach_link(*gateway_, "active", kRingCount, geometry,
                    transport::make_shm(map_again(getpid(), reports.fd(), reports.bytes())));
    session_ =
        make_session(link, map_again(getpid(), link.order_window_fd, link.order_window_bytes),
                     std::move(reports), geometry, heartbeat_interval_ns);
  }

  [[nodiscard]] Gateway& gateway() noexcept { return *gateway_; }
  [[nodiscard]] Session& session() noexcept { return *session_; }

  /// Until the gateway found nothing twice: orders taken, status line written.
  void drain_gateway() noexcept {
    for (int quiet = 0; quiet < 2;) quiet = gateway_->run_pass() ? 0 : quiet + 1;
  }
  void drain_session() noexcept {
    wire::ReportRecord reports[16];
    while (session_->poll(reports, 16) != 0) {
    }
    session_->check_link();
  }

 private:
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<Session> session_;
};

}  // namespace rdmaorder::bench
