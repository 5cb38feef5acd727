// The thread that waits for events of devices, over the fake libibverbs: its start, and what it
// does with descriptors.
#include <signal.h>
#include <sys/resource.h>

#include "verbs_fixture.hpp"

namespace rdmaorder::transport {
namespace {

TEST_F(VerbsTest, WithoutItsEventThreadALinkIsRefusedAndLeavesNothing) {
  const bool good = succeeds_in_child([&] {
    rlimit limit{};
    ASSERT_EQ(getrlimit(RLIMIT_NPROC, &limit), 0);
    const rlimit none{0, limit.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NPROC, &none), 0);
    // Limits do not hold for root.
    ASSERT_TRUE(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
    try {
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

    ASSERT_EQ(setrlimit(RLIMIT_NPROC, &limit), 0);
    const VerbsPair pair = make();  // walks what is watched
    fake_.announce(IBV_EVENT_QP_FATAL);
    EXPECT_TRUE(fails_eventually(*pair.near_end));
  });
  EXPECT_TRUE(good);
}

}  // namespace
}  // namespace rdmaorder::transport
