// A process that may start no more threads (ulimit -u, pids.max): each part says so and is whole.
#include <cerrno>
#include <filesystem>

#include "child_support.hpp"
#include "gateway_support.hpp"
#include "journal_support.hpp"

namespace rdmaorder {
namespace {

using gateway_support::Rig;
using gateway_support::Strategy;

template <class Call>
void expect_refused(Call&& call, const char* thread) {
  try {
    call();
    ADD_FAILURE() << "a thread beyond the limit";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kSystem);
    EXPECT_EQ(error.error_number(), EAGAIN);
    EXPECT_HAS(error.what(), thread);
    EXPECT_HAS(error.what(), "ulimit -u");
  }
}

TEST(ThreadStart, AGatewayWithoutAReceiverThreadSaysSoAndStartsLater) {
  EXPECT_TRUE(succeeds_in_child([] {
    alarm(20);
    Rig rig;
    {
      const NoMoreThreads limit;
      expect_refused([&] { rig.gateway->start(); }, "the gateway's receiver thread");
      // Nobody is waited for: commands run here.
      Strategy strategy = rig.connect("alpha");
      ASSERT_EQ(strategy.send(), Status::kOk);
      rig.settle();
      EXPECT_EQ(strategy.poll().size(), 1U);
    }
    rig.gateway->start();
    EXPECT_TRUE(rig.gateway->sessions().at(0).live);
    rig.gateway->stop();
  }));
}

TEST(ThreadStart, AGatewayThatCouldNotStartEnds) {
  EXPECT_TRUE(succeeds_in_child([] {
    alarm(20);
    const NoMoreThreads limit;
    Rig rig;
    expect_refused([&] { rig.gateway->start(); }, "the gateway's receiver thread");
  }));
}

using JournalThreadStart = journal::Journal;

TEST_F(JournalThreadStart, AJournalWithoutItsHelperThreadIsRefusedAndItsDirectoryFree) {
  std::filesystem::permissions(root_, std::filesystem::perms::all);
  EXPECT_TRUE(succeeds_in_child([&] {
    {
      const NoMoreThreads limit;
      expect_refused([&] { (void)open(); }, "the journal's helper thread");
    }
    append_many(*open(), 3);
  }));
}

}  // namespace
}  // namespace rdmaorder
