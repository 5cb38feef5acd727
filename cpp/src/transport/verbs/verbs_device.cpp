#include "transport/verbs/verbs_device.hpp"

#include <arpa/inet.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "rdmaorder/error.hpp"
#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::transport {
namespace {

constexpr RawGid kMappedPrefix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr RawGid kEmptyGid{};

int numa_node_of(const VerbsApi& api, const std::string& device) {
  std::ifstream file(api.sysfs + "/class/infiniband/" + device + "/device/numa_node");
  int node = -1;
  file >> node;
  return file ? node : -1;
}

const char* gid_type_name(std::uint32_t type) {
  switch (type) {
    case IBV_GID_TYPE_IB:
      return "IB";
    case IBV_GID_TYPE_ROCE_V1:
      return "RoCE v1";
    case IBV_GID_TYPE_ROCE_V2:
      return "RoCE v2";
    default:
      return "unknown";
  }
}

std::vector<VerbsGid> gids_of(const VerbsApi& api, ibv_context* context, std::uint8_t port,
                              int table_length) {
  std::vector<VerbsGid> gids;
  for (int index = 0; index < table_length; ++index) {
    ibv_gid_entry entry{};
    const int error =
        api.query_gid_ex(context, port, static_cast<std::uint32_t>(index), &entry, 0, sizeof entry);
    if (error == ENODATA) continue;  // an empty row
    if (error != 0) {
      throw_verbs(
          "read GID " + std::to_string(index),
          std::string(api.get_device_name(context->device)) + " port " + std::to_string(port),
          error);
    }
    VerbsGid gid;
    std::memcpy(gid.raw.data(), entry.gid.raw, gid.raw.size());
    if (gid.raw == kEmptyGid) continue;
    gid.index = index;
    gid.text = gid_text(gid.raw);
    gid.type = gid_type_name(entry.gid_type);
    char name[IF_NAMESIZE] = {};
    if (entry.ndev_ifindex != 0 && if_indextoname(entry.ndev_ifindex, name) != nullptr) {
      gid.netdev = name;
    }
    gids.push_back(std::move(gid));
  }
  return gids;
}

VerbsPort port_of(const VerbsApi& api, ibv_context* context, const std::string& device,
                  std::uint8_t number) {
  ibv_port_attr attributes{};
  if (const int error = api.query_port(context, number, &attributes); error != 0) {
    throw_verbs("query port " + std::to_string(number), device, error);
  }
  VerbsPort port;
  port.number = number;
  port.active = attributes.state == IBV_PORT_ACTIVE;
  port.link_layer = attributes.link_layer == IBV_LINK_LAYER_ETHERNET ? LinkLayer::kEthernet
                                                                     : LinkLayer::kInfiniBand;
  port.lid = attributes.lid;
  port.mtu_bytes = mtu_bytes_of(attributes.active_mtu);
  port.max_message_bytes = attributes.max_msg_sz;
  port.gids = gids_of(api, context, number, attributes.gid_tbl_len);
  return port;
}

/// libibverbs leaves out, without a word, a device whose provider or device file is missing.
void check_kernel_has_none(const VerbsApi& api) {
  std::set<std::string> found;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(api.sysfs + "/class/infiniband", error)) {
    found.insert(entry.path().filename().string());
  }
  if (found.empty()) return;
  std::string names;
  for (const std::string& name : found) names += (names.empty() ? "" : ", ") + name;
  throw Error(ErrorKind::kTransport,
              "the kernel has the RDMA devices " + names +
                  ", libibverbs finds none of them: install their providers (apt-get install "
                  "ibverbs-providers, dnf install libibverbs), load the module ib_uverbs, and give "
                  "a container --device=/dev/infiniband");
}

}  // namespace

std::optional<GidAddress> parse_gid_address(const std::string& address) {
  GidAddress result;
  in_addr v4{};
  if (inet_pton(AF_INET, address.c_str(), &v4) == 1) {
    result.raw = kMappedPrefix;
    std::memcpy(result.raw.data() + 12, &v4, sizeof v4);
    return result;
  }
  const std::size_t percent = address.find('%');
  if (inet_pton(AF_INET6, address.substr(0, percent).c_str(), result.raw.data()) != 1) {
    return std::nullopt;
  }
  if (percent != std::string::npos) {
    result.interface_index = if_nametoindex(address.c_str() + percent + 1);
    if (result.interface_index == 0) return std::nullopt;
  }
  return result;
}

bool is_mapped_v4(const RawGid& gid) noexcept {
  return std::equal(gid.begin(), gid.begin() + 12, kMappedPrefix.begin());
}

bool is_link_local(const RawGid& gid) noexcept {
  return gid[0] == 0xfe && (gid[1] & 0xc0U) == 0x80;
}

std::string gid_text(const RawGid& gid) {
  char text[INET6_ADDRSTRLEN] = {};
  const bool v4 = is_mapped_v4(gid);
  (void)inet_ntop(v4 ? AF_INET : AF_INET6, gid.data() + (v4 ? 12 : 0), text, sizeof text);
  return text;
}

std::uint32_t mtu_bytes_of(ibv_mtu mtu) noexcept {
  return mtu >= IBV_MTU_256 && mtu <= IBV_MTU_4096 ? 128U << static_cast<unsigned>(mtu) : 0;
}

std::optional<ibv_mtu> mtu_of_bytes(std::uint32_t bytes) noexcept {
  for (const ibv_mtu mtu : {IBV_MTU_256, IBV_MTU_512, IBV_MTU_1024, IBV_MTU_2048, IBV_MTU_4096}) {
    if (mtu_bytes_of(mtu) == bytes) return mtu;
  }
  return std::nullopt;
}

OpenedDevice open_device(const VerbsApi& api, ibv_device* device) {
  const std::string name = api.get_device_name(device);
  errno = 0;
  OpenedDevice opened{own(api, api.open_device(device)), {}, {}};
  if (!opened.context) {
    const int error = errno;
    throw_verbs(
        "open", name, error,
        error == EMFILE || error == ENFILE
            ? "raise the limit of open files (ulimit -n, LimitNOFILE= in the systemd unit); each "
              "link takes some"
            : "/dev/infiniband/uverbs* must be readable and writable for this user (group rdma, or "
              "--device=/dev/infiniband for a container), and its provider installed "
              "(ibverbs-providers)");
  }
  if (const int error = api.query_device(opened.context.get(), &opened.limits); error != 0) {
    throw_verbs("query device", name, error);
  }
  const auto unsigned_of = [](int value) { return static_cast<std::uint32_t>(std::max(value, 0)); };
  opened.facts.name = name;
  opened.facts.firmware =
      std::string(opened.limits.fw_ver, strnlen(opened.limits.fw_ver, sizeof opened.limits.fw_ver));
  opened.facts.numa_node = numa_node_of(api, name);
  opened.facts.max_depth = unsigned_of(opened.limits.max_qp_wr);
  opened.facts.max_completions = unsigned_of(opened.limits.max_cqe);
  opened.facts.max_region_bytes = opened.limits.max_mr_size;
  for (unsigned port = 1; port <= opened.limits.phys_port_cnt; ++port) {
    opened.facts.ports.push_back(
        port_of(api, opened.context.get(), name, static_cast<std::uint8_t>(port)));
  }
  return opened;
}

DeviceList get_device_list(const VerbsApi& api) {
  DeviceList result;
  errno = 0;
  result.list = own(api, api.get_device_list(&result.count));
  // ENOSYS: the kernel has no RDMA at all, which is a machine without devices.
  if (!result.list && errno != ENOSYS && errno != ENOENT) {
    throw_verbs("list", "RDMA devices", errno, "is the module ib_uverbs loaded?");
  }
  if (!result.list) result.count = 0;
  if (result.count == 0) check_kernel_has_none(api);
  return result;
}

std::vector<VerbsDevice> list_verbs_devices(const VerbsApi& api) {
  const DeviceList devices = get_device_list(api);
  std::vector<VerbsDevice> facts;
  for (int i = 0; i < devices.count; ++i) {
    ibv_device* device = devices.list.get()[i];
    try {
      facts.push_back(open_device(api, device).facts);
    } catch (const Error& error) {
      facts.emplace_back();
      facts.back().name = api.get_device_name(device);
      facts.back().unusable = error.what();
    }
  }
  return facts;
}

std::vector<VerbsDevice> list_verbs_devices() { return list_verbs_devices(verbs_api()); }

std::string local_address_towards(const std::string& host) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  // Any port will do: connecting a datagram socket asks the routing table and sends nothing.
  if (const int error = getaddrinfo(host.c_str(), "4791", &hints, &found); error != 0) {
    throw Error(ErrorKind::kConfig,
                "'" + host + "' is no numeric IP address: " + gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> guard(found, freeaddrinfo);
  const memory::UniqueFd socket_fd(socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage local{};
  socklen_t local_bytes = sizeof local;
  if (!socket_fd || connect(socket_fd.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      getsockname(socket_fd.get(), reinterpret_cast<sockaddr*>(&local), &local_bytes) != 0) {
    throw_errno("find the route to", host, errno, "see ip route get " + host);
  }
  char text[NI_MAXHOST] = {};
  if (const int error = getnameinfo(reinterpret_cast<sockaddr*>(&local), local_bytes, text,
                                    sizeof text, nullptr, 0, NI_NUMERICHOST);
      error != 0) {
    throw Error(ErrorKind::kSystem,
                "name the local address towards " + host + ": " + gai_strerror(error));
  }
  return text;
}

}  // namespace rdmaorder::transport
