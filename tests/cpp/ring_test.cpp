// Writer and reader of one ring, without a transport between: order, laps, epochs, torn and
// foreign slots, credits. Edge states are built by hand; the long runs are for what nobody thought
// of.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>

#include "ring_support.hpp"

namespace rdmaorder {
namespace {

using namespace ring_support;

constexpr std::uint64_t kOldEpoch = kEpoch - 1;

struct Shape {
  std::uint32_t slot_bytes;
  std::uint32_t slot_count;
};

std::string shape_name(const ::testing::TestParamInfo<Shape>& info) {
  return std::to_string(info.param.slot_bytes) + "x" + std::to_string(info.param.slot_count);
}

class RingOf : public ::testing::TestWithParam<Shape> {
 protected:
  Geometry geometry_{ring::kRingOffsetMinBytes, GetParam().slot_bytes, GetParam().slot_count};
  std::vector<std::uint64_t> memory_ = std::vector<std::uint64_t>(geometry_.window_bytes() / 8, 0);
  Words out_ = Words(geometry_.slot_bytes / 8, 0);

  void put(std::uint64_t sequence, const Words& slot) {
    store(memory_.data(), geometry_, sequence, slot);
  }
  std::uint64_t* slot_at(std::uint64_t sequence) {
    return memory_.data() + geometry_.slot_offset_bytes(sequence) / 8;
  }
  /// Seals and stores the next message.
  void write(Writer& writer) {
    Words slot = message(geometry_.slot_bytes, writer.next_sequence());
    writer.seal(slot.data());
    put(writer.next_sequence(), slot);
    writer.advance();
  }
  void expect_next(Reader& reader) {
    const std::uint64_t sequence = reader.next_sequence();
    ASSERT_EQ(reader.read(out_.data()), Status::kOk) << "sequence " << sequence;
    ASSERT_TRUE(holds(out_.data(), geometry_.slot_bytes, sequence)) << "sequence " << sequence;
    ASSERT_EQ(reader.next_sequence(), sequence + 1);
  }
};

INSTANTIATE_TEST_SUITE_P(Shapes, RingOf,
                         ::testing::Values(Shape{64, 8}, Shape{64, 256}, Shape{128, 16},
                                           Shape{4096, 8}),
                         shape_name);

TEST_P(RingOf, DeliversEveryMessageOnceAndInOrderOverThousandsOfLapsInRandomBatches) {
  Writer writer(geometry_, kEpoch, 1, 0);
  Reader reader(memory_.data(), geometry_, kEpoch, 1);
  std::mt19937 random(geometry_.slot_count);
  const std::uint64_t last =
      std::uint64_t{2000} * geometry_.slot_count / (geometry_.slot_bytes > 64 ? 2 : 1);
  for (int round = 0; reader.next_sequence() <= last; ++round) {
    ASSERT_LT(round, 1'000'000) << "no progress";
    auto batch = std::uniform_int_distribution<std::uint32_t>(0, geometry_.slot_count)(random);
    batch = std::min({batch, writer.credit_count(Lane::kNormal), writer.contiguous_count()});
    Words staging(std::size_t{batch} * geometry_.slot_bytes / 8 + 1);
    for (std::uint32_t i = 0; i < batch; ++i) {
      std::uint64_t* slot = staging.data() + std::size_t{i} * geometry_.slot_bytes / 8;
      fill(slot, geometry_.slot_bytes, writer.next_sequence() + i);
      writer.seal_ahead(slot, i);
    }
    std::copy_n(staging.data(), std::size_t{batch} * geometry_.slot_bytes / 8,
                memory_.data() + writer.next_offset_bytes() / 8);
    writer.advance(batch);
    auto reads = std::uniform_int_distribution<std::uint32_t>(0, geometry_.slot_count)(random);
    while (reads-- != 0 && reader.next_sequence() < writer.next_sequence()) {
      ASSERT_NO_FATAL_FAILURE(expect_next(reader));
    }
    if (reader.next_sequence() == writer.next_sequence()) {
      ASSERT_EQ(reader.read(out_.data()), Status::kEmpty);
    }
    ASSERT_EQ(writer.on_consumed(reader.next_sequence() - 1), Status::kOk);
  }
  EXPECT_EQ(reader.counts().torn + reader.counts().stale + reader.counts().repeated +
                reader.counts().garbage + reader.counts().lapped,
            0U);
}

TEST_P(RingOf, LosesNothingBetweenTwoThreads) {
  const std::uint64_t last = geometry_.slot_bytes > 1024 ? 10'000 : 100'000;
  std::atomic<std::uint64_t> consumed{0};
  std::thread writing([&] {
    Writer writer(geometry_, kEpoch, 1, 0);
    while (writer.next_sequence() <= last) {
      if (!writer.has_credit(Lane::kNormal)) {
        if (!ok(writer.on_consumed(consumed.load(std::memory_order_acquire)))) return;
        std::this_thread::yield();
        continue;
      }
      write(writer);
    }
  });
  Reader reader(memory_.data(), geometry_, kEpoch, 1);
  std::uint64_t wrong = 0;
  EXPECT_TRUE(eventually([&] {
    for (;;) {
      const std::uint64_t sequence = reader.next_sequence();
      if (sequence > last) return true;
      const Status status = reader.read(out_.data());
      if (!ok(status)) {
        if (status != Status::kEmpty && status != Status::kTorn) ++wrong;
        return wrong != 0;
      }
      if (!holds(out_.data(), geometry_.slot_bytes, sequence)) ++wrong;
      consumed.store(sequence, std::memory_order_release);
    }
  }));
  if (reader.next_sequence() <= last) consumed = UINT64_MAX;  // ends the writer
  writing.join();
  EXPECT_EQ(wrong, 0U);
  EXPECT_EQ(reader.counts().lapped + reader.counts().garbage + reader.counts().repeated, 0U);
}

TEST_P(RingOf, GoesOnAcrossTheSequenceWhoseLowHalfIsZero) {
  const std::uint64_t first = (std::uint64_t{1} << 32) - geometry_.slot_count - 3;
  Writer writer(geometry_, kEpoch, first, 0);
  Reader reader(memory_.data(), geometry_, kEpoch, first);
  for (std::uint32_t i = 0; i < 3 * geometry_.slot_count; ++i) {
    ASSERT_EQ(reader.read(out_.data()), Status::kEmpty) << "before " << writer.next_sequence();
    write(writer);
    ASSERT_NO_FATAL_FAILURE(expect_next(reader));
    ASSERT_EQ(writer.on_consumed(reader.next_sequence() - 1), Status::kOk);
  }
  EXPECT_GT(reader.next_sequence(), std::uint64_t{1} << 32);
  EXPECT_EQ(reader.counts().torn, 0U);
}

TEST_P(RingOf, TakesMemoryNeverWrittenForEmptyEvenWhenTheLowHalfOfTheSequenceIsZero) {
  Reader reader(memory_.data(), geometry_, kEpoch, std::uint64_t{1} << 32);
  EXPECT_EQ(reader.read(out_.data()), Status::kEmpty);
  EXPECT_EQ(reader.counts().torn, 0U);
}

TEST_P(RingOf, WaitsForASlotOfWhichAnyWordIsMissingAndDeliversItHealed) {
  const Words whole = sealed(geometry_.slot_bytes, kEpoch, 1);
  for (std::size_t missing = 0; missing + 1 < whole.size(); ++missing) {
    Reader reader(memory_.data(), geometry_, kEpoch, 1);
    Words torn = whole;
    torn[missing] ^= std::uint64_t{1} << (missing % 64);
    put(1, torn);
    ASSERT_EQ(reader.read(out_.data()), Status::kTorn) << "word " << missing;
    ASSERT_EQ(reader.read(out_.data()), Status::kTorn) << "word " << missing;
    ASSERT_EQ(reader.next_sequence(), 1U);
    ASSERT_EQ(reader.counts().torn, 2U);
    put(1, whole);
    expect_next(reader);
  }
}

TEST_P(RingOf, DoesNotDeliverTheHalfOfOneLapAndTheHalfOfTheNext) {
  Writer writer(geometry_, kEpoch, 1, 0);
  Reader reader(memory_.data(), geometry_, kEpoch, 1);
  for (std::uint32_t i = 0; i < geometry_.slot_count; ++i) {
    write(writer);
    ASSERT_NO_FATAL_FAILURE(expect_next(reader));
  }
  const Words next = sealed(geometry_.slot_bytes, kEpoch, reader.next_sequence());
  slot_at(reader.next_sequence())[next.size() - 1] = next.back();  // the commit word came first
  EXPECT_EQ(reader.read(out_.data()), Status::kTorn);
  put(reader.next_sequence(), next);
  expect_next(reader);
}

TEST_P(RingOf, RefusesASlotOfTheEarlierLinkAndCountsItOnce) {
  Reader reader(memory_.data(), geometry_, kEpoch, 1, kOldEpoch);
  put(1, sealed(geometry_.slot_bytes, kOldEpoch, 1));
  for (int look = 0; look < 5; ++look) {
    ASSERT_EQ(reader.read(out_.data()), Status::kEmpty);
  }
  EXPECT_EQ(reader.counts().stale, 1U);
  EXPECT_EQ(reader.counts().torn, 0U);
  put(1, sealed(geometry_.slot_bytes, kEpoch, 1));
  expect_next(reader);
  put(2, sealed(geometry_.slot_bytes, kOldEpoch, 2));
  EXPECT_EQ(reader.read(out_.data()), Status::kEmpty);
  EXPECT_EQ(reader.counts().stale, 2U);
}

TEST_P(RingOf, NeverDeliversASlotOfALinkItDoesNotKnow) {
  Reader reader(memory_.data(), geometry_, kEpoch, 1, kOldEpoch);
  put(1, sealed(geometry_.slot_bytes, kOldEpoch - 1, 1));
  EXPECT_EQ(reader.read(out_.data()), Status::kTorn);
  put(1, sealed(geometry_.slot_bytes, 0, 1));  // "no epoch" is no epoch either
  EXPECT_EQ(reader.read(out_.data()), Status::kTorn);
}

TEST_P(RingOf, NeverAppliesARepeatedSlotTwice) {
  const std::uint32_t lap = geometry_.slot_count;
  Writer writer(geometry_, kEpoch, 1, 0);
  Reader reader(memory_.data(), geometry_, kEpoch, 1);
  for (std::uint32_t i = 0; i < 2 * lap; ++i) {
    write(writer);
    ASSERT_NO_FATAL_FAILURE(expect_next(reader));
  }
  put(lap + 1, sealed(geometry_.slot_bytes, kEpoch, lap + 1));  // of the lap before: no news
  EXPECT_EQ(reader.read(out_.data()), Status::kEmpty);
  EXPECT_EQ(reader.counts().repeated, 0U);
  put(1, sealed(geometry_.slot_bytes, kEpoch, 1));  // two laps old
  EXPECT_EQ(reader.read(out_.data()), Status::kEmpty);
  EXPECT_EQ(reader.read(out_.data()), Status::kEmpty);
  EXPECT_EQ(reader.counts().repeated, 1U);
  EXPECT_EQ(reader.next_sequence(), 2 * lap + 1);
  write(writer);
  expect_next(reader);
}

TEST_P(RingOf, TellsALapAndStaysThere) {
  Reader reader(memory_.data(), geometry_, kEpoch, 1);
  put(1, sealed(geometry_.slot_bytes, kEpoch, 1 + geometry_.slot_count));
  EXPECT_EQ(reader.read(out_.data()), Status::kLapped);
  EXPECT_EQ(reader.read(out_.data()), Status::kLapped);
  EXPECT_EQ(reader.next_sequence(), 1U);
  EXPECT_GE(reader.counts().lapped, 1U);
}

TEST_P(RingOf, CountsAForeignWordOnceAndStillTakesTheRealSlot) {
  Reader reader(memory_.data(), geometry_, kEpoch, 1);
  for (std::uint64_t sequence = 1; sequence <= geometry_.slot_count; ++sequence) {
    const std::uint64_t foreign = wire::make_commit_word(0xDEAD, sequence + 1);
    store_release(slot_at(sequence) + geometry_.slot_bytes / 8 - 1, foreign);
    for (int look = 0; look < 3; ++look) {
      ASSERT_EQ(reader.read(out_.data()), Status::kEmpty);
    }
    ASSERT_EQ(reader.counts().garbage, sequence);
    put(sequence, sealed(geometry_.slot_bytes, kEpoch, sequence));
    expect_next(reader);
  }
}

TEST_P(RingOf, DeliversNothingOutOfRandomBytes) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 200; ++round) {
    for (auto& word : memory_) word = random();
    const std::uint64_t first = random() >> 8;
    // Half of the rounds have the right sequence in the commit word: then the CRC decides alone.
    if (round % 2 == 0) {
      std::uint64_t& commit = slot_at(first)[geometry_.slot_bytes / 8 - 1];
      commit = wire::make_commit_word(static_cast<std::uint32_t>(commit), first);
    }
    Reader reader(memory_.data(), geometry_, kEpoch, first, kOldEpoch);
    for (int look = 0; look < 3; ++look) ASSERT_NE(reader.read(out_.data()), Status::kOk);
    ASSERT_EQ(reader.next_sequence(), first);
  }
}

TEST_P(RingOf, GivesACopyThatIsWholeWhileThePeerRewritesTheSlot) {
  const std::size_t word_count = geometry_.slot_bytes / 8;
  Words other = message(geometry_.slot_bytes, 99);
  other.back() = wire::make_commit_word(
      wire::slot_crc(wire::slot_crc_prefix(kEpoch, 1), other.data(), geometry_.slot_bytes), 1);
  const Words versions[] = {sealed(geometry_.slot_bytes, kEpoch, 1), other};
  std::atomic<bool> stop{false};
  std::thread hostile([&] {
    for (std::size_t n = 0; !stop.load(std::memory_order_relaxed); ++n) {
      for (std::size_t i = 0; i < word_count; ++i) {
        store_relaxed(slot_at(1) + i, versions[n % 2][i]);
      }
    }
  });
  std::uint64_t mixed = 0;
  std::uint64_t delivered = 0;
  for (int look = 0; look < 20'000; ++look) {
    Reader reader(memory_.data(), geometry_, kEpoch, 1);
    if (reader.read(out_.data()) != Status::kOk) continue;
    ++delivered;
    if (out_ != versions[0] && out_ != versions[1]) ++mixed;
  }
  stop = true;
  hostile.join();
  RecordProperty("delivered", std::to_string(delivered));
  EXPECT_EQ(mixed, 0U);
}

TEST_P(RingOf, SaysIdleInTheDenseScanOnlyWhenReadingGivesNothing) {
  Writer writer(geometry_, kEpoch, 1, 0);
  Reader reader(memory_.data(), geometry_, kEpoch, 1);
  std::mt19937 random(5);
  for (std::uint32_t i = 0; i < 20 * geometry_.slot_count; ++i) {
    const bool idle = load_acquire(reader.commit_word_address()) == reader.idle_word();
    const std::uint64_t waiting = writer.next_sequence() - reader.next_sequence();
    ASSERT_TRUE(!idle || waiting == 0) << "the scan would not see " << reader.next_sequence();
    if (waiting == 0) {
      ASSERT_EQ(reader.read(out_.data()), Status::kEmpty);
      ASSERT_EQ(load_acquire(reader.commit_word_address()), reader.idle_word());
    }
    if (random() % 2 == 0 && waiting < geometry_.slot_count) {
      write(writer);
    } else if (waiting != 0) {
      expect_next(reader);
    }
  }
}

// --- credits ------------------------------------------------------------------------------------

class Credits : public ::testing::Test {
 protected:
  Geometry geometry_{ring::kRingOffsetMinBytes, 64, 16};
};

TEST_F(Credits, AreTheWholeRingLessTheReserveForOrders) {
  Writer writer(geometry_, kEpoch, 1, 4);
  EXPECT_EQ(writer.credit_count(Lane::kNormal), 12U);
  EXPECT_EQ(writer.credit_count(Lane::kUrgent), 16U);
  writer.advance(12);
  EXPECT_FALSE(writer.has_credit(Lane::kNormal));
  EXPECT_EQ(writer.credit_count(Lane::kNormal), 0U);
  EXPECT_TRUE(writer.has_credit(Lane::kUrgent));
  writer.advance(4);
  EXPECT_FALSE(writer.has_credit(Lane::kUrgent));
  EXPECT_EQ(writer.credit_count(Lane::kUrgent), 0U);
  EXPECT_EQ(writer.credit_count(Lane::kNormal), 0U);
}

TEST_F(Credits, LeaveOneToOrdersWhateverTheReserve) {
  const Writer writer(geometry_, kEpoch, 1, 1000);
  EXPECT_EQ(writer.credit_count(Lane::kNormal), 1U);
  EXPECT_TRUE(writer.has_credit(Lane::kNormal));
}

TEST_F(Credits, FollowTheConsumedPositionAndNeverGoBack) {
  Writer writer(geometry_, kEpoch, 101, 0);
  writer.advance(16);
  EXPECT_EQ(writer.on_consumed(103), Status::kOk);
  EXPECT_EQ(writer.credit_count(Lane::kNormal), 3U);
  EXPECT_EQ(writer.on_consumed(101), Status::kOk);  // an older line is no news
  EXPECT_EQ(writer.on_consumed(0), Status::kOk);
  EXPECT_EQ(writer.credit_count(Lane::kNormal), 3U);
  EXPECT_EQ(writer.on_consumed(116), Status::kOk);
  EXPECT_EQ(writer.credit_count(Lane::kNormal), 16U);
}

TEST_F(Credits, DoNotComeFromAPositionThatWasNeverWritten) {
  Writer writer(geometry_, kEpoch, 1, 0);
  writer.advance(16);
  EXPECT_EQ(writer.on_consumed(17), Status::kCorrupt);
  EXPECT_EQ(writer.on_consumed(UINT64_MAX), Status::kCorrupt);
  EXPECT_EQ(writer.credit_count(Lane::kUrgent), 0U);
}

TEST_F(Credits, EndAPutAtTheEndOfTheRing) {
  Writer writer(geometry_, kEpoch, 1, 0);
  EXPECT_EQ(writer.contiguous_count(), 16U);
  EXPECT_EQ(writer.next_offset_bytes(), geometry_.offset_bytes);
  writer.advance(15);
  EXPECT_EQ(writer.contiguous_count(), 1U);
  EXPECT_EQ(writer.next_offset_bytes(), geometry_.offset_bytes + 15 * 64);
  writer.advance();
  EXPECT_EQ(writer.contiguous_count(), 16U);
  EXPECT_EQ(writer.next_offset_bytes(), geometry_.offset_bytes);
}

TEST(RingGeometry, RefusesWhatNoRingCanBe) {
  const auto valid = [](std::uint64_t offset, std::uint32_t bytes, std::uint32_t count) {
    return Geometry{offset, bytes, count}.is_valid();
  };
  EXPECT_TRUE(valid(128, 64, 8));
  EXPECT_TRUE(valid(4096, 4096, ring::kSlotCountMax));
  EXPECT_FALSE(valid(64, 64, 8)) << "the ring would overlap the line of the status";
  EXPECT_FALSE(valid(130, 64, 8)) << "slots would straddle cache lines";
  EXPECT_FALSE(valid(UINT64_MAX - 63, 64, 8)) << "the size would wrap";
  EXPECT_FALSE(valid(128, 0, 8));
  EXPECT_FALSE(valid(128, 65, 8));
  EXPECT_FALSE(valid(128, 4160, 8));
  EXPECT_FALSE(valid(128, 64, 4));
  EXPECT_FALSE(valid(128, 64, 12));
  EXPECT_FALSE(valid(128, 64, 2 * ring::kSlotCountMax));
}

}  // namespace
}  // namespace rdmaorder
