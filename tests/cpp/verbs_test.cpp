// The verbs transport over the fake libibverbs: the contract, set-up and its failures, the data
// path's discipline, and how every error becomes a link state with its cause.
#include <gtest/gtest.h>

#include "rdmaorder/error.hpp"
#include "transport_conformance.hpp"
#include "verbs_fake.hpp"
#include "verbs_pair.hpp"

namespace rdmaorder::transport {
namespace {

using namespace ring_support;

VerbsConfig on(const std::string& device) {
  VerbsConfig config;
  config.device = device;
  return config;
}

template <FakeVerbs::Nic kNic, VerbsPost kPost>
struct FakePair {
  FakeVerbs fake{kNic};
  VerbsApi api = fake.api();
  std::optional<VerbsPair> pair;
  TransportEndpoint make(std::uint64_t window_bytes) {
    fake.add_device("fake0", roce_port("10.1.0.1"));
    fake.add_device("fake1", roce_port("10.1.0.2"));
    VerbsConfig near = on("fake0");
    near.post = kPost;
    pair.emplace(VerbsPair::make(api, near, on("fake1"), window_bytes));
    return {std::move(pair->near_end), pair->far_window.words(), pair->far_window.bytes()};
  }
  [[nodiscard]] std::string absent() const { return {}; }
};
using AtOnce = FakePair<FakeVerbs::Nic::kAtOnce, VerbsPost::kPostSend>;
using AtOnceWr = FakePair<FakeVerbs::Nic::kAtOnce, VerbsPost::kWorkRequest>;
/// Reads what was not inlined as late as a retransmission would.
using Late = FakePair<FakeVerbs::Nic::kThread, VerbsPost::kPostSend>;

INSTANTIATE_TYPED_TEST_SUITE_P(VerbsFake, TransportConformance, AtOnce);
INSTANTIATE_TYPED_TEST_SUITE_P(VerbsFakeWr, TransportConformance, AtOnceWr);
INSTANTIATE_TYPED_TEST_SUITE_P(VerbsFakeLate, TransportConformance, Late);

class VerbsTest : public ::testing::Test {
 protected:
  explicit VerbsTest(FakeVerbs::Nic nic = FakeVerbs::Nic::kAtOnce) : fake_(nic) {
    fake_.add_device("fake0", roce_port("10.1.0.1"));
    fake_.add_device("fake1", roce_port("10.1.0.2"));
  }
  VerbsPair make(const VerbsConfig& near = on("fake0")) {
    return VerbsPair::make(api_, near, on("fake1"), 1U << 20);
  }
  /// The error of opening, empty when it succeeds.
  std::string refusal(const VerbsConfig& config) {
    try {
      (void)open_endpoint(api_, config, window_);
    } catch (const Error& error) {
      EXPECT_EQ(fake_.live_count(), 0U) << error.what();
      return error.what();
    }
    return {};
  }
  VerbsFacts facts_of(const VerbsConfig& config) {
    return open_endpoint(api_, config, window_)->facts();
  }

  FakeVerbs fake_;
  VerbsApi api_ = fake_.api();
  memory::Window window_ = make_window(4096);
  std::uint64_t words_[1024] = {};
};
class VerbsOnDemandTest : public VerbsTest {
 protected:
  VerbsOnDemandTest() : VerbsTest(FakeVerbs::Nic::kOnDemand) {}
};

#define EXPECT_HAS(text, part) \
  EXPECT_NE(std::string(text).find(part), std::string::npos) << "text: " << (text)

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
  EXPECT_HAS(refusal(with([](auto& c) { c.max_put_bytes = 1U << 24; })), "max_put_bytes");
  EXPECT_HAS(refusal(with([](auto& c) { c.service_level = 16; })), "service_level");
  fake_.devices[0]->limits.max_mr_size = 100;
  EXPECT_HAS(refusal(on("fake0")), "window of bytes");
  fake_.devices[0]->limits.max_cqe = 100;
  EXPECT_HAS(refusal(on("fake0")), "completions");
}

TEST_F(VerbsTest, TooLittleLockedMemoryNamesTheLimitAndTheRemedy) {
  fake_.fail_name = "reg_mr";
  const std::string text = refusal(on("fake0"));
  EXPECT_HAS(text, "register the window of 4096 bytes");
  EXPECT_HAS(text, "ulimit -l");
  EXPECT_HAS(text, "LimitMEMLOCK=infinity");
}

TEST_F(VerbsTest, RefusesAnAddressThatNoPeerCanMean) {
  const auto with = [&](auto change) -> std::string {
    auto endpoint = open_endpoint(api_, on("fake0"), window_);
    VerbsAddress remote = endpoint->local();
    change(remote);
    try {
      (void)VerbsEndpoint::connect(std::move(endpoint), remote);
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  EXPECT_EQ(with([](auto&) {}), "");
  EXPECT_HAS(with([](auto& a) { a.qp_number = 1U << 24; }), "24 bits");
  EXPECT_HAS(with([](auto& a) { a.window_bytes = 0; }), "empty");
  EXPECT_HAS(with([](auto& a) { a.window_address = UINT64_MAX - 7; }), "wraps");
  EXPECT_HAS(with([](auto& a) { a.mtu_bytes = 0; }), "MTU 0");
  EXPECT_HAS(with([](auto& a) { a.link_layer = LinkLayer::kInfiniBand; }), "different fabrics");
  EXPECT_HAS(with([](auto& a) { a.gid = parse_gid_address("fe80::2")->raw; }), "IP versions");
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

// --- data path ----------------------------------------------------------------------------------

TEST_F(VerbsTest, EachPutIsOneWriteToItsPlaceAndNothingElse) {
  const VerbsPair pair = make();
  for (std::uint64_t i = 0; i < 300; ++i) {
    ASSERT_EQ(pair.near_end->put(64 * i, words_, 64), Status::kOk);
  }
  ASSERT_EQ(fake_.log.size(), 300U);
  for (std::uint64_t i = 0; i < 300; ++i) {
    const FakeWork& work = fake_.log[i];
    EXPECT_EQ(work.opcode, IBV_WR_RDMA_WRITE);
    EXPECT_EQ(work.remote_address, pair.far_address.window_address + 64 * i);
    EXPECT_EQ(work.key, pair.far_address.window_key);
    EXPECT_EQ(work.bytes, 64U);
    EXPECT_NE(work.flags & IBV_SEND_INLINE, 0U);
    EXPECT_EQ((work.flags & IBV_SEND_SIGNALED) != 0, (i + 1) % 64 == 0) << i;
  }
}

TEST_F(VerbsOnDemandTest, BoundsWhatIsOutstandingAndNeverOverflowsAQueue) {
  VerbsConfig near = on("fake0");
  near.depth = 16;
  near.signal_interval = 8;
  const VerbsPair pair = make(near);
  for (int round = 0; round < 50; ++round) {
    std::uint32_t taken = 0;
    while (ok(pair.near_end->put(0, words_, 64))) ++taken;
    EXPECT_EQ(taken, round == 0 ? 16U : 8U) << round;
    EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kFull);
    fake_.deliver(8);  // up to one signalled WRITE
    EXPECT_EQ(pair.near_end->progress(), Status::kOk);
  }
  EXPECT_FALSE(fake_.overflowed);
}

TEST_F(VerbsOnDemandTest, TheCompletionQueueHoldsEveryErrorAtOnce) {
  const VerbsPair pair = make();
  while (ok(pair.near_end->put(0, words_, 64))) {
  }
  fake_.next_status = IBV_WC_RETRY_EXC_ERR;
  fake_.deliver(1);  // flushes the 255 others and the tripwire
  const FakeQp& qp = fake_.qp(pair.near_address.qp_number);
  EXPECT_EQ(qp.queue->most, 257U);
  EXPECT_FALSE(fake_.overflowed);
  EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
  EXPECT_HAS(pair.near_end->failure(), "transport retry counter exceeded");
}

TEST_F(VerbsOnDemandTest, StagingIsNotReusedBeforeItsCompletionIsKnown) {
  VerbsConfig near = on("fake0");
  near.max_put_bytes = 4096;
  VerbsPair pair = make(near);
  std::mt19937 random(5);
  std::uint64_t sequence = 0;
  std::deque<std::pair<std::uint64_t, std::vector<std::uint64_t>>> sent;  // offset, words
  for (int round = 0; round < 300; ++round) {
    while (true) {
      const auto count = static_cast<std::uint32_t>(random() % 504) + 9;  // never inline
      std::vector<std::uint64_t> source(count);
      for (auto& word : source) word = ++sequence;
      const std::uint64_t offset = (random() % 64) * 4096;
      const Status status = pair.near_end->put(offset, source.data(), count * 8);
      if (status == Status::kFull) break;
      ASSERT_EQ(status, Status::kOk);
      sent.emplace_back(offset, source);
      std::fill(source.begin(), source.end(), 0);
    }
    ASSERT_FALSE(sent.empty()) << "no progress in round " << round;
    while (!sent.empty()) {
      fake_.deliver(1);  // the sources are read only now
      const auto& [offset, source] = sent.front();
      for (std::size_t i = 0; i < source.size(); ++i) {
        ASSERT_EQ(pair.far_window.words()[offset / 8 + i], source[i]) << "round " << round;
      }
      sent.pop_front();
    }
    ASSERT_EQ(pair.near_end->progress(), Status::kOk);
  }
  EXPECT_FALSE(fake_.overflowed);
}

TEST_F(VerbsOnDemandTest, CloseWaitsForWhatIsUnderWay) {
  VerbsPair pair = make();
  words_[0] = 7;
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  std::atomic<bool> stop{false};
  std::thread nic([&] {
    while (!stop) fake_.deliver(1);
  });
  pair.near_end->close();
  stop = true;
  nic.join();
  EXPECT_EQ(pair.far_window.words()[0], 7U);
  EXPECT_EQ(fake_.log.back().bytes, 0U) << "the marker writes nothing";
}

// --- failures -----------------------------------------------------------------------------------

TEST_F(VerbsTest, EveryCompletionErrorEndsTheLinkAndIsExplained) {
  for (int status = IBV_WC_LOC_LEN_ERR; status <= IBV_WC_GENERAL_ERR; ++status) {
    VerbsPair pair = make();
    fake_.next_status = static_cast<ibv_wc_status>(status);
    ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk) << "unsignalled";
    EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
    EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kTransport);
    const std::string text = pair.near_end->failure();
    EXPECT_HAS(text, "(wc_status " + std::to_string(status) + ", vendor code 0x89)");
    EXPECT_HAS(text, "on fake0 port 1 to queue pair");
    EXPECT_HAS(text, "at 10.1.0.2");
    pair.near_end->close();
    EXPECT_EQ(pair.near_end->failure(), text) << "closing does not hide the cause";
  }
}

TEST_F(VerbsTest, APostThatFailsEndsTheLink) {
  const VerbsPair pair = make();
  fake_.post_error = EIO;
  EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kTransport);
  EXPECT_HAS(pair.near_end->failure(), "posting an RDMA WRITE failed: Input/output error");
}

TEST_F(VerbsTest, APollThatFailsEndsTheLink) {
  const VerbsPair pair = make();
  fake_.poll_error = EIO;
  EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
  EXPECT_HAS(pair.near_end->failure(), "polling the completion queue failed");
}

TEST_F(VerbsTest, FenceStopsThePeerAndTellsBothEnds) {
  const VerbsPair pair = make();
  ASSERT_EQ(pair.far_end->fence(), Status::kOk);
  EXPECT_EQ(pair.far_end->fence(), Status::kOk);
  EXPECT_EQ(pair.far_end->put(0, words_, 64), Status::kOk) << "the fencing side still writes";
  words_[0] = 9;
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  EXPECT_EQ(pair.far_window.words()[0], 0U);
  EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
  EXPECT_HAS(pair.near_end->failure(), "fenced (kill switch)");
  EXPECT_EQ(pair.far_end->progress(), Status::kTransport) << "the tripwire, without a put";
  EXPECT_HAS(pair.far_end->failure(), "queue pair went to error");
}

TEST_F(VerbsTest, FenceTakesTheKeyWhereTheQueuePairCannotBeChanged) {
  const VerbsPair pair = make();
  fake_.fail_name = "modify_qp";
  EXPECT_EQ(pair.far_end->fence(), Status::kOk);
  fake_.fail_name.clear();
  words_[0] = 9;
  (void)pair.near_end->put(0, words_, 64);
  EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
  EXPECT_EQ(pair.far_window.words()[0], 0U);
}

TEST_F(VerbsTest, FenceSaysSoWhereTheDeviceConfirmedNothingAndCanBeRepeated) {
  const VerbsPair pair = make();
  api_.modify_qp = [](ibv_qp*, ibv_qp_attr*, int) { return EIO; };
  const auto dereg_mr = std::exchange(api_.dereg_mr, [](ibv_mr*) { return EBUSY; });
  EXPECT_EQ(pair.far_end->fence(), Status::kTransport);
  api_.dereg_mr = dereg_mr;
  EXPECT_EQ(pair.far_end->fence(), Status::kOk);
}

TEST_F(VerbsTest, AMessageFromThePeerIsABreachOfProtocol) {
  const VerbsPair pair = make();
  fake_.send_message_to(pair.near_address.qp_number);
  EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
  EXPECT_HAS(pair.near_end->failure(), "only RDMA WRITE belongs");
}

TEST_F(VerbsTest, AFatalEventEndsTheLinkAndIsAcknowledged) {
  const std::pair<ibv_event_type, int> fatal[] = {{IBV_EVENT_QP_FATAL, 0},
                                                  {IBV_EVENT_QP_ACCESS_ERR, 0},
                                                  {IBV_EVENT_CQ_ERR, 0},
                                                  {IBV_EVENT_DEVICE_FATAL, 0},
                                                  {IBV_EVENT_PORT_ERR, 1}};
  for (const auto& [type, port] : fatal) {
    const VerbsPair pair = make();
    fake_.announce(type, port);
    ASSERT_TRUE(fails_eventually(*pair.near_end)) << type;
    EXPECT_HAS(pair.near_end->failure(),
               "the device reported: some event (event " + std::to_string(type) + ")");
    EXPECT_TRUE(eventually([&] { return fake_.unacknowledged_events() == 0; }));
  }
}

TEST_F(VerbsTest, AnEventThatBreaksNothingIsOnlyAcknowledged) {
  const VerbsPair pair = make();
  const std::uint64_t before = fake_.events_given;
  fake_.announce(IBV_EVENT_COMM_EST);
  fake_.announce(IBV_EVENT_PORT_ERR, 2);                                      // another port
  ASSERT_TRUE(eventually([&] { return fake_.events_acked == before + 4; }));  // two contexts
  EXPECT_EQ(pair.near_end->progress(), Status::kOk);
  EXPECT_EQ(pair.near_end->failure(), "");
}

}  // namespace
}  // namespace rdmaorder::transport
