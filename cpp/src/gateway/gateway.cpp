#include "rdmaorder/gateway.hpp"

#include <fcntl.h>
#include <openssl/rand.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "gateway/fault_seams.hpp"
#include "gateway/receiver.hpp"
#include "gateway/refuse.hpp"
#include "gateway/replay.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/fault_point.hpp"
#include "rdmaorder/transport/verbs.hpp"

namespace rdmaorder {
namespace {

/// Ring offset in the order window: status line and ring on separate pages, and the rings of
/// different sessions on different L1 sets, which a scan over many sessions would otherwise share.
std::uint64_t coloured_ring_offset(std::uint32_t session_index) noexcept {
  return kPageBytes + std::uint64_t{session_index % 32} * kFalseSharingBytes;
}

/// Unguessable, so that no earlier or foreign writer can know it, and never 0.
std::uint64_t random_epoch() {
  std::uint64_t epoch = 0;
  while (epoch == 0) {
    if (RAND_bytes(reinterpret_cast<unsigned char*>(&epoch), sizeof epoch) != 1) {
      throw Error(ErrorKind::kSystem, "no random bytes for an epoch (OpenSSL RAND_bytes failed)");
    }
  }
  return epoch;
}

using gateway::refuse;

void refuse_killed(const GatewaySession& session) {
  if (!session.killed) return;
  refuse("SessionBlocked",
         "session " + session.request.name + " was killed; an operator has to release it");
}

/// Where a link may begin at most: there are as many sequences again behind it.
constexpr std::uint64_t kLinkSequenceMax = 1ULL << 62;

/// `next`: what the gateway counts next itself.
void check_sequence(const char* kind, std::uint64_t asked, std::uint64_t next) {
  if (asked <= std::max(kLinkSequenceMax, next)) return;
  refuse("BadRequest", std::string("a link cannot begin with ") + kind + " " +
                           std::to_string(asked) + "; the last one it can is " +
                           std::to_string(kLinkSequenceMax) + ", the gateway's own next is " +
                           std::to_string(next) + " (ask for 0 to take that)");
}

std::uint32_t granted_slot_count(std::uint32_t asked, std::uint32_t most) {
  return std::bit_ceil(std::clamp(asked, ring::kSlotCountMin, most));
}

void check(const GatewayConfig& config) {
  const auto fail = [](const std::string& text) { throw Error(ErrorKind::kConfig, text); };
  if (config.max_session_count == 0) fail("max_sessions must be at least 1");
  if (config.batch_limit_count == 0) fail("the batch limit must be at least 1");
  if (config.heartbeat_interval_ns < 10'000) {
    fail("heartbeat interval " + std::to_string(config.heartbeat_interval_ns) +
         " ns is below 10000 ns");
  }
  if (!std::has_single_bit(config.max_ring_slot_count) ||
      config.max_ring_slot_count < ring::kSlotCountMin ||
      config.max_ring_slot_count > ring::kSlotCountMax) {
    fail("the largest ring must be a power of two from 8 to 1048576 slots, not " +
         std::to_string(config.max_ring_slot_count));
  }
  const ThrottleConfig& throttle = config.throttle;
  if (throttle.orders_per_s > 1'000'000'000 || throttle.burst_count == 0 ||
      throttle.burst_count > 1'000'000'000) {
    fail("a throttle takes 1 to 1000000000 orders a second, with a burst of as many at most, not " +
         std::to_string(throttle.orders_per_s) + " with " + std::to_string(throttle.burst_count));
  }
  if (config.cpu >= static_cast<int>(std::thread::hardware_concurrency())) {
    fail("cpu " + std::to_string(config.cpu) + " does not exist; this machine has " +
         std::to_string(std::thread::hardware_concurrency()));
  }
}

}  // namespace

Gateway::Gateway(GatewayConfig config, std::unique_ptr<Handler> handler,
                 std::unique_ptr<journal::Writer> journal_writer,
                 const std::vector<RecoveredSession>& recovered, bool all_killed)
    : config_(std::move(config)) {
  check(config_);
  if (fault::armed()) {
    handler = gateway::with_fault_points(std::move(handler));
    journal_writer = gateway::with_fault_points(std::move(journal_writer));
  }
  receiver_ = std::make_unique<Receiver>(config_, std::move(handler), std::move(journal_writer),
                                         recovered, all_killed);
  replay_ = std::make_unique<Replay>(*receiver_);
}

Gateway::~Gateway() { stop(); }

monitor::CountersFile& Gateway::counters() noexcept { return receiver_->counters(); }
journal::Writer* Gateway::journal_writer() noexcept { return receiver_->journal_writer(); }

SessionGrant Gateway::open_session(const SessionRequest& asked) {
  SessionRequest request = asked;
  if (request.name.empty() || request.name.size() > 64) {
    refuse("BadRequest",
           "session name must have 1 to 64 characters, not " + std::to_string(request.name.size()));
  }
  if (!wire::is_valid_slot_bytes(request.slot_bytes)) {
    refuse("BadRequest", "slot_bytes must be a multiple of 64 from 64 to 4096, not " +
                             std::to_string(request.slot_bytes));
  }
  if (request.schema_id == wire::kSchemaId && request.schema_version != wire::kSchemaVersion) {
    refuse("VersionMismatch", "this gateway speaks version " +
                                  std::to_string(wire::kSchemaVersion) + " of schema 1, not " +
                                  std::to_string(request.schema_version));
  }
  request.order_slot_count =
      granted_slot_count(request.order_slot_count, config_.max_ring_slot_count);
  request.report_slot_count =
      granted_slot_count(request.report_slot_count, config_.max_ring_slot_count);
  SessionGrant grant;
  call_unless_draining([&] {
    const GatewaySession& session = receiver_->open_session(request);
    grant = {session.index,
             session.link != nullptr || session.attaching,
             session.next_order_sequence,
             session.next_report_sequence,
             session.undelivered_report,
             session.asked.order_slot_count,
             session.asked.report_slot_count};
  });
  return grant;
}

void Gateway::call_unless_draining(const std::function<void()>& command) {
  const std::lock_guard lock(mutex_);
  if (draining_) refuse("Draining", "the gateway is shutting down");
  receiver_->call(command);
}

AttachResult Gateway::attach(AttachRequest request) {
  AttachResult result;
  GatewaySession* session = nullptr;
  memory::Window old_window;  // of the link before; unmapped here, outside the receiver's thread
  call_unless_draining([&] {
    session = receiver_->find(request.session_index);
    if (session == nullptr) refuse("Unnegotiated", "no such session");
    if (session->link != nullptr || session->attaching) {
      refuse("AlreadyEstablished", "session " + session->request.name + " has a live link");
    }
    refuse_killed(*session);
    check_sequence("order", request.next_order_sequence, session->next_order_sequence);
    check_sequence("report", request.next_report_sequence, session->next_report_sequence);
    session->attaching = true;  // reports made from now on wait for the link
    old_window = std::move(session->window);
    // The strategy has seen numbers of an earlier run that no record tells of.
    session->next_report_sequence =
        std::max(session->next_report_sequence, request.next_report_sequence);
    session->replaying = request.next_report_sequence != 0 &&
                         request.next_report_sequence < session->next_report_sequence &&
                         journal_writer() != nullptr && !journal_writer()->directory().empty();
    session->queued = session->replaying;
    result.next_report_sequence =
        session->replaying ? request.next_report_sequence : session->next_report_sequence;
  });
  // From here the session is ours until install: `attaching` keeps everybody else off. What takes
  // its time (memory, a queue pair, a peer's address that nobody answers for) holds no lock.
  memory::Window window;
  std::unique_ptr<Link> link;
  try {
    const SessionRequest& granted = session->asked;
    if (!request.report_geometry.is_valid() ||
        request.report_geometry.slot_bytes != granted.slot_bytes ||
        request.report_geometry.slot_count > granted.report_slot_count) {
      refuse("BadWindow", "the report ring's geometry is not what was granted");
    }
    const std::uint64_t expected = session->next_order_sequence;
    result.epoch = random_epoch();
    result.order_geometry = {coloured_ring_offset(session->index), granted.slot_bytes,
                             granted.order_slot_count};
    result.next_order_sequence = std::max(expected, request.next_order_sequence);
    const bool is_untold = session->untold.first != 0 && session->untold.end == expected;
    const std::uint64_t first_missing = is_untold ? session->untold.first : expected;
    result.not_applied_count = result.next_order_sequence - first_missing;
    window = memory::Window::create({result.order_geometry.window_bytes(), config_.huge_pages, true,
                                     -1, "rdmaorder-" + granted.name});
    if (request.connect) request.transport = request.connect(window);
    if (request.transport->info().window_bytes < request.report_geometry.window_bytes()) {
      refuse("BadWindow", "the report window does not hold the ring it announces");
    }
    result.order_window_bytes = window.bytes();
    result.order_window_fd.reset(fcntl(window.fd(), F_DUPFD_CLOEXEC, 0));
    if (!result.order_window_fd) {
      throw_errno("duplicate", "the order window's descriptor", errno);
    }
    LinkConfig link_config;
    link_config.epoch = result.epoch;
    link_config.previous_epoch = session->previous_epoch;
    link_config.own_window_words = window.words();
    link_config.inbound = result.order_geometry;
    link_config.outbound = request.report_geometry;
    link_config.next_inbound_sequence = result.next_order_sequence;
    link_config.next_outbound_sequence = result.next_report_sequence;
    link = std::make_unique<Link>(link_config, std::move(request.transport));
    call_unless_draining([&] {
      refuse_killed(*session);  // a kill that came meanwhile found no link to fence
      session->window = std::move(window);
      session->pending = {std::move(link), result.next_order_sequence,
                          result.next_order_sequence - expected,
                          result.not_applied_count != 0 ? first_missing : 0};
      if (!request.hold && !receiver_->install(*session)) {
        refuse("TooSlow", "reports came faster than a link could be made; try again");
      }
    });
    result.order_window = &session->window;
    replay_->add(session->index, result.epoch);
    return result;
  } catch (...) {
    receiver_->call([&] {
      if (session->pending.link != nullptr) {
        link = std::move(session->pending.link);
        window = std::move(session->window);
      }
      receiver_->abandon(*session);
    });
    // Out of the receiver's thread, and whatever writes before the memory that it was given.
    link.reset();
    request.transport.reset();
    throw;
  }
}

bool Gateway::activate(std::uint32_t session_index, std::uint64_t epoch, bool data_in_order) {
  bool activated = false;
  receiver_->call([&] {
    GatewaySession* session = receiver_->find(session_index);
    if (session == nullptr || session->pending.link == nullptr ||
        session->pending.link->epoch() != epoch) {
      return;
    }
    transport::Transport& transport = session->pending.link->transport();
    if (auto* verbs = dynamic_cast<transport::VerbsTransport*>(&transport); verbs != nullptr) {
      verbs->set_peer_data_in_order(data_in_order);
    }
    activated = receiver_->install(*session);
  });
  return activated;
}

DetachResult Gateway::detach(std::uint32_t session_index, std::uint64_t epoch, bool drain) {
  DetachResult result;
  std::unique_ptr<Link> link;  // destroyed here, outside the receiver's thread
  memory::Window window;
  std::uint64_t since_ns = 0;
  receiver_->call([&] {
    GatewaySession* session = receiver_->find(session_index);
    if (session == nullptr) return;
    if (session->link != nullptr && session->link->epoch() == epoch) {
      link = receiver_->remove(*session, drain);
    } else if (session->pending.link != nullptr && session->pending.link->epoch() == epoch) {
      link = std::move(session->pending.link);
      receiver_->abandon(*session);
    }
    if (link != nullptr) window = std::move(session->window);
    since_ns = monotonic_ns();  // what was in the ring has been taken
    result = {session->next_order_sequence - 1, session->next_report_sequence - 1};
  });
  if (link != nullptr) (void)fence(session_index, std::move(link), std::move(window), since_ns);
  return result;
}

std::vector<SessionView> Gateway::sessions() {
  std::vector<SessionView> views;
  receiver_->call([&] {
    for (const auto& session : receiver_->sessions()) {
      SessionView view;
      view.name = session->request.name;
      view.session_index = session->index;
      view.live = session->link != nullptr && session->failure.empty();
      view.killed = session->killed;
      view.epoch = session->link != nullptr ? session->link->epoch() : 0;
      view.next_order_sequence = session->next_order_sequence;
      view.next_report_sequence = session->next_report_sequence;
      view.rejected_count = session->rejected_counter.get();
      view.backlog_count = session->backlog.size();
      view.failure = session->failure;
      views.push_back(std::move(view));
    }
  });
  return views;
}

void Gateway::halt(Reason reason) {
  receiver_->call([&] { receiver_->set_halted(true, reason); });
}

void Gateway::resume() {
  receiver_->call([&] { receiver_->set_halted(false, Reason::kNone); });
}

void Gateway::start() {
  receiver_->start();
  try {
    replay_->start();
  } catch (...) {
    receiver_->stop();
    throw;
  }
}

bool Gateway::replay_pass() { return replay_->pass(); }

void Gateway::stamp_orders(std::span<OrderStamps> rows) {
  if (!std::has_single_bit(rows.size())) {
    throw Error(ErrorKind::kConfig,
                "stamps need a power of two of rows, not " + std::to_string(rows.size()));
  }
  receiver_->stamp_orders(rows);
}

bool Gateway::run_pass() noexcept { return receiver_->run_pass(); }

void Gateway::announce_closing() {
  {
    const std::lock_guard lock(mutex_);
    if (draining_) return;
    draining_ = true;
  }
  receiver_->call([&] { receiver_->drain_all(); });
  // Strategies look at the status line every half heartbeat interval and stop sending.
  const timespec grace{
      0, static_cast<long>(std::min<std::uint64_t>(4 * config_.heartbeat_interval_ns, 50'000'000))};
  nanosleep(&grace, nullptr);
}

void Gateway::stop() {
  announce_closing();
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    stopped_ = true;
  }
  replay_->stop();
  receiver_->call([&] { receiver_->drain_all(); });
  receiver_->stop();
  if (journal_writer() == nullptr) return;
  (void)journal_writer()->sync_now();
  receiver_->call([&] { journal_writer()->close(); });  // no command appends meanwhile
}

}  // namespace rdmaorder
