// Client half of the control plane (the server half is rdmaorder/gateway/server.py).
//
// Frames: u32 length (little-endian, of what follows, at most kMaxFrameBytes), then one msgpack map
// with string keys. docs/control-plane.md lists every message and key. Order:
//   Negotiate  ->  NegotiationResponse | NegotiationReject      (Challenge, Authenticate between
//                                                                where the session has a key)
//   Establish  ->  EstablishmentAck    | EstablishmentReject
//   Established ->                                              (RDMA: the gateway may write now)
//   … the link lives; the connection stays open as a liveness channel …
//   Terminate <-> Terminate
// shm: over a Unix socket; the window descriptors travel with Establish and EstablishmentAck
// (SCM_RIGHTS), and each side checks the other's uid (SO_PEERCRED). rdma: over TCP with TLS 1.3;
// addresses and keys of the windows travel in the messages, and a LinkMaker does what is RDMA.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rdmaorder/memory/unique_fd.hpp"
#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/order_fate.hpp"
#include "rdmaorder/ring/geometry.hpp"

namespace rdmaorder::control {

inline constexpr std::uint32_t kMaxFrameBytes = 64 * 1024;
/// Version of the control protocol and of the memory layouts; both must match to the letter.
inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr std::uint32_t kLayoutVersion = 1;
/// Shortest key of a session.
inline constexpr std::size_t kSessionKeyMinBytes = 32;

/// "shm:///run/user/0/gw.sock" (also "shm:relative.sock") or "rdma://HOST:PORT[?key=value&…]" with
/// HOST a name, an IPv4 address or an IPv6 address in brackets.
struct Url {
  std::string scheme;
  std::string path;        ///< shm: path of the Unix socket
  std::string host;        ///< rdma: without brackets
  std::uint16_t port = 0;  ///< rdma
  /// rdma: what follows '?', each key known and each value in its range. Of the link: device, port,
  /// gid_index, mtu (bytes), depth, inline_bytes, signal_interval, timeout_exponent, retry_count,
  /// rnr_retry_count, traffic_class, service_level. Of TLS: tls (on, off), tls_ca, tls_certificate,
  /// tls_key, tls_name.
  std::map<std::string, std::string> options;

  /// Value of a numeric option, or `otherwise` where it is not given.
  [[nodiscard]] std::uint32_t number(const std::string& key, std::uint32_t otherwise) const;
  /// Value of an option, or `otherwise` where it is not given.
  [[nodiscard]] std::string text(const std::string& key, const std::string& otherwise = {}) const;
};
/// Throws Error(kConfig) naming what is wrong and the accepted forms.
Url parse_url(const std::string& text);

/// Bytes of a session key written in hex. Throws Error(kConfig) that never repeats what was given.
std::string parse_session_key(const std::string& hex);

struct ConnectRequest {
  std::string url;
  std::string session;  ///< 1 .. 64 characters [A-Za-z0-9_.:-]
  std::uint32_t slot_bytes = 64;
  std::uint32_t order_slot_count = 256;  ///< asked; the gateway may grant less or more
  std::uint32_t report_slot_count = 1024;
  std::uint16_t schema_id = 1;
  std::uint16_t schema_version = 0;
  /// Sequence the strategy will write next, 0: take up where the gateway stands.
  std::uint64_t next_order_sequence = 0;
  /// First report it wants; the gateway replays what it made before from its journal, marked as
  /// possible resend. 0: only reports made from now on, or with `undelivered_reports` from the
  /// first that no earlier link is known to have delivered.
  std::uint64_t next_report_sequence = 0;
  bool undelivered_reports = false;
  std::uint64_t timeout_ns = 5'000'000'000;  ///< for the whole handshake
  memory::HugePages huge_pages = memory::HugePages::kTry;
  /// Key shared with the gateway ([sessions.NAME] key), as bytes. Empty: none. With one, a gateway
  /// that does not prove that it has it too is refused.
  std::string session_key;
  // rdma: options of the URL win over these.
  std::string tls_ca;           ///< PEM file: who may have signed the gateway's certificate
  std::string tls_certificate;  ///< PEM file of the own certificate (mutual TLS), empty: none
  std::string tls_key;          ///< PEM file of its private key
  std::string tls_name;         ///< name or address in the gateway's certificate; empty: the host
};

/// What a peer needs to reach a queue pair. Device order throughout.
struct Endpoint {
  std::uint32_t qp_number = 0;        ///< 24 bits
  std::uint32_t packet_sequence = 0;  ///< 24 bits: number of the first packet this end sends
  std::array<std::uint8_t, 16> gid{};
  std::uint16_t lid = 0;
  std::uint32_t mtu_bytes = 0;  ///< largest this end takes: 256, 512 … 4096
};

/// A ring in a window that is reached over RDMA.
struct RemoteWindow {
  std::uint64_t address = 0;  ///< virtual address of the window in its owner's memory
  std::uint32_t key = 0;      ///< rkey
  std::uint64_t bytes = 0;
  ring::Geometry geometry;
};

/// What was agreed before the endpoints are made.
struct LinkTerms {
  std::map<std::string, std::string> options;  ///< of the URL
  std::string local_address;                   ///< IP of this side of the control connection
  std::string peer_address;                    ///< IP of the gateway
  std::uint32_t session_index = 0;
  const memory::Window* report_window = nullptr;  ///< own memory; lives as long as the link
  ring::Geometry report_geometry;
};
struct LinkOffer {
  Endpoint endpoint;
  std::uint64_t window_address = 0;
  std::uint32_t window_key = 0;
};
struct LinkAnswer {
  Endpoint endpoint;
  RemoteWindow order_window;
  /// The gateway's device makes the bytes of a WRITE visible in ascending order.
  bool data_in_order = false;
};

/// Makes the link of an rdma:// URL; the control plane knows nothing of devices. offer() and
/// accept() are called once, in this order, by the thread in connect(), which passes on what they
/// throw.
class LinkMaker {
 public:
  virtual ~LinkMaker() = default;
  /// After Negotiate: makes the own endpoint and registers the report window.
  virtual LinkOffer offer(const LinkTerms& terms) = 0;
  /// After EstablishmentAck: connects. Must be ready to receive when it returns, for the gateway is
  /// then told that it may write. True when the own device makes the bytes of a WRITE visible in
  /// ascending order; the gateway is told that too.
  virtual bool accept(const LinkAnswer& answer) = 0;
  /// Establish failed, be it in the methods above: lets go of the report window, whose memory ends
  /// next.
  virtual void abandon() noexcept = 0;
};

/// What the control connection says without blocking.
enum class PeerCheck : std::uint8_t { kQuiet, kTerminated, kGone };

class Message;
class MessageWriter;

/// When a question is sent: after the answers that are still owed to earlier ones, so that no
/// answers pile up on their way here, or at once.
enum class Turn : std::uint8_t { kInTurn, kAtOnce };

/// The control connection of a live link. One thread at a time.
class Connection {
 public:
  virtual ~Connection() = default;
  /// Non-blocking look: kTerminated after a Terminate frame (reason in *text), kGone after end of
  /// file or an error, or when the process behind a Unix socket is exiting.
  virtual PeerCheck check(std::string* text) noexcept = 0;
  /// Sends Terminate (with the last order sequence written) and waits for the answer up to
  /// `timeout_ns` or until interrupted. True when the gateway answered. `last_sequence` of the
  /// gateway goes to *confirmed.
  virtual bool terminate(std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
                         std::uint64_t* confirmed) noexcept = 0;
  /// Numbers a question, sends it and waits for its answer, or for a Terminate, which check() tells
  /// once more. An answer that comes after its time is passed over by the next call of whatever
  /// kind. Throws Error: kTimeout, kSystem, kHandshake (closed, or no answer of ours).
  virtual Message ask(MessageWriter& question, Turn turn, std::uint64_t timeout_ns) = 0;
  /// In a forked child: its end is no end of the connection, which the parent goes on with.
  virtual void disown() noexcept {}
  [[nodiscard]] virtual int fd() const noexcept = 0;
};

/// The gateway's clock as seen from here, CLOCK_REALTIME against CLOCK_REALTIME.
struct ClockOffset {
  std::int64_t offset_ns = 0;  ///< gateway minus strategy
  std::uint64_t bound_ns = 0;  ///< the true offset is within offset_ns +- bound_ns
};
/// Measures it over the control connection: the best of a few questions, the bound half its round
/// trip. Throws as Connection::ask.
ClockOffset measure_clock(Connection& connection, std::uint64_t timeout_ns);

/// What the gateway's journal knows of a session's orders, over the control connection.
enum class Inquiry : std::uint8_t { kFates, kOpenOrders };
struct Resolved {
  std::vector<OrderFate> fates;
  std::uint64_t next_order_sequence = 1;  ///< of the gateway
};
/// kFates: one a sequence of [from, from + count). kOpenOrders: those from sequence `from` on.
/// At most 1000 at a time. Throws as Connection::ask, and kRefused (no journal).
Resolved resolve(Connection& connection, Inquiry inquiry, std::uint64_t from, std::uint32_t count,
                 std::uint64_t timeout_ns);
/// Asks the gateway to kill this session: fence, cancel, refuse links until an operator releases
/// it. Returns the number of orders cancelled. Throws as Connection::ask.
std::uint64_t kill(Connection& connection, std::uint64_t timeout_ns);

/// Everything a link needs, as agreed. shm: both windows are mapped. rdma: `order_window` is empty
/// and the LinkMaker was given what takes its place.
struct Established {
  std::unique_ptr<Connection> connection;  ///< empty: nothing but the heartbeat tells of the peer
  std::uint64_t epoch = 0;
  std::uint32_t session_index = 0;
  ring::Geometry order_geometry;            ///< ring in `order_window`
  ring::Geometry report_geometry;           ///< ring in `report_window`
  memory::Window order_window;              ///< the gateway's memory, mapped here
  memory::Window report_window;             ///< own memory
  std::uint64_t next_order_sequence = 1;    ///< first sequence the strategy writes
  std::uint64_t next_report_sequence = 1;   ///< first sequence the gateway writes
  std::uint32_t cancel_reserve_count = 0;   ///< last credits kept for cancels
  std::uint64_t heartbeat_interval_ns = 0;  ///< of the gateway's receiver loop
  std::string gateway_version;
  int gateway_pid = 0;
  /// Order sequences below next_order_sequence that the gateway never saw and never will apply,
  /// because the request named a later one than the gateway's next.
  std::uint64_t not_applied_count = 0;
  /// Reports that were asked for and that the gateway cannot give (it has no journal).
  std::uint64_t lost_report_count = 0;
};

/// Connects and establishes. `maker` is needed for rdma:// and not used for shm:; it must outlive
/// the call only. Throws Error: kConfig (bad URL or request), kSystem (no such socket …), kTimeout,
/// kHandshake (not this protocol, TLS failed), kRefused with `code()` the gateway's reject code.
Established connect(const ConnectRequest& request, LinkMaker* maker = nullptr);

}  // namespace rdmaorder::control
