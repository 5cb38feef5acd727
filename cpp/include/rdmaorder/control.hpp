// Client half of the control plane (the server half is rdmaorder/gateway/server.py).
//
// Frames: u32 length (little-endian, of what follows, at most kMaxFrameBytes), then one msgpack map
// with string keys. docs/control-plane.md lists every message and key. Order:
//   Negotiate  ->  NegotiationResponse | NegotiationReject
//   Establish  ->  EstablishmentAck    | EstablishmentReject
//   … the link lives; the socket stays open as a liveness channel …
//   Terminate <-> Terminate
// Over a Unix socket the window descriptors travel with Establish and EstablishmentAck
// (SCM_RIGHTS), and each side checks the other's uid (SO_PEERCRED).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "rdmaorder/memory/unique_fd.hpp"
#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/ring/geometry.hpp"

namespace rdmaorder::control {

inline constexpr std::uint32_t kMaxFrameBytes = 64 * 1024;
/// Version of the control protocol and of the memory layouts; both must match to the letter.
inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr std::uint32_t kLayoutVersion = 1;

/// "shm:///run/user/0/gw.sock" (also "shm:relative.sock") or, later, "rdma://host:port?device=…".
struct Url {
  std::string scheme;
  std::string path;  ///< shm: path of the Unix socket
};
/// Throws Error(kConfig) naming what is wrong and the accepted forms.
Url parse_url(const std::string& text);

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
  std::uint64_t timeout_ns = 5'000'000'000;  ///< for the whole handshake
  memory::HugePages huge_pages = memory::HugePages::kTry;
};

/// Everything a link needs, as agreed. Windows are mapped.
struct Established {
  memory::UniqueFd socket;
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
};

/// Connects and establishes. Throws Error: kConfig (bad URL or request), kSystem (no such socket
/// …), kTimeout, kHandshake (not this protocol), kRefused with `code()` the gateway's reject code.
Established connect(const ConnectRequest& request);

/// What the control socket says without blocking.
enum class PeerCheck : std::uint8_t { kQuiet, kTerminated, kGone };
/// Non-blocking look at the socket: kTerminated after a Terminate frame (reason in *text), kGone
/// after end of file or an error.
PeerCheck check_peer(int socket_fd, std::string* text) noexcept;

/// Sends Terminate (with the last order sequence written) and waits for the answer up to
/// `timeout_ns`. True when the gateway answered. `last_sequence` of the gateway goes to *confirmed.
bool terminate(int socket_fd, std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
               std::uint64_t* confirmed) noexcept;

}  // namespace rdmaorder::control
