#include <algorithm>
#include <cerrno>

#include "rdmaorder/error.hpp"
#include "rdmaorder/interruption.hpp"
#include "rdmaorder/rdma_link.hpp"
#include "rdmaorder/session.hpp"
#include "rdmaorder/transport/shm.hpp"
#include "session/fault_seam.hpp"
#include "session/keeping_transport.hpp"
#include "session/session_registry.hpp"

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

/// A link agreed with the gateway, and the transport that carries it.
struct MadeLink {
  control::Established established;
  std::unique_ptr<transport::Transport> transport;
};

MadeLink make_link(const control::ConnectRequest& request) {
  MadeLink made;
  if (control::parse_url(request.url).scheme == "rdma") {
    RdmaLinkMaker maker;
    made.established = control::connect(request, &maker);
    made.transport = maker.take_transport();
  } else {
    made.established = control::connect(request);
    made.transport = transport::make_shm(std::move(made.established.order_window));
  }
  if (fault::armed()) {
    const ring::Geometry& orders = made.established.order_geometry;
    made.transport = std::make_unique<WatchedTransport>(std::move(made.transport),
                                                        orders.offset_bytes, orders.slot_bytes);
  }
  return made;
}

/// Of an RDMA device on either end: its port is down, its GID or its neighbour not there yet. The
/// link worked before, so that is worth waiting for.
bool is_of_device(const Error& error) {
  return error.kind() == ErrorKind::kTransport || error.code() == "BadEndpoint";
}

/// Refusals that may be gone a moment later: the gateway has not seen the end of the old link yet,
/// or is being restarted, or ended while it was asked, or had no place for so slow a handshake; and
/// what devices need to come back.
bool may_pass(const Error& error) {
  if (is_of_device(error)) return true;
  if (error.kind() == ErrorKind::kSystem || error.kind() == ErrorKind::kTimeout) return true;
  if (error.error_number() == ECONNRESET) return true;
  const std::string& code = error.code();
  return error.kind() == ErrorKind::kRefused &&
         (code == "DuplicateId" || code == "AlreadyEstablished" || code == "Draining" ||
          code == "TooSlow");
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
  MadeLink made = make_link(config.connect);
  return std::make_unique<Session>(config, std::move(made.established), std::move(made.transport));
}

Session::Session(const SessionConfig& config, control::Established established,
                 std::unique_ptr<transport::Transport> transport)
    : slot_bytes_(established.order_geometry.slot_bytes),
      stamps_(kStampCount, 0),
      config_(config),
      established_(std::move(established)),
      link_(link_config(established_), watched(std::move(transport))),
      rate_(TickRate::get()),
      wide_slot_(slot_bytes_ / 8, 0),
      wide_inbound_(slot_bytes_ / 8, 0),
      events_(kEventCount),
      first_sequence_(established_.next_order_sequence) {
  start_clocks();
  tell_handshake();
  publish();
  enlist();
}

// A check reads the gateway's line: it has to come over, meanwhile no report is seen, and the
// gateway's next write of it has to fetch it back. So polls check no more often than positions and
// states are needed.
void Session::start_clocks() noexcept {
  interval_ticks_ = rate_.from_ns(established_.heartbeat_interval_ns);
  suspect_after_ticks_ = rate_.from_ns(config_.suspect_after_ns);
  dead_after_ticks_ = rate_.from_ns(config_.dead_after_ns);
  // The handshake has just shown life.
  last_check_ticks_ = last_alive_ticks_ = last_line_ticks_ = ticks();
  clock_offset_ns_ = 0;
}

Session::~Session() {
  delist();
  close(0);
}

std::unique_ptr<transport::Transport> Session::watched(
    std::unique_ptr<transport::Transport> transport) {
  if (!config_.resend_on_gap) return transport;
  auto keeping =
      std::make_unique<KeepingTransport>(std::move(transport), established_.order_geometry);
  kept_ = keeping.get();
  return keeping;
}

transport::Transport& Session::transport() noexcept {
  return kept_ != nullptr ? kept_->inner() : link_.transport();
}

bool Session::close(std::uint64_t timeout_ns) noexcept {
  closed_here_ = true;
  return end(timeout_ns);
}

bool Session::end(std::uint64_t timeout_ns) noexcept {
  if (state_ == LinkState::kClosed) return false;
  bool confirmed = false;
  if (established_.connection && state_ != LinkState::kDead) {
    if (link_.unpublished_count() != 0) publish();  // these reports need no replay
    const std::uint64_t last = next_sequence() - 1;
    std::uint64_t applied = 0;
    confirmed = established_.connection->terminate(last, timeout_ns, &applied) && applied == last;
  }
  if (state_ == LinkState::kLive) link_.transport().linger();  // the last orders and this line
  fail(LinkState::kClosed, "closed by this side");
  if (foreign_ && established_.connection) established_.connection->disown();
  established_.connection.reset();
  return confirmed;
}

/// Whatever state it is in, nothing of the old link is used any more.
void Session::end_link() noexcept {
  constexpr std::uint64_t kTerminateTimeoutNs = 1'000'000'000;
  if (state_ == LinkState::kLive) (void)end(kTerminateTimeoutNs);
  established_.connection.reset();  // the gateway sees the end and takes what is in the ring
  link_.transport().close();
  state_ = LinkState::kDead;
  cause_ = "reconnecting";
  update_gate();
}

/// Sent over this object's links, of the last kStampCount messages, and it has a report or a fate.
bool Session::is_answered(std::uint64_t sequence) const noexcept {
  return sequence >= first_sequence_ && next_sequence() - sequence <= kStampCount &&
         stamps_[sequence & (kStampCount - 1)] == 0;
}

void Session::begin_link(control::Established established,
                         std::unique_ptr<transport::Transport> transport) {
  const std::uint64_t end = established.next_order_sequence;
  // A gateway that does not know whether its answer arrived says the same once more.
  established.not_applied_count =
      std::min(established.not_applied_count, end - std::min(end, told_not_applied_end_));
  const std::uint64_t missing = std::min<std::uint64_t>(established.not_applied_count, kStampCount);
  const std::uint64_t ring = link_.writer().geometry().slot_count;
  std::vector<std::uint64_t> again;
  if (kept_ != nullptr) {
    // A gateway without records of its last orders (disk full, machine lost) may have answered
    // them. Copies are of the link that ends here.
    const std::uint64_t first = established_.next_order_sequence;
    for (std::uint64_t n = std::max(first, end - std::min(missing, ring)); n < end; ++n) {
      if (!is_answered(n)) kept_->append_slot(n, &again);
    }
  }
  counts_.sent = counts().sent;
  memory::Window old_window;  // until the link has let go
  {
    const std::lock_guard no_fork(SessionRegistry::get().mutex);
    old_window = std::move(established_.report_window);
    established_ = std::move(established);
    link_ = Link(link_config(established_), watched(std::move(transport)));
  }
  state_ = LinkState::kLive;
  cause_.clear();
  heartbeat_ = peer_heartbeat_ = 0;
  torn_since_ticks_ = 0;
  start_clocks();
  update_gate();
  tell(SessionEventKind::kEstablished, Reason::kNone, established_.next_order_sequence);
  tell_handshake();
  publish();
  // Their fate is known: never applied.
  for (std::uint64_t n = end - missing; n < end; ++n) stamps_[n & (kStampCount - 1)] = 0;
  if (!again.empty()) resend(std::move(again));
}

void Session::reconnect(std::uint64_t timeout_ns) {
  constexpr timespec kPause{0, 1'000'000};
  constexpr timespec kDevicePause{0, 50'000'000};  // each try is a whole handshake
  if (foreign_) throw Error(ErrorKind::kClosed, foreign_cause_);
  if (closed_here_) {
    throw Error(ErrorKind::kClosed,
                "this session was closed by this side and stays so; connect() makes a new one");
  }
  end_link();
  control::ConnectRequest request = config_.connect;
  request.next_order_sequence = next_sequence();
  request.next_report_sequence = next_report_sequence();
  const std::uint64_t deadline_ns = monotonic_ns() + timeout_ns;
  for (;;) {
    const std::uint64_t now_ns = monotonic_ns();
    request.timeout_ns =
        std::min(config_.connect.timeout_ns,
                 std::max<std::uint64_t>(deadline_ns - std::min(now_ns, deadline_ns), 1'000'000));
    try {
      MadeLink made = make_link(request);
      begin_link(std::move(made.established), std::move(made.transport));
      return;
    } catch (const Error& error) {
      cause_ = std::string("reconnect: ") + error.what();
      if (!may_pass(error) || monotonic_ns() >= deadline_ns) throw;
      nanosleep(is_of_device(error) ? &kDevicePause : &kPause, nullptr);
      if (Interruption::wanted()) throw Error(ErrorKind::kInterrupted, "reconnect: interrupted");
    }
  }
}

}  // namespace rdmaorder
