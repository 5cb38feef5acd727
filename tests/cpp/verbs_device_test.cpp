// The verbs transport over real devices: soft-RoCE in the test machine, or hardware. Skipped, with
// the reason, where there is none. With two devices the ends are on different ones, so that packets
// cross a wire; with one the device talks to itself.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>

#include "rdmaorder/error.hpp"
#include "transport_conformance.hpp"
#include "verbs_pair.hpp"

namespace rdmaorder::transport {
namespace {

using namespace ring_support;

struct Devices {
  VerbsConfig near, far;
  std::string absent;  ///< why there are none

  static Devices find() {
    Devices found;
    try {
      for (const VerbsDevice& device : list_verbs_devices()) {
        if (device.ports.empty() || !device.ports.front().active) continue;
        if (found.near.device.empty()) found.near.device = device.name;
        found.far.device = device.name;
        if (found.far.device != found.near.device) break;
      }
    } catch (const Error& error) {
      found.absent = error.what();
      return found;
    }
    if (found.near.device.empty()) found.absent = "no RDMA device with an active first port here";
    return found;
  }
};

struct RealVerbs {
  Devices devices = Devices::find();
  std::optional<VerbsPair> pair;

  TransportEndpoint make(std::uint64_t window_bytes) { return make_with(window_bytes, {}); }
  TransportEndpoint make_with(std::uint64_t window_bytes, VerbsPost post) {
    devices.near.post = post;
    pair.emplace(VerbsPair::make(verbs_api(), devices.near, devices.far, window_bytes));
    return {std::move(pair->near_end), pair->far_window.words(), pair->far_window.bytes()};
  }
  [[nodiscard]] std::string absent() const { return devices.absent; }
};
struct RealVerbsWorkRequest : RealVerbs {
  TransportEndpoint make(std::uint64_t window_bytes) {
    return make_with(window_bytes, VerbsPost::kWorkRequest);
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(VerbsDevice, TransportConformance, RealVerbs);
INSTANTIATE_TYPED_TEST_SUITE_P(VerbsDeviceWr, TransportConformance, RealVerbsWorkRequest);

class VerbsDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!devices_.absent.empty()) GTEST_SKIP() << devices_.absent;
  }
  VerbsPair make() { return VerbsPair::make(verbs_api(), devices_.near, devices_.far); }
  /// The error text of an attempt, empty when it succeeds.
  std::string refusal(const VerbsConfig& config) {
    const memory::Window window = make_window(4096);
    try {
      (void)VerbsEndpoint::open(config, window);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  }
  /// What the kernel counts: queue pairs, regions, completion queues, protection domains, contexts.
  static std::string resources() {
    std::string text;
    FILE* tool = popen("rdma resource show 2>/dev/null", "r");
    if (tool == nullptr) return text;
    char line[512];
    while (fgets(line, sizeof line, tool) != nullptr) text += line;
    pclose(tool);
    return text;
  }
  /// What the device itself says of a queue pair.
  struct Truth {
    ibv_qp_attr attributes{};
    ibv_qp_init_attr initial{};
  };
  static Truth query(ibv_qp* queue_pair) {
    using Query = int(ibv_qp*, ibv_qp_attr*, int, ibv_qp_init_attr*);
    void* library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    auto* ask = reinterpret_cast<Query*>(dlsym(library, "ibv_query_qp"));
    Truth truth;
    constexpr int kMask = IBV_QP_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_PORT | IBV_QP_AV |
                          IBV_QP_PATH_MTU | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                          IBV_QP_SQ_PSN | IBV_QP_RQ_PSN | IBV_QP_DEST_QPN | IBV_QP_CAP |
                          IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MAX_DEST_RD_ATOMIC;
    EXPECT_EQ(ask(queue_pair, &truth.attributes, kMask, &truth.initial), 0);
    return truth;
  }
  Devices devices_ = Devices::find();
};

TEST_F(VerbsDeviceTest, WhatItSaysWasGrantedIsWhatTheQueuePairHas) {
  static ibv_qp* made = nullptr;  // a plain function captures nothing
  static ibv_qp* (*create)(ibv_pd*, ibv_qp_init_attr*) = nullptr;
  VerbsApi api = verbs_api();
  create = api.create_qp;
  api.create_qp = [](ibv_pd* domain, ibv_qp_init_attr* asked) {
    return made = create(domain, asked);
  };
  VerbsConfig near = devices_.near;
  near.depth = 40;
  near.signal_interval = 8;
  near.inline_bytes = 130;
  near.mtu_bytes = 512;
  near.timeout_exponent = 17;
  near.retry_count = 3;
  near.rnr_retry_count = 2;
  near.traffic_class = 8;
  near.service_level = 2;
  for (const VerbsConfig& config : {devices_.near, near}) {
    const memory::Window near_window = make_window(4096), far_window = make_window(4096);
    auto far_endpoint = VerbsEndpoint::open(devices_.far, far_window);
    auto near_endpoint = open_endpoint(api, config, near_window);
    const VerbsAddress near_address = near_endpoint->local(), far_address = far_endpoint->local();
    const auto near_end = VerbsEndpoint::connect(std::move(near_endpoint), far_address);
    const VerbsFacts facts = near_end->facts();
    const auto [has, initial] = query(made);
    EXPECT_EQ(has.qp_state, IBV_QPS_RTS);
    EXPECT_EQ(has.qp_access_flags & ~unsigned{IBV_ACCESS_LOCAL_WRITE}, IBV_ACCESS_REMOTE_WRITE);
    EXPECT_EQ(has.port_num, facts.port);
    EXPECT_EQ(mtu_bytes_of(has.path_mtu), facts.mtu_bytes);
    EXPECT_EQ(4096ULL << has.timeout, facts.timeout_ns);
    EXPECT_EQ(has.retry_cnt, facts.retry_count);
    EXPECT_EQ(has.rnr_retry, facts.rnr_retry_count);
    EXPECT_EQ(has.dest_qp_num, far_address.qp_number);
    EXPECT_EQ(has.sq_psn, near_address.packet_sequence);
    EXPECT_EQ(has.rq_psn, far_address.packet_sequence);
    EXPECT_EQ(has.max_rd_atomic, 0) << "reads nothing of the peer's";
    EXPECT_EQ(has.max_dest_rd_atomic, 0) << "nor lets it read";
    EXPECT_GE(initial.cap.max_send_wr, facts.depth);
    EXPECT_GE(initial.cap.max_inline_data, facts.inline_bytes);
    if (facts.link_layer != "Ethernet") {  // soft-RoCE keeps no service level
      EXPECT_EQ(has.ah_attr.sl, facts.service_level);
      continue;
    }
    EXPECT_EQ(has.ah_attr.is_global, 1);
    EXPECT_EQ(has.ah_attr.grh.sgid_index, facts.gid_index);
    EXPECT_EQ(has.ah_attr.grh.traffic_class, facts.traffic_class);
    EXPECT_EQ(std::memcmp(has.ah_attr.grh.dgid.raw, far_address.gid.data(), 16), 0);
  }
}

TEST_F(VerbsDeviceTest, LeavesNoResourceBehind) {
  const std::string before = resources();
  if (before.empty()) GTEST_SKIP() << "the rdma tool (iproute2) is not here";
  {
    VerbsPair pair = make();
    const std::uint64_t value = 1;
    ASSERT_EQ(pair.near_end->put(0, &value, 8), Status::kOk);
    EXPECT_NE(resources(), before) << "the count must see what is there";
    pair.near_end->close();
    ASSERT_EQ(pair.far_end->fence(), Status::kOk);
  }
  {
    const memory::Window window = make_window(4096);
    (void)VerbsEndpoint::open(devices_.near, window);  // never connected
  }
  EXPECT_EQ(resources(), before);
}

TEST_F(VerbsDeviceTest, DeliversTheLastPutWhenItLingers) {
  for (int round = 0; round < 20; ++round) {
    VerbsPair pair = make();
    for (std::uint64_t value = 1; value <= 10; ++value) {
      ASSERT_EQ(pair.near_end->put(0, &value, 8), Status::kOk);
    }
    pair.near_end->linger();
    pair.near_end->close();
    EXPECT_TRUE(eventually([&] { return load_acquire(pair.far_window.words()) == 10; }));
  }
}

TEST_F(VerbsDeviceTest, FenceKeepsLaterWritesOutAndTellsTheWriter) {
  VerbsPair pair = make();
  std::uint64_t value = 1;
  ASSERT_EQ(pair.near_end->put(0, &value, 8), Status::kOk);
  ASSERT_TRUE(eventually([&] { return load_acquire(pair.far_window.words()) == 1; }));
  ASSERT_EQ(pair.far_end->fence(), Status::kOk);
  ASSERT_EQ(pair.far_end->fence(), Status::kOk);
  ASSERT_EQ(pair.far_end->put(64, &value, 8), Status::kOk) << "the fencing side still writes";
  EXPECT_TRUE(eventually([&] { return load_acquire(pair.near_window.words() + 8) == 1; }));
  value = 2;
  (void)pair.near_end->put(0, &value, 8);
  ASSERT_TRUE(fails_eventually(*pair.near_end));
  EXPECT_EQ(load_acquire(pair.far_window.words()), 1U);
  EXPECT_NE(pair.near_end->failure().find("fence"), std::string::npos) << pair.near_end->failure();
  EXPECT_TRUE(fails_eventually(*pair.far_end))
      << "its queue pair is broken, and it has nothing to send";
}

TEST_F(VerbsDeviceTest, AWriteWithAWrongKeyBreaksBothEndsAndEachSaysWhy) {
  const memory::Window near_window = make_window(4096), far_window = make_window(4096);
  auto near_endpoint = VerbsEndpoint::open(devices_.near, near_window);
  auto far_endpoint = VerbsEndpoint::open(devices_.far, far_window);
  VerbsAddress wrong = far_endpoint->local();
  wrong.window_key ^= 0x5A00;
  const VerbsAddress near_address = near_endpoint->local();
  auto near_end = VerbsEndpoint::connect(std::move(near_endpoint), wrong);
  auto far_end = VerbsEndpoint::connect(std::move(far_endpoint), near_address);
  const std::uint64_t value = 1;
  ASSERT_EQ(near_end->put(0, &value, 8), Status::kOk);
  ASSERT_TRUE(fails_eventually(*near_end));
  EXPECT_NE(near_end->failure().find("refused the key or the address"), std::string::npos)
      << near_end->failure();
  ASSERT_TRUE(fails_eventually(*far_end)) << "no event tells it on soft-RoCE: the tripwire does";
  EXPECT_NE(far_end->failure(), "");
  EXPECT_EQ(load_acquire(far_window.words()), 0U);
}

TEST_F(VerbsDeviceTest, ADeadPeerIsSeenAfterTheRetriesWithoutAnotherPut) {
  devices_.near.timeout_exponent = 12;
  devices_.near.retry_count = 1;
  VerbsPair pair = make();
  pair.far_end.reset();
  const std::uint64_t value = 1;
  ASSERT_EQ(pair.near_end->put(0, &value, 8), Status::kOk);
  ASSERT_TRUE(fails_eventually(*pair.near_end));
  EXPECT_NE(pair.near_end->failure().find("did not acknowledge"), std::string::npos)
      << pair.near_end->failure();
  EXPECT_EQ(pair.near_end->put(0, &value, 8), Status::kTransport);
}

TEST_F(VerbsDeviceTest, ChoosesTheDeviceThatHasTheAddress) {
  for (const VerbsDevice& device : list_verbs_devices()) {
    for (const VerbsPort& port : device.ports) {
      for (const VerbsGid& gid : port.gids) {
        if (gid.type != "RoCE v2" || is_link_local(gid.raw) || !port.active) continue;
        VerbsConfig config;
        config.local_address = gid.text;
        const memory::Window window = make_window(4096);
        const VerbsFacts facts = VerbsEndpoint::open(config, window)->facts();
        EXPECT_EQ(facts.device, device.name);
        EXPECT_EQ(facts.gid, gid.text);
        EXPECT_EQ(facts.gid_index, gid.index);
        EXPECT_EQ(facts.mtu_bytes, port.mtu_bytes);
      }
    }
  }
}

TEST_F(VerbsDeviceTest, GrantsTheInlineSizeThatWasAskedFor) {
  devices_.near.inline_bytes = 256;
  const memory::Window window = make_window(4096);
  const VerbsFacts facts = VerbsEndpoint::open(devices_.near, window)->facts();
  EXPECT_GE(facts.inline_bytes, 64U);
  EXPECT_EQ(facts.depth, 256U);
}

TEST_F(VerbsDeviceTest, RefusesWhatTheDeviceCannotDo) {
  const auto devices = list_verbs_devices();
  VerbsConfig config = devices_.near;
  config.depth = 1U << 20;
  if (config.depth + 2 > devices.front().max_completions) {
    EXPECT_NE(refusal(config).find("is beyond the"), std::string::npos) << refusal(config);
  }
  config = devices_.near;
  config.local_address = "192.0.2.77";
  EXPECT_EQ(refusal(config), "") << "where the device is named the address is a preference";
  config.device = "";
  EXPECT_NE(refusal(config).find("192.0.2.77"), std::string::npos) << refusal(config);
  config.device = "nosuch0";
  EXPECT_NE(refusal(config).find("this machine has"), std::string::npos) << refusal(config);
}

TEST_F(VerbsDeviceTest, SaysWhatToCheckWhenThePeerIsOnAnotherFabric) {
  const memory::Window window = make_window(4096);
  auto endpoint = VerbsEndpoint::open(devices_.near, window);
  VerbsAddress remote = endpoint->local();
  if (remote.link_layer != LinkLayer::kEthernet || !is_mapped_v4(remote.gid)) {
    GTEST_SKIP() << "the first device has no IPv4 GID";
  }
  remote.gid = parse_gid_address("10.1.0.199")->raw;  // nobody answers for it
  try {
    (void)VerbsEndpoint::connect(std::move(endpoint), remote);
    FAIL() << "connected to nobody";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("10.1.0.199 must be reachable"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace rdmaorder::transport
