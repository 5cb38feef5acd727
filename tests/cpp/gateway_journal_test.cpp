// A gateway on a journal of files: what one run leaves there and the next one makes of it.
#include "gateway_support.hpp"
#include "journal/writer.hpp"
#include "journal_support.hpp"
#include "rdmaorder/recovery.hpp"

namespace rdmaorder {
namespace {

using gateway_support::Rig;
using gateway_support::Strategy;
using journal::FaultyCalls;
using journal::RecordKind;
using journal::SyncPolicy;

class GatewayJournal : public journal::Journal {
 protected:
  /// The next run: a venue on what is there.
  Rig start(SyncPolicy sync = SyncPolicy::kBatch,
            FaultyCalls* calls = nullptr) {  // NOLINT(*-default-arguments)
    auto venue = make_venue_handler({.max_order_count = 1000});
    SessionRecovery recovery(venue.get());
    auto writer = journal::open_writer(config(sync), std::ref(recovery), nullptr,
                                       calls != nullptr ? *calls : journal::system_file_calls());
    return Rig(std::move(venue), std::move(writer), recovery.sessions());
  }
};

/// What the strategy is told, as "order id: exec type, reason".
std::vector<std::string> told(Strategy& strategy) {
  std::vector<std::string> all;
  for (const auto& record : strategy.poll()) {
    all.push_back(std::to_string(record.report.cl_ord_id) + ": " +
                  static_cast<char>(record.report.exec_type) + ", " +
                  reason_name(record.report.reason));
  }
  return all;
}

using Told = std::vector<std::string>;

TEST_F(GatewayJournal, AnOrderRefusedForAFailedSyncIsNotLiveAfterTheRestart) {
  {
    FaultyCalls calls;
    Rig rig = start(SyncPolicy::kBatch, &calls);
    Strategy strategy = rig.connect("alpha");
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    EXPECT_EQ(told(strategy), (Told{"1: 0, none"}));
    calls.sync_error = EIO;
    ASSERT_EQ(strategy.send(), Status::kOk);
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    ASSERT_EQ(strategy.send(), Status::kOk);  // makes no record, and the note stays as it is
    rig.settle();
    EXPECT_EQ(told(strategy), (Told{"2: 8, journal_unavailable", "3: 8, journal_unavailable",
                                    "4: 8, journal_unavailable"}));
  }
  for (int run = 0; run < 2; ++run) {
    Rig rig = start();
    EXPECT_EQ(rig.counter("orders_in_doubt"), 0U);
    EXPECT_EQ(rig.counter("orders_rejected"), run == 0 ? 2U : 0U);
    const auto open = rig.gateway->open_orders(0, 1);
    ASSERT_EQ(open.size(), 1U) << "in run " << run;
    EXPECT_EQ(open[0].cl_ord_id, 1U);
  }
}

TEST_F(GatewayJournal, ACancelThatAFailedSyncDidNotStopStaysInDoubt) {
  {
    FaultyCalls calls;
    Rig rig = start(SyncPolicy::kBatch, &calls);
    Strategy strategy = rig.connect("alpha");
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    calls.sync_error = EIO;
    ASSERT_EQ(strategy.send(), Status::kOk);
    std::uint64_t sequence = 0;
    ASSERT_EQ(strategy.session->try_cancel_order(gateway_support::cancel(3, 1), &sequence),
              Status::kOk);
    rig.settle();
    EXPECT_EQ(told(strategy), (Told{"1: 0, none", "2: 8, journal_unavailable", "3: 4, none"}));
  }
  Rig rig = start();
  EXPECT_EQ(rig.counter("orders_in_doubt"), 1U);
  EXPECT_TRUE(rig.gateway->open_orders(0, 1).empty());
}

TEST(GatewayFullJournal, RecordsWhatWasNeverAppliedOnceThereIsRoom) {
  Rig rig(gateway_support::test_config(), std::make_unique<gateway_support::MemoryJournal>());
  gateway_support::Options options;
  rig.open("alpha");
  rig.journal->full = true;
  options.next_order_sequence = 5;
  Strategy strategy = rig.connect("alpha", options);
  EXPECT_EQ(strategy.attached.not_applied_count, 4U);
  EXPECT_EQ(rig.counter("journal_errors"), 2U) << "neither that nor the link";
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  rig.journal->full = false;
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  const auto recorded = [&] { return rig.journal->of_kind(RecordKind::kNotApplied); };
  ASSERT_TRUE(gateway_support::eventually([&] {
    rig.gateway->run_pass();
    return !recorded().empty();
  }));
  const std::uint64_t beat = rig.counter("heartbeat");
  ASSERT_TRUE(gateway_support::eventually([&] {
    rig.gateway->run_pass();
    return rig.counter("heartbeat") > beat + 1;
  }));
  ASSERT_EQ(recorded().size(), 1U) << "once";
  const auto record = recorded().front();
  std::uint64_t count = 0;
  std::memcpy(&count, record.payload.data(), sizeof count);
  EXPECT_EQ(record.sequence, 1U);
  EXPECT_EQ(count, 4U);
}

}  // namespace
}  // namespace rdmaorder
