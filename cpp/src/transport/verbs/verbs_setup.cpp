// From a configuration to a queue pair in INIT, and from the peer's address to one in RTS.
#include <sys/random.h>
#include <sys/resource.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "rdmaorder/error.hpp"
#include "transport/verbs/verbs_link.hpp"

namespace rdmaorder::transport {
namespace {

constexpr std::uint8_t kMinRnrTimer = 12;  // 0.64 ms; only a peer that SENDs meets it
constexpr std::uint8_t kHopLimit = 64;

std::uint32_t random_packet_sequence() {
  std::uint32_t value = 0;
  if (getrandom(&value, sizeof value, 0) != static_cast<ssize_t>(sizeof value)) {
    throw_errno("read", "random bytes for a packet sequence", errno);
  }
  return value & kVerbsNumberMax;
}

VerbsHandle<ibv_mr> register_memory(const VerbsObjects& objects, const char* what, void* address,
                                    std::uint64_t bytes, int access) {
  errno = 0;
  auto region =
      own(*objects.api, objects.api->reg_mr(objects.domain.get(), address, bytes, access));
  if (region) return region;
  const int error = errno;
  std::string remedy;
  if (error == ENOMEM || error == EPERM || error == EAGAIN) {
    rlimit limit{};
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    remedy = "the limit of locked memory (ulimit -l, all regions of the process together) is " +
             (limit.rlim_cur == RLIM_INFINITY ? std::string("unlimited, so memory itself is short")
                                              : std::to_string(limit.rlim_cur) + " bytes") +
             "; raise it: LimitMEMLOCK=infinity in the systemd unit, \"* - memlock unlimited\" in "
             "/etc/security/limits.conf, or --ulimit memlock=-1 for a container";
  }
  throw_verbs("register the " + std::string(what) + " of " + std::to_string(bytes) + " bytes",
              objects.device.facts.name, error, remedy);
}

VerbsHandle<ibv_qp> try_queue_pair(const Endpoint& endpoint, ibv_qp_cap& capacity) {
  const VerbsObjects& objects = endpoint.objects;
  ibv_qp_init_attr_ex attributes{};
  attributes.send_cq = attributes.recv_cq = objects.completions.get();
  attributes.qp_type = IBV_QPT_RC;
  attributes.cap = capacity;
  errno = 0;
  if (endpoint.config.post == VerbsPost::kWorkRequest) {
    attributes.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
    attributes.pd = objects.domain.get();
    attributes.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE;
    auto extended =
        own(*objects.api, objects.api->create_qp_ex(objects.device.context.get(), &attributes));
    capacity = attributes.cap;
    return extended;
  }
  ibv_qp_init_attr plain{};
  plain.send_cq = plain.recv_cq = attributes.send_cq;
  plain.qp_type = attributes.qp_type;
  plain.cap = capacity;
  auto queue_pair = own(*objects.api, objects.api->create_qp(objects.domain.get(), &plain));
  capacity = plain.cap;
  return queue_pair;
}

/// Devices refuse more inline data than they can take: halved until it is granted.
void create_queue_pair(Endpoint& endpoint) {
  VerbsObjects& objects = endpoint.objects;
  const VerbsConfig& config = endpoint.config;
  std::uint32_t inline_bytes = config.inline_bytes;
  while (true) {
    ibv_qp_cap capacity{config.depth, 1, 1, 1, inline_bytes};
    objects.queue_pair = try_queue_pair(endpoint, capacity);
    if (objects.queue_pair) {
      endpoint.known.inline_bytes = capacity.max_inline_data & ~7U;
      break;
    }
    if (inline_bytes == 0) {
      throw_verbs(
          "create a queue pair of depth " + std::to_string(config.depth), objects.device.facts.name,
          errno,
          config.post == VerbsPost::kWorkRequest
              ? "the provider may have no ibv_wr interface: leave post at auto"
              : "see rdma resource show for how many are in use, or ask for a smaller depth");
    }
    inline_bytes /= 2;
  }
  if (config.post == VerbsPost::kWorkRequest) {
    objects.extended = objects.api->qp_to_qp_ex(objects.queue_pair.get());
    if (objects.extended == nullptr) {
      throw_verbs("use the ibv_wr interface", objects.device.facts.name, errno,
                  "leave post at auto");
    }
  }
  endpoint.known.post = objects.extended != nullptr ? "ibv_wr" : "ibv_post_send";
}

void modify(const Endpoint& endpoint, const char* to, ibv_qp_attr& attributes, int mask,
            const std::string& remedy = {}) {
  const VerbsObjects& objects = endpoint.objects;
  const int error = objects.api->modify_qp(objects.queue_pair.get(), &attributes, mask);
  if (error != 0) {
    throw_verbs(std::string("bring the queue pair to ") + to,
                endpoint.known.device + " port " + std::to_string(endpoint.known.port), error,
                remedy);
  }
}

void to_init(const Endpoint& endpoint) {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.port_num = endpoint.known.port;
  attributes.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
  modify(endpoint, "INIT", attributes,
         IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  // The tripwire: a receive of no bytes that only an error, or a peer out of protocol, completes.
  ibv_recv_wr receive{};
  receive.wr_id = kTripwireId;
  ibv_recv_wr* refused = nullptr;
  ibv_qp* queue_pair = endpoint.objects.queue_pair.get();
  if (const int error = ibv_post_recv(queue_pair, &receive, &refused); error != 0) {
    throw_verbs("post a receive", endpoint.known.device, error);
  }
}

void fill_facts(Endpoint& endpoint, const DeviceChoice& choice) {
  VerbsFacts& known = endpoint.known;
  known.device = choice.device.facts.name;
  known.firmware = choice.device.facts.firmware;
  known.link_layer = choice.port.link_layer == LinkLayer::kEthernet ? "Ethernet" : "InfiniBand";
  known.gid = choice.gid.text;
  known.gid_type = choice.gid.type;
  known.why = choice.why;
  known.port = choice.port.number;
  known.gid_index = choice.gid.index;
  known.numa_node = choice.device.facts.numa_node;
  known.mtu_bytes =
      endpoint.config.mtu_bytes != 0 ? endpoint.config.mtu_bytes : choice.port.mtu_bytes;
  known.depth = endpoint.config.depth;
  known.signal_interval = endpoint.config.signal_interval;
  known.max_put_bytes =
      std::min(endpoint.config.max_put_bytes, choice.port.max_message_bytes & ~7U);
  known.timeout_ns = 4096ULL << endpoint.config.timeout_exponent;
  known.retry_count = endpoint.config.retry_count;
  known.rnr_retry_count = endpoint.config.rnr_retry_count;
  known.traffic_class = endpoint.config.traffic_class;
  known.service_level = endpoint.config.service_level;
}

void create_objects(Endpoint& endpoint, const memory::Window& window) {
  VerbsObjects& objects = endpoint.objects;
  const VerbsApi& api = *objects.api;
  const std::string& name = objects.device.facts.name;
  ibv_context* context = objects.device.context.get();
  errno = 0;
  objects.domain = own(api, api.alloc_pd(context));
  if (!objects.domain) throw_verbs("allocate a protection domain", name, errno);
  // At most `depth` WRITEs and the tripwire can complete before they are taken: it never overflows.
  const int entries = static_cast<int>(endpoint.config.depth + 2);
  errno = 0;
  objects.completions = own(api, api.create_cq(context, entries, nullptr, nullptr, 0));
  if (!objects.completions) {
    throw_verbs("create a completion queue of " + std::to_string(entries), name, errno,
                "ask for a smaller depth");
  }
  objects.window_region = register_memory(objects, "window", window.data(), window.bytes(),
                                          IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
  memory::WindowConfig staging;
  staging.bytes = std::bit_ceil(std::uint64_t{kStagingPuts} * endpoint.known.max_put_bytes);
  staging.huge_pages = memory::HugePages::kOff;
  staging.numa_node = endpoint.known.numa_node;
  staging.name = "rdmaorder-staging";
  objects.staging = memory::Window::create(staging);
  objects.staging_region = register_memory(objects, "staging memory", objects.staging.data(),
                                           objects.staging.bytes(), IBV_ACCESS_LOCAL_WRITE);
  create_queue_pair(endpoint);
}

ibv_ah_attr path_to(const Endpoint& endpoint, const VerbsAddress& remote) {
  ibv_ah_attr path{};
  path.port_num = endpoint.known.port;
  path.sl = endpoint.config.service_level;
  const bool roce = endpoint.port.link_layer == LinkLayer::kEthernet;
  path.dlid = roce ? std::uint16_t{0} : remote.lid;
  // RoCE always routes by GID; InfiniBand only into another subnet (other upper 64 bits).
  // A port without GID reaches its own subnet alone.
  const bool other_subnet = endpoint.gid.raw != RawGid{} && remote.gid != RawGid{} &&
                            std::memcmp(remote.gid.data(), endpoint.gid.raw.data(), 8) != 0;
  if (roce || other_subnet) {
    path.is_global = 1;
    std::memcpy(path.grh.dgid.raw, remote.gid.data(), remote.gid.size());
    path.grh.sgid_index = static_cast<std::uint8_t>(endpoint.gid.index);
    path.grh.hop_limit = kHopLimit;
    path.grh.traffic_class = endpoint.config.traffic_class;
  }
  return path;
}

void to_ready_to_send(Endpoint& endpoint, const VerbsAddress& remote) {
  const VerbsConfig& config = endpoint.config;
  const std::uint32_t mtu_bytes = std::min(endpoint.known.mtu_bytes, remote.mtu_bytes);
  ibv_qp_attr receive{};
  receive.qp_state = IBV_QPS_RTR;
  receive.ah_attr = path_to(endpoint, remote);
  receive.path_mtu = *mtu_of_bytes(mtu_bytes);
  receive.dest_qp_num = remote.qp_number;
  receive.rq_psn = remote.packet_sequence;
  receive.min_rnr_timer = kMinRnrTimer;
  modify(endpoint, "ready to receive", receive,
         IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
             IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
         "the peer " + gid_text(remote.gid) + " must be reachable from " + endpoint.known.gid +
             ": check ip route get and ping between these two addresses");
  ibv_qp_attr send{};
  send.qp_state = IBV_QPS_RTS;
  send.timeout = config.timeout_exponent;
  send.retry_cnt = config.retry_count;
  send.rnr_retry = config.rnr_retry_count;
  send.sq_psn = endpoint.address.packet_sequence;
  modify(endpoint, "ready to send", send,
         IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
             IBV_QP_MAX_QP_RD_ATOMIC);
  endpoint.known.mtu_bytes = mtu_bytes;
  const VerbsApi& api = *endpoint.objects.api;
  // Providers answer only in RTS. Without flags: 1 when whole WRITEs become visible in order.
  endpoint.known.data_in_order =
      api.query_qp_data_in_order != nullptr &&
      api.query_qp_data_in_order(endpoint.objects.queue_pair.get(), IBV_WR_RDMA_WRITE, 0) == 1;
}

}  // namespace

std::unique_ptr<VerbsEndpoint> open_endpoint(const VerbsApi& api, const VerbsConfig& config,
                                             const memory::Window& window) {
  validate_config(config, window);
  DeviceChoice choice = choose_device(api, config);
  validate_limits(config, choice.device.facts, choice.port, window);
  auto endpoint = std::make_unique<Endpoint>();
  endpoint->config = config;
  fill_facts(*endpoint, choice);
  endpoint->objects.api = &api;
  endpoint->objects.device = std::move(choice.device);
  endpoint->port = std::move(choice.port);
  endpoint->gid = std::move(choice.gid);
  create_objects(*endpoint, window);
  to_init(*endpoint);
  VerbsAddress& address = endpoint->address;
  address.qp_number = endpoint->objects.queue_pair->qp_num;
  address.packet_sequence = random_packet_sequence();
  address.gid = endpoint->gid.raw;
  address.lid = endpoint->port.lid;
  address.link_layer = endpoint->port.link_layer;
  address.mtu_bytes = endpoint->known.mtu_bytes;
  address.window_address = reinterpret_cast<std::uint64_t>(window.data());
  address.window_key = endpoint->objects.window_region->rkey;
  address.window_bytes = window.bytes();
  return endpoint;
}

std::unique_ptr<VerbsEndpoint> VerbsEndpoint::open(const VerbsConfig& config,
                                                   const memory::Window& window) {
  return open_endpoint(verbs_api(), config, window);
}

std::unique_ptr<VerbsTransport> VerbsEndpoint::connect(std::unique_ptr<VerbsEndpoint> endpoint,
                                                       const VerbsAddress& remote) {
  std::unique_ptr<Endpoint> own_end(static_cast<Endpoint*>(endpoint.release()));
  validate_remote(*own_end, remote);
  to_ready_to_send(*own_end, remote);
  return std::make_unique<VerbsLink>(std::move(own_end), remote);
}

}  // namespace rdmaorder::transport
