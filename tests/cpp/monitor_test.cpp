#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rdmaorder/error.hpp"
#include "rdmaorder/monitor.hpp"

namespace rdmaorder::monitor {
namespace {

// ---- Histogram ----

TEST(HistogramTest, EveryValueFallsIntoABucketThatEndsAtOrAboveItWithinOnePart128) {
  std::vector<std::uint64_t> values = {0, 1, 255, 256, 257, UINT64_MAX, UINT64_MAX - 1};
  for (unsigned bit = 1; bit < 64; ++bit) {
    const auto power = std::uint64_t{1} << bit;
    for (const auto value : {power - 1, power, power + 1, power + power / 3}) {
      values.push_back(value);
    }
  }
  for (const auto value : values) {
    const auto bucket = Histogram::bucket_of(value);
    ASSERT_LT(bucket, Histogram::kBucketCount) << value;
    ASSERT_GE(Histogram::bucket_upper(bucket), value);
    ASSERT_EQ(Histogram::bucket_of(Histogram::bucket_upper(bucket)), bucket) << value;
    ASSERT_LE(Histogram::bucket_upper(bucket) - value, value / 128) << value;
  }
}

TEST(HistogramTest, BucketsFollowEachOtherWithoutGapOrOverlap) {
  for (std::size_t bucket = 0; bucket + 1 < Histogram::kBucketCount; ++bucket) {
    const auto upper = Histogram::bucket_upper(bucket);
    ASSERT_EQ(Histogram::bucket_of(upper), bucket);
    ASSERT_EQ(Histogram::bucket_of(upper + 1), bucket + 1);
  }
  EXPECT_EQ(Histogram::bucket_upper(Histogram::kBucketCount - 1), UINT64_MAX);
}

TEST(HistogramTest, TheLargestValueIsCountedAndReported) {
  Histogram histogram;
  histogram.record(UINT64_MAX);
  histogram.record(3);
  EXPECT_EQ(histogram.count(), 2U);
  EXPECT_EQ(histogram.max(), UINT64_MAX);
  EXPECT_EQ(histogram.value_at(1.0), UINT64_MAX);
  EXPECT_EQ(histogram.value_at(0.5), 3U);
}

TEST(HistogramTest, AnEmptyOneSaysZeroToEverything) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0U);
  EXPECT_EQ(histogram.min(), 0U);
  EXPECT_EQ(histogram.max(), 0U);
  EXPECT_EQ(histogram.value_at(0.5), 0U);
}

TEST(HistogramTest, QuantilesAreTheSortedSamplesRoundedUpWithinTheirBucket) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 60; ++round) {
    std::lognormal_distribution<double> latency(5.0 + round % 10, 1.5);
    Histogram histogram;
    std::vector<std::uint64_t> sorted(static_cast<std::size_t>(1 + round * 37));
    for (auto& value : sorted) {
      value = static_cast<std::uint64_t>(latency(random));
      histogram.record(value);
    }
    std::sort(sorted.begin(), sorted.end());
    const auto n = sorted.size();
    for (std::size_t percent_of_percent = 0; percent_of_percent <= 10'000; ++percent_of_percent) {
      // Rank in whole numbers: what ceil(q * count) means for a q written in decimals.
      const auto rank = std::max<std::size_t>(1, (percent_of_percent * n + 9'999) / 10'000);
      const auto exact = sorted[rank - 1];
      auto expected = std::min(Histogram::bucket_upper(Histogram::bucket_of(exact)), sorted.back());
      if (rank == 1) expected = sorted.front();
      ASSERT_EQ(histogram.value_at(static_cast<double>(percent_of_percent) / 10'000), expected)
          << "q " << percent_of_percent << "e-4 of " << n;
    }
  }
}

TEST(HistogramTest, ValuesBelow256AreExactAtEveryQuantile) {
  Histogram histogram;
  for (std::uint64_t value = 1; value <= 100; ++value) histogram.record(value);
  for (std::uint64_t percent = 1; percent <= 100; ++percent) {
    EXPECT_EQ(histogram.value_at(static_cast<double>(percent) / 100.0), percent);
  }
}

TEST(HistogramTest, AQuantileOutsideItsRangeCountsAsTheNearerEnd) {
  Histogram histogram;
  histogram.record(1000);
  histogram.record(2000);
  EXPECT_EQ(histogram.value_at(-1.0), 1000U);
  EXPECT_EQ(histogram.value_at(0.0), 1000U);
  EXPECT_EQ(histogram.value_at(7.0), 2000U);
  EXPECT_EQ(histogram.value_at(std::numeric_limits<double>::quiet_NaN()), 1000U);
}

TEST(HistogramTest, AMergeIsAsIfAllHadBeenRecordedInOneAndClearForgetsIt) {
  Histogram first;
  Histogram second;
  Histogram both;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    (i % 3 == 1 ? first : second).record(i * i);  // the least is in second
    both.record(i * i);
  }
  first.merge(second);
  EXPECT_EQ(first.count(), both.count());
  EXPECT_EQ(first.min(), both.min());
  EXPECT_EQ(first.max(), both.max());
  EXPECT_TRUE(std::equal(first.counts().begin(), first.counts().end(), both.counts().begin()));

  first.merge(Histogram{});  // nothing, and min stays
  EXPECT_EQ(first.min(), 0U);
  EXPECT_EQ(first.count(), 1000U);

  first.clear();
  EXPECT_EQ(first.count(), 0U);
  EXPECT_EQ(first.value_at(1.0), 0U);
  first.record(9);
  EXPECT_EQ(first.min(), 9U);
  EXPECT_EQ(first.value_at(0.5), 9U);
}

// ---- CountersFile ----

class CountersFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "counters.XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory = pattern;
    path = directory / "counters";
  }
  void TearDown() override { std::filesystem::remove_all(directory); }

  static std::string read(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  template <typename T>
  static T field(const std::string& bytes, std::size_t offset) {
    T value{};
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
  }
  static std::string message_of(const std::function<void()>& call, ErrorKind kind) {
    try {
      call();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
  }

  std::filesystem::path directory;
  std::filesystem::path path;
};

TEST_F(CountersFileTest, TheBytesAreWhereTheLayoutSaysAndOnlyTheOwnerMayReadThem) {
  const auto counters = CountersFile::create(path, "gateway test", 3);
  counters->make("passes").add(5);
  counters->make("orders_applied{session=alpha}").set(1ULL << 40);
  const auto bytes = read(path);
  ASSERT_EQ(bytes.size(), 128U + 3 * 128 + 3 * 8);
  EXPECT_EQ(bytes.substr(0, 8), "ROCNT001");
  EXPECT_EQ(field<std::uint32_t>(bytes, 8), 1U);
  EXPECT_EQ(field<std::uint32_t>(bytes, 12), 3U);
  EXPECT_EQ(field<std::uint64_t>(bytes, 16), static_cast<std::uint64_t>(::getpid()));
  EXPECT_GT(field<std::uint64_t>(bytes, 24), 1'600'000'000'000'000'000ULL);
  EXPECT_EQ(field<std::uint64_t>(bytes, 32), 128U);
  EXPECT_EQ(field<std::uint64_t>(bytes, 40), 128U + 3 * 128);
  EXPECT_STREQ(bytes.data() + 48, "gateway test");
  EXPECT_STREQ(bytes.data() + 128, "passes");
  EXPECT_STREQ(bytes.data() + 256, "orders_applied{session=alpha}");
  EXPECT_EQ(bytes[384], '\0');
  EXPECT_EQ(field<std::uint64_t>(bytes, 512), 5U);
  EXPECT_EQ(field<std::uint64_t>(bytes, 520), 1ULL << 40);
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST_F(CountersFileTest, ACounterOfTheSameNameIsTheSameCell) {
  const auto counters = CountersFile::create("", "test", 2);
  auto first = counters->make("passes");
  auto again = counters->make("passes");
  auto other = counters->make("heartbeat");
  first.add(2);
  again.add(3);
  other.set_max(9);
  other.set_max(4);
  const std::vector<std::pair<std::string, std::uint64_t>> expected = {{"passes", 5},
                                                                       {"heartbeat", 9}};
  EXPECT_EQ(counters->snapshot(), expected);
}

TEST_F(CountersFileTest, ACounterNeverMadeCountsNowhereAndHarmsNothing) {
  Counter counter;
  counter.add(3);
  const auto counters = CountersFile::create("", "test", 1);
  EXPECT_TRUE(counters->snapshot().empty());
}

TEST_F(CountersFileTest, AFullFileSaysHowManyPlacesItHasAndKeepsCounting) {
  const auto counters = CountersFile::create(path, "test", 1);
  auto counter = counters->make("a");
  const auto message =
      message_of([&] { static_cast<void>(counters->make("b")); }, ErrorKind::kConfig);
  EXPECT_NE(message.find("all 1 places"), std::string::npos) << message;
  counter.add();
  EXPECT_EQ(counters->make("a").get(), 1U);
}

TEST_F(CountersFileTest, NamesThatCouldNotBePrintedSafelyAreRefused) {
  const auto counters = CountersFile::create("", "test", 64);
  const std::string bad[] = {"",
                             "two words",
                             "line\nbreak",
                             "a{",
                             "a}",
                             "a{session}",
                             "a{session=}",
                             "{session=x}",
                             "a{session=x}y",
                             "a{session=x\"}",
                             "a{session={x}",
                             std::string("a\0b", 3),
                             std::string(128, 'x')};
  for (const auto& name : bad) {
    message_of([&] { static_cast<void>(counters->make(name)); }, ErrorKind::kConfig);
  }
  const auto longest = "orders_rejected{session=" + std::string(64, 's') + "}";
  static_cast<void>(counters->make(longest));
  static_cast<void>(counters->make("ring_high_water{session=a.b_c:d-1}"));
  static_cast<void>(counters->make(std::string(127, 'x')));
  EXPECT_EQ(counters->snapshot().size(), 3U);
  EXPECT_EQ(counters->snapshot()[0].first, longest);
}

TEST_F(CountersFileTest, ALongProcessLabelIsCutBetweenCharacters) {
  std::string label(78, 'x');
  label += "\xC3\xA9 and more";  // its first two bytes would be bytes 78 and 79
  const auto counters = CountersFile::create(path, label, 1);
  EXPECT_EQ(std::string(read(path).data() + 48), std::string(78, 'x'));
}

TEST_F(CountersFileTest, PathsThatCannotBeAreRefusedByName) {
  const auto missing = (directory / "no" / "counters").string();
  auto message = message_of([&] { CountersFile::create(missing, "test", 1); }, ErrorKind::kSystem);
  EXPECT_NE(message.find(missing), std::string::npos) << message;
  EXPECT_NE(message.find("directory must exist"), std::string::npos) << message;
  message = message_of([&] { CountersFile::create(directory, "test", 1); }, ErrorKind::kConfig);
  EXPECT_NE(message.find("not a regular file"), std::string::npos) << message;
  for (const std::uint32_t capacity : {0U, kCounterCountMax + 1}) {
    message = message_of([&] { CountersFile::create(path, "test", capacity); }, ErrorKind::kConfig);
    EXPECT_NE(message.find("capacity"), std::string::npos) << message;
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory));
}

TEST_F(CountersFileTest, TheFileStaysForThePostMortemAndANewOneTakesItsPlaceWhole) {
  CountersFile::create(path, "first", 2)->make("passes").add(7);
  EXPECT_EQ(field<std::uint64_t>(read(path), 128 + 2 * 128), 7U);
  const auto fresh = CountersFile::create(path, "second", 1);
  EXPECT_STREQ(read(path).data() + 48, "second");
  EXPECT_EQ(read(path).size(), 128U + 128 + 8);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory), {}), 1);
}

TEST_F(CountersFileTest, AFileInUseIsRefusedWithItsProcessAndOneThatWasLeftIsNot) {
  auto first = CountersFile::create(path, "first", 1);
  const auto message =
      message_of([&] { CountersFile::create(path, "second", 1); }, ErrorKind::kConfig);
  EXPECT_EQ(message, "counters file " + path.string() + ": in use by process " +
                         std::to_string(::getpid()) +
                         "; stop it, or give each gateway a path of its own");
  EXPECT_STREQ(read(path).data() + 48, "first");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory), {}), 1);

  first.reset();
  const ::pid_t child = ::fork();
  if (child == 0) {
    const auto left = CountersFile::create(path, "third", 1);
    ::kill(::getpid(), SIGKILL);
  }
  ASSERT_GT(child, 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_STREQ(read(path).data() + 48, "third");
  first = CountersFile::create(path, "fourth", 1);
  EXPECT_STREQ(read(path).data() + 48, "fourth");
}

TEST_F(CountersFileTest, OfManyThatStartAtOnceOneHasTheFile) {
  for (int round = 0; round < 50; ++round) {
    if (round % 2 == 0) std::filesystem::remove(path);  // else the file of the round before is left
    std::array<std::unique_ptr<CountersFile>, 4> made;
    std::vector<std::thread> threads;
    std::atomic<unsigned> refused{0};
    for (auto& each : made) {
      threads.emplace_back([&] {
        try {
          each = CountersFile::create(path, "one of many", 1);
        } catch (const Error&) {
          ++refused;
        }
      });
    }
    for (auto& thread : threads) thread.join();
    ASSERT_EQ(refused, made.size() - 1);
    const auto winner = std::find_if(made.begin(), made.end(), [](auto& each) { return !!each; });
    (*winner)->make("passes").add(static_cast<std::uint64_t>(round) + 1);
    ASSERT_EQ(field<std::uint64_t>(read(path), 128 + 128), static_cast<std::uint64_t>(round) + 1);
  }
}

TEST_F(CountersFileTest, AReaderNeverFindsHalfAFileWhileItIsReplaced) {
  auto counters = CountersFile::create(path, "writer", 4);
  std::atomic<bool> stop{false};
  std::atomic<int> read_count{0};
  std::atomic<int> bad_count{0};
  std::thread reader([&] {
    while (!stop) {
      const auto bytes = read(path);
      const bool is_whole = bytes.size() == 128U + 4 * 128 + 4 * 8 &&
                            bytes.compare(0, 8, "ROCNT001") == 0 &&
                            field<std::uint64_t>(bytes, 40) == 128U + 4 * 128;
      bad_count += is_whole ? 0 : 1;
      ++read_count;
    }
  });
  while (read_count < 500) {
    counters.reset();
    counters = CountersFile::create(path, "writer", 4);
  }
  stop = true;
  reader.join();
  EXPECT_EQ(bad_count, 0);
}

TEST_F(CountersFileTest, ThreadsThatMakeCountersAtTheSameTimeGetTheirOwn) {
  const auto counters = CountersFile::create("", "test", 64);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 16; ++i) {
        counters->make(std::string("c").append(std::to_string(t * 16 + i)))
            .add(static_cast<std::uint64_t>(t + 1));
        static_cast<void>(counters->make("c0"));
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const auto all = counters->snapshot();
  ASSERT_EQ(all.size(), 64U);
  for (const auto& [name, value] : all) {
    const auto number = static_cast<std::uint64_t>(std::stoi(name.substr(1)));
    EXPECT_EQ(value, number / 16 + 1) << name;
  }
}

}  // namespace
}  // namespace rdmaorder::monitor
