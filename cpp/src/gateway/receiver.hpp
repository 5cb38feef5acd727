// The receiver: everything the gateway's one thread owns. Set-up in receiver_setup.cpp, the
// per-order path in receiver.cpp.
#pragma once

#include <deque>

#include "gateway/guard.hpp"
#include "gateway/inquiry.hpp"
#include "rdmaorder/gateway.hpp"

namespace rdmaorder {

namespace gateway {
/// The scope that names all orders of a session.
inline wire::MassCancel every_order() noexcept {
  wire::MassCancel all{};
  all.scope = MassCancelScope::kSession;
  return all;
}
}  // namespace gateway

/// One session as the receiver sees it. Lives as long as the gateway; `link` comes and goes.
struct GatewaySession {
  SessionRequest request;  ///< of the newest link, or of the first Negotiate
  SessionRequest asked;    ///< of the newest Negotiate, as granted; a link that begins makes it so
  std::uint32_t index = 0;
  bool linked = false;  ///< has had a link: its messages are of request.schema_id for good
  bool opaque = false;  ///< a schema of the user's own
  bool attaching = false;
  bool killed = false;  ///< no link until released
  /// Positions moved since the last status line, or the line is left to the heartbeat.
  bool dirty = false;
  /// Reports do not go straight to the ring: some wait in the backlog, or in the journal.
  bool queued = false;
  bool replaying = false;  ///< the journal holds what the ring has not yet; see replay.hpp
  std::uint64_t next_order_sequence = 1;
  std::uint64_t next_report_sequence = 1;

  /// A link made and not yet begun; `attaching` stays set until it is.
  struct Pending {
    std::unique_ptr<Link> link;
    std::uint64_t next_order_sequence = 1;
    std::uint64_t not_applied_count = 0;  ///< since the link before
    std::uint64_t first_not_applied = 0;  ///< that the strategy is told of; 0: there are none
  };
  /// Orders [first, end) were declared not applied in the answer to a strategy that may never have
  /// got it: the next answer says it again. Over with the first sign of life on the link.
  struct Untold {
    std::uint64_t first = 0;
    std::uint64_t end = 0;
  };

  memory::Window window;  ///< order ring; the strategy writes it
  Pending pending;
  Untold untold;
  std::unique_ptr<Link> link;
  std::uint64_t previous_epoch = 0;
  std::uint64_t gone_since_ns = 0;  ///< monotonic, when the last link ended; 0: none in this run
  std::uint64_t torn_since_ticks = 0;
  std::string failure;
  /// Orders never applied of which the full journal has no record yet: first sequence and count.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> unrecorded;
  /// Reports the ring had no room for, whole slots, oldest first. Grows only for a strategy that
  /// does not read; bounded by backlog_limit_count.
  std::deque<std::vector<std::uint64_t>> backlog;
  std::uint64_t undelivered_report = 1;  ///< first that no earlier link is known to have delivered
  JournalMarks marks;

  // Durable order sequence: everything up to checkpoint_sequence is durable once the journal
  // reaches checkpoint_position; then the next checkpoint is taken at the newest order it holds.
  std::uint64_t journal_position = 0;
  std::uint64_t journal_sequence = 0;
  std::uint64_t checkpoint_sequence = 0;
  std::uint64_t checkpoint_position = 0;
  std::uint64_t durable_sequence = 0;

  // Throttle. An order conforms when it comes no earlier than its due time less the burst. In time
  // of the tick counter: nobody sets that back.
  std::uint64_t due_ns = 0;
  bool throttled = false;  ///< the last one did not, and no heartbeat found room since
  std::uint64_t throttled_since_ns = 0;  ///< begin of the second in which those were counted:
  std::uint64_t throttled_count = 0;

  monitor::Counter applied_counter;
  monitor::Counter rejected_counter;
  monitor::Counter reports_counter;
  monitor::Counter high_water_counter;
};

class Gateway::Receiver final : public ReportSink {
 public:
  Receiver(const GatewayConfig& config, std::unique_ptr<Handler> handler,
           std::unique_ptr<journal::Writer> journal_writer,
           const std::vector<RecoveredSession>& recovered, bool all_killed);

  void start();
  void stop();
  bool run_pass() noexcept;
  /// Before start().
  void stamp_orders(std::span<OrderStamps> rows) noexcept { stamps_ = rows; }

  /// Runs `command` in the receiver's thread between two passes and waits for it; inline while no
  /// thread runs. Exceptions come back to the caller.
  void call(const std::function<void()>& command);

  // Commands: only inside call().
  GatewaySession& open_session(const SessionRequest& request);
  [[nodiscard]] GatewaySession* find(std::uint32_t session_index) noexcept;
  [[nodiscard]] const std::vector<std::unique_ptr<GatewaySession>>& sessions() const noexcept {
    return sessions_;
  }
  /// Begins the pending link. False: reports that came meanwhile did not all fit the backlog, or
  /// the session is killed.
  [[nodiscard]] bool install(GatewaySession& session);
  /// The link that was being made will not come.
  void abandon(GatewaySession& session) noexcept;
  /// Takes the link out of the loop and returns it, for destruction outside the receiver's thread.
  std::unique_ptr<Link> remove(GatewaySession& session, bool drain) noexcept;
  void set_halted(bool halted, Reason reason) noexcept;
  /// Any thread. Throws Error(kRefused).
  gateway::Inquiry inquire(std::uint32_t session_index, std::uint64_t from);
  std::uint64_t cancel_orders(GatewaySession& session, const wire::MassCancel& scope,
                              Reason why) noexcept;
  [[nodiscard]] bool record_kill(const GatewaySession& session) noexcept;
  /// Kills every session, those to come too, or releases them. False: that is not recorded.
  [[nodiscard]] bool set_all_killed(bool killed) noexcept;
  /// A session event, journalled and sent like a report.
  void tell(GatewaySession& session, SessionEventKind kind, Reason reason,
            std::uint64_t count) noexcept;
  void count_fence(std::uint32_t session_index, std::uint64_t fence_ns) noexcept;
  /// What a replay needs to know, and whether it is still wanted: false once the link of `epoch` is
  /// gone or has everything, and then it is over.
  struct ReplayState {
    std::uint64_t next = 0;  ///< report sequence that the ring takes next
    std::uint64_t end = 0;   ///< behind the last report made
    std::uint32_t credit_count = 0;
    std::uint32_t slot_bytes = 0;
    std::uint64_t last_position = 0;  ///< of the journal
    journal::Location begin;          ///< where to read from when reading begins
  };
  bool replay_state(std::uint32_t session_index, std::uint64_t epoch, ReplayState* state) noexcept;
  /// Whole slots, the next reports in order.
  void replay_send(std::uint32_t session_index, std::uint64_t epoch,
                   std::vector<std::uint64_t>& slots) noexcept;
  void replay_failed(std::uint32_t session_index, std::uint64_t epoch,
                     const std::string& cause) noexcept;
  /// Takes every order that is in the rings now and tells each strategy "closing".
  void drain_all() noexcept;

  Status send(std::uint32_t session_index, std::uint64_t order_sequence,
              const wire::ExecutionReport& report) noexcept override;
  Status send_message(std::uint32_t session_index,
                      std::span<const std::byte> message) noexcept override;

  [[nodiscard]] monitor::CountersFile& counters() noexcept { return *counters_file_; }
  [[nodiscard]] journal::Writer* journal_writer() noexcept { return journal_.get(); }

 private:
  /// What the dense scan reads: 16 bytes a session, four to a cache line.
  struct Watch {
    const std::uint64_t* commit_word_address;
    std::uint64_t idle_word;
  };

  struct Counters {
    monitor::Counter passes, idle_passes, heartbeat, orders_applied, orders_rejected, reports_sent,
        reports_backlogged, reports_undelivered, slots_torn, slots_stale, slots_repeated,
        slots_garbage, links_attached, links_detached, links_failed, journal_records,
        journal_errors, unjournalled, max_window_ns, stalls, orders_in_doubt, reports_replayed,
        last_fence_ns, max_fence_ns;
  };

  static constexpr std::uint64_t kNeverChanges = 0;  ///< what the watch of a failed link looks at
  static constexpr std::uint64_t kBusyPassesPerPublish = 64;
  static constexpr std::uint64_t kPassesPerHousekeeping = 64;
  static constexpr std::uint64_t kBusyPassesPerHousekeeping = 8;
  static_assert(kBusyPassesPerPublish % kBusyPassesPerHousekeeping == 0);
  static constexpr std::uint64_t kStallNs = 1'000'000;
  static constexpr std::uint32_t kBeatsPerPass = 4;

  void add_recovered(const RecoveredSession& recovered);
  void answer_recovered(const std::vector<RecoveredSession>& recovered);
  GatewaySession& add_session(const SessionRequest& request, std::uint32_t index);
  void run_thread() noexcept;
  void run_commands() noexcept;
  void idle(std::uint64_t idle_since_ticks) noexcept;

  bool service(std::size_t watch_index) noexcept;
  // The same inline, for the scan. `kStamped`: code of its own that fills stamps_, so that the
  // usual one does not even ask.
  template <bool kStamped>
  bool service_watch(std::size_t watch_index) noexcept;
  template <bool kStamped>
  bool pass() noexcept;
  bool run_pass_stamped() noexcept;
  template <bool kStamped>
  void run_passes() noexcept;
  void hand_on_stamped(std::uint32_t taken) noexcept;
  [[nodiscard]] OrderStamps& stamps_of(std::uint64_t sequence) noexcept {
    return stamps_[sequence & (stamps_.size() - 1)];
  }
  class StampingSink;
  bool service_opaque(std::size_t watch_index) noexcept;
  void count_taken(GatewaySession& session, std::uint32_t taken) noexcept;
  void nothing_taken(GatewaySession& session, Status status) noexcept;
  void owe_line(GatewaySession& session) noexcept;
  template <bool kNarrow, bool kStamped>
  std::uint32_t take_orders(GatewaySession& session, Status* status) noexcept;
  template <bool kStamped>
  std::uint32_t take_wide_orders(GatewaySession& session, Status* status) noexcept;
  std::uint32_t take_opaque(GatewaySession& session, Status* status) noexcept;
  Reason admit(GatewaySession& session, std::uint64_t header_word,
               const wire::OrderRecord& order) noexcept;
  Reason restriction(GatewaySession& session) noexcept;
  [[nodiscard]] bool conforms(const GatewaySession& session) noexcept;
  void check_throttled(GatewaySession& session) noexcept;
  template <bool kNarrow>
  bool journal_order(GatewaySession& session, const AliasingWord* slot_words,
                     std::uint64_t sequence, Reason reason) noexcept;
  void sync_orders(std::uint32_t count) noexcept;
  void dispatch_around_refused(std::uint32_t count) noexcept;
  void reject(const wire::OrderRecord& order, Reason reason) noexcept;
  Status send_slot(GatewaySession& session, std::uint64_t* slot_words,
                   std::uint32_t used_bytes) noexcept;
  void flush_backlogs() noexcept;
  void publish(GatewaySession& session) noexcept;
  void publish_dirty() noexcept;
  void drain_ring(std::size_t watch_index) noexcept;
  void housekeep() noexcept;
  void beat() noexcept;
  void trouble(GatewaySession& session, Status status) noexcept;
  void mark(GatewaySession& session) noexcept;
  void record_not_applied(GatewaySession& session) noexcept;
  [[nodiscard]] bool append_kill(std::uint32_t session_index, std::uint64_t sequence,
                                 bool killed) noexcept;
  void send_failed(GatewaySession& session, Status status) noexcept;
  void fail(GatewaySession& session, const std::string& cause) noexcept;
  void unwatch(const GatewaySession& session) noexcept;
  [[nodiscard]] std::uint64_t now_ns() noexcept {
    if (now_ns_ == 0) now_ns_ = clock_.now_ns();
    return now_ns_;
  }
  /// Since some moment before the process; not the time of day.
  [[nodiscard]] std::uint64_t ticks_ns() const noexcept { return rate_.to_ns(ticks()); }

  // hot
  std::vector<Watch> watches_;
  std::vector<GatewaySession*> watched_;  ///< same order as watches_
  std::vector<GatewaySession*> dirty_;
  std::vector<GatewaySession*> backlogged_;
  std::vector<wire::OrderRecord> orders_;
  std::vector<Reason> reasons_;
  std::uint32_t refused_count_ = 0;  ///< of reasons_, in the batch at hand
  bool sync_each_batch_ = false;
  std::uint64_t synced_position_ = 0;  ///< orders behind it are those of the batch at hand
  std::uint64_t pass_count_ = 0;
  std::uint64_t now_ns_ = 0;  ///< time of this pass, read when first needed
  bool restricted_ = false;   ///< halted, or there is a rate limit: orders are looked at closer
  bool halted_ = false;
  Reason halt_reason_ = Reason::kNone;
  bool closing_ = false;
  bool all_killed_ = false;  ///< a session that comes is killed
  std::span<OrderStamps> stamps_;
  bool beating_ = false;  ///< status lines of this heartbeat are still to be written
  gateway::Guard guard_;
  RealtimeClock clock_;
  std::unique_ptr<Handler> handler_;
  std::unique_ptr<journal::Writer> journal_;
  alignas(kCacheLineBytes) std::uint64_t wide_in_[wire::kSlotBytesMax / 8];
  alignas(kCacheLineBytes) std::uint64_t wide_out_[wire::kSlotBytesMax / 8];

  // housekeeping
  const GatewayConfig& config_;
  const TickRate& rate_;
  std::uint64_t heartbeat_ = 0;
  std::uint64_t next_beat_ticks_ = 0;
  std::size_t beat_cursor_ = 0;
  std::uint64_t window_start_ticks_ = 0;
  std::uint64_t idle_passes_ = 0;

  std::unique_ptr<monitor::CountersFile> counters_file_;
  Counters counters_;
  std::vector<std::unique_ptr<GatewaySession>> sessions_;  ///< by index

  // commands
  std::mutex command_mutex_;
  std::vector<std::function<void()>> commands_;
  std::atomic<bool> command_pending_{false};
  std::atomic<bool> stopping_{false};
  bool running_ = false;  ///< under command_mutex_
  std::thread thread_;
};

}  // namespace rdmaorder
