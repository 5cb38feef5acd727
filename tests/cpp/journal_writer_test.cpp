// The writer: beside readers, killed, on a full or failing disk, and what it calls durable.
#include "journal/writer.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <random>

#include "journal_support.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::journal {
namespace {

class JournalWriter : public Journal {};

TEST_F(JournalWriter, RefusesASecondWriterAndNamesTheFirst) {
  auto first = open();
  try {
    auto second = open();
    FAIL() << "two writers on one journal";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kJournal);
    EXPECT_NE(std::string(error.what()).find("process " + std::to_string(getpid())),
              std::string::npos)
        << error.what();
  }
  first.reset();
  EXPECT_NE(open(), nullptr);
}

TEST_F(JournalWriter, LeavesTheDirectoryToTheNextOneWhenItIsClosed) {
  auto first = open();
  append_many(*first, 10);
  first->close();
  first->close();
  EXPECT_EQ(append_next(*first), Status::kIo) << "another may be writing by now";
  auto second = open();
  append_many(*second, kPerSegment);  // into a segment that the first had prepared
  EXPECT_EQ(first->last_position(), 10U);
  first.reset();
  EXPECT_EQ(second->last_position(), 10 + kPerSegment);
  second.reset();
  const ScanResult result = scan(config().directory, [](const Record&) { return true; });
  EXPECT_TRUE(result.clean) << result.damage;
  EXPECT_EQ(result.last_position, 10 + kPerSegment);
}

TEST_F(JournalWriter, RefusesBadSettings) {
  for (const std::uint64_t bytes : {0ULL, 4096ULL, (64ULL << 10) + 1, 1ULL << 50}) {
    Config bad = config();
    bad.segment_bytes = bytes;
    EXPECT_THROW(Writer::open(bad, {}), Error) << bytes;
  }
  Config bad = config(SyncPolicy::kInterval);
  bad.sync_interval_ns = 0;
  EXPECT_THROW(Writer::open(bad, {}), Error);
  bad = config();
  bad.directory.clear();
  EXPECT_THROW(Writer::open(bad, {}), Error);
  EXPECT_THROW(static_cast<void>(scan(root_ + "/absent", [](const Record&) { return true; })),
               Error);
}

TEST_F(JournalWriter, AScanBesideALiveWriterSeesACleanPrefix) {
  auto writer = open();
  std::atomic<std::uint64_t> appended{0};
  std::atomic<bool> stop{false};
  // Bounded: a scan slower than the writer (sanitizers) would never come to an end.
  std::thread appender([&] {
    while (!stop.load() && writer->last_position() < 80 * kPerSegment) {
      if (append_next(*writer) == Status::kOk) appended.store(writer->last_position());
      if (writer->last_position() % 512 == 0) std::this_thread::sleep_for(200us);
    }
  });
  EXPECT_TRUE(eventually([&] { return appended.load() != 0; }));
  std::uint64_t last = 0;
  for (int round = 0; round < 150; ++round) {
    const std::uint64_t before = appended.load();
    const ScanResult result = scan_checked(directory_);
    ASSERT_TRUE(result.clean) << result.damage;
    ASSERT_GE(result.last_position, before) << "a finished append was not seen";
    ASSERT_GE(result.last_position, last);
    last = result.last_position;
    if (last > 60 * kPerSegment) break;  // enough segment changes; keep the rescans short
  }
  stop = true;
  appender.join();
  EXPECT_GT(last, 0U);
}

TEST_F(JournalWriter, KillingTheWriterLosesNothingThatAppendAcknowledged) {
  void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* acknowledged = new (shared) std::atomic<std::uint64_t>(0);
  std::mt19937 random(11);  // NOLINT: the same delays every time
  for (int round = 0; round < 25; ++round) {
    acknowledged->store(0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto writer = open(round % 2 == 0 ? SyncPolicy::kNone : SyncPolicy::kInterval);
      for (;;) {
        if (append_next(*writer) == Status::kOk) acknowledged->store(writer->last_position());
      }
    }
    ASSERT_TRUE(eventually([&] { return acknowledged->load() != 0; }));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));

    ScanResult recovered;
    std::uint64_t position = 0;
    auto writer = Writer::open(
        config(), [&](const Record& record) { ASSERT_TRUE(is_right(record, ++position)); },
        &recovered);
    ASSERT_TRUE(recovered.clean) << recovered.damage;
    ASSERT_GE(recovered.last_position, acknowledged->load());
    ASSERT_EQ(writer->last_position(), recovered.last_position);
    writer.reset();
    if (recovered.last_position > 200 * kPerSegment) fs::remove_all(directory_);
  }
  munmap(shared, 4096);
}

TEST_F(JournalWriter, WithoutASyncPolicyTheDurablePositionMovesWhenASegmentIsClosed) {
  auto writer = open(SyncPolicy::kNone);
  append_many(*writer, kPerSegment);
  EXPECT_EQ(writer->sync_batch(), Status::kOk);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(writer->durable_position(), 0U);
  append_many(*writer, 1);
  EXPECT_TRUE(eventually([&] { return writer->durable_position() == kPerSegment; }));
  EXPECT_EQ(writer->sync_now(), Status::kOk);
  EXPECT_EQ(writer->durable_position(), kPerSegment + 1);
}

TEST_F(JournalWriter, TheIntervalPolicyMovesTheDurablePositionByItself) {
  auto writer = open(SyncPolicy::kInterval);
  append_many(*writer, 3);
  EXPECT_TRUE(eventually([&] { return writer->durable_position() == 3; }));
  append_many(*writer, 2 * kPerSegment);
  EXPECT_TRUE(eventually([&] { return writer->durable_position() == 3 + 2 * kPerSegment; }));
}

TEST_F(JournalWriter, TheBatchPolicyMovesTheDurablePositionOnlyWhenAsked) {
  auto writer = open(SyncPolicy::kBatch);
  append_many(*writer, 3);
  std::this_thread::sleep_for(30ms);
  EXPECT_EQ(writer->durable_position(), 0U);
  EXPECT_EQ(writer->sync_batch(), Status::kOk);
  EXPECT_EQ(writer->durable_position(), 3U);
  append_many(*writer, 3 * kPerSegment);  // a batch over several segments
  EXPECT_EQ(writer->sync_batch(), Status::kOk);
  EXPECT_EQ(writer->durable_position(), 3 + 3 * kPerSegment);
}

TEST_F(JournalWriter, AFailedSyncIsNeverForgotten) {
  FaultyCalls calls;
  auto writer = open_writer(config(SyncPolicy::kBatch), {}, nullptr, calls);
  append_many(*writer, 5);
  ASSERT_EQ(writer->sync_batch(), Status::kOk);
  append_many(*writer, 5);
  calls.sync_error = EIO;
  EXPECT_EQ(writer->sync_batch(), Status::kIo);
  EXPECT_EQ(writer->durable_position(), 5U);
  calls.sync_error = 0;  // the kernel would answer like this: success about nothing
  const int calls_before = calls.sync_count;
  EXPECT_EQ(writer->sync_batch(), Status::kIo);
  EXPECT_EQ(writer->sync_now(), Status::kIo);
  EXPECT_EQ(calls.sync_count, calls_before) << "a failed sync was tried again";
  EXPECT_EQ(append_next(*writer), Status::kIo);
  EXPECT_EQ(writer->durable_position(), 5U);
  EXPECT_EQ(writer->last_position(), 10U);
  EXPECT_NE(writer->last_error().find("0000000001.rojl: Input/output error"), std::string::npos)
      << writer->last_error();
}

TEST_F(JournalWriter, AFailedSyncOfTheHelperStopsAppendsToo) {
  FaultyCalls calls;
  auto writer = open_writer(config(SyncPolicy::kInterval), {}, nullptr, calls);
  calls.sync_error = EIO;
  append_many(*writer, 1);
  EXPECT_TRUE(eventually([&] { return !writer->last_error().empty(); }));
  EXPECT_EQ(append_next(*writer), Status::kIo);
  EXPECT_EQ(writer->durable_position(), 0U);
}

TEST_F(JournalWriter, AFullDiskRefusesAppendsAndAttemptsAreRare) {
  FaultyCalls calls;
  auto writer = open_writer(config(), {}, nullptr, calls);
  ASSERT_TRUE(eventually([&] { return fs::exists(segment(2)); }));
  calls.allocate_error = ENOSPC;
  append_many(*writer, 2 * kPerSegment);
  EXPECT_EQ(append_next(*writer), Status::kIo);
  EXPECT_EQ(writer->last_position(), 2 * kPerSegment);
  EXPECT_NE(writer->last_error().find("0000000003.rojl: No space left on device"),
            std::string::npos)
      << writer->last_error();
  const int attempts = calls.allocate_count;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 100'000; ++i) ASSERT_EQ(append_next(*writer), Status::kIo);
  const auto elapsed = std::chrono::steady_clock::now() - begin;
  EXPECT_LE(calls.allocate_count - attempts, 2 + elapsed / 100ms);

  calls.allocate_error = 0;
  EXPECT_TRUE(eventually([&] { return append_next(*writer) == Status::kOk; }));
  EXPECT_TRUE(writer->last_error().empty()) << writer->last_error();
  append_many(*writer, kPerSegment);
  const std::uint64_t last = writer->last_position();
  writer.reset();
  EXPECT_EQ(scan_checked(directory_).last_position, last);
}

TEST_F(JournalWriter, LooksForRoomOnAFullDiskInTheHelperAlone) {
  class WatchedCalls final : public FaultyCalls {
   public:
    std::atomic<int> count_here{0};
    int allocate(int fd, std::uint64_t bytes) noexcept override {
      if (std::this_thread::get_id() == here_) ++count_here;
      return FaultyCalls::allocate(fd, bytes);
    }

   private:
    std::thread::id here_ = std::this_thread::get_id();
  };
  WatchedCalls calls;
  auto writer = open_writer(config(), {}, nullptr, calls);
  ASSERT_TRUE(eventually([&] { return fs::exists(segment(2)); }));
  calls.allocate_error = ENOSPC;
  append_many(*writer, kPerSegment + 1);
  ASSERT_TRUE(eventually([&] { return !writer->last_error().empty(); }));
  append_many(*writer, kPerSegment - 1);
  calls.count_here = 0;
  const int attempts = calls.allocate_count;
  EXPECT_TRUE(eventually([&] {
    EXPECT_EQ(append_next(*writer), Status::kIo);
    return calls.allocate_count > attempts + 2;
  }));
  EXPECT_EQ(calls.count_here, 0);
  calls.allocate_error = 0;
  EXPECT_TRUE(eventually([&] { return append_next(*writer) == Status::kOk; }));
}

TEST_F(JournalWriter, KeepsANoteOfReportsWhereAFullDiskLeavesNoRoomForRecords) {
  FaultyCalls calls;
  auto writer = open_writer(config(), {}, nullptr, calls);
  EXPECT_EQ(writer->noted_reports(3), 0U);
  calls.allocate_error = ENOSPC;
  while (append_next(*writer) == Status::kOk) {
  }
  writer->note_reports(3, 700);
  writer->note_reports(3, 701);
  writer->note_reports(Writer::kNotedSessionCount - 1, 9);
  writer->note_reports(Writer::kNotedSessionCount, 9);  // is not kept
  writer.reset();
  auto again = open();
  EXPECT_EQ(again->noted_reports(3), 701U);
  EXPECT_EQ(again->noted_reports(Writer::kNotedSessionCount - 1), 9U);
  EXPECT_EQ(again->noted_reports(Writer::kNotedSessionCount), 0U);
  const std::uint64_t count = again->last_position();
  append_many(*again, 2 * kPerSegment);  // the records that follow may be of other sessions
  EXPECT_EQ(again->noted_reports(3), 701U);
  again.reset();
  again = open();
  EXPECT_EQ(again->last_position(), count + 2 * kPerSegment);
  EXPECT_EQ(again->noted_reports(3), 701U);
}

TEST_F(JournalWriter, KeepsANoteOfOrdersThatWereRefusedBehindTheirRecords) {
  FaultyCalls calls;
  auto writer = open_writer(config(SyncPolicy::kBatch), {}, nullptr, calls);
  append_many(*writer, 10);
  EXPECT_FALSE(writer->is_noted_refused(8));
  calls.sync_error = EIO;
  ASSERT_EQ(writer->sync_batch(), Status::kIo);
  writer->note_refused(8);
  writer.reset();
  const auto is_as_noted = [](const Writer& again) {
    return !again.is_noted_refused(7) && again.is_noted_refused(8) && again.is_noted_refused(10) &&
           !again.is_noted_refused(11);
  };
  writer = open();
  EXPECT_TRUE(is_as_noted(*writer));
  append_many(*writer, 2 * kPerSegment);
  EXPECT_TRUE(is_as_noted(*writer)) << "their rejections may be in no record yet";
}

TEST_F(JournalWriter, ANoteOfRefusedOrdersNamesNoRecordThatComesInThePlaceOfALostOne) {
  auto writer = open();
  append_many(*writer, 10);
  writer->note_refused(8);
  writer.reset();
  // What a failed sync may leave: the last two records never reached the disk.
  const std::vector<char> nothing(2 * kRecord);
  poke(segment(1), kSegmentHeaderBytes + 8 * kRecord, nothing.data(), nothing.size());
  writer = open();
  ASSERT_EQ(writer->last_position(), 8U);
  EXPECT_TRUE(writer->is_noted_refused(8));
  append_many(*writer, 1);
  EXPECT_FALSE(writer->is_noted_refused(9));
  writer.reset();
  EXPECT_FALSE(open()->is_noted_refused(9));
}

TEST_F(JournalWriter, NotesInASegmentNotYetInUseAreNoDamage) {
  auto writer = open();
  append_many(*writer, 10);
  writer->note_reports(3, 701);
  ASSERT_TRUE(eventually([&] { return fs::exists(segment(2)); }));
  // As a crash amid a segment change leaves it.
  fs::copy_file(segment(2), root_ + "/kept");
  writer.reset();
  fs::rename(root_ + "/kept", segment(2));
  const std::uint64_t note = 701;
  poke(segment(2), 64 + 3 * 8, &note, sizeof note);
  EXPECT_TRUE(scan_checked(directory_).clean);
  ScanResult result;
  writer = open(SyncPolicy::kNone, &result);
  EXPECT_TRUE(result.clean) << result.damage;
  EXPECT_FALSE(fs::exists(segment(2) + ".damaged"));
  EXPECT_EQ(writer->noted_reports(3), 701U);
  append_many(*writer, kPerSegment);
  EXPECT_EQ(writer->last_position(), 10 + kPerSegment);
}

TEST_F(JournalWriter, OpeningFailsClearlyWhenTheFirstSegmentDoesNotFit) {
  FaultyCalls calls;
  calls.allocate_error = ENOSPC;
  try {
    static_cast<void>(open_writer(config(), {}, nullptr, calls));
    FAIL() << "opened without room";
  } catch (const Error& error) {
    EXPECT_EQ(error.error_number(), ENOSPC);
    EXPECT_NE(std::string(error.what()).find("65536 bytes"), std::string::npos) << error.what();
  }
  EXPECT_TRUE(list_segments(directory_).empty());
  calls.allocate_error = 0;
  EXPECT_NE(open_writer(config(), {}, nullptr, calls), nullptr);
}

/// Runs on a file system that really fills up. Returns what went wrong, empty for nothing.
std::string fill_and_free(const std::string& directory, const std::function<void()>& make_room) {
  std::uint64_t accepted = 0;
  {
    auto writer = Writer::open({directory, kSegment, SyncPolicy::kBatch, 0}, {}, nullptr);
    while (append_next(*writer) == Status::kOk) {
      if (++accepted > 10'000'000) return "the disk never filled";
    }
    if (accepted < kPerSegment) return "not even one segment";
    if (writer->last_position() != accepted) return "a refused append moved the position";
    if (writer->last_error().empty()) return "no error text";
    if (writer->sync_batch() != Status::kOk) return "what was accepted cannot be synced";
    if (writer->durable_position() != accepted) return "durable position wrong";
    const ScanResult full = scan_checked(directory);
    if (!full.clean || full.last_position != accepted) return "scan of the full journal wrong";
    make_room();
    if (!eventually([&] { return append_next(*writer) == Status::kOk; })) {
      return "appends did not come back with the room";
    }
    append_many(*writer, 100);
    accepted += 101;
  }
  const ScanResult result = scan_checked(directory);
  if (!result.clean) return result.damage;
  return result.last_position == accepted ? "" : "records lost";
}

int exit_status_of(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TEST_F(JournalWriter, SurvivesADiskThatIsReallyFull) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to mount a small tmpfs of its own";
  constexpr int kCannotMount = 77;
  const std::string mount_point = root_ + "/full";
  ASSERT_TRUE(fs::create_directory(mount_point));
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=600k") != 0) {
      _exit(kCannotMount);
    }
    const std::string ballast = mount_point + "/ballast";
    write_file(ballast, std::vector<char>(200 << 10, 'b'));
    const std::string wrong = fill_and_free(mount_point + "/j", [&] { fs::remove(ballast); });
    if (!wrong.empty()) fprintf(stderr, "%s\n", wrong.c_str());
    _exit(wrong.empty() && !HasFailure() ? 0 : 1);
  }
  const int status = exit_status_of(child);
  if (status == kCannotMount) GTEST_SKIP() << "mounting a tmpfs is not permitted here";
  EXPECT_EQ(status, 0);
}

TEST_F(JournalWriter, SurvivesAFileSizeLimit) {
  const pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    std::string wrong;
    {
      auto writer = Writer::open(config(), {}, nullptr);
      while (!fs::exists(segment(2))) std::this_thread::sleep_for(1ms);
      const rlimit small{kSegment / 2, RLIM_INFINITY};
      setrlimit(RLIMIT_FSIZE, &small);
      append_many(*writer, 2 * kPerSegment);
      if (append_next(*writer) != Status::kIo) wrong = "appended beyond the limit";
      const rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
      setrlimit(RLIMIT_FSIZE, &unlimited);
      if (!eventually([&] { return append_next(*writer) == Status::kOk; })) wrong = "stuck";
    }
    const ScanResult result = scan_checked(directory_);
    if (!result.clean || result.last_position != 2 * kPerSegment + 1) wrong = "records lost";
    if (!wrong.empty()) fprintf(stderr, "%s\n", wrong.c_str());
    _exit(wrong.empty() && !HasFailure() ? 0 : 1);
  }
  EXPECT_EQ(exit_status_of(child), 0);
}

}  // namespace
}  // namespace rdmaorder::journal
