// Verbs transport: a put is one RDMA WRITE on a reliable-connected queue pair (InfiniBand, RoCE
// v2).
//
// libibverbs is opened at run time; nothing here needs it to be installed, and no <infiniband/*>
// type appears. Every link has a protection domain, a completion queue, a queue pair and memory
// regions of its own, so that no key of one session opens anything of another (ReDMArk, USENIX
// Security 2021, M5).
//
// Set-up is two steps on each side, with the control plane in between:
//   auto endpoint = VerbsEndpoint::open(config, window);  // device … QP in INIT, window registered
//   … exchange endpoint->local() …
//   auto transport = VerbsEndpoint::connect(std::move(endpoint), remote);  // RTR, RTS
//   … tell the peer "ready"; its first put must not come before this side is connected …
//
// Data path: put and progress make no system call of this library (soft-RoCE's own doorbell is
// one), take no lock of ours and allocate nothing. Every `signal_interval`-th WRITE asks for a
// completion; a WRITE that fails makes one whether it asked or not, and a receive that is never
// meant to be used lies posted, so that a queue pair the *peer* broke, which soft-RoCE announces by
// no event, flushes it: progress() sees every dead queue pair without a put in between. A silent
// peer is not seen here (its NIC acknowledges for it): liveness is the heartbeat's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/transport/transport.hpp"

namespace rdmaorder::transport {

/// How WRITEs are handed to the provider.
enum class VerbsPost : std::uint8_t {
  kAuto,         ///< ibv_post_send: on soft-RoCE ibv_wr was not measurably faster
  kPostSend,     ///< ibv_post_send
  kWorkRequest,  ///< ibv_wr_start … ibv_wr_complete; an error where the provider has none
};

/// Which device and how. Zero or empty: chosen, and reported by VerbsFacts.
struct VerbsConfig {
  std::string device;         ///< "mlx5_0", "rxe0"; empty: the one that has local_address
  std::string local_address;  ///< numeric IP of the interface to use: the control connection's own
  std::uint8_t port = 0;      ///< 0: the port of local_address, else the first active one
  int gid_index = -1;         ///< -1: the RoCE v2 GID of local_address (InfiniBand: 0)
  std::uint32_t mtu_bytes = 0;      ///< path MTU, 256 … 4096; 0: the smaller active MTU
  std::uint32_t depth = 256;        ///< WRITEs outstanding at most
  std::uint32_t inline_bytes = 64;  ///< asked for; the device may grant more or less
  /// Largest put, or what the port takes in one message if that is less; four times this is staging
  /// memory.
  std::uint32_t max_put_bytes = 65536;
  std::uint32_t signal_interval = 64;  ///< every n-th WRITE is signalled; depth >= 2 n
  std::uint8_t timeout_exponent = 14;  ///< local ACK timeout 4.096 us * 2^n, 1 … 31 (14: 67 ms)
  std::uint8_t retry_count = 6;        ///< 1 … 6; 7 means for ever on soft-RoCE and is refused
  std::uint8_t rnr_retry_count = 6;    ///< 0 … 6; a WRITE never needs it
  std::uint8_t traffic_class = 0;      ///< DSCP << 2, for PFC/ECN classes
  std::uint8_t service_level = 0;      ///< 0 … 15
  VerbsPost post = VerbsPost::kAuto;
};

enum class LinkLayer : std::uint8_t { kInfiniBand, kEthernet };

/// What a peer needs to reach this end; travels over the control plane. Never log the key.
struct VerbsAddress {
  std::uint32_t qp_number = 0;        ///< 24 bits
  std::uint32_t packet_sequence = 0;  ///< first PSN this end sends: 24 bits, random
  std::array<std::uint8_t, 16> gid{};
  std::uint16_t lid = 0;  ///< InfiniBand only
  LinkLayer link_layer = LinkLayer::kEthernet;
  std::uint32_t mtu_bytes = 0;       ///< largest this end takes
  std::uint64_t window_address = 0;  ///< virtual address of the window
  std::uint32_t window_key = 0;      ///< rkey: REMOTE_WRITE on the window and nothing else
  std::uint64_t window_bytes = 0;
};

/// What was obtained, for status displays; VerbsConfig says what was asked.
struct VerbsFacts {
  std::string device, firmware, link_layer, gid, gid_type;
  std::string why;   ///< why this device, port and GID
  std::string post;  ///< "ibv_post_send" or "ibv_wr"
  std::uint8_t port = 0;
  int gid_index = -1;
  int numa_node = -1;
  std::uint32_t mtu_bytes = 0;  ///< of the path once connected, of the port before
  std::uint32_t depth = 0, inline_bytes = 0, signal_interval = 0, max_put_bytes = 0;
  std::uint64_t timeout_ns =
      0;  ///< one try; a dead path shows after up to (retry_count + 1) of them
  std::uint8_t retry_count = 0, rnr_retry_count = 0;
  std::uint8_t traffic_class = 0, service_level = 0;
  /// The device promises that a WRITE of the peer becomes visible here in ascending order
  /// (ibv_query_qp_data_in_order). False until connected, or where libibverbs cannot be asked.
  bool data_in_order = false;
};

/// A connected link. put() and progress() belong to one thread at a time, as for every Transport.
class VerbsTransport : public Transport {
 public:
  /// Takes the peer's permission to write into the window away: queue pair access flags off (else
  /// queue pair to ERR), then the window's key. Returns after the device confirmed: nothing lands
  /// later. Own puts still work until the peer tries. Any thread, not during destruction;
  /// idempotent. kOk, or kTransport where the device confirmed neither (close() then destroys the
  /// queue pair).
  virtual Status fence() noexcept = 0;

  /// What the *peer's* facts().data_in_order said once connected: info().byte_order follows,
  /// because the order of this end's bytes is made by the receiving device. Before the first put.
  virtual void set_peer_data_in_order(bool data_in_order) noexcept = 0;

  [[nodiscard]] virtual VerbsFacts facts() const = 0;
  /// What was asked for; facts() says what was granted.
  [[nodiscard]] virtual const VerbsConfig& asked() const noexcept = 0;
};

/// One end of a link before it is connected. Owns context, protection domain, completion queue,
/// queue pair and memory regions; the window stays the caller's and outlives it.
class VerbsEndpoint {
 public:
  VerbsEndpoint() = default;
  VerbsEndpoint(const VerbsEndpoint&) = delete;
  VerbsEndpoint& operator=(const VerbsEndpoint&) = delete;
  virtual ~VerbsEndpoint() = default;

  /// Opens the device and registers `window` REMOTE_WRITE (no READ, no ATOMIC, no ODP, no relaxed
  /// ordering). Throws Error(kTransport | kConfig) naming the thing and the remedy: no libibverbs,
  /// no device, no such device, port down, no RoCE v2 GID, memlock too small, beyond the device's
  /// limits
  static std::unique_ptr<VerbsEndpoint> open(const VerbsConfig& config,
                                             const memory::Window& window);

  [[nodiscard]] virtual const VerbsAddress& local() const noexcept = 0;
  [[nodiscard]] virtual VerbsFacts facts() const = 0;

  /// INIT → RTR → RTS towards `remote`. The transport owns the endpoint; put offset 0 is
  /// remote.window_address. May wait for address resolution. Throws Error(kTransport | kHandshake).
  static std::unique_ptr<VerbsTransport> connect(std::unique_ptr<VerbsEndpoint> endpoint,
                                                 const VerbsAddress& remote);
};

/// What `rdmaorder devices` shows.
struct VerbsGid {
  int index = 0;
  std::array<std::uint8_t, 16> raw{};
  std::string text;    ///< "10.1.0.1" for a mapped IPv4 address, else IPv6 notation
  std::string type;    ///< "IB", "RoCE v1" or "RoCE v2"
  std::string netdev;  ///< "eth0", empty where there is none
};
struct VerbsPort {
  std::uint8_t number = 0;
  bool active = false;
  LinkLayer link_layer = LinkLayer::kEthernet;
  std::uint16_t lid = 0;
  std::uint32_t mtu_bytes = 0;
  std::uint32_t max_message_bytes = 0;
  std::vector<VerbsGid> gids;
};
struct VerbsDevice {
  std::string name, firmware;
  std::string unusable;  ///< why it cannot be opened or asked; the rest is then not known
  int numa_node = -1;
  std::uint32_t max_depth = 0, max_completions = 0;
  std::uint64_t max_region_bytes = 0;
  std::vector<VerbsPort> ports;
};

/// Every device of this machine, empty where there is none. Throws Error(kTransport) without
/// libibverbs.
std::vector<VerbsDevice> list_verbs_devices();

/// Which device, port and GID a configuration means on this machine, and why.
struct VerbsChoice {
  VerbsDevice device;
  std::uint8_t port = 0;
  VerbsGid gid;
  std::string why;
};
/// Throws as VerbsEndpoint::open, but registers nothing.
VerbsChoice choose_verbs_device(const VerbsConfig& config);

/// The local IP from which this machine would send to `host` (numeric address): what local_address
/// should be. Throws Error.
std::string local_address_towards(const std::string& host);

}  // namespace rdmaorder::transport
