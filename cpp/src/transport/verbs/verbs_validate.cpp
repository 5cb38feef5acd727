// What is refused before the device is asked, each with the name, the value and the remedy.
#include <algorithm>

#include "rdmaorder/error.hpp"
#include "transport/verbs/verbs_link.hpp"

namespace rdmaorder::transport {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kConfig, message); }

void require_range(const char* name, std::uint64_t value, std::uint64_t low, std::uint64_t high) {
  if (value >= low && value <= high) return;
  refuse(std::string(name) + " = " + std::to_string(value) + " is outside " + std::to_string(low) +
         " .. " + std::to_string(high));
}

/// No address of one interface: unspecified, broadcast or multicast, in either IP version.
bool is_no_unicast(const RawGid& gid) noexcept {
  if (is_mapped_v4(gid)) {
    const bool broadcast =
        std::all_of(gid.begin() + 12, gid.end(), [](auto b) { return b == 255; });
    const bool unspecified =
        std::all_of(gid.begin() + 12, gid.end(), [](auto b) { return b == 0; });
    return broadcast || unspecified || (gid[12] & 0xf0U) == 0xe0;  // 224.0.0.0/4
  }
  return gid[0] == 0xff || gid == RawGid{};
}

}  // namespace

void validate_config(const VerbsConfig& config, const memory::Window& window) {
  if (!window || window.bytes() % 8 != 0) refuse("the window to register is empty");
  if (config.retry_count == 7) {
    refuse(
        "retry_count = 7 means \"for ever\" on soft-RoCE, so that a dead peer would never be seen; "
        "use 1 .. 6");
  }
  if (config.rnr_retry_count == 7) refuse("rnr_retry_count = 7 means \"for ever\"; use 0 .. 6");
  require_range("retry_count", config.retry_count, 1, 6);
  require_range("rnr_retry_count", config.rnr_retry_count, 0, 6);
  require_range("timeout_exponent", config.timeout_exponent, 1, 31);
  require_range("service_level", config.service_level, 0, 15);
  require_range("depth", config.depth, 2, 1U << 20);
  require_range("signal_interval", config.signal_interval, 1, config.depth / 2);
  require_range("max_put_bytes", config.max_put_bytes, 4096, 1U << 26);
  if (config.max_put_bytes % 8 != 0) refuse("max_put_bytes is no multiple of 8");
  if (config.mtu_bytes != 0 && !mtu_of_bytes(config.mtu_bytes)) {
    refuse("mtu_bytes = " + std::to_string(config.mtu_bytes) +
           " is none of 256, 512, 1024, 2048, 4096");
  }
}

void validate_limits(const VerbsConfig& config, const VerbsDevice& device, const VerbsPort& port,
                     const memory::Window& window) {
  const auto limit = [&](const char* name, std::uint64_t asked, std::uint64_t most) {
    if (asked <= most) return;
    refuse(std::string(name) + " " + std::to_string(asked) + " is beyond the " +
           std::to_string(most) + " that " + device.name + " port " + std::to_string(port.number) +
           " takes; use a smaller one");
  };
  limit("depth", config.depth, device.max_depth);
  limit("depth + 2 completions", config.depth + 2ULL, device.max_completions);
  limit("window of bytes", window.bytes(), device.max_region_bytes);
  if (config.mtu_bytes > port.mtu_bytes) {
    refuse("mtu_bytes = " + std::to_string(config.mtu_bytes) + ", but " + device.name + " port " +
           std::to_string(port.number) + " has an active MTU of " + std::to_string(port.mtu_bytes) +
           "; raise the MTU of its network interface (4200 for 4096) and of the switch, or ask for "
           "less");
  }
}

void validate_remote(const Endpoint& endpoint, const VerbsAddress& remote) {
  const auto bad = [](const std::string& what) {
    throw Error(ErrorKind::kHandshake, "the peer's RDMA address is invalid: " + what);
  };
  if (remote.qp_number > kVerbsNumberMax || remote.packet_sequence > kVerbsNumberMax) {
    bad("queue pair number and packet sequence have 24 bits");
  }
  if (remote.qp_number < kFirstVerbsNumber) {
    bad("queue pair " + std::to_string(remote.qp_number) + " is one of the port's own, 0 and 1");
  }
  // Another queue pair of the same device is a peer: both ends may be on one host.
  const VerbsAddress& own = endpoint.address;
  if (remote.qp_number == own.qp_number && remote.gid == own.gid && remote.lid == own.lid) {
    bad("it is that of this end");
  }
  if (remote.window_bytes < 8 || remote.window_address % 8 != 0 ||
      remote.window_address + remote.window_bytes < remote.window_address) {
    bad("window of " + std::to_string(remote.window_bytes) + " bytes is empty, unaligned or wraps");
  }
  if (!mtu_of_bytes(remote.mtu_bytes)) {
    bad("MTU " + std::to_string(remote.mtu_bytes) + " is none of 256, 512, 1024, 2048, 4096");
  }
  const std::string own_end = endpoint.known.device + " (" + endpoint.known.link_layer + ")";
  if (remote.link_layer != endpoint.port.link_layer) {
    throw Error(ErrorKind::kTransport,
                own_end +
                    " and the peer are on different fabrics, InfiniBand and Ethernet (RoCE): "
                    "name a device of the peer's fabric with device=" +
                    (remote.lid != 0 || is_mapped_v4(remote.gid) ||
                             endpoint.port.link_layer == LinkLayer::kEthernet
                         ? ""
                         : "; or the peer is on InfiniBand and has no LID: is a subnet manager "
                           "running there?"));
  }
  if (remote.link_layer == LinkLayer::kInfiniBand) {
    if (remote.lid == 0) bad("an InfiniBand peer without LID; is a subnet manager running?");
  } else if (is_no_unicast(remote.gid)) {
    bad("GID " + gid_text(remote.gid) + " is no address of one interface");
  } else if (is_mapped_v4(remote.gid) != is_mapped_v4(endpoint.gid.raw)) {
    const bool bare = is_link_local(remote.gid) || is_link_local(endpoint.gid.raw);
    throw Error(ErrorKind::kTransport,
                "GIDs " + endpoint.gid.text + " of " + own_end + " and " + gid_text(remote.gid) +
                    " of the peer are of different IP versions; connect through an address of the "
                    "other version, or name another gid_index=" +
                    (bare ? "; an interface without an IP address has a link-local GID alone, so "
                            "give it one"
                          : ""));
  }
  const std::uint32_t asked = endpoint.config.mtu_bytes;
  if (asked > remote.mtu_bytes) {
    throw Error(ErrorKind::kTransport,
                "mtu_bytes = " + std::to_string(asked) + " was asked for, the peer takes " +
                    std::to_string(remote.mtu_bytes) +
                    "; raise the MTU of the peer's interface or leave mtu out");
  }
}

}  // namespace rdmaorder::transport
