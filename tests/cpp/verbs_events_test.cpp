// The thread that waits for events of devices, over the fake libibverbs: its start, and what it
// does with descriptors.
#include <fcntl.h>
#include <signal.h>

#include "verbs_fixture.hpp"

namespace rdmaorder::transport {
namespace {

TEST_F(VerbsTest, WithoutItsEventThreadALinkIsRefusedAndLeavesNothing) {
  const bool good = succeeds_in_child([&] {
    try {
      const NoMoreThreads limit;
      (void)make();
      ADD_FAILURE() << "a thread beyond the limit";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kSystem);
      EXPECT_EQ(error.error_number(), EAGAIN);
      EXPECT_HAS(error.what(), "the RDMA event thread");
      EXPECT_HAS(error.what(), "ulimit -u");
    }
    EXPECT_EQ(fake_.live_count(), 0U);
    sigset_t blocked;
    sigemptyset(&blocked);
    ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &blocked), 0);
    EXPECT_EQ(sigismember(&blocked, SIGTERM), 0) << "signals are the program's again";

    const VerbsPair pair = make();  // walks what is watched
    fake_.announce(IBV_EVENT_QP_FATAL);
    EXPECT_TRUE(fails_eventually(*pair.near_end));
  });
  EXPECT_TRUE(good);
}

TEST_F(VerbsTest, ADescriptorClosedByTheProgramIsNoFailureOfTheDevice) {
  static ibv_context* opened = nullptr;  // a plain function captures nothing
  static ibv_context* (*open)(ibv_device*) = nullptr;
  static std::atomic<int> reads{0};
  static int (*read)(ibv_context*, ibv_async_event*) = nullptr;
  open = api_.open_device;
  api_.open_device = [](ibv_device* device) { return opened = open(device); };
  read = api_.get_async_event;
  api_.get_async_event = [](ibv_context* context, ibv_async_event* event) {
    if (fcntl(context->async_fd, F_GETFL) >= 0) return read(context, event);
    ++reads;
    errno = EBADF;
    return -1;
  };
  const VerbsPair pair = make();  // the far end is opened last
  const int kept = dup(opened->async_fd);
  close(opened->async_fd);
  fake_.announce(IBV_EVENT_COMM_EST);  // to the near end: poll() looks at both again
  ASSERT_TRUE(eventually([] { return reads == 1; }));
  fake_.announce(IBV_EVENT_COMM_EST);
  ASSERT_TRUE(eventually([&] { return fake_.events_acked >= 2; }));
  EXPECT_EQ(reads, 1) << "it is watched no more";
  EXPECT_EQ(pair.far_end->progress(), Status::kOk) << pair.far_end->failure();
  ASSERT_EQ(dup2(kept, opened->async_fd), opened->async_fd);
  close(kept);
}

}  // namespace
}  // namespace rdmaorder::transport
