// After a failure: what is unknown, what became of it, and sending again what never arrived.
#include <algorithm>
#include <ctime>

#include "rdmaorder/error.hpp"
#include "rdmaorder/session.hpp"

namespace rdmaorder {
namespace {

constexpr std::uint32_t kPageCount = 1000;

}  // namespace

control::Connection& Session::connection() {
  if (foreign_) throw Error(ErrorKind::kClosed, foreign_cause_);
  check_link();
  // A gateway that died a moment ago has not missed enough heartbeats yet; its socket tells at
  // once.
  if (state_ == LinkState::kLive || state_ == LinkState::kSuspect) ask_socket();
  if (established_.connection == nullptr || state_ == LinkState::kDead ||
      state_ == LinkState::kClosed) {
    throw Error(ErrorKind::kRefused,
                "the session has no link (" + cause_ + "); " +
                    (closed_here_ ? "connect() makes a new session" : "reconnect() gives it one"),
                0, "NotConnected");
  }
  return *established_.connection;
}

std::vector<std::uint64_t> Session::unknown_sequences() const {
  const std::uint64_t next = next_sequence();
  std::vector<std::uint64_t> unknown;
  for (std::uint64_t n = next - std::min<std::uint64_t>(next - 1, kStampCount); n < next; ++n) {
    if (stamps_[n & (kStampCount - 1)] != 0) unknown.push_back(n);
  }
  return unknown;
}

std::vector<OrderFate> Session::resolve(std::uint64_t timeout_ns) {
  control::Connection& asked = connection();
  const std::vector<std::uint64_t> unknown = unknown_sequences();
  std::vector<OrderFate> fates;
  for (auto next = unknown.begin(); next != unknown.end();) {
    const std::uint64_t from = *next;
    const auto page_end = std::upper_bound(next, unknown.end(), from + kPageCount - 1);
    const auto count = static_cast<std::uint32_t>(*(page_end - 1) - from + 1);
    const control::Resolved page =
        control::resolve(asked, control::Inquiry::kFates, from, count, timeout_ns);
    for (; next != page_end && *next - from < page.fates.size(); ++next) {
      const OrderFate& fate = page.fates[*next - from];
      fates.push_back(fate);
      if (fate.fate == Fate::kNotApplied || fate.fate == Fate::kAnswered) {
        stamps_[*next & (kStampCount - 1)] = 0;
      }
    }
    if (next != page_end) throw Error(ErrorKind::kHandshake, "the gateway left fates out");
  }
  return fates;
}

std::vector<OrderFate> Session::open_orders(std::uint64_t timeout_ns) {
  control::Connection& asked = connection();
  std::vector<OrderFate> open;
  for (std::uint64_t from = 1;;) {
    const control::Resolved page =
        control::resolve(asked, control::Inquiry::kOpenOrders, from, kPageCount, timeout_ns);
    open.insert(open.end(), page.fates.begin(), page.fates.end());
    if (page.fates.size() < kPageCount) return open;
    from = page.fates.back().sequence + 1;
  }
}

control::ClockOffset Session::measure_clock(std::uint64_t timeout_ns) {
  return control::measure_clock(connection(), timeout_ns);
}

std::uint64_t Session::kill(std::uint64_t timeout_ns) {
  const std::uint64_t canceled = control::kill(connection(), timeout_ns);
  check_link();
  return canceled;
}

void Session::resend(std::vector<std::uint64_t> slots) noexcept {
  const std::size_t slot_words = slot_bytes_ / 8;
  const std::uint64_t first_again = next_sequence();
  for (std::size_t i = 0; i + slot_words <= slots.size(); i += slot_words) {
    std::uint64_t* slot = &slots[i];
    wire::MessageHeader header;
    std::memcpy(&header, slot, sizeof header);
    const bool ours = header.schema_id == wire::kSchemaId;
    // Every order message has its flags in the last byte of the block.
    if (ours) slot[6] |= std::uint64_t{kFlagPossResend} << 56;
    const ring::Lane lane =
        ours && wire::is_cancel(header.template_id) ? ring::Lane::kUrgent : ring::Lane::kNormal;
    std::uint64_t sequence = 0;
    if (!ok(try_send_slot(slot, lane, &sequence))) break;
  }
  const std::uint64_t sent = next_sequence() - first_again;
  if (sent != 0) tell(SessionEventKind::kResent, Reason::kNone, first_again, sent);
}

}  // namespace rdmaorder
