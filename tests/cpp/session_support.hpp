// A session whose gateway is played by the test: every line, report and byte the strategy sees is
// the test's doing.
#pragma once

#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "control/channel.hpp"
#include "control/message.hpp"
#include "gateway_support.hpp"

namespace rdmaorder::session_support {

using namespace gateway_support;

inline constexpr std::uint64_t kSessionEpoch = 0x7766554433221100;

struct PlayedOptions {
  std::uint32_t slot_bytes = 64;
  std::uint32_t order_slot_count = 16;
  std::uint32_t report_slot_count = 16;
  std::uint32_t cancel_reserve_count = 0;
  std::uint64_t next_order_sequence = 1;
  std::uint64_t next_report_sequence = 1;
  std::uint64_t heartbeat_interval_ns = 100'000;
  std::uint64_t suspect_after_ns = kHour;
  std::uint64_t dead_after_ns = 2 * kHour;
  std::uint64_t torn_timeout_ns = kHour;
  std::uint64_t not_applied_count = 0;
  bool with_socket = false;
};

class PlayedGateway {
 public:
  explicit PlayedGateway(const PlayedOptions& options = {}) {
    const ring::Geometry orders{ring::kRingOffsetMinBytes, options.slot_bytes,
                                options.order_slot_count};
    const ring::Geometry reports{ring::kRingOffsetMinBytes, options.slot_bytes,
                                 options.report_slot_count};
    order_window_ =
        std::make_shared<memory::Window>(ring_support::make_window(orders.window_bytes()));
    control::Established made;
    made.report_window = ring_support::make_window(reports.window_bytes());
    report_window = ring_support::map_again(made.report_window);
    made.epoch = kSessionEpoch;
    made.order_geometry = orders;
    made.report_geometry = report_geometry = reports;
    made.next_order_sequence = options.next_order_sequence;
    made.next_report_sequence = options.next_report_sequence;
    made.cancel_reserve_count = options.cancel_reserve_count;
    made.heartbeat_interval_ns = options.heartbeat_interval_ns;
    made.not_applied_count = options.not_applied_count;
    if (options.with_socket) {
      int ends[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
      made.connection = control::make_plain_connection(memory::UniqueFd(ends[0]));
      socket.reset(ends[1]);
    }
    LinkConfig config;
    config.epoch = kSessionEpoch;
    config.own_window_words = order_window_->words();
    config.inbound = orders;
    config.outbound = reports;
    config.next_inbound_sequence = options.next_order_sequence;
    config.next_outbound_sequence = options.next_report_sequence;
    auto [down, down_faults] =
        transport::with_faults(transport::make_shm(ring_support::map_again(report_window)));
    to_strategy = down_faults;
    link = std::make_unique<Link>(config, std::move(down));
    auto [up, up_faults] = transport::with_faults(transport::make_inproc(order_window_));
    to_gateway = up_faults;
    SessionConfig session_config;
    session_config.suspect_after_ns = options.suspect_after_ns;
    session_config.dead_after_ns = options.dead_after_ns;
    session_config.torn_timeout_ns = options.torn_timeout_ns;
    session = std::make_unique<Session>(session_config, std::move(made), std::move(up));
  }

  /// One line of the gateway; each has a beat more than the one before.
  void beat(PeerState state = PeerState::kOpen) {
    OwnState own;
    own.heartbeat = ++heartbeat_;
    own.time_ns = realtime_ns() + clock_ahead_ns;
    own.state = state;
    ASSERT_EQ(link->publish(own), Status::kOk);
  }
  /// Takes what the strategy sent: the template ids, in order.
  std::vector<std::uint16_t> take() {
    std::vector<std::uint16_t> ids;
    std::vector<std::uint64_t> slot(link->reader().geometry().slot_bytes / 8);
    while (ok(link->reader().read(slot.data()))) {
      wire::MessageHeader header;
      std::memcpy(&header, slot.data(), sizeof header);
      ids.push_back(header.template_id);
    }
    return ids;
  }
  template <class Block>
  Status put(TemplateId id, const Block& block) {
    wire::Slot64 narrow = slot_of(id, block);
    std::vector<std::uint64_t> slot(link->writer().geometry().slot_bytes / 8, 0);
    std::memcpy(slot.data(), narrow.words, sizeof narrow.words);
    return link->send(ring::Lane::kNormal, slot.data());
  }
  Status report(std::uint64_t order_sequence) {
    wire::ExecutionReport block{};
    block.cl_ord_id = order_sequence;
    block.order_sequence_low = static_cast<std::uint32_t>(order_sequence);
    block.exec_type = ExecType::kNew;
    return put(TemplateId::kExecutionReport, block);
  }
  Status event(std::uint64_t from_sequence) {
    wire::SessionEvent block{};
    block.from_sequence = from_sequence;
    block.kind = SessionEventKind::kNotApplied;
    return put(TemplateId::kSessionEvent, block);
  }
  std::vector<wire::ReportRecord> poll(std::uint32_t max_count = 1024) {
    std::vector<wire::ReportRecord> reports(max_count);
    reports.resize(session->poll(reports.data(), max_count));
    return reports;
  }
  Status send() {
    std::uint64_t sequence = 0;
    return session->try_new_order(order(session->next_sequence()), &sequence);
  }
  Status send_cancel() {
    std::uint64_t sequence = 0;
    return session->try_cancel_order(cancel(session->next_sequence(), 1), &sequence);
  }
  /// What the gateway's server says over the control socket when it ends the session.
  void terminate(const std::string& text) {
    const std::string frame = control::MessageWriter("Terminate")
                                  .text("code", "Finished")
                                  .number("last_sequence", 0)
                                  .text("text", text)
                                  .frame();
    ASSERT_EQ(::send(socket.get(), frame.data(), frame.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(frame.size()));
  }
  /// The session, looking again and again until it is in `state`.
  [[nodiscard]] bool becomes(LinkState state) {
    return eventually([&] {
      session->check_link();
      return session->state() == state;
    });
  }

  memory::Window report_window;  ///< the strategy's memory, mapped once more
  ring::Geometry report_geometry;
  memory::UniqueFd socket;
  std::uint64_t clock_ahead_ns = 0;  ///< of the gateway's clock
  FaultTransport* to_gateway = nullptr;
  FaultTransport* to_strategy = nullptr;
  std::unique_ptr<Link> link;
  std::unique_ptr<Session> session;

 private:
  std::shared_ptr<memory::Window> order_window_;
  std::uint64_t heartbeat_ = 0;
};

}  // namespace rdmaorder::session_support
