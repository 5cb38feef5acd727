#include "rdmaorder/error.hpp"
#include "rdmaorder/rdma_link.hpp"
#include "rdmaorder/session.hpp"
#include "rdmaorder/transport/shm.hpp"

namespace rdmaorder {
namespace {

LinkConfig link_config(const control::Established& established) {
  LinkConfig config;
  config.epoch = established.epoch;
  config.own_window_words = established.report_window.words();
  config.inbound = established.report_geometry;
  config.outbound = established.order_geometry;
  config.next_inbound_sequence = established.next_report_sequence;
  config.next_outbound_sequence = established.next_order_sequence;
  config.outbound_reserve_count = established.cancel_reserve_count;
  return config;
}

void check(const SessionConfig& config) {
  if (config.suspect_after_ns == 0 || config.dead_after_ns < config.suspect_after_ns) {
    throw Error(ErrorKind::kConfig,
                "suspect_after and dead_after must be positive and in this order, not " +
                    std::to_string(config.suspect_after_ns) + " ns and " +
                    std::to_string(config.dead_after_ns) + " ns");
  }
}

}  // namespace

const char* link_state_name(LinkState state) noexcept {
  switch (state) {
    case LinkState::kLive:
      return "live";
    case LinkState::kSuspect:
      return "suspect";
    case LinkState::kDead:
      return "dead";
    case LinkState::kClosed:
      return "closed";
  }
  return "?";
}

std::unique_ptr<Session> Session::connect(const SessionConfig& config) {
  check(config);
  if (control::parse_url(config.connect.url).scheme == "rdma") {
    RdmaLinkMaker maker;
    control::Established established = control::connect(config.connect, &maker);
    return std::make_unique<Session>(config, std::move(established), maker.take_transport());
  }
  control::Established established = control::connect(config.connect);
  auto transport = transport::make_shm(std::move(established.order_window));
  return std::make_unique<Session>(config, std::move(established), std::move(transport));
}

Session::Session(const SessionConfig& config, control::Established established,
                 std::unique_ptr<transport::Transport> transport)
    : slot_bytes_(established.order_geometry.slot_bytes),
      stamps_(kStampCount, 0),
      config_(config),
      established_(std::move(established)),
      link_(link_config(established_), std::move(transport)),
      rate_(TickRate::get()),
      wide_slot_(slot_bytes_ / 8, 0),
      wide_inbound_(slot_bytes_ / 8, 0),
      events_(kEventCount) {
  check_interval_ticks_ = rate_.from_ns(established_.heartbeat_interval_ns / 2);
  last_check_ticks_ = ticks();
  last_alive_ticks_ = last_check_ticks_;  // the handshake has just shown life
  if (established_.not_applied_count != 0) {
    wire::SessionEvent& event = events_[event_count_++];
    event.kind = SessionEventKind::kNotApplied;
    event.count = established_.not_applied_count;
    event.from_sequence = established_.next_order_sequence - event.count;
    event.time_ns = realtime_ns();
  }
  publish();
}

Session::~Session() { close(0); }

}  // namespace rdmaorder
