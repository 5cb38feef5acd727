// Which device, port and GID a configuration means. The rules, in order:
//   - a name narrows the search to that device, a port number to that port;
//   - local_address means the port whose GID it is (RoCE v2), or whose IPoIB interface has it
//     (InfiniBand). Where the device is named the address is only a preference: the control
//     connection may run over another network;
//   - what is left is taken in the order of the kernel: first active port, GIDs of IPv4 before
//   global
//     IPv6 before link-local.
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "rdmaorder/error.hpp"
#include "transport/verbs/verbs_device.hpp"

namespace rdmaorder::transport {
namespace {

/// A queue pair names its GID by 8 bits (ibv_global_route); a table may be longer.
constexpr int kGidIndexMax = 255;

bool is_usable(const VerbsGid& gid) { return gid.type == "RoCE v2" && gid.index <= kGidIndexMax; }

/// Name of the interface that has an address, empty where none has.
std::string interface_of(const GidAddress& address) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> guard(list, freeifaddrs);
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    if (entry->ifa_addr->sa_family == AF_INET && is_mapped_v4(address.raw)) {
      const auto* v4 = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
      if (std::memcmp(&v4->sin_addr, address.raw.data() + 12, 4) == 0) return entry->ifa_name;
    } else if (entry->ifa_addr->sa_family == AF_INET6) {
      const auto* v6 = reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr);
      if (std::memcmp(&v6->sin6_addr, address.raw.data(), 16) == 0) return entry->ifa_name;
    }
  }
  return {};
}

/// An IPoIB interface belongs to a device and a port of it.
bool is_ipoib_of(const VerbsApi& api, const std::string& interface, const std::string& device,
                 unsigned port) {
  const std::filesystem::path folder = api.sysfs + "/class/net/" + interface;
  std::error_code error;
  if (interface.empty() || !std::filesystem::exists(folder / "device/infiniband" / device, error)) {
    return false;
  }
  std::ifstream file(folder / "dev_port");
  unsigned dev_port = 0;  // from 0, while verbs count ports from 1
  file >> dev_port;
  return !file || dev_port + 1 == port;
}

/// Lower is better; the order of the rules above.
int rank_of(const RawGid& gid) { return is_mapped_v4(gid) ? 0 : is_link_local(gid) ? 2 : 1; }

/// The best RoCE v2 GID, or the one of `address`; null where there is none.
const VerbsGid* roce_gid(const VerbsPort& port, const GidAddress* address) {
  const VerbsGid* best = nullptr;
  for (const VerbsGid& gid : port.gids) {
    if (!is_usable(gid)) continue;
    if (address != nullptr) {
      if (gid.raw != address->raw) continue;
      if (address->interface_index != 0 && !gid.netdev.empty() &&
          if_nametoindex(gid.netdev.c_str()) != address->interface_index) {
        continue;
      }
      return &gid;
    }
    if (best == nullptr || rank_of(gid.raw) < rank_of(best->raw)) best = &gid;
  }
  return best;
}

/// The devices a configuration may mean, and why others that it may mean cannot be used.
struct Candidates {
  std::vector<OpenedDevice> opened;
  std::vector<std::string> unusable;
};

std::string describe(const Candidates& candidates) {
  std::string text;
  for (const OpenedDevice& device : candidates.opened) {
    for (const VerbsPort& port : device.facts.ports) {
      text += (text.empty() ? "" : "; ") + device.facts.name + " port " +
              std::to_string(port.number) + (port.active ? " active" : " down") + ", GIDs";
      for (const VerbsGid& gid : port.gids) {
        text +=
            " " + gid.text + " (" + gid.type +
            (gid.index <= kGidIndexMax ? ")" : ", index " + std::to_string(gid.index) + " > 255)");
      }
      if (port.gids.empty()) text += " none";
    }
  }
  for (const std::string& why : candidates.unusable) text += (text.empty() ? "" : "; ") + why;
  return text.empty() ? "none" : text;
}

struct Match {
  const VerbsPort* port = nullptr;
  VerbsGid gid;
  std::string why;
};

class Chooser {
 public:
  Chooser(const VerbsApi& api, const VerbsConfig& config) : api_(api), config_(config) {
    if (config.local_address.empty()) return;
    address_ = parse_gid_address(config.local_address);
    if (!address_) {
      throw Error(ErrorKind::kConfig, "local_address '" + config.local_address +
                                          "' is no IP address of this machine: give a numeric IPv4 "
                                          "or IPv6 address, a link-local one with its interface "
                                          "(fe80::1%eth0)");
    }
    interface_ = interface_of(*address_);
  }

  /// By address, or (address not asked for, or only a preference) by what the port offers.
  [[nodiscard]] std::optional<Match> match(const OpenedDevice& device, bool by_address) const {
    for (const VerbsPort& port : device.facts.ports) {
      if (config_.port != 0 && port.number != config_.port) continue;
      if (!by_address && config_.port == 0 && !port.active) continue;
      if (auto found = match_port(device, port, by_address)) return found;
    }
    return std::nullopt;
  }

 private:
  [[nodiscard]] std::optional<Match> match_port(const OpenedDevice& device, const VerbsPort& port,
                                                bool by_address) const {
    const bool roce = port.link_layer == LinkLayer::kEthernet;
    const std::string given = config_.device.empty() ? "is the only choice" : "is named";
    const std::string why = by_address ? "has " + config_.local_address : given;
    if (by_address) {
      const bool here = roce ? roce_gid(port, &*address_) != nullptr
                             : is_ipoib_of(api_, interface_, device.facts.name, port.number);
      if (!here) return std::nullopt;
    }
    if (config_.gid_index >= 0) {
      const auto at = std::find_if(port.gids.begin(), port.gids.end(),
                                   [&](const VerbsGid& g) { return g.index == config_.gid_index; });
      if (at == port.gids.end() || (roce && !is_usable(*at))) return std::nullopt;
      return Match{&port, *at, why + ", gid_index named"};
    }
    if (roce) {
      const VerbsGid* gid = roce_gid(port, by_address ? &*address_ : nullptr);
      return gid == nullptr ? std::nullopt : std::optional(Match{&port, *gid, why});
    }
    // InfiniBand goes by LID; a subnet manager that gave no GID is no obstacle.
    return Match{&port, port.gids.empty() ? VerbsGid{} : port.gids.front(), why};
  }

  const VerbsApi& api_;
  const VerbsConfig& config_;
  std::optional<GidAddress> address_;
  std::string interface_;
};

[[noreturn]] void throw_no_match(const VerbsConfig& config, const Candidates& candidates) {
  const std::string here = "; here: " + describe(candidates);
  if (config.port != 0) {
    for (const OpenedDevice& device : candidates.opened) {
      if (config.port <= device.facts.ports.size()) continue;
      throw Error(ErrorKind::kConfig,
                  device.facts.name + " has no port " + std::to_string(config.port) + here);
    }
  }
  if (config.gid_index >= 0) {
    throw Error(ErrorKind::kConfig,
                (config.device.empty() ? "no RDMA device has" : config.device + " does not have") +
                    ", on a fitting port, a usable GID (RoCE v2 on Ethernet) at index " +
                    std::to_string(config.gid_index) + here +
                    "; leave gid_index out to have it chosen");
  }
  if (!config.local_address.empty() && config.device.empty()) {
    throw Error(ErrorKind::kTransport,
                "no RDMA device has a RoCE v2 GID or IPoIB interface with the address " +
                    config.local_address + here +
                    "; connect through the address of an RDMA interface, or name one with device=");
  }
  throw Error(ErrorKind::kTransport,
              (config.device.empty() ? "no RDMA device has an" : config.device + " has no") +
                  " active port with a RoCE v2 GID" + here +
                  "; bring the interface up and give it an IP address (the GID follows), and on "
                  "RoCE v1 hardware enable RoCE v2");
}

[[noreturn]] void throw_no_device(const VerbsConfig& config,
                                  const std::vector<std::string>& names) {
  if (!names.empty()) {
    std::string list;
    for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
    throw Error(ErrorKind::kConfig,
                "no RDMA device '" + config.device + "'; this machine has " + list);
  }
  throw Error(
      ErrorKind::kTransport,
      "this machine has no RDMA device: load the driver of the adapter (mlx5_ib, irdma, "
      "bnxt_re …) and see ibv_devices, or make a software device with rdma link add rxe0 type "
      "rxe netdev eth0");
}

Candidates open_candidates(const VerbsApi& api, const VerbsConfig& config) {
  const DeviceList list = get_device_list(api);
  Candidates candidates;
  std::vector<std::string> names;
  for (int i = 0; i < list.count; ++i) {
    ibv_device* device = list.list.get()[i];
    names.emplace_back(api.get_device_name(device));
    if (!config.device.empty() && config.device != names.back()) continue;
    try {
      candidates.opened.push_back(open_device(api, device));
    } catch (const Error& error) {
      if (!config.device.empty()) throw;
      candidates.unusable.emplace_back(error.what());
    }
  }
  if (candidates.opened.empty() && candidates.unusable.empty()) throw_no_device(config, names);
  return candidates;
}

}  // namespace

DeviceChoice choose_device(const VerbsApi& api, const VerbsConfig& config) {
  const Chooser chooser(api, config);
  Candidates candidates = open_candidates(api, config);
  std::vector<OpenedDevice>& devices = candidates.opened;
  const bool has_address = !config.local_address.empty();
  for (const bool by_address : {true, false}) {
    if (by_address && !has_address) continue;
    if (!by_address && has_address && config.device.empty()) continue;
    for (OpenedDevice& device : devices) {
      std::optional<Match> match = chooser.match(device, by_address);
      if (!match) continue;
      if (!by_address && has_address) match->why += "; " + config.local_address + " is not its own";
      if (!has_address && config.device.empty() && devices.size() > 1) {
        match->why = "is the first active of " + std::to_string(devices.size());
      }
      VerbsPort port = *match->port;
      if (!port.active) {
        throw Error(ErrorKind::kTransport, device.facts.name + " port " +
                                               std::to_string(port.number) +
                                               " is down; check the cable and the switch port, and "
                                               "ip link set DEV up");
      }
      return {std::move(device), std::move(port), std::move(match->gid), std::move(match->why)};
    }
  }
  throw_no_match(config, candidates);
}

VerbsChoice choose_verbs_device(const VerbsConfig& config) {
  DeviceChoice choice = choose_device(verbs_api(), config);
  return {std::move(choice.device.facts), choice.port.number, std::move(choice.gid),
          std::move(choice.why)};
}

}  // namespace rdmaorder::transport
