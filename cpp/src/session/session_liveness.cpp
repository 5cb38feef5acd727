// Is the gateway's receiver loop alive? Evidence, strongest first: its heartbeat in the own window
// (bumped by the loop itself), the control connection (closed when the process dies; behind a Unix
// socket the process itself is looked at, which tells sooner). A write that was acknowledged by a
// NIC is no evidence at all.
#include <algorithm>

#include "rdmaorder/session.hpp"

namespace rdmaorder {

void Session::check_link_at(std::uint64_t now) noexcept {
  const std::uint64_t since_last_check = now - last_check_ticks_;
  last_check_ticks_ = now;
  if (state_ == LinkState::kDead || state_ == LinkState::kClosed) return;
  if (link_.transport().progress() == Status::kTransport) {
    (void)send_failed(Status::kTransport);
    return;
  }
  if (link_.refresh_peer() == Status::kCorrupt) {
    (void)send_failed(Status::kCorrupt);
    return;
  }
  judge_heartbeat(now, since_last_check);
  if (link_.unpublished_count() != 0 &&
      now - last_line_ticks_ > kIntervalsPerLine * interval_ticks_) {
    last_line_ticks_ = now;
    publish();
  }
  update_gate();
}

// Age of the peer's status line by the two CLOCK_REALTIMEs, whichever of them is ahead.
std::uint64_t Session::line_age_ns() const noexcept {
  const std::uint64_t now_ns = realtime_ns();
  const std::uint64_t line_ns = link_.peer().time_ns;
  return now_ns > line_ns ? now_ns - line_ns : line_ns - now_ns;
}

void Session::judge_heartbeat(std::uint64_t now, std::uint64_t since_last_check) noexcept {
  if (link_.peer().heartbeat != peer_heartbeat_) {
    peer_heartbeat_ = link_.peer().heartbeat;
    // New beats prove life at some moment since the last look. When that was long ago, the time in
    // the line tells how old the newest beat is; if the clocks disagree about it the link counts as
    // suspect (never as dead) until another beat is seen.
    const bool recent =
        since_last_check < suspect_after_ticks_ || line_age_ns() < config_.suspect_after_ns;
    last_alive_ticks_ = recent ? now : now - suspect_after_ticks_;
  }
  const std::uint64_t silent = now - std::min(now, last_alive_ticks_);
  if (silent > interval_ticks_ + interval_ticks_ / 2) {  // one beat is late: is the process gone?
    ask_socket();
    if (state_ == LinkState::kDead || state_ == LinkState::kClosed) return;
  }
  if (silent < std::min(3 * interval_ticks_, suspect_after_ticks_)) {
    if (state_ == LinkState::kSuspect) {
      state_ = LinkState::kLive;
      tell(SessionEventKind::kLive);
      cause_.clear();
    }
    return;
  }
  if (silent >= dead_after_ticks_) {
    fail(LinkState::kDead, "no heartbeat from the gateway for " +
                               std::to_string(rate_.to_ns(silent) / 1'000'000) + " ms");
  } else if (silent >= suspect_after_ticks_ && state_ == LinkState::kLive) {
    state_ = LinkState::kSuspect;
    tell(SessionEventKind::kSuspect);
    cause_ = "no heartbeat from the gateway for " +
             std::to_string(rate_.to_ns(silent) / 1'000'000) + " ms; sends wait for the next one";
  }
}

// A few system calls that do not block, only when a heartbeat is already late.
void Session::ask_socket() noexcept {
  if (!established_.connection) return;
  std::string text;
  switch (established_.connection->check(&text)) {
    case control::PeerCheck::kQuiet:
      return;
    case control::PeerCheck::kTerminated:
      fail(LinkState::kClosed, "the gateway ended the session: " + text);
      return;
    case control::PeerCheck::kGone:
      fail(LinkState::kDead, "the gateway is gone: " + text);
      return;
  }
}

// The first end is the one that counts; after a death only close() has a say.
void Session::fail(LinkState state, const std::string& cause) noexcept {
  if (state_ == LinkState::kClosed || (state_ == LinkState::kDead && state == LinkState::kDead)) {
    return;
  }
  state_ = state;
  cause_ = cause;
  tell(state == LinkState::kDead ? SessionEventKind::kDead : SessionEventKind::kTerminated);
  link_.transport().close();
  update_gate();
}

// That orders are refused for their rate comes as a message, once a second at most however often
// the state changes; that they are taken again, with the first open line made after that message.
void Session::tell_peer_state(PeerState state) noexcept {
  const wire::StatusLine& line = link_.peer();
  const bool taken_again =
      throttled_since_ns_ != 0 ? line.time_ns > throttled_since_ns_ : state != told_peer_state_;
  const bool held_back = told_peer_state_ == PeerState::kHalted || throttled_since_ns_ != 0;
  if (state == PeerState::kHalted && state != told_peer_state_) {
    tell(SessionEventKind::kHalted, line.reason);
  } else if (state == PeerState::kOpen && held_back && taken_again) {
    throttled_since_ns_ = 0;
    tell(SessionEventKind::kResumed, line.reason);
  }
  told_peer_state_ = state;
}

void Session::update_gate() noexcept {
  switch (state_) {
    case LinkState::kDead:
      gate_ = Status::kNotConnected;
      return;
    case LinkState::kClosed:
      gate_ = Status::kClosed;
      return;
    case LinkState::kSuspect:
      gate_ = Status::kNotConnected;
      return;
    case LinkState::kLive:
      break;
  }
  gate_ = Status::kOk;  // also before the first line, whose state is none of these
  const PeerState peer_state = link_.peer().state;
  tell_peer_state(peer_state);
  switch (peer_state) {
    case PeerState::kHalted:
      gate_ = Status::kHalted;
      break;
    case PeerState::kThrottled:
      gate_ = Status::kThrottled;
      break;
    case PeerState::kClosing:
      gate_ = Status::kClosed;
      break;
    case PeerState::kOpen:
      break;
  }
}

}  // namespace rdmaorder
