// The measuring loops of `rdmaorder pingpong`: one process sends, the other answers, every round
// trip is a sample of its own. Everything around them (processes, arguments, statistics, reports)
// is Python in rdmaorder/pingpong/.
//
// A sample is made of raw TSC readings, so that percentiles, plots, the worst orders and the
// accounting from the intended send all come from the same numbers. Recording allocates nothing:
// the caller brings the memory. Payloads differ from order to order and are checked whole.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "rdmaorder/control.hpp"
#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/session.hpp"
#include "rdmaorder/transport/transport.hpp"
#include "rdmaorder/transport/verbs.hpp"

namespace rdmaorder::pingpong {

/// One order. A row of six words of the array that Python hands in.
//    0  8  intended   when it was due: the schedule's time, in a closed loop the send itself
//    8  8  sent       before the call that sent it
//   16  8  received   after the answer was here and copied; 0: never answered
//   24  8  gap        longest time between two looks while waiting: in a closed loop once waiting
//                     took kPollsBeforeStamps looks, 0 for answers that came sooner
//   32  8  polls      looks that found no answer, from this order's send
//   40  8  written    the send call returned; 0 unless the plan asks
struct Sample {
  std::uint64_t intended_ticks = 0;
  std::uint64_t sent_ticks = 0;
  std::uint64_t received_ticks = 0;
  std::uint64_t gap_ticks = 0;
  std::uint64_t poll_count = 0;
  std::uint64_t written_ticks = 0;
};
static_assert(sizeof(Sample) == 48);

/// What the kernel did to the sending thread between two looks at its counts. There is a look after
/// an order that took unusually long, and now and then without one, so that `since_ticks` is never
/// long before. Kept only where something was counted.
struct Anomaly {
  std::uint64_t since_ticks = 0;
  std::uint64_t seen_ticks = 0;
  std::uint64_t voluntary_switches = 0;
  std::uint64_t involuntary_switches = 0;
  std::uint64_t minor_faults = 0;
  std::uint64_t major_faults = 0;
  std::uint64_t migrated = 0;  ///< 1: on another processor than at the last look
};
static_assert(sizeof(Anomaly) == 56);

inline constexpr std::uint32_t kPollsBeforeStamps = 256;
inline constexpr std::size_t kAnomalyCountMax = 4096;

struct Plan {
  std::span<Sample> samples;        ///< one an order, all zero; the run is over when all are used
  std::uint64_t warm_up_count = 0;  ///< round trips before the first sample, in a closed loop
  std::uint64_t duration_ns = 0;    ///< 0: no limit but the samples
  /// Empty: a closed loop, each order sent when the last is answered. Else when each order is due,
  /// from the start of the run, ascending; as many as samples. An open loop: an order goes out when
  /// it is due (or as soon after as possible) whether or not earlier ones are answered.
  std::span<const std::uint64_t> due_ns;
  bool stamps_written = false;                      ///< one more reading of the clock an order
  std::uint64_t answer_timeout_ns = 2'000'000'000;  ///< silence after which the peer is given up
};

enum class Ending : std::uint8_t { kDone, kInterrupted, kPeerLost };

struct Outcome {
  std::uint64_t sent_count = 0;      ///< samples[0 … sent_count) were sent
  std::uint64_t answered_count = 0;  ///< of these
  std::uint64_t bad_payloads = 0;    ///< answers that were not what this order's must be
  std::uint64_t strays = 0;          ///< answers to nothing that was asked
  std::uint64_t torn = 0;            ///< looks that saw a payload not yet whole
  std::uint64_t full = 0;            ///< sends that found no room
  Ending ending = Ending::kDone;
  std::string cause;  ///< when the peer was lost
  std::vector<Anomaly> anomalies;
};

/// Costs of the clock itself, measured now in this thread.
struct ClockFacts {
  double ticks_per_ns = 0;
  double read_cost_ns = 0;       ///< one reading, mean over many back to back
  double order_cost_ns = 0;      ///< both readings of an order and what separates them when empty
  std::uint64_t step_ticks = 0;  ///< smallest difference seen between two readings
};
ClockFacts measure_clock();

/// SIGINT, SIGTERM or SIGHUP (but not under nohup) during the lifetime of this object ends a
/// running loop soon after with kInterrupted (and nothing else happens); afterwards the handlers of
/// before are back. One at a time in a process.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  [[nodiscard]] static bool interrupted() noexcept;

 private:
  struct Saved;
  std::unique_ptr<Saved> saved_;
};

/// The floor: a bare word there and back between two threads pinned to the two processors. Fills
/// `round_trip_ticks` as far as `limit_ns` allows (where others want the processors a round trip
/// can take two ticks of the scheduler); how many. Throws Error when a thread cannot be pinned.
std::size_t run_floor(int own_cpu, int peer_cpu, std::span<std::uint64_t> round_trip_ticks,
                      std::uint64_t limit_ns);

/// Orders through a session whose gateway accepts everything. The report's identity, request and
/// contents are checked; the slots' CRCs cover both ways..
Outcome run_session(Session& session, const Plan& plan);

/// 64 · k bytes between two transports, no ring and no session: what ib_write_lat measures.
/// Payload: sequence, a pattern of it, and CRC-32C with the sequence in the last word.
class RawEnd {
 public:
  /// Opens this side's window. `payload_bytes`: 64 … 4096, a multiple of 64. `paced`: several
  /// payloads may be under way; both sides say the same. With `device` not null the window is
  /// registered for RDMA as the configuration says.
  static std::unique_ptr<RawEnd> open(std::uint32_t payload_bytes, bool paced,
                                      const transport::VerbsConfig* device);
  virtual ~RawEnd() = default;

  /// Where a peer on this machine finds the window: /proc/<pid>/fd/<fd>.
  [[nodiscard]] virtual const memory::Window& window() const noexcept = 0;
  /// For a peer elsewhere; throws Error without a device.
  [[nodiscard]] virtual transport::VerbsAddress address() const = 0;

  virtual void connect_shm(memory::Window peer_window) = 0;
  virtual void connect_rdma(const transport::VerbsAddress& peer) = 0;
  /// Both windows in this process.
  static void connect_inproc(RawEnd& one, RawEnd& other);

  /// Connected before.
  [[nodiscard]] virtual transport::Transport& transport() = 0;

  virtual Outcome run(const Plan& plan) = 0;
  /// Answers until request_stop or an InterruptGuard is told. Number of payloads that were bad.
  virtual std::uint64_t serve() = 0;
  /// Any thread.
  virtual void request_stop() noexcept = 0;
};

/// The same 64 · k bytes through a connected descriptor, both sides spinning on non-blocking calls:
/// Unix socket, TCP, UDP. `datagrams`: one message a read.
Outcome run_descriptor(int fd, bool datagrams, std::uint32_t payload_bytes, const Plan& plan);
/// Answers until the other side closes or falls silent for good (InterruptGuard).
void serve_descriptor(int fd, bool datagrams, std::uint32_t payload_bytes);

/// The same through a ZeroMQ PAIR socket of the library `shared_object`, spinning on ZMQ_DONTWAIT
/// or blocking in the library (how it is mostly used). Throws Error when it cannot be loaded.
struct ZeroMqConfig {
  std::string shared_object;
  std::string endpoint;  ///< "ipc:///…", "tcp://…"
  bool blocking = false;
};
Outcome run_zeromq(const ZeroMqConfig& config, std::uint32_t payload_bytes, const Plan& plan);
void serve_zeromq(const ZeroMqConfig& config, std::uint32_t payload_bytes);

}  // namespace rdmaorder::pingpong
