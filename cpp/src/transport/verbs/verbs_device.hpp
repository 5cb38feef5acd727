// Devices, ports and GIDs of this machine, and which of them a configuration means.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "rdmaorder/transport/verbs.hpp"
#include "transport/verbs/verbs_handles.hpp"

namespace rdmaorder::transport {

using RawGid = std::array<std::uint8_t, 16>;

/// An IP address as a RoCE GID; IPv4 is mapped (::ffff:a.b.c.d).
struct GidAddress {
  RawGid raw{};
  unsigned interface_index = 0;  ///< of "fe80::1%eth0", else 0
};
std::optional<GidAddress> parse_gid_address(const std::string& address);

[[nodiscard]] bool is_mapped_v4(const RawGid& gid) noexcept;
[[nodiscard]] bool is_link_local(const RawGid& gid) noexcept;
/// "10.1.0.1" for a mapped IPv4 address, else IPv6 notation.
std::string gid_text(const RawGid& gid);

/// 256 … 4096 for IBV_MTU_*, 0 for anything else; and back.
std::uint32_t mtu_bytes_of(ibv_mtu mtu) noexcept;
std::optional<ibv_mtu> mtu_of_bytes(std::uint32_t bytes) noexcept;

/// An open device and what it says of itself. Throws Error(kTransport).
struct OpenedDevice {
  VerbsHandle<ibv_context> context;
  ibv_device_attr limits{};
  VerbsDevice facts;
};
OpenedDevice open_device(const VerbsApi& api, ibv_device* device);

/// The list and how long it is; empty where there is none. Throws Error(kTransport).
struct DeviceList {
  VerbsHandle<ibv_device*> list;
  int count = 0;
};
DeviceList get_device_list(const VerbsApi& api);

std::vector<VerbsDevice> list_verbs_devices(const VerbsApi& api);

/// What a configuration means on this machine.
struct DeviceChoice {
  OpenedDevice device;
  VerbsPort port;
  VerbsGid gid;
  std::string why;
};
/// Throws Error(kTransport | kConfig) that lists what there is.
DeviceChoice choose_device(const VerbsApi& api, const VerbsConfig& config);

}  // namespace rdmaorder::transport
