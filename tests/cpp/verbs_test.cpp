// The verbs transport over the fake libibverbs: the contract, set-up and its failures, the data
// path's discipline, and how every error becomes a link state with its cause.
#include <gtest/gtest.h>

#include <random>

#include "transport_conformance.hpp"
#include "verbs_fixture.hpp"

namespace rdmaorder::transport {
namespace {

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

TEST_F(VerbsTest, AListOfPutsIsOneDoorbellAndItsWritesAreThoseOfSinglePuts) {
  const VerbsPair pair = make();
  std::uint64_t large[32] = {};  // 256 bytes: through staging memory
  large[31] = 7;
  for (std::uint64_t i = 0; i < 100; ++i) {
    const PutRequest puts[] = {{64 * i, words_, 64}, {8192, large, 256}};
    Status status = Status::kInvalid;
    ASSERT_EQ(pair.near_end->put_list(puts, &status), 2U);
    ASSERT_EQ(status, Status::kOk);
    ASSERT_EQ(fake_.doorbells, i + 1);
  }
  ASSERT_EQ(fake_.log.size(), 200U);
  for (std::uint64_t i = 0; i < 200; ++i) {
    const FakeWork& work = fake_.log[i];
    const bool first = i % 2 == 0;
    EXPECT_EQ(work.remote_address, pair.far_address.window_address + (first ? 64 * (i / 2) : 8192));
    EXPECT_EQ(work.bytes, first ? 64U : 256U);
    EXPECT_EQ((work.flags & IBV_SEND_INLINE) != 0, first);
    EXPECT_EQ((work.flags & IBV_SEND_SIGNALED) != 0, (i + 1) % 64 == 0) << i;
  }
  EXPECT_EQ(pair.far_window.words()[8192 / 8 + 31], 7U);
}

TEST_F(VerbsTest, AListStopsAtThePutThatCannotGoAndSendsThoseBefore) {
  const VerbsPair pair = make();
  const PutRequest puts[] = {{0, words_, 64}, {4, words_, 64}, {128, words_, 64}};
  Status status = Status::kOk;
  EXPECT_EQ(pair.near_end->put_list(puts, &status), 1U);
  EXPECT_EQ(status, Status::kInvalid);
  ASSERT_EQ(fake_.log.size(), 1U);
  EXPECT_EQ(pair.near_end->put_list(std::span(puts).last(2), &status), 0U);
  EXPECT_EQ(fake_.doorbells, 1U) << "nothing to post is no doorbell";
  fake_.post_error = ENOMEM;
  EXPECT_EQ(pair.near_end->put_list(std::span(puts).first(1), &status), 0U);
  EXPECT_EQ(status, Status::kTransport);
  EXPECT_NE(pair.near_end->failure().find("post"), std::string::npos) << pair.near_end->failure();
}

TEST_F(VerbsTest, AListThatTheDeviceRefusesInTheMiddleSaysWhatWent) {
  const VerbsPair pair = make();
  const PutRequest puts[] = {{0, words_, 64}, {64, words_, 64}, {128, words_, 64}};
  Status status = Status::kOk;
  fake_.post_error = ENOMEM;
  fake_.posts_before_error = 2;
  EXPECT_EQ(pair.near_end->put_list(puts, &status), 2U);
  EXPECT_EQ(status, Status::kTransport);
  EXPECT_EQ(fake_.log.size(), 2U);
  EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kTransport);
}

TEST_F(VerbsOnDemandTest, AListIsBoundedByWhatMayBeOutstanding) {
  VerbsConfig near = on("fake0");
  near.depth = 16;
  near.signal_interval = 8;
  const VerbsPair pair = make(near);
  const PutRequest puts[] = {{0, words_, 64}, {64, words_, 64}};
  Status status = Status::kOk;
  for (int i = 0; i < 7; ++i) ASSERT_EQ(pair.near_end->put_list(puts, &status), 2U);
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  EXPECT_EQ(pair.near_end->put_list(puts, &status), 1U);
  EXPECT_EQ(status, Status::kFull);
  EXPECT_EQ(fake_.log.size(), 16U);
  fake_.deliver(16);
  EXPECT_EQ(pair.near_end->put_list(puts, &status), 2U);
  EXPECT_EQ(status, Status::kOk);
  EXPECT_FALSE(fake_.overflowed);
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

TEST_F(VerbsOnDemandTest, LingeringWaitsForWhatIsUnderWay) {
  VerbsPair pair = make();
  words_[0] = 7;
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  fake_.deliver_at_poll = true;
  pair.near_end->linger();
  EXPECT_EQ(pair.far_window.words()[0], 7U);
  EXPECT_EQ(fake_.log.back().bytes, 0U) << "the marker writes nothing";
  EXPECT_EQ(pair.near_end->progress(), Status::kOk);
}

TEST_F(VerbsOnDemandTest, LingeringWithAFullQueueWaitsForRoomForTheMarker) {
  VerbsConfig near = on("fake0");
  near.depth = 16;
  near.signal_interval = 5;  // the last put asks for no completion
  VerbsPair pair = make(near);
  for (words_[0] = 1; words_[0] <= 16; ++words_[0]) {
    ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  }
  fake_.deliver_at_poll = true;
  pair.near_end->linger();
  EXPECT_EQ(pair.far_window.words()[0], 16U);
  EXPECT_FALSE(fake_.overflowed);
}

TEST_F(VerbsOnDemandTest, LingeringForAPeerThatIsSilentEndsAfterItsTime) {
  VerbsPair pair = make();
  words_[0] = 7;
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  fake_.time_step = std::chrono::milliseconds{1};
  pair.near_end->linger();
  EXPECT_EQ(fake_.time, std::chrono::milliseconds{51}) << "50 since it was asked first";
  EXPECT_EQ(pair.far_window.words()[0], 0U);
  EXPECT_EQ(fake_.log.size(), 2U) << "one marker, not one a look";
  EXPECT_EQ(pair.near_end->progress(), Status::kOk);
}

TEST_F(VerbsOnDemandTest, ClosingAsksAPeerThatMayBeGoneForNothing) {
  VerbsPair pair = make();
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  pair.near_end->close();
  EXPECT_EQ(fake_.log.size(), 1U) << "no marker";
}

TEST_F(VerbsOnDemandTest, AForkedChildLeavesTheLinkToItsParent) {
  VerbsPair pair = make();
  auto unconnected = open_endpoint(api_, on("fake0"), window_);
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  fake_.releases.clear();
  const int calls = fake_.call_count;
  const bool good = succeeds_in_child([&] {
    pair.near_end->linger();
    pair.near_end->close();
    EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kTransport);
    EXPECT_EQ(pair.far_end->fence(), Status::kOk);
    pair.near_end.reset();
    pair.far_end.reset();
    unconnected.reset();
    EXPECT_EQ(fake_.log.size(), 1U) << "no marker";
    EXPECT_EQ(fake_.call_count, calls) << "neither modified nor released";
    EXPECT_TRUE(fake_.releases.empty());
  });
  EXPECT_TRUE(good);
  EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
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
  EXPECT_HAS(pair.near_end->failure(),
             "it is fenced, and the peer ends the link; its log says why");
  EXPECT_EQ(pair.far_end->progress(), Status::kTransport) << "the tripwire, without a put";
  EXPECT_HAS(pair.far_end->failure(), "queue pair went to error");
}

TEST_F(VerbsTest, AWriteFlushedBeforeTheTripwireHasTheSameCause) {
  const VerbsPair pair = make();
  fake_.next_status = IBV_WC_WR_FLUSH_ERR;
  ASSERT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
  EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
  EXPECT_HAS(pair.near_end->failure(), "queue pair went to error");
  EXPECT_HAS(pair.near_end->failure(), "the peer wrote outside its permission");
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

TEST_F(VerbsTest, EventsThatCannotBeReadDoNotBreakALink) {
  const VerbsPair pair = make();
  fake_.events_unreadable = true;
  fake_.announce(IBV_EVENT_QP_FATAL);
  ASSERT_TRUE(eventually([&] { return fake_.events_refused == 2; })) << "one context an end";
  const VerbsPair another = make();  // takes the watcher's lock and wakes it
  fake_.announce(IBV_EVENT_QP_FATAL);
  ASSERT_TRUE(eventually([&] { return fake_.events_refused >= 4; }));
  EXPECT_EQ(fake_.events_refused, 4U) << "a descriptor that cannot be read is watched no more";
  EXPECT_EQ(pair.near_end->progress(), Status::kOk) << "the heartbeat tells, then";
  EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kOk);
}

TEST_F(VerbsTest, AnEventDescriptorThatIsGoneIsAnErrorAndLeavesNothing) {
  static ibv_context* (*open)(ibv_device*) = nullptr;  // a plain function captures nothing
  open = api_.open_device;
  api_.open_device = [](ibv_device* device) {
    ibv_context* context = open(device);
    close(context->async_fd);
    context->async_fd = -1;
    return context;
  };
  try {
    (void)make();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kSystem);
    EXPECT_HAS(error.what(), "event descriptor of an RDMA device");
  }
  EXPECT_EQ(fake_.live_count(), 0U);
}

TEST_F(VerbsTest, AFlushedLinkStillClosesWhereNothingCanBeReleased) {
  for (const char* name : {"modify_qp", "destroy_qp", "dereg_mr", "destroy_cq", "dealloc_pd"}) {
    VerbsPair pair = make();
    fake_.next_status = IBV_WC_RETRY_EXC_ERR;
    (void)pair.near_end->put(0, words_, 64);
    EXPECT_EQ(pair.near_end->progress(), Status::kTransport);
    const std::string cause = pair.near_end->failure();
    fake_.fail_name = name;
    pair.near_end->close();
    pair.near_end->close();
    fake_.fail_name.clear();
    EXPECT_EQ(pair.near_end->failure(), cause) << name;
    EXPECT_EQ(pair.near_end->put(0, words_, 64), Status::kTransport);
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
