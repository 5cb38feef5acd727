// Setting a verbs link up over the fake libibverbs: which device is chosen, what is registered and
// negotiated, and every failure on the way.
#include <filesystem>
#include <fstream>

#include "rdmaorder/error.hpp"
#include "rdmaorder/rdma_link.hpp"
#include "verbs_fixture.hpp"

namespace rdmaorder::transport {
namespace {

// --- set-up -------------------------------------------------------------------------------------

TEST_F(VerbsTest, EveryCallThatFailsDuringSetUpIsAnErrorAndLeavesNothing) {
  for (const VerbsPost post : {VerbsPost::kPostSend, VerbsPost::kWorkRequest}) {
    std::set<std::string> names;
    VerbsConfig near = on("fake0");
    near.post = post;
    near.inline_bytes = 0;  // a refused size would be tried again, smaller
    bool succeeded = false;
    for (int at = 0; !succeeded; ++at) {
      ASSERT_LT(at, 200);
      fake_.call_count = 0;
      fake_.fail_at = at;
      fake_.failed.clear();
      try {
        VerbsConfig far = on("fake1");
        far.inline_bytes = 0;
        const VerbsPair pair = VerbsPair::make(api_, near, far, 8192);
        succeeded = fake_.failed.empty();
        EXPECT_TRUE(succeeded) << fake_.failed << " failed unnoticed";
      } catch (const Error& error) {
        EXPECT_FALSE(fake_.failed.empty()) << error.what();
        EXPECT_EQ(error.kind(), ErrorKind::kTransport) << error.what();
        EXPECT_HAS(error.what(), std::strerror(error.error_number()));
        names.insert(fake_.failed);
      }
      ASSERT_EQ(fake_.live_count(), 0U) << "after " << fake_.failed << " failed";
    }
    fake_.fail_at = -1;
    std::set<std::string> all{"get_device_list", "open_device", "query_device", "query_port",
                              "query_gid_ex",    "alloc_pd",    "reg_mr",       "create_cq",
                              "modify_qp",       "post_recv"};
    all.merge(post == VerbsPost::kPostSend
                  ? std::set<std::string>{"create_qp"}
                  : std::set<std::string>{"create_qp_ex", "qp_to_qp_ex", "create_qp"});
    EXPECT_EQ(names, all);
  }
}

TEST_F(VerbsTest, ACallThatFailsDuringTearDownDoesNotStopTheRest) {
  for (const char* name : {"destroy_qp", "dereg_mr", "destroy_cq", "dealloc_pd", "close_device"}) {
    VerbsPair pair = make();
    fake_.releases.clear();
    fake_.fail_name = name;
    pair.near_end->close();
    EXPECT_EQ(fake_.releases.size(), std::string(name) == "dereg_mr" ? 4U : 5U) << name;
    fake_.fail_name.clear();
  }
}

TEST_F(VerbsTest, ReleasesChildrenBeforeParentsOnceAndClosesTwice) {
  VerbsPair pair = make();
  fake_.releases.clear();
  pair.near_end->close();
  const std::vector<std::string> order{"destroy_qp", "dereg_mr",   "dereg_mr",
                                       "destroy_cq", "dealloc_pd", "close_device"};
  EXPECT_EQ(fake_.releases, order);
  pair.near_end->close();
  EXPECT_EQ(fake_.releases, order);
  EXPECT_EQ(pair.near_end->failure(), "closed by this side");
  pair.near_end.reset();
  pair.far_end.reset();
  EXPECT_EQ(fake_.live_count(), 0U);
}

TEST_F(VerbsTest, RegistersTheWindowForRemoteWritesAndStagingForNone) {
  (void)open_endpoint(api_, on("fake0"), window_);
  EXPECT_EQ(fake_.region_access, (std::vector<int>{IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE,
                                                   IBV_ACCESS_LOCAL_WRITE}));
}

TEST_F(VerbsTest, BringsTheQueuePairUpWithWhatWasNegotiated) {
  const VerbsPair pair = make();
  const FakeQp& near = fake_.qp(pair.near_address.qp_number);
  EXPECT_EQ(near.state, IBV_QPS_RTS);
  EXPECT_EQ(near.attributes.qp_access_flags, unsigned{IBV_ACCESS_REMOTE_WRITE});
  EXPECT_EQ(near.attributes.dest_qp_num, pair.far_address.qp_number);
  EXPECT_EQ(near.attributes.sq_psn, pair.near_address.packet_sequence);
  EXPECT_EQ(near.attributes.rq_psn, pair.far_address.packet_sequence);
  EXPECT_EQ(near.attributes.path_mtu, IBV_MTU_1024);
  EXPECT_EQ(near.attributes.timeout, 14);
  EXPECT_EQ(near.attributes.retry_cnt, 6);
  EXPECT_EQ(near.attributes.ah_attr.is_global, 1);
  EXPECT_EQ(near.attributes.ah_attr.grh.sgid_index, 1) << "the IPv4 GID, not the link-local one";
  EXPECT_EQ(std::memcmp(near.attributes.ah_attr.grh.dgid.raw, pair.far_address.gid.data(), 16), 0);
  EXPECT_EQ(near.receives.size(), 1U) << "the tripwire";
}

TEST_F(VerbsTest, PacketSequencesAreRandomAndFit24Bits) {
  std::set<std::uint32_t> seen;
  for (int i = 0; i < 50; ++i) {
    const auto endpoint = open_endpoint(api_, on("fake0"), window_);
    EXPECT_LT(endpoint->local().packet_sequence, 1U << 24);
    seen.insert(endpoint->local().packet_sequence);
  }
  EXPECT_GT(seen.size(), 45U);
}

TEST_F(VerbsTest, TakesTheInlineSizeThatTheDeviceGrants) {
  fake_.inline_limit = 100;
  VerbsConfig config = on("fake0");
  config.inline_bytes = 256;
  EXPECT_EQ(facts_of(config).inline_bytes, 64U);
  fake_.inline_limit = 0;
  EXPECT_EQ(facts_of(config).inline_bytes, 0U);
}

TEST_F(VerbsTest, UsesTheSmallerMtuOfBothEndsAndRefusesWhatOneCannot) {
  fake_.devices[0]->ports[0].attributes.active_mtu = IBV_MTU_4096;
  EXPECT_EQ(make().near_end->facts().mtu_bytes, 1024U);
  VerbsConfig near = on("fake0");
  near.mtu_bytes = 4096;
  try {
    (void)make(near);
    FAIL();
  } catch (const Error& error) {
    EXPECT_HAS(error.what(), "mtu_bytes = 4096 was asked for, the peer takes 1024");
  }
  near.device = "fake1";
  EXPECT_HAS(refusal(near), "raise the MTU");
  near.mtu_bytes = 1500;
  EXPECT_HAS(refusal(near), "none of 256, 512, 1024, 2048, 4096");
}

TEST_F(VerbsTest, RefusesSettingsThatCannotWorkAndNamesThem) {
  const auto with = [](auto change) {
    VerbsConfig config = on("fake0");
    change(config);
    return config;
  };
  EXPECT_HAS(refusal(with([](auto& c) { c.retry_count = 7; })), "for ever");
  EXPECT_HAS(refusal(with([](auto& c) { c.retry_count = 0; })), "retry_count = 0");
  EXPECT_HAS(refusal(with([](auto& c) { c.rnr_retry_count = 7; })), "for ever");
  EXPECT_HAS(refusal(with([](auto& c) { c.timeout_exponent = 0; })), "timeout_exponent");
  EXPECT_HAS(refusal(with([](auto& c) { c.timeout_exponent = 32; })), "1 .. 31");
  EXPECT_HAS(refusal(with([](auto& c) { c.signal_interval = 129; })), "1 .. 128");
  EXPECT_HAS(refusal(with([](auto& c) { c.depth = 1; })), "depth = 1");
  EXPECT_HAS(refusal(with([](auto& c) { c.depth = 5000; })), "4096 that fake0 port 1 takes");
  EXPECT_HAS(refusal(with([](auto& c) { c.max_put_bytes = 100; })), "max_put_bytes = 100");
  EXPECT_HAS(refusal(with([](auto& c) { c.service_level = 16; })), "service_level");
  fake_.devices[0]->limits.max_mr_size = 100;
  EXPECT_HAS(refusal(on("fake0")), "window of bytes");
  fake_.devices[0]->limits.max_cqe = 100;
  EXPECT_HAS(refusal(on("fake0")), "completions");
}

TEST_F(VerbsTest, APutIsNoLargerThanWhatThePortTakes) {
  for (const auto& device : fake_.devices) device->ports[0].attributes.max_msg_sz = 1027;
  const VerbsPair pair = make();
  EXPECT_EQ(pair.near_end->asked().max_put_bytes, 65536U);
  EXPECT_EQ(pair.near_end->facts().max_put_bytes, 1024U);
  EXPECT_EQ(pair.near_end->put(0, words_, 1024), Status::kOk);
  EXPECT_EQ(pair.near_end->put(0, words_, 1088), Status::kTooLarge);
  check_slot_fits(*pair.near_end, 1024);
  try {
    check_slot_fits(*pair.near_end, 2048);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_HAS(error.what(), "slots of 2048 bytes");
    EXPECT_HAS(error.what(), "1024 bytes that fake0 port 1 takes in one message");
  }
}

TEST_F(VerbsTest, TooLittleLockedMemoryNamesTheLimitAndTheRemedy) {
  fake_.fail_name = "reg_mr";
  const std::string text = refusal(on("fake0"));
  EXPECT_HAS(text, "register the window of 4096 bytes");
  EXPECT_HAS(text, "ulimit -l");
  EXPECT_HAS(text, "LimitMEMLOCK=infinity");
}

TEST_F(VerbsTest, RefusesAnAddressThatNoPeerCanMean) {
  std::uint32_t own_number = 0;
  const auto with = [&](auto change) -> std::string {
    auto endpoint = open_endpoint(api_, on("fake0"), window_);
    const memory::Window far_window = make_window(4096);
    VerbsAddress remote = open_endpoint(api_, on("fake0"), far_window)->local();
    own_number = endpoint->local().qp_number;
    change(remote);
    try {
      (void)VerbsEndpoint::connect(std::move(endpoint), remote);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(with([](auto&) {}), "") << "another queue pair of the same device";
  EXPECT_HAS(with([&](auto& a) { a.qp_number = own_number; }), "that of this end");
  EXPECT_HAS(with([](auto& a) { a.qp_number = 0; }), "queue pair 0 is one of the port's own");
  EXPECT_HAS(with([](auto& a) { a.qp_number = 1; }), "queue pair 1 is one of the port's own");
  for (const char* gid :
       {"::", "ff02::1", "0.0.0.0", "224.0.0.1", "239.255.255.255", "255.255.255.255"}) {
    EXPECT_HAS(with([&](auto& a) { a.gid = parse_gid_address(gid)->raw; }),
               std::string("GID ") + gid + " is no address of one interface");
  }
  EXPECT_HAS(with([](auto& a) { a.qp_number = 1U << 24; }), "24 bits");
  EXPECT_HAS(with([](auto& a) { a.window_bytes = 0; }), "empty");
  EXPECT_HAS(with([](auto& a) { a.window_address = UINT64_MAX - 7; }), "wraps");
  EXPECT_HAS(with([](auto& a) { a.mtu_bytes = 0; }), "MTU 0");
  EXPECT_HAS(with([](auto& a) { a.link_layer = LinkLayer::kInfiniBand; }), "different fabrics");
  const std::string bare = with([](auto& a) { a.gid = parse_gid_address("fe80::2")->raw; });
  EXPECT_HAS(bare, "GIDs 10.1.0.1 of fake0 (Ethernet) and fe80::2 of the peer are of different IP");
  EXPECT_HAS(bare, "an interface without an IP address has a link-local GID alone");
  EXPECT_EQ(with([](auto& a) { a.gid = parse_gid_address("fd10::2")->raw; }).find("link-local"),
            std::string::npos);
  EXPECT_EQ(fake_.live_count(), 0U);
}

TEST_F(VerbsTest, TellsWhatTheDeviceSaysOfByteOrderOnlyToThePeer) {
  fake_.data_in_order = 1;
  const VerbsPair pair = make();
  EXPECT_TRUE(pair.near_end->facts().data_in_order);
  EXPECT_EQ(pair.near_end->info().byte_order, ByteOrder::kUnspecified);
  pair.near_end->set_peer_data_in_order(true);
  EXPECT_EQ(pair.near_end->info().byte_order, ByteOrder::kAscendingLine);
  api_.query_qp_data_in_order = nullptr;  // an old library
  EXPECT_FALSE(make().near_end->facts().data_in_order);
}

TEST(VerbsApi, SaysWhatToInstallWhereTheLibraryIsMissing) {
  try {
    (void)load_verbs_api("libnosuchverbs.so.1");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kTransport);
    EXPECT_HAS(error.what(), "apt-get install libibverbs1");
  }
  try {
    (void)load_verbs_api("libc.so.6");
    FAIL();
  } catch (const Error& error) {
    EXPECT_HAS(error.what(), "has no ibv_get_device_list");
  }
}

// --- the choice of device, port and GID ---------------------------------------------------------

VerbsConfig by_address(const std::string& address) {
  VerbsConfig config;
  config.local_address = address;
  return config;
}

TEST_F(VerbsTest, ChoosesTheDeviceByTheAddressAndSaysWhy) {
  const VerbsFacts facts = facts_of(by_address("10.1.0.2"));
  EXPECT_EQ(facts.device, "fake1");
  EXPECT_EQ(facts.gid, "10.1.0.2");
  EXPECT_EQ(facts.gid_index, 1);
  EXPECT_EQ(facts.gid_type, "RoCE v2");
  EXPECT_EQ(facts.link_layer, "Ethernet");
  EXPECT_EQ(facts.firmware, "1.2.3");
  EXPECT_EQ(facts.mtu_bytes, 1024U);
  EXPECT_EQ(facts.timeout_ns, 67'108'864U);
  EXPECT_EQ(facts.why, "has 10.1.0.2");
}

TEST_F(VerbsTest, ChoosesTheDeviceByAnIpv6Address) {
  fake_.add_device("fake6", roce_port("2001:db8::7"));
  EXPECT_EQ(facts_of(by_address("2001:db8::7")).device, "fake6");
  EXPECT_EQ(facts_of(on("fake6")).gid, "2001:db8::7") << "global before link-local";
}

TEST_F(VerbsTest, ANamedDeviceNeedsNoMatchingAddress) {
  VerbsConfig config = by_address("192.0.2.1");
  config.device = "fake1";
  const VerbsFacts facts = facts_of(config);
  EXPECT_EQ(facts.gid, "10.1.0.2");
  EXPECT_EQ(facts.why, "is named; 192.0.2.1 is not its own");
}

TEST_F(VerbsTest, AnAddressOfNoDeviceIsRefusedWithTheListOfThose) {
  const std::string text = refusal(by_address("192.0.2.1"));
  EXPECT_HAS(text, "192.0.2.1");
  EXPECT_HAS(text, "fake0 port 1 active, GIDs fe80::1 (RoCE v2) 10.1.0.1 (RoCE v2)");
  EXPECT_HAS(refusal(by_address("gateway.example")), "numeric IPv4 or IPv6");
  EXPECT_HAS(refusal(on("mlx5_0")), "no RDMA device 'mlx5_0'; this machine has fake0, fake1");
}

TEST_F(VerbsTest, APortThatIsDownIsRefusedAndSkippedWhereThereIsAnother) {
  fake_.devices[0]->ports[0].attributes.state = IBV_PORT_DOWN;
  EXPECT_HAS(refusal(by_address("10.1.0.1")), "fake0 port 1 is down");
  EXPECT_HAS(refusal(on("fake0")),
             "fake0 has no active port with a RoCE v2 GID; here: fake0 port 1");
  EXPECT_EQ(facts_of({}).device, "fake1");
  fake_.devices[1]->ports[0].attributes.state = IBV_PORT_DOWN;
  EXPECT_HAS(refusal({}), "no RDMA device has an active port with a RoCE v2 GID; here: fake0 port");
}

TEST_F(VerbsTest, RoceV1IsNotUsed) {
  fake_.devices[0]->ports[0] = roce_port("10.1.0.1", IBV_GID_TYPE_ROCE_V1);
  EXPECT_HAS(refusal(on("fake0")), "RoCE v2");
  EXPECT_HAS(refusal(by_address("10.1.0.1")), "10.1.0.1 (RoCE v1)");
  VerbsConfig config = on("fake0");
  config.gid_index = 1;
  EXPECT_HAS(refusal(config), "usable GID");
}

TEST_F(VerbsTest, AGidWhoseIndexHasMoreThanEightBitsIsNotUsed) {
  FakePort& port = fake_.devices[0]->ports[0];
  port.gids.resize(256, port.gids.front());
  port.gids.emplace_back(parse_gid_address("10.9.0.1")->raw, IBV_GID_TYPE_ROCE_V2);
  port.attributes.gid_tbl_len = 257;
  EXPECT_EQ(facts_of(on("fake0")).gid, "10.1.0.1");
  EXPECT_HAS(refusal(by_address("10.9.0.1")), "10.9.0.1 (RoCE v2, index 256 > 255)");
  port.gids[1] = port.gids.front();
  EXPECT_EQ(facts_of(on("fake0")).gid, "fe80::1") << "rather than an IPv4 one out of reach";
}

TEST_F(VerbsTest, ANamedGidIndexAndPortAreTakenOrRefused) {
  VerbsConfig config = on("fake0");
  config.gid_index = 0;
  EXPECT_EQ(facts_of(config).gid, "fe80::1");
  config.gid_index = 3;
  EXPECT_HAS(refusal(config), "fake0 does not have, on a fitting port, a usable GID");
  EXPECT_HAS(refusal(config), "at index 3; here: fake0 port 1 active");
  config.device.clear();
  EXPECT_HAS(refusal(config), "no RDMA device has, on a fitting port, a usable GID");
  config = on("fake0");
  config.port = 2;
  EXPECT_HAS(refusal(config), "fake0 has no port 2");
}

TEST_F(VerbsTest, InfiniBandIsReachedByItsLid) {
  for (const auto& device : fake_.devices) {
    ibv_port_attr& port = device->ports[0].attributes;
    port.link_layer = IBV_LINK_LAYER_INFINIBAND;
    port.lid = device->name == "fake0" ? 4 : 5;
    device->ports[0].gids = {{parse_gid_address("fe80::9")->raw, IBV_GID_TYPE_IB}};
  }
  const VerbsPair pair = make();
  const FakeQp& near = fake_.qp(pair.near_address.qp_number);
  EXPECT_EQ(near.attributes.ah_attr.dlid, 5);
  EXPECT_EQ(near.attributes.ah_attr.is_global, 0) << "the same subnet";
  EXPECT_EQ(pair.near_end->facts().link_layer, "InfiniBand");
  VerbsAddress remote = pair.far_address;
  remote.lid = 0;
  remote.link_layer = LinkLayer::kEthernet;  // as the control plane takes it
  try {
    (void)VerbsEndpoint::connect(open_endpoint(api_, on("fake0"), window_), remote);
    FAIL();
  } catch (const Error& error) {
    EXPECT_HAS(error.what(), "different fabrics");
    EXPECT_HAS(error.what(), "is a subnet manager running there?");
  }
}

TEST_F(VerbsTest, AnInfiniBandPortWithoutGidReachesItsSubnetByLid) {
  for (const auto& device : fake_.devices) {
    ibv_port_attr& port = device->ports[0].attributes;
    port.link_layer = IBV_LINK_LAYER_INFINIBAND;
    port.lid = device->name == "fake0" ? 4 : 5;
    device->ports[0].gids.clear();
  }
  fake_.devices[1]->ports[0].gids = {{parse_gid_address("fe80::9")->raw, IBV_GID_TYPE_IB}};
  const VerbsPair pair = make();
  for (const VerbsAddress& each : {pair.near_address, pair.far_address}) {
    EXPECT_EQ(fake_.qp(each.qp_number).attributes.ah_attr.is_global, 0) << each.lid;
  }
}

TEST_F(VerbsTest, AnInfiniBandPortIsFoundByTheAddressOfItsIpoibInterface) {
  namespace fs = std::filesystem;
  for (const auto& device : fake_.devices) {
    device->ports[0].attributes.link_layer = IBV_LINK_LAYER_INFINIBAND;
    device->ports[0].attributes.lid = 4;
    device->ports[0].gids = {{parse_gid_address("fe80::9")->raw, IBV_GID_TYPE_IB}};
  }
  const fs::path root = fs::path(::testing::TempDir()) / ("sys" + std::to_string(getpid()));
  const fs::path interface = root / "class/net/lo";  // the one that has 127.0.0.1 everywhere
  fs::create_directories(interface / "device/infiniband/fake1");
  fs::create_directories(root / "class/infiniband/fake1/device");
  std::ofstream(root / "class/infiniband/fake1/device/numa_node") << "1\n";
  std::ofstream(interface / "dev_port") << "0\n";
  api_.sysfs = root;
  const VerbsFacts facts = facts_of(by_address("127.0.0.1"));
  EXPECT_EQ(facts.device, "fake1");
  EXPECT_EQ(facts.why, "has 127.0.0.1");
  EXPECT_EQ(facts.numa_node, 1);
  std::ofstream(interface / "dev_port") << "1\n";  // of a second port, which fake1 does not have
  EXPECT_HAS(refusal(by_address("127.0.0.1")), "IPoIB interface with the address 127.0.0.1");
  fs::remove_all(root);
}

TEST(VerbsConfigOfUrl, AShallowQueueNeedsNoSecondSetting) {
  EXPECT_EQ(verbs_config({}, "").signal_interval, 64U);
  EXPECT_EQ(verbs_config({{"depth", "32"}}, "").signal_interval, 16U);
  EXPECT_EQ(verbs_config({{"depth", "32"}, {"signal_interval", "20"}}, "").signal_interval, 20U)
      << "what was asked for is refused, not changed";
}

TEST_F(VerbsTest, AMachineWithoutDevicesSaysHowToGetOne) {
  fake_.devices.clear();
  EXPECT_HAS(refusal({}), "this machine has no RDMA device");
  fake_.list_is_null = true;
  EXPECT_HAS(refusal({}), "this machine has no RDMA device");
  EXPECT_TRUE(list_verbs_devices(api_).empty());
}

TEST_F(VerbsTest, DevicesOfTheKernelThatTheLibraryLeavesOutAreNamed) {
  namespace fs = std::filesystem;
  const fs::path root = fs::path(::testing::TempDir()) / ("sys" + std::to_string(getpid()));
  fs::create_directories(root / "class/infiniband/mlx5_0");
  api_.sysfs = root;
  EXPECT_EQ(facts_of({}).device, "fake0") << "it is no matter where the library finds some";
  fake_.devices.clear();
  EXPECT_HAS(refusal({}), "the kernel has the RDMA devices mlx5_0, libibverbs finds none of them");
  EXPECT_HAS(refusal(on("mlx5_0")), "ibverbs-providers");
  EXPECT_THROW((void)list_verbs_devices(api_), Error);
  fs::remove_all(root);
}

TEST_F(VerbsTest, ADeviceThatCannotBeOpenedForWantOfDescriptorsNamesThatLimit) {
  api_.open_device = [](ibv_device*) -> ibv_context* {
    errno = EMFILE;
    return nullptr;
  };
  const std::string text = refusal(on("fake0"));
  EXPECT_HAS(text, "open on fake0: Too many open files; raise the limit of open files (ulimit -n");
  EXPECT_EQ(text.find("readable and writable"), std::string::npos) << text;
}

TEST_F(VerbsTest, AnUnusableDeviceIsNoObstacleToAnother) {
  static ibv_context* (*open)(ibv_device*) = nullptr;  // a plain function captures nothing
  open = api_.open_device;
  api_.open_device = [](ibv_device* device) -> ibv_context* {
    if (reinterpret_cast<FakeDevice*>(device)->name != "fake0") return open(device);
    errno = EACCES;
    return nullptr;
  };
  EXPECT_EQ(facts_of(by_address("10.1.0.2")).device, "fake1");
  EXPECT_EQ(facts_of({}).device, "fake1");
  const std::string text = refusal(by_address("10.1.0.1"));
  EXPECT_HAS(text, "with the address 10.1.0.1; here: fake1 port 1 active");
  EXPECT_HAS(text, "open on fake0: Permission denied; /dev/infiniband/uverbs*");
  EXPECT_HAS(refusal(on("fake0")), "open on fake0: Permission denied");
  const auto devices = list_verbs_devices(api_);
  ASSERT_EQ(devices.size(), 2U);
  EXPECT_EQ(devices[0].name, "fake0");
  EXPECT_HAS(devices[0].unusable, "open on fake0: Permission denied");
  EXPECT_EQ(devices[1].unusable, "");
}

TEST_F(VerbsTest, ListsDevicesPortsAndGids) {
  const auto devices = list_verbs_devices(api_);
  ASSERT_EQ(devices.size(), 2U);
  EXPECT_EQ(devices[1].name, "fake1");
  EXPECT_EQ(devices[1].max_depth, 4096U);
  ASSERT_EQ(devices[1].ports.size(), 1U);
  EXPECT_TRUE(devices[1].ports[0].active);
  ASSERT_EQ(devices[1].ports[0].gids.size(), 2U) << "without the empty rows";
  EXPECT_EQ(devices[1].ports[0].gids[1].text, "10.1.0.2");
  EXPECT_EQ(fake_.live_count(), 0U);
}

TEST(LocalAddress, IsTheOneTheRoutingTableWouldUse) {
  EXPECT_EQ(local_address_towards("127.0.0.1"), "127.0.0.1");
  EXPECT_THROW((void)local_address_towards("not an address"), Error);
}

}  // namespace
}  // namespace rdmaorder::transport
