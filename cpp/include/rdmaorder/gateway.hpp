// Gateway side: one receiver thread polls the order rings of many sessions, verifies, guards,
// journals, hands on and answers.
//
// Threads: the receiver (start/stop, or run_pass for programs that bring their own loop) owns every
// link and all per-order state. Control threads call open_session, attach and detach, which hand
// their work to the receiver between two passes and wait for it. Where no receiver thread runs, a
// call does its work itself: a program that calls run_pass makes every other call from that thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rdmaorder/clock.hpp"
#include "rdmaorder/handler.hpp"
#include "rdmaorder/journal.hpp"
#include "rdmaorder/link.hpp"
#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/monitor.hpp"
#include "rdmaorder/order_fate.hpp"
#include "rdmaorder/recovery.hpp"

namespace rdmaorder {

/// Checks each order needs to pass before journal and handler.
struct GuardConfig {
  /// Inclusive ranges of accepted instrument ids; empty: every id. Ids up to kInstrumentIdMax.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> instruments;
  std::int64_t max_quantity = INT64_MAX;
  static constexpr std::uint32_t kInstrumentIdMax = (1U << 24) - 1;
};

/// Rate limit of each session, for new orders and replaces; cancels are never throttled. Where it
/// is not set it costs nothing.
struct ThrottleConfig {
  std::uint64_t orders_per_s = 0;  ///< 0: no limit
  std::uint64_t burst_count = 1;   ///< orders taken at once after a pause
  /// So many orders refused (kThrottled) within a second end the session's link; 0: never.
  std::uint64_t disconnect_count = 0;
};

/// What the receiver does in passes that found nothing.
enum class IdleStrategy : std::uint8_t {
  kSpin,     ///< never leaves the core: lowest latency, one core per gateway
  kYield,    ///< spins 50 us, then sched_yield
  kBackoff,  ///< spins 50 us, yields for 1 ms, then sleeps 50 us at a time: shared machines
};

struct GatewayConfig {
  std::uint32_t max_session_count = 1024;
  std::uint32_t max_ring_slot_count = 1U << 16;  ///< larger requests are granted this
  std::uint32_t cancel_reserve_count = 16;
  std::uint32_t batch_limit_count = 64;          ///< orders taken from one session in one go
  std::uint32_t backlog_limit_count = 1U << 16;  ///< reports waiting for a slow strategy
  std::uint64_t heartbeat_interval_ns = 1'000'000;
  std::uint64_t torn_timeout_ns = 100'000'000;  ///< a slot torn for this long ends its link
  memory::HugePages huge_pages = memory::HugePages::kTry;
  IdleStrategy idle = IdleStrategy::kSpin;
  int cpu = -1;               ///< pin the receiver thread; -1: do not
  std::string counters_path;  ///< empty: not shared
  GuardConfig guard;
  ThrottleConfig throttle;
};

/// What a session asks for at Negotiate.
struct SessionRequest {
  std::string name;
  std::uint32_t slot_bytes = wire::kSlotBytesDefault;
  std::uint32_t order_slot_count = 256;
  std::uint32_t report_slot_count = 1024;
  std::uint16_t schema_id = wire::kSchemaId;
  std::uint16_t schema_version = wire::kSchemaVersion;
};

struct SessionGrant {
  std::uint32_t session_index = 0;
  bool live = false;  ///< another link is established now
  std::uint64_t next_order_sequence = 1;
  std::uint64_t next_report_sequence = 1;
  /// First report that no earlier link is known to have delivered.
  std::uint64_t undelivered_report_sequence = 1;
  std::uint32_t order_slot_count = 0;
  std::uint32_t report_slot_count = 0;
};

struct AttachRequest {
  std::uint32_t session_index = 0;
  /// Sequence the strategy says it writes next; 0: take up where the gateway stands.
  std::uint64_t next_order_sequence = 0;
  /// First report it wants; those before the gateway's next are replayed from the journal, marked
  /// kFlagPossResend. 0: only what comes. Above the gateway's next: the gateway goes there.
  std::uint64_t next_report_sequence = 0;
  ring::Geometry report_geometry;
  std::unique_ptr<transport::Transport> transport;  ///< into the strategy's window, or empty and:
  /// Makes it once the order window exists (verbs registers that memory first).
  std::function<std::unique_ptr<transport::Transport>(const memory::Window& order_window)> connect;
  /// Nothing is written and nothing read before activate(): the strategy is not ready yet.
  bool hold = false;
};

struct AttachResult {
  std::uint64_t epoch = 0;
  const memory::Window* order_window = nullptr;  ///< the session's; gone once the link is ended
  std::uint64_t order_window_bytes = 0;
  /// Of that window, the caller's own: the link may be ended (kill) before anybody looks at this,
  /// and then the number of the session's descriptor may be another file's.
  memory::UniqueFd order_window_fd;
  ring::Geometry order_geometry;
  std::uint64_t next_order_sequence = 1;
  std::uint64_t next_report_sequence = 1;
  std::uint64_t not_applied_count = 0;  ///< sequences the strategy wrote that never arrived
};

struct DetachResult {
  std::uint64_t last_order_sequence = 0;
  std::uint64_t last_report_sequence = 0;
};

struct SessionView {
  std::string name;
  std::uint32_t session_index = 0;
  bool live = false;
  bool killed = false;
  std::uint64_t epoch = 0;
  std::uint64_t next_order_sequence = 1;
  std::uint64_t next_report_sequence = 1;
  std::uint64_t rejected_count = 0;
  std::uint64_t backlog_count = 0;
  std::string failure;  ///< why the last link ended by itself, empty if it did not
};

struct KillResult {
  std::uint32_t session_index = 0;
  std::string name;  ///< of the session
  std::uint64_t canceled_count = 0;
  std::uint64_t fence_ns = 0;  ///< from the request to the moment the old link can write no more
  std::uint64_t epoch = 0;     ///< of that link, live or held; 0: there was none
  /// On stable storage. False: without a journal, or one that cannot write, a gateway started again
  /// knows nothing of the kill.
  bool recorded = false;
  std::string refusal;  ///< why this session was not killed, empty if it was
};

/// Where an order was at which tick of the gateway's cycle counter, for measuring. 0: it did not
/// get there. One row of eight words.
struct OrderStamps {
  std::uint64_t sequence = 0;
  std::uint64_t seen = 0;        ///< its commit word was noticed
  std::uint64_t verified = 0;    ///< copied, CRC right
  std::uint64_t guarded = 0;     ///< admitted or refused
  std::uint64_t journalled = 0;  ///< in the journal; without one right after guarded
  std::uint64_t handled = 0;     ///< the handler answers
  std::uint64_t reported = 0;    ///< the report is journalled and put
  std::uint64_t reserved = 0;
};
static_assert(sizeof(OrderStamps) == 64);

/// Thread-safe where the methods say so.
class Gateway {
 public:
  /// `journal_writer` may be null: nothing is kept, nothing survives. `recovered`, `all_killed`:
  /// what that journal knew. Requests in it that have no answer get theirs here: refused ones their
  /// refusal, the others are handed to Handler::recover. Throws Error.
  Gateway(GatewayConfig config, std::unique_ptr<Handler> handler,
          std::unique_ptr<journal::Writer> journal_writer,
          const std::vector<RecoveredSession>& recovered = {}, bool all_killed = false);
  ~Gateway();
  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;

  // --- control threads
  // -----------------------------------------------------------------------------
  /// Makes or finds the session. Throws Error(kRefused) with code BadRequest, TooManySessions,
  /// Draining or Unspecified (the journal cannot take a new one).
  SessionGrant open_session(const SessionRequest& request);
  /// Establishes a link. Throws Error(kRefused) with code AlreadyEstablished, BadWindow, Draining,
  /// BadRequest (sequences above 2^62 that are not the session's own), SessionBlocked (killed, be
  /// it while the link is being made) or TooSlow (reports came faster than that).
  AttachResult attach(AttachRequest request);
  /// Begins a held link; `data_in_order`: what the strategy's device says of the order in which the
  /// bytes of a WRITE become visible there. False when there is none of that epoch (any more).
  bool activate(std::uint32_t session_index, std::uint64_t epoch, bool data_in_order = false);
  /// Ends the link of that epoch, held or live. `drain`: first takes every order already in its
  /// ring. A link that is gone already is no error.
  DetachResult detach(std::uint32_t session_index, std::uint64_t epoch, bool drain);
  /// What became of the orders [from, from + count) of a session, out of the journal; `count` at
  /// most kFatesMax. Throws Error(kRefused) without a journal or for an unknown session.
  std::vector<OrderFate> fates(std::uint32_t session_index, std::uint64_t from,
                               std::uint32_t count);
  /// The session's open orders and unanswered requests from sequence `from` on. Reads the journal
  /// from its beginning.
  std::vector<OrderFate> open_orders(std::uint32_t session_index, std::uint64_t from);
  static constexpr std::uint32_t kFatesMax = 1000;

  /// Cancels live orders of a session: the handler is given a MassCancel with sequence 0 that no
  /// strategy sent. Its reports say `why` in place of kMassCancel; the strategy gets them (on its
  /// next link, if it has none) and an event kCanceled. Returns how many orders were cancelled.
  std::uint64_t cancel_orders(std::uint32_t session_index, const wire::MassCancel& scope,
                              Reason why);
  /// Cancels every order of a session that has had no link for `gone_for_ns`. Nothing happens
  /// (nullopt) where it has one or one is being made, whatever was known when this was asked for.
  std::optional<std::uint64_t> cancel_gone(std::uint32_t session_index, std::uint64_t gone_for_ns,
                                           Reason why);
  /// Kill switch: the session's link is fenced at once, links are refused from now on, its orders
  /// are cancelled with kKill. Journalled: a gateway started again keeps links out and cancels what
  /// is left, until the release. Idempotent.
  KillResult kill(std::uint32_t session_index);
  /// The same for several, one result each: all are out of the receiver's loop in one turn of it,
  /// then fenced, then one sync of the journal serves them all, then orders are cancelled. Those
  /// that cannot be killed (`refusal`) keep none of the others alive. `since_ns` (monotonic): when
  /// the request came.
  std::vector<KillResult> kill(std::span<const std::uint32_t> session_indices,
                               std::uint64_t since_ns = monotonic_ns());
  /// The same for every session, those that come later included: of whatever name, they have no
  /// link until they are released, or all are.
  std::vector<KillResult> kill_all(std::uint64_t since_ns = monotonic_ns());
  /// Links of these are allowed again, of none when one does not exist. One sync of the journal for
  /// all. False: that is not on stable storage (KillResult::recorded).
  bool release(std::span<const std::uint32_t> session_indices);
  bool release(std::uint32_t session_index) { return release(std::span(&session_index, 1)); }
  /// The same of every session, those that come later included.
  bool release_all();
  /// Sessions now, any thread.
  std::vector<SessionView> sessions();
  /// Refuses new orders (cancels pass) until resumed. Any thread.
  void halt(Reason reason);
  void resume();

  /// Stamps every order into rows[sequence mod rows.size()] from start() on; a power of two, kept
  /// by the caller until stop(). Meant for one session. Costs six readings of the clock an order; a
  /// gateway without pays nothing. Before start().
  void stamp_orders(std::span<OrderStamps> rows);

  void start();
  /// First half of a shutdown: refuses new sessions and links, tells the strategies "closing" and
  /// waits until they have looked (4 heartbeats). What they wrote before is still taken.
  /// Idempotent.
  void announce_closing();
  /// Takes what is in the rings, ends the receiver thread, syncs and closes the journal: another
  /// gateway may open its directory when this returns. Idempotent.
  void stop();

  /// One small batch for each session whose reports are being replayed; true while there is more
  /// to do. A thread of the gateway does this once started; a program that calls run_pass itself
  /// calls this too, from that thread.
  bool replay_pass();

  // --- the receiver's thread
  // -------------------------------------------------------------------------
  /// One look at every session. True when an order was taken. Only while no thread runs (start).
  bool run_pass() noexcept;

  [[nodiscard]] const GatewayConfig& config() const noexcept { return config_; }
  [[nodiscard]] monitor::CountersFile& counters() noexcept;
  [[nodiscard]] journal::Writer* journal_writer() noexcept;

 private:
  class Receiver;
  class Replay;
  std::vector<KillResult> kill_chosen(std::optional<std::span<const std::uint32_t>> chosen,
                                      std::uint64_t since_ns);
  std::uint64_t fence(std::uint32_t session_index, std::unique_ptr<Link> link,
                      memory::Window window, std::uint64_t since_ns);
  GatewayConfig config_;
  std::unique_ptr<Receiver> receiver_;
  std::unique_ptr<Replay> replay_;
  /// Receiver::call; throws Error(kRefused) with code Draining once the gateway says "closing".
  void call_unless_draining(const std::function<void()>& command);
  std::mutex mutex_;  ///< of the two below; held for single turns of the receiver only
  bool draining_ = false;
  bool stopped_ = false;
};

}  // namespace rdmaorder
