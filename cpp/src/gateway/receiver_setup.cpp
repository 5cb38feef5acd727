// The receiver's slow side: its thread, commands from control threads, sessions and links coming
// and going, heartbeats and housekeeping.
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <exception>

#include "base/start_thread.hpp"
#include "gateway/receiver.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder {
namespace {

constexpr std::uint32_t kProcessCounterCount = 32;
constexpr std::uint32_t kSessionCounterCount = 4;

void pin_this_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

}  // namespace

Gateway::Receiver::Receiver(const GatewayConfig& config, std::unique_ptr<Handler> handler,
                            std::unique_ptr<journal::Writer> journal_writer,
                            const std::vector<RecoveredSession>& recovered, bool all_killed)
    : orders_(config.batch_limit_count),
      reasons_(config.batch_limit_count),
      all_killed_(all_killed),
      guard_(config.guard),
      handler_(std::move(handler)),
      journal_(std::move(journal_writer)),
      config_(config),
      rate_(TickRate::get()),
      counters_file_(monitor::CountersFile::create(
          config.counters_path, "gateway",
          kProcessCounterCount + kSessionCounterCount * config.max_session_count)) {
  restricted_ = config.throttle.orders_per_s != 0;
  if (journal_ != nullptr) synced_position_ = journal_->last_position();
  sync_each_batch_ = journal_ != nullptr && journal_->sync_policy() == journal::SyncPolicy::kBatch;
  const auto make = [this](const char* name) { return counters_file_->make(name); };
  counters_ = {make("passes"),
               make("idle_passes"),
               make("heartbeat"),
               make("orders_applied"),
               make("orders_rejected"),
               make("reports_sent"),
               make("reports_backlogged"),
               make("reports_undelivered"),
               make("slots_torn"),
               make("slots_stale"),
               make("slots_repeated"),
               make("slots_garbage"),
               make("links_attached"),
               make("links_detached"),
               make("links_failed"),
               make("journal_records"),
               make("journal_errors"),
               make("unjournalled"),
               make("max_window_ns"),
               make("stalls"),
               make("orders_in_doubt"),
               make("reports_replayed"),
               make("last_fence_ns"),
               make("max_fence_ns")};
  // Everything the loop pushes to is reserved here, so that it never allocates.
  watches_.reserve(config.max_session_count);
  watched_.reserve(config.max_session_count);
  dirty_.reserve(config.max_session_count);
  backlogged_.reserve(config.max_session_count);
  sessions_.reserve(config.max_session_count);
  for (const RecoveredSession& session : recovered) add_recovered(session);
  answer_recovered(recovered);
}

// Requests that an earlier run took and did not live to answer.
void Gateway::Receiver::answer_recovered(const std::vector<RecoveredSession>& recovered) {
  std::vector<UnansweredRequest> unanswered;
  for (const RecoveredSession& session : recovered) {
    unanswered.insert(unanswered.end(), session.unanswered.begin(), session.unanswered.end());
  }
  std::sort(unanswered.begin(), unanswered.end(),
            [](const auto& a, const auto& b) { return a.position < b.position; });
  std::vector<wire::OrderRecord> in_doubt;
  for (UnansweredRequest& request : unanswered) {
    // A sync failed behind it: the strategy was told so, and the handler never saw it.
    if (request.refusal == Reason::kNone && !wire::is_cancel(request.order.template_id) &&
        journal_ != nullptr && journal_->is_noted_refused(request.position)) {
      request.refusal = Reason::kJournalUnavailable;
    }
    if (request.refusal != Reason::kNone) {
      reject(request.order, request.refusal);
      continue;
    }
    // Every order message has its flags in the last byte of the block.
    request.order.new_order.flags |= kFlagPossResend;
    in_doubt.push_back(request.order);
  }
  counters_.orders_in_doubt.add(in_doubt.size());
  if (!recovered.empty()) handler_->recover(in_doubt, *this);
  // The run before may have died amid the cancels of a kill, and orders that were in doubt are live
  // only now.
  for (const auto& session : sessions_) {
    if (session->killed) (void)cancel_orders(*session, gateway::every_order(), Reason::kKill);
  }
}

void Gateway::Receiver::add_recovered(const RecoveredSession& recovered) {
  if (recovered.session_index != sessions_.size() ||
      sessions_.size() == config_.max_session_count) {
    throw Error(ErrorKind::kJournal,
                "the journal names session " + recovered.name + " with index " +
                    std::to_string(recovered.session_index) + ", expected " +
                    std::to_string(sessions_.size()) + " of at most " +
                    std::to_string(config_.max_session_count) + "; raise max_sessions");
  }
  SessionRequest request;
  request.name = recovered.name;
  if (recovered.schema_id != 0) request.schema_id = recovered.schema_id;
  GatewaySession& session = add_session(request, recovered.session_index);
  session.linked = recovered.schema_id != 0;
  session.next_order_sequence = recovered.next_order_sequence;
  session.next_report_sequence = recovered.next_report_sequence;
  if (journal_ != nullptr) {  // numbers of reports that the run before could make no record of
    session.next_report_sequence =
        std::max(session.next_report_sequence, journal_->noted_reports(session.index));
  }
  // What recovery read is on disk: the journal synced it when it was opened.
  session.checkpoint_sequence = session.durable_sequence = session.journal_sequence =
      recovered.next_order_sequence - 1;
  session.undelivered_report = recovered.first_undelivered_report;
  session.killed = recovered.killed;
  session.marks = recovered.marks;
}

GatewaySession& Gateway::Receiver::add_session(const SessionRequest& request, std::uint32_t index) {
  auto session = std::make_unique<GatewaySession>();
  session->request = session->asked = request;
  session->index = index;
  session->opaque = request.schema_id != wire::kSchemaId;
  session->killed = all_killed_;
  const std::string label = "{session=" + request.name + "}";
  // Long names do not fit a label: those sessions are counted in the totals alone.
  if (label.size() + sizeof "orders_rejected" <= monitor::kCounterLabelBytes) {
    session->applied_counter = counters_file_->make("orders_applied" + label);
    session->rejected_counter = counters_file_->make("orders_rejected" + label);
    session->reports_counter = counters_file_->make("reports_sent" + label);
    session->high_water_counter = counters_file_->make("ring_high_water" + label);
  }
  sessions_.push_back(std::move(session));
  return *sessions_.back();
}

GatewaySession& Gateway::Receiver::open_session(const SessionRequest& request) {
  const auto found = std::find_if(sessions_.begin(), sessions_.end(), [&](const auto& session) {
    return session->request.name == request.name;
  });
  if (found != sessions_.end()) {
    GatewaySession& session = **found;
    if (session.linked && request.schema_id != session.request.schema_id) {
      throw Error(ErrorKind::kRefused,
                  "session " + request.name + " has messages of schema " +
                      std::to_string(session.request.schema_id) + ", not " +
                      std::to_string(request.schema_id) + "; use another session for them",
                  0, "BadRequest");
    }
    if (session.link == nullptr && !session.attaching) session.asked = request;
    return session;
  }
  if (sessions_.size() == config_.max_session_count) {
    throw Error(ErrorKind::kRefused,
                "the gateway has its " + std::to_string(config_.max_session_count) +
                    " sessions already; raise max_sessions",
                0, "TooManySessions");
  }
  const auto index = static_cast<std::uint32_t>(sessions_.size());
  if (journal_ != nullptr &&
      !ok(journal_->append(journal::RecordKind::kSession, 0, index, 1, now_ns(),
                           request.name.data(), static_cast<std::uint32_t>(request.name.size())))) {
    throw Error(ErrorKind::kRefused,
                "the journal cannot take a new session: " + journal_->last_error(), 0,
                "Unspecified");
  }
  return add_session(request, index);
}

GatewaySession* Gateway::Receiver::find(std::uint32_t session_index) noexcept {
  return session_index < sessions_.size() ? sessions_[session_index].get() : nullptr;
}

bool Gateway::Receiver::install(GatewaySession& session) {
  if (session.killed) return false;
  if (!session.replaying &&
      session.pending.link->writer().next_sequence() + session.backlog.size() !=
          session.next_report_sequence) {
    return false;  // more reports came than the backlog takes: numbers would not match
  }
  if (session.asked.slot_bytes != session.request.slot_bytes) {
    for (auto& slot : session.backlog) {  // made for the slots of the link before
      slot.back() = 0;                    // its commit word; a slot has it at its end
      slot.resize(session.asked.slot_bytes / 8);
    }
  }
  session.request = session.asked;
  session.linked = true;
  session.opaque = session.request.schema_id != wire::kSchemaId;
  auto [link, next_order_sequence, not_applied_count, first_not_applied] =
      std::exchange(session.pending, GatewaySession::Pending{});
  session.next_order_sequence = next_order_sequence;
  session.untold = {first_not_applied, next_order_sequence};
  if (journal_ != nullptr) {
    if (not_applied_count != 0) {
      session.unrecorded.emplace_back(next_order_sequence - not_applied_count, not_applied_count);
      record_not_applied(session);
      if (!session.unrecorded.empty()) counters_.journal_errors.add();
    }
    const std::uint64_t payload[3] = {link->epoch(), next_order_sequence,
                                      link->writer().next_sequence()};
    if (!ok(journal_->append(journal::RecordKind::kLink, session.request.schema_id, session.index,
                             next_order_sequence, now_ns(), payload, sizeof payload))) {
      counters_.journal_errors.add();
    }
  }
  session.link = std::move(link);
  session.attaching = false;
  if (!session.backlog.empty()) backlogged_.push_back(&session);  // made while attaching
  session.queued = session.replaying || !session.backlog.empty();
  session.failure.clear();
  session.torn_since_ticks = 0;
  session.dirty = session.link->is_put_costly();  // never put on the list
  const ring::Reader& reader = session.link->reader();
  watches_.push_back({reader.commit_word_address(), reader.idle_word()});
  watched_.push_back(&session);
  counters_.links_attached.add();
  publish(session);
  return true;
}

void Gateway::Receiver::abandon(GatewaySession& session) noexcept {
  session.attaching = false;
  session.replaying = session.queued = false;
  session.pending = {};
  counters_.reports_undelivered.add(session.backlog.size());
  session.backlog.clear();  // all of it is in the journal
}

std::unique_ptr<Link> Gateway::Receiver::remove(GatewaySession& session, bool drain) noexcept {
  if (session.link == nullptr) return nullptr;
  const auto at = std::find(watched_.begin(), watched_.end(), &session);
  const auto index = static_cast<std::size_t>(at - watched_.begin());
  if (drain) drain_ring(index);
  (void)session.link->refresh_peer();
  // Whatever the strategy's line claims, it has no report that was never made.
  const std::uint64_t delivered =
      std::min(session.link->peer().applied, session.next_report_sequence - 1);
  session.undelivered_report = std::max(session.undelivered_report, delivered + 1);
  if (session.link->peer().state != PeerState{}) session.untold = {};  // it has written its line
  const ring::ReaderCounts& counts = session.link->reader().counts();
  counters_.slots_torn.add(counts.torn);
  counters_.slots_stale.add(counts.stale);
  counters_.slots_repeated.add(counts.repeated);
  counters_.slots_garbage.add(counts.garbage);
  publish(session);
  watched_.erase(at);
  watches_.erase(watches_.begin() + static_cast<std::ptrdiff_t>(index));
  if (index < beat_cursor_) --beat_cursor_;  // nobody's beat is skipped
  std::erase(dirty_, &session);
  std::erase(backlogged_, &session);
  session.dirty = session.replaying = session.queued = false;
  session.backlog.clear();  // all of it is in the journal
  session.previous_epoch = session.link->epoch();
  session.gone_since_ns = monotonic_ns();
  counters_.links_detached.add();
  return std::move(session.link);
}

void Gateway::Receiver::set_halted(bool halted, Reason reason) noexcept {
  halted_ = halted;
  restricted_ = halted || config_.throttle.orders_per_s != 0;
  halt_reason_ = !halted ? Reason::kNone : reason == Reason::kNone ? Reason::kHalted : reason;
  for (GatewaySession* session : watched_) publish(*session);
}

// One lap at most: a strategy that goes on writing does not hold the receiver.
void Gateway::Receiver::drain_ring(std::size_t watch_index) noexcept {
  const GatewaySession& session = *watched_[watch_index];
  const std::uint64_t end =
      session.next_order_sequence + session.link->reader().geometry().slot_count;
  while (session.failure.empty() && session.next_order_sequence < end && service(watch_index)) {
  }
}

void Gateway::Receiver::drain_all() noexcept {
  closing_ = true;
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    drain_ring(i);
    publish(*watched_[i]);
  }
  flush_backlogs();
}

bool Gateway::Receiver::replay_state(std::uint32_t session_index, std::uint64_t epoch,
                                     ReplayState* state) noexcept {
  GatewaySession* session = find(session_index);
  if (session == nullptr || !session->replaying) return false;
  if (session->link == nullptr) {  // not yet begun, or gone
    return session->pending.link != nullptr && session->pending.link->epoch() == epoch;
  }
  if (session->link->epoch() != epoch || !session->failure.empty()) return false;
  (void)session->link->refresh_credit(ring::Lane::kNormal);
  const ring::Writer& writer = session->link->writer();
  if (writer.next_sequence() == session->next_report_sequence) {
    session->replaying = session->queued = false;  // the next report goes straight to the ring
    return false;
  }
  *state = {writer.next_sequence(),
            session->next_report_sequence,
            writer.credit_count(ring::Lane::kNormal),
            session->request.slot_bytes,
            journal_->last_position(),
            session->marks.find(0, writer.next_sequence())};
  return true;
}

void Gateway::Receiver::replay_send(std::uint32_t session_index, std::uint64_t epoch,
                                    std::vector<std::uint64_t>& slots) noexcept {
  GatewaySession* session = find(session_index);
  if (session == nullptr || session->link == nullptr || session->link->epoch() != epoch ||
      !session->failure.empty()) {
    return;
  }
  const std::size_t slot_words = session->request.slot_bytes / 8;
  for (std::size_t i = 0; i + slot_words <= slots.size(); i += slot_words) {
    const Status status = session->link->send(ring::Lane::kNormal, &slots[i]);
    if (status == Status::kFull) return;  // read again: nothing was counted as sent
    if (!ok(status)) return send_failed(*session, status);
    counters_.reports_replayed.add();
  }
}

void Gateway::Receiver::replay_failed(std::uint32_t session_index, std::uint64_t epoch,
                                      const std::string& cause) noexcept {
  GatewaySession* session = find(session_index);
  if (session != nullptr && session->link != nullptr && session->link->epoch() == epoch) {
    fail(*session, cause);
  }
}

void Gateway::Receiver::beat() noexcept {
  for (std::uint32_t n = 0; n < kBeatsPerPass && beat_cursor_ < watched_.size(); ++n) {
    GatewaySession& session = *watched_[beat_cursor_++];
    publish(session);
    mark(session);
    if (RDMAORDER_UNLIKELY(!session.unrecorded.empty())) record_not_applied(session);
  }
  beating_ = beat_cursor_ < watched_.size();
}

void Gateway::Receiver::housekeep() noexcept {
  const std::uint64_t now = ticks();
  if (window_start_ticks_ != 0) {
    const std::uint64_t window_ns = rate_.to_ns(now - window_start_ticks_);
    counters_.max_window_ns.set_max(window_ns);
    if (window_ns > kStallNs) counters_.stalls.add();
  }
  window_start_ticks_ = now;
  counters_.passes.set(pass_count_);
  counters_.idle_passes.set(idle_passes_);
  if (now >= next_beat_ticks_) {
    next_beat_ticks_ = now + rate_.from_ns(config_.heartbeat_interval_ns);
    clock_.anchor();
    ++heartbeat_;
    beat_cursor_ = 0;
    beating_ = true;
    counters_.heartbeat.set(heartbeat_);
    if (journal_ != nullptr) counters_.journal_records.set(journal_->last_position());
    for (GatewaySession* session : watched_) {
      if (session->failure.empty() && !ok(session->link->transport().progress())) {
        send_failed(*session, Status::kTransport);
      }
      if (RDMAORDER_UNLIKELY(restricted_)) check_throttled(*session);
    }
  }
}

void Gateway::Receiver::idle(std::uint64_t idle_since_ticks) noexcept {
  if (config_.idle == IdleStrategy::kSpin) return;
  const std::uint64_t idle_ns = rate_.to_ns(ticks() - idle_since_ticks);
  if (idle_ns < 50'000) return;
  if (config_.idle == IdleStrategy::kYield || idle_ns < 1'000'000) {
    sched_yield();
    return;
  }
  const timespec nap{0, 50'000};
  nanosleep(&nap, nullptr);
  // A nap is not a stall, and heartbeats must not wait for the 64th pass of 50 us.
  window_start_ticks_ = 0;
  housekeep();
}

void Gateway::Receiver::run_thread() noexcept {
  pthread_setname_np(pthread_self(), "ro-receiver");
  if (config_.cpu >= 0) pin_this_thread(config_.cpu);
  if (stamps_.empty()) {
    run_passes<false>();
  } else {
    run_passes<true>();
  }
}

template <bool kStamped>
void Gateway::Receiver::run_passes() noexcept {
  std::uint64_t idle_since_ticks = ticks();
  bool idle_before = false;
  while (!stopping_.load(std::memory_order_acquire)) {
    if (kStamped ? run_pass_stamped() : run_pass()) {
      idle_before = false;
    } else {
      if (!idle_before) idle_since_ticks = ticks();
      idle_before = true;
      idle(idle_since_ticks);
    }
    // SYNC commands_: released by call() after it queued, acquired here (and by the mutex).
    if (RDMAORDER_UNLIKELY(command_pending_.load(std::memory_order_acquire))) run_commands();
  }
}

void Gateway::Receiver::run_commands() noexcept {
  std::vector<std::function<void()>> commands;
  {
    const std::lock_guard lock(command_mutex_);
    commands.swap(commands_);
    command_pending_.store(false, std::memory_order_relaxed);
  }
  now_ns_ = 0;
  for (const auto& command : commands) command();
  window_start_ticks_ = 0;
}

void Gateway::Receiver::call(const std::function<void()>& command) {
  std::mutex done_mutex;
  std::condition_variable done_signal;
  bool done = false;
  std::exception_ptr failure;
  {
    const std::unique_lock lock(command_mutex_);
    if (!running_) {
      now_ns_ = 0;
      command();
      return;
    }
    commands_.emplace_back([&] {
      try {
        command();
      } catch (...) {
        failure = std::current_exception();
      }
      const std::lock_guard done_lock(done_mutex);
      done = true;
      done_signal.notify_one();
    });
    command_pending_.store(true, std::memory_order_release);
  }
  std::unique_lock done_lock(done_mutex);
  done_signal.wait(done_lock, [&] { return done; });
  if (failure) std::rethrow_exception(failure);
}

void Gateway::Receiver::start() {
  const std::lock_guard lock(command_mutex_);
  if (running_) return;
  stopping_.store(false);
  thread_ = start_thread("the gateway's receiver thread", [this] { run_thread(); });
  running_ = true;
}

void Gateway::Receiver::stop() {
  {
    const std::lock_guard lock(command_mutex_);
    if (!running_) return;
  }
  stopping_.store(true, std::memory_order_release);
  thread_.join();
  {
    const std::lock_guard lock(command_mutex_);
    running_ = false;
  }
  run_commands();  // what was queued while the thread ended
}

}  // namespace rdmaorder
