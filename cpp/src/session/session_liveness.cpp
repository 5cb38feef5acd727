// Is the gateway's receiver loop alive? Evidence, strongest first: its heartbeat in the own window
// (bumped by the loop itself), the control connection (closed when the process dies; behind a Unix
// socket the process itself is looked at, which tells sooner). A write that was acknowledged by a
// NIC is no evidence at all.
#include <algorithm>
#include <cstdlib>
#include <ctime>

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

// Age of the peer's status line: this CLOCK_REALTIME against the gateway's and what was learnt of
// how far they are apart. Negative where that has changed.
std::int64_t Session::line_age_ns() const noexcept {
  return static_cast<std::int64_t>(realtime_ns() - link_.peer().time_ns) - clock_offset_ns_;
}

// A gateway that lives beats within an interval. The wait is no usual send's: only after a pause,
// and only while the clocks disagree with what is known of them.
bool Session::sees_another_beat(std::uint64_t* now) noexcept {
  constexpr timespec kNap{0, 20'000};
  const std::uint64_t start = *now;
  const std::uint64_t patience = std::min(3 * interval_ticks_, suspect_after_ticks_);
  while (link_.peer().heartbeat == peer_heartbeat_) {
    if (*now - start > patience) return false;
    nanosleep(&kNap, nullptr);
    *now = ticks();
    if (link_.refresh_peer() == Status::kCorrupt) return false;  // the next look tells
  }
  peer_heartbeat_ = link_.peer().heartbeat;
  last_check_ticks_ = *now;
  clock_offset_ns_ += line_age_ns();
  return true;
}

void Session::judge_heartbeat(std::uint64_t now, std::uint64_t since_last_check) noexcept {
  if (link_.peer().heartbeat != peer_heartbeat_) {
    peer_heartbeat_ = link_.peer().heartbeat;
    // New beats prove life at some moment since the last look. When that was long ago, the time in
    // the line tells how old the newest beat is, as far as the clocks are known: looks that are
    // close together learn their offset. Where they disagree another beat has to come, or the link
    // counts as suspect (never as dead) until one does.
    if (since_last_check < suspect_after_ticks_ / 4) clock_offset_ns_ += line_age_ns();
    const bool recent =
        since_last_check < suspect_after_ticks_ ||
        std::abs(line_age_ns()) < static_cast<std::int64_t>(config_.suspect_after_ns) ||
        sees_another_beat(&now);
    last_alive_ticks_ = recent ? now : now - suspect_after_ticks_;
  }
  const std::uint64_t silent = now - std::min(now, last_alive_ticks_);
  // One beat is late: is the process gone? Or it has said that it ends the link: has it?
  if (silent > interval_ticks_ + interval_ticks_ / 2 || link_.peer().state == PeerState::kClosing) {
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
