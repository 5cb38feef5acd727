// Strategy side of a session: sends orders, polls reports, knows whether the gateway is alive.
//
// One thread uses a session, of the process that made it: in a forked child it is DEAD, sends are
// refused as closed, and its end leaves the parent's link alone (session_fork.cpp). The send and
// poll paths make no system call, allocate nothing and throw nothing; results are Status values.
// Liveness costs one TSC read a call: the gateway's heartbeat is looked at every half heartbeat
// interval, the control socket only when a beat is late.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/clock.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/link.hpp"
#include "rdmaorder/monitor.hpp"
#include "rdmaorder/wire/messages.hpp"

namespace rdmaorder {

/// LIVE: heartbeats arrive. SUSPECT: they are late, sends are refused until one comes.
/// DEAD: the gateway is gone or broke the protocol. CLOSED: ended by close() or by Terminate.
enum class LinkState : std::uint8_t { kLive, kSuspect, kDead, kClosed };
const char* link_state_name(LinkState state) noexcept;

class KeepingTransport;

struct SessionConfig {
  control::ConnectRequest connect;
  std::uint64_t suspect_after_ns = 20'000'000;  ///< no heartbeat for this long: SUSPECT
  std::uint64_t dead_after_ns = 2'000'000'000;  ///< … for this long: DEAD
  std::uint64_t torn_timeout_ns = 100'000'000;  ///< a report slot torn for this long: DEAD
  /// What reconnect() does about messages that were written and never applied: false tells
  /// (kNotApplied), true also sends them again, marked kFlagPossResend, under new sequences and
  /// with the staleness limit they had. A copy of each message is kept for that.
  bool resend_on_gap = false;
};

struct SessionCounts {
  std::uint64_t sent = 0;              ///< messages put into the order ring
  std::uint64_t full = 0;              ///< sends refused for want of credit
  std::uint64_t refused = 0;           ///< sends refused for the link's or the gateway's state
  std::uint64_t reports = 0;           ///< reports delivered
  std::uint64_t unknown_messages = 0;  ///< inbound messages of no known template
  std::uint64_t events_dropped = 0;    ///< session events lost because nobody took them
};

class Session {
 public:
  /// Connects and establishes; throws Error (see control::connect).
  static std::unique_ptr<Session> connect(const SessionConfig& config);
  /// A new link for this session in place of the one it has, which is ended: new epoch, windows and
  /// keys, the same sequences. Tries until the gateway takes it or `timeout_ns` have passed; throws
  /// Error then, and at once for a refusal that time does not mend. The session stays DEAD after a
  /// failure and may try again. What was written and the gateway has no record of is told as an
  /// event kNotApplied; what of it has no report is resent with SessionConfig::resend_on_gap; the
  /// reports from next_report_sequence() on are replayed.
  void reconnect(std::uint64_t timeout_ns);
  /// Over a link that exists already (tests, benchmarks, an embedded gateway). `connection`
  /// may be empty.
  Session(const SessionConfig& config, control::Established established,
          std::unique_ptr<transport::Transport> transport);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // --- sending: kOk and *sequence, or a refusal and nothing happened -----------------------------
  RDMAORDER_ALWAYS_INLINE Status try_new_order(const wire::NewOrder& order,
                                               std::uint64_t* sequence) noexcept {
    return try_message(wire::TemplateId::kNewOrder, order, ring::Lane::kNormal, sequence);
  }
  RDMAORDER_ALWAYS_INLINE Status try_replace_order(const wire::ReplaceOrder& order,
                                                   std::uint64_t* sequence) noexcept {
    return try_message(wire::TemplateId::kReplaceOrder, order, ring::Lane::kNormal, sequence);
  }
  RDMAORDER_ALWAYS_INLINE Status try_cancel_order(const wire::CancelOrder& cancel,
                                                  std::uint64_t* sequence) noexcept {
    return try_message(wire::TemplateId::kCancelOrder, cancel, ring::Lane::kUrgent, sequence);
  }
  Status try_mass_cancel(const wire::MassCancel& cancel, std::uint64_t* sequence) noexcept {
    return try_message(wire::TemplateId::kMassCancel, cancel, ring::Lane::kUrgent, sequence);
  }
  /// A message of the session's own schema: a whole slot (slot_bytes, header set, commit word
  /// free).
  Status try_send_slot(std::uint64_t* slot_words, ring::Lane lane,
                       std::uint64_t* sequence) noexcept;
  /// Consecutive slots of slot_bytes with headers set; read only. Returns how many were sent, in
  /// order from the first; *status is kOk when all were. Cancels in it use the urgent lane.
  std::uint32_t try_send_batch(const std::uint64_t* slots, std::uint32_t count,
                               Status* status) noexcept;

  // --- receiving
  // -----------------------------------------------------------------------------------
  /// Delivers up to `max_count` execution reports. 0 with an open link means none now.
  std::uint32_t poll(wire::ReportRecord* out, std::uint32_t max_count) noexcept;
  /// Delivers whole slots of any schema; in each the commit word is replaced by the sequence.
  std::uint32_t poll_slots(std::uint64_t* out, std::uint32_t max_count) noexcept;
  /// Something is in the report ring (not yet verified).
  [[nodiscard]] bool readable() const noexcept {
    const std::uint64_t commit_word = load_relaxed(link_.reader().commit_word_address());
    return commit_word != 0 &&  // a slot never written, where the sequence's low half is 0
           wire::commit_sequence_low(commit_word) ==
               static_cast<std::uint32_t>(link_.reader().next_sequence());
  }
  /// Takes the oldest session event. kEmpty when there is none.
  Status take_event(wire::SessionEvent* event) noexcept;

  /// Looks at the peer's status line, the clock and, when a heartbeat is late, the control socket.
  /// send and poll call it by themselves; call it when doing neither for long.
  void check_link() noexcept { check_link_at(ticks()); }

  /// Graceful end, for good: waits up to `timeout_ns` for the gateway's Terminate. True when it
  /// confirmed every sequence sent. Idempotent.
  bool close(std::uint64_t timeout_ns) noexcept;

  // --- after a failure
  /// Sequences sent over this object's links that have no report and no fate yet, ascending; of the
  /// last kStampCount at most.
  [[nodiscard]] std::vector<std::uint64_t> unknown_sequences() const;
  /// The fate of each of them out of the gateway's journal; those that are final are unknown no
  /// longer. Needs a live link with a gateway that has a journal. Throws Error.
  std::vector<OrderFate> resolve(std::uint64_t timeout_ns);
  /// The session's open orders and unanswered requests, as the gateway's journal has them, whoever
  /// sent them. Throws Error.
  std::vector<OrderFate> open_orders(std::uint64_t timeout_ns);
  /// Measures the gateway's clock against this one's. Throws Error.
  control::ClockOffset measure_clock(std::uint64_t timeout_ns);
  /// Kill switch of the strategy itself: the gateway cancels every order of the session, fences
  /// this link and refuses others until an operator releases the session. Returns how many orders
  /// were cancelled. Throws Error.
  std::uint64_t kill(std::uint64_t timeout_ns);

  // --- facts
  // ---------------------------------------------------------------------------------------
  [[nodiscard]] LinkState state() const noexcept { return state_; }
  /// kOk, or why a normal order would be refused now.
  [[nodiscard]] Status send_status() const noexcept { return gate_; }
  /// Why the link is not LIVE, in one line.
  [[nodiscard]] const std::string& cause() const noexcept {
    return foreign_ ? foreign_cause_ : cause_;
  }
  /// The gateway's newest positions, state and heartbeat.
  [[nodiscard]] const wire::StatusLine& peer() const noexcept { return link_.peer(); }
  [[nodiscard]] std::uint64_t next_sequence() const noexcept {
    return link_.writer().next_sequence();
  }
  [[nodiscard]] std::uint64_t next_report_sequence() const noexcept {
    return link_.reader().next_sequence();
  }
  [[nodiscard]] std::uint32_t credit_count(ring::Lane lane) noexcept {
    link_.refresh_credit(lane);
    return link_.writer().credit_count(lane);
  }
  [[nodiscard]] std::uint32_t slot_bytes() const noexcept { return slot_bytes_; }
  [[nodiscard]] const control::Established& established() const noexcept { return established_; }
  /// For its facts; its data path stays the session's.
  [[nodiscard]] transport::Transport& transport() noexcept;
  [[nodiscard]] const ring::ReaderCounts& reader_counts() const noexcept {
    return link_.reader().counts();
  }
  [[nodiscard]] SessionCounts counts() const noexcept {
    SessionCounts counts = counts_;
    counts.sent += next_sequence() - established_.next_order_sequence;
    return counts;
  }
  /// Send call to the poll that delivered the first report of that request, nanoseconds.
  [[nodiscard]] monitor::Histogram& latency_ns() noexcept { return latency_ns_; }

 private:
  static constexpr std::uint32_t kStampCount = 1U << 16;
  static constexpr std::uint32_t kEventCount = 256;
  static constexpr std::uint32_t kIdlePollsPerLook = 64;  ///< at the clock; the check is due by it
  // The link is checked at most so often in a heartbeat interval of the gateway's.
  static constexpr std::uint64_t kSendChecksPerInterval = 2;
  static constexpr std::uint64_t kIdleChecksPerInterval = 64;  ///< polls that find nothing
  /// Where puts are costly, positions of reports go back once in so many heartbeat intervals.
  static constexpr std::uint64_t kIntervalsPerLine = 8;

  template <class Block>
  RDMAORDER_ALWAYS_INLINE Status try_message(wire::TemplateId id, const Block& block,
                                             ring::Lane lane, std::uint64_t* sequence) noexcept {
    const auto header = std::bit_cast<std::uint64_t>(wire::header_of(id));
    if (RDMAORDER_UNLIKELY(slot_bytes_ != wire::kSlotBytesDefault)) {
      wide_slot_[0] = header;
      wire::copy_block(block, &wide_slot_[1]);
      std::uint64_t sent = 0;  // *sequence itself may be in a register
      const Status status = try_send_slot(wide_slot_.data(), lane, &sent);
      if (ok(status)) *sequence = sent;
      return status;
    }
    const std::uint64_t now = ticks();
    Status status = admit(lane, now);
    if (RDMAORDER_UNLIKELY(!ok(status))) return status;
    // Composed behind every call: in registers, from the caller's block to the ring.
    std::uint64_t words[wire::kSlotBytesDefault / 8 - 1];
    words[0] = header;
    wire::copy_block(block, &words[1]);
    status = link_.put_line(words);
    if (RDMAORDER_UNLIKELY(!ok(status))) return send_failed(status);
    *sequence = note_sent(now);
    return Status::kOk;
  }

  /// kOk: a message may go now.
  RDMAORDER_ALWAYS_INLINE Status admit(ring::Lane lane, std::uint64_t now) noexcept {
    if (RDMAORDER_UNLIKELY(now - last_check_ticks_ > interval_ticks_ / kSendChecksPerInterval)) {
      check_link_at(now);
    }
    if (RDMAORDER_UNLIKELY(!ok(gate_)) && !urgent_passes(lane)) {
      ++counts_.refused;
      return gate_;
    }
    const Status status = link_.claim(lane);
    return RDMAORDER_LIKELY(ok(status)) ? status : send_failed(status);
  }
  /// The message is in the ring. Returns its sequence.
  RDMAORDER_ALWAYS_INLINE std::uint64_t note_sent(std::uint64_t now) noexcept {
    const std::uint64_t sequence = link_.writer().next_sequence() - 1;
    stamps_[sequence & (kStampCount - 1)] = now;
    return sequence;
  }
  /// Cancels pass a halted or throttled gateway; nothing passes a link that is not LIVE.
  [[nodiscard]] bool urgent_passes(ring::Lane lane) const noexcept {
    return lane == ring::Lane::kUrgent && (gate_ == Status::kHalted || gate_ == Status::kThrottled);
  }
  Status send_failed(Status status) noexcept;
  bool accept_message(AliasingWord* slot_words, std::uint64_t sequence,
                      std::uint64_t* now) noexcept;
  void after_poll(std::uint32_t delivered, Status status) noexcept;
  void check_link_at(std::uint64_t now) noexcept;
  [[nodiscard]] std::int64_t line_age_ns() const noexcept;
  [[nodiscard]] bool sees_another_beat(std::uint64_t* now) noexcept;
  void judge_heartbeat(std::uint64_t now, std::uint64_t since_last_check) noexcept;
  void ask_socket() noexcept;
  void fail(LinkState state, const std::string& cause) noexcept;
  [[nodiscard]] std::unique_ptr<transport::Transport> watched(
      std::unique_ptr<transport::Transport> transport);
  void resend(std::vector<std::uint64_t> slots) noexcept;
  [[nodiscard]] bool is_answered(std::uint64_t sequence) const noexcept;
  [[nodiscard]] control::Connection& connection();
  bool end(std::uint64_t timeout_ns) noexcept;
  void end_link() noexcept;
  void begin_link(control::Established established,
                  std::unique_ptr<transport::Transport> transport);
  void tell_handshake() noexcept;
  void tell(SessionEventKind kind, Reason reason = Reason::kNone, std::uint64_t from_sequence = 0,
            std::uint64_t count = 0) noexcept;
  void tell_peer_state(PeerState state) noexcept;
  void push_event(const wire::SessionEvent& event) noexcept;
  void update_gate() noexcept;
  void publish() noexcept;
  void start_clocks() noexcept;
  void enlist();
  void delist() noexcept;
  void become_foreign() noexcept;
  friend struct SessionRegistry;

  // hot
  std::uint32_t slot_bytes_;
  Status gate_ = Status::kOk;
  std::uint64_t last_check_ticks_ = 0;
  std::uint64_t last_line_ticks_ = 0;  ///< of the last line that check_link_at put
  std::uint64_t interval_ticks_ = 0;   ///< of the gateway's heartbeat
  std::uint32_t idle_polls_ = 0;
  LinkState state_ = LinkState::kLive;
  SessionCounts counts_;  ///< `sent`: over earlier links; of this one the sequences tell
  std::vector<std::uint64_t> stamps_;  ///< TSC of the send by sequence, 0 when answered

  // cold
  SessionConfig config_;
  control::Established established_;
  KeepingTransport* kept_ = nullptr;  ///< the link's transport where resend_on_gap asks for it
  Link link_;
  const TickRate& rate_;
  std::vector<std::uint64_t> wide_slot_;     ///< sends in slots over 64 bytes; tail stays zero
  std::vector<std::uint64_t> wide_inbound_;  ///< reports in slots over 64 bytes
  std::uint64_t heartbeat_ = 0;              ///< own, told to the gateway
  std::uint64_t peer_heartbeat_ = 0;
  std::int64_t clock_offset_ns_ = 0;  ///< this CLOCK_REALTIME minus the gateway's, as last learnt
  std::uint64_t suspect_after_ticks_ = 0;
  std::uint64_t dead_after_ticks_ = 0;
  std::uint64_t last_alive_ticks_ = 0;
  std::uint64_t torn_since_ticks_ = 0;
  std::vector<wire::SessionEvent> events_;
  std::size_t event_head_ = 0;
  std::size_t event_count_ = 0;
  std::uint64_t first_sequence_;  ///< of this object's messages
  PeerState told_peer_state_ = PeerState::kOpen;
  std::uint64_t told_not_applied_end_ = 0;  ///< behind the last order told as not applied
  std::uint64_t throttled_since_ns_ = 0;    ///< the gateway's clock; 0: not, or its end was told
  std::string cause_;
  std::string foreign_cause_;  ///< made beforehand: a forked child may be short of anything
  bool foreign_ = false;       ///< inherited by a fork
  bool closed_here_ = false;
  monitor::Histogram latency_ns_;
};

}  // namespace rdmaorder
