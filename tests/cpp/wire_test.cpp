// Checksum, slots, status line and names: everything that fixes bytes or their spelling.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/status.hpp"
#include "rdmaorder/types.hpp"
#include "rdmaorder/wire/crc32c.hpp"
#include "rdmaorder/wire/messages.hpp"
#include "rdmaorder/wire/slot.hpp"
#include "rdmaorder/wire/status_line.hpp"

namespace rdmaorder {
namespace {

constexpr std::uint64_t kEpoch = 0x0123456789ABCDEF;

using Bytes = std::vector<std::uint8_t>;

std::uint32_t crc_of(const Bytes& bytes) { return wire::crc32c(bytes.data(), bytes.size()); }

std::uint32_t portable_crc_of(const Bytes& bytes) {
  return wire::crc32c_finish(
      wire::detail::crc32c_portable_bytes(wire::kCrc32cInit, bytes.data(), bytes.size()));
}

// --- CRC-32C ------------------------------------------------------------------------------------

struct Vector {
  Bytes bytes;
  std::uint32_t crc;
};

std::vector<Vector> known_vectors() {
  Bytes up(32);
  std::iota(up.begin(), up.end(), std::uint8_t{0});
  const Bytes down(up.rbegin(), up.rend());
  const std::string digits = "123456789";
  // RFC 3720 appendix B.4: zeros, ones, up, down, an iSCSI SCSI Read (10) command PDU.
  return {{Bytes{}, 0x00000000U},
          {Bytes(digits.begin(), digits.end()), 0xE3069283U},
          {Bytes(32, 0x00), 0x8A9136AAU},
          {Bytes(32, 0xFF), 0x62A8AB43U},
          {up, 0x46DD794EU},
          {down, 0x113FDB5CU},
          {{0x01, 0xC0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00,
            0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18, 0x28, 0x00, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00},
           0xD9963A56U}};
}

TEST(Crc32c, GivesThePublishedValues) {
  for (const Vector& vector : known_vectors()) {
    EXPECT_EQ(crc_of(vector.bytes), vector.crc) << vector.bytes.size() << " bytes";
    EXPECT_EQ(portable_crc_of(vector.bytes), vector.crc) << vector.bytes.size() << " bytes";
  }
}

TEST(Crc32c, IsTheSameWithAndWithoutTheInstruction) {
  if (!wire::detail::kHasCrc32Instruction) GTEST_SKIP() << "no CRC-32C instruction here";
  std::mt19937_64 random(7);
  for (std::size_t word_count = 0; word_count <= 64; ++word_count) {
    std::vector<std::uint64_t> words(word_count);
    for (auto& word : words) word = random();
    const auto state = static_cast<std::uint32_t>(random());
    EXPECT_EQ(wire::crc32c_words(state, words.data(), word_count),
              wire::detail::crc32c_portable_words(state, words.data(), word_count))
        << word_count << " words";
  }
}

// A compiler that computes the first steps before the loop must not do so without the instruction:
// tests/rdma/test_old_processor.py runs this where there is none.
TEST(Crc32c, IsLeftToTheTablesInALoopOfKnownInputs) {
  std::array<std::uint64_t, 64> found{};
  wire::Slot64 slot{};
  for (std::uint32_t i = 0; i < found.size(); ++i) {
    slot.words[0] =
        wire::slot_crc(wire::slot_crc_prefix(1, i), slot.words, wire::kSlotBytesDefault);
    found[i] = slot.words[0];
  }
  std::array<std::uint64_t, 9> words{1};  // epoch, sequence, the slot without its commit word
  for (std::uint32_t i = 0; i < found.size(); ++i) {
    words[1] = i;
    words[2] = wire::crc32c_finish(
        wire::detail::crc32c_portable_words(wire::kCrc32cInit, words.data(), words.size()));
    EXPECT_EQ(found[i], words[2]) << i;
  }
}

TEST(Crc32c, IsTheSameForWordsAndForBytesAtAnyAlignment) {
  std::mt19937_64 random(11);
  Bytes buffer(600);
  for (auto& byte : buffer) byte = static_cast<std::uint8_t>(random());
  for (std::size_t start = 0; start < 9; ++start) {
    for (std::size_t size = 0; size < 100; ++size) {
      const auto* data = buffer.data() + start;
      EXPECT_EQ(wire::crc32c(data, size), wire::crc32c_finish(wire::detail::crc32c_portable_bytes(
                                              wire::kCrc32cInit, data, size)))
          << "start " << start << " size " << size;
    }
  }
}

TEST(Crc32c, TakesTheZerosBehindAMessageForWhatTheyAre) {
  std::mt19937_64 random(11);
  for (std::size_t word_count = 0; word_count < wire::kSlotBytesMax / 8; ++word_count) {
    std::vector<std::uint64_t> words(word_count);
    const auto state = static_cast<std::uint32_t>(random());
    // Behind `used` words zeros: none used, then one more at a time in steps that meet every line.
    for (std::size_t used = 0; used <= word_count; used += 1 + used / 8) {
      if (used != 0) words[used - 1] = std::uint64_t{1} << (random() % 64);
      EXPECT_EQ(wire::crc32c_padded_words(state, words.data(), word_count),
                wire::detail::crc32c_portable_words(state, words.data(), word_count))
          << used << " of " << word_count << " words used";
    }
  }
}

TEST(Crc32c, ContinuesFromAnyPoint) {
  Bytes buffer(96);
  std::iota(buffer.begin(), buffer.end(), std::uint8_t{3});
  for (std::size_t cut = 0; cut <= buffer.size(); ++cut) {
    const std::uint32_t head = wire::crc32c_bytes(wire::kCrc32cInit, buffer.data(), cut);
    const std::uint32_t all = wire::crc32c_bytes(head, buffer.data() + cut, buffer.size() - cut);
    EXPECT_EQ(wire::crc32c_finish(all), crc_of(buffer)) << "cut at " << cut;
  }
}

// --- slots --------------------------------------------------------------------------------------

/// A slot of any size with random contents.
struct TestSlot {
  explicit TestSlot(std::uint32_t slot_bytes, std::uint64_t seed = 1) : words(slot_bytes / 8) {
    std::mt19937_64 random(seed);
    for (auto& word : words) word = random();
  }
  [[nodiscard]] std::uint32_t slot_bytes() const {
    return static_cast<std::uint32_t>(words.size() * 8);
  }
  [[nodiscard]] std::uint64_t commit_word(std::uint64_t epoch, std::uint64_t sequence) const {
    return wire::make_commit_word(
        wire::slot_crc(wire::slot_crc_prefix(epoch, sequence), words.data(), slot_bytes()),
        sequence);
  }
  void seal(std::uint64_t epoch, std::uint64_t sequence) {
    words.back() = commit_word(epoch, sequence);
  }
  [[nodiscard]] bool verifies(std::uint64_t epoch, std::uint64_t sequence) const {
    return words.back() == commit_word(epoch, sequence);
  }

  std::vector<std::uint64_t> words;
};

TEST(Slot, ChecksumCoversEpochThenSequenceThenContents) {
  TestSlot slot(64);
  slot.seal(kEpoch, 0x500000007);
  Bytes input(16 + 56);
  const std::uint64_t sequence = 0x500000007;
  std::memcpy(input.data(), &kEpoch, 8);
  std::memcpy(input.data() + 8, &sequence, 8);
  std::memcpy(input.data() + 16, slot.words.data(), 56);
  EXPECT_EQ(wire::commit_crc(slot.words.back()), portable_crc_of(input));
  EXPECT_EQ(wire::commit_sequence_low(slot.words.back()), 7U);
}

TEST(Slot, VerifiesOnlyUnderItsEpochAndFullSequence) {
  for (const std::uint32_t slot_bytes : {64U, 128U, 4096U}) {
    TestSlot slot(slot_bytes);
    slot.seal(kEpoch, 42);
    EXPECT_TRUE(slot.verifies(kEpoch, 42));
    EXPECT_FALSE(slot.verifies(kEpoch + 1, 42));
    EXPECT_FALSE(slot.verifies(kEpoch, 43));
    EXPECT_FALSE(slot.verifies(kEpoch, 42 + (1ULL << 32))) << "same low half";
  }
}

TEST(Slot, EverySingleBitFlipIsDetected) {
  for (const std::uint32_t slot_bytes : {64U, 128U, 4096U}) {
    TestSlot slot(slot_bytes, slot_bytes);
    slot.seal(kEpoch, 1);
    for (std::size_t bit = 0; bit < std::size_t{slot_bytes} * 8; ++bit) {
      slot.words[bit / 64] ^= 1ULL << (bit % 64);
      ASSERT_FALSE(slot.verifies(kEpoch, 1)) << "bit " << bit << " of " << slot_bytes << " bytes";
      slot.words[bit / 64] ^= 1ULL << (bit % 64);
    }
    EXPECT_TRUE(slot.verifies(kEpoch, 1));
  }
}

// CRC-32C has Hamming distance 6 at this length, so two flipped bits can never cancel out.
TEST(Slot, EveryPairOfFlippedBitsOfASmallSlotIsDetected) {
  TestSlot slot(64);
  slot.seal(kEpoch, 1);
  const auto flip = [&slot](std::size_t bit) { slot.words[bit / 64] ^= 1ULL << (bit % 64); };
  for (std::size_t first = 0; first < 512; ++first) {
    flip(first);
    for (std::size_t second = first + 1; second < 512; ++second) {
      flip(second);
      ASSERT_FALSE(slot.verifies(kEpoch, 1)) << first << ", " << second;
      flip(second);
    }
    flip(first);
  }
}

TEST(Slot, AMixOfTwoLapsNeverVerifies) {
  TestSlot old_lap(64, 1), new_lap(64, 2);
  old_lap.seal(kEpoch, 1);
  new_lap.seal(kEpoch, 257);
  for (unsigned mask = 0; mask < 255; ++mask) {  // all subsets of words but "every word is new"
    TestSlot mixed = old_lap;
    for (std::size_t i = 0; i < 8; ++i) {
      if ((mask >> i) & 1U) mixed.words[i] = new_lap.words[i];
    }
    EXPECT_FALSE(mixed.verifies(kEpoch, 257)) << "mask " << mask;
  }
}

TEST(Slot, SizesAreMultiplesOf64UpTo4096) {
  for (const std::uint64_t good : {64, 128, 4032, 4096}) {
    EXPECT_TRUE(wire::is_valid_slot_bytes(good)) << good;
  }
  for (const std::uint64_t bad : {0, 8, 63, 65, 96, 4104, 4160}) {
    EXPECT_FALSE(wire::is_valid_slot_bytes(bad)) << bad;
  }
}

TEST(Sequence, WidensToTheNearestAroundTheReference) {
  EXPECT_EQ(wire::widen_sequence(5, 5), 5U);
  EXPECT_EQ(wire::widen_sequence(0xFFFFFFFF, 0x100000000), 0xFFFFFFFFULL);
  EXPECT_EQ(wire::widen_sequence(1, 0x2FFFFFFF0), 0x300000001ULL);
  EXPECT_EQ(wire::widen_sequence(10, 0x500000007), 0x50000000AULL);
}

// --- status line --------------------------------------------------------------------------------

wire::StatusLine line_of(std::uint64_t value, std::uint64_t epoch, std::uint64_t version) {
  wire::StatusLine line{};
  line.consumed = line.applied = line.durable = value;
  line.next_sequence = line.heartbeat = line.time_ns = value;
  line.state = PeerState::kOpen;
  wire::seal_status_line(line, epoch, version);
  return line;
}

struct StatusLines : testing::Test {
  void write(const wire::StatusLine& line) { std::memcpy(window.words, &line, sizeof line); }

  wire::Slot64 window{};
  wire::StatusLineReader reader{window.words, kEpoch};
};

TEST_F(StatusLines, NothingIsThereBeforeTheFirstWrite) {
  EXPECT_EQ(reader.refresh(), Status::kEmpty);
  EXPECT_EQ(reader.latest().consumed, 0U);
}

TEST_F(StatusLines, ANewLineIsReadOnce) {
  write(line_of(10, kEpoch, 1));
  EXPECT_EQ(reader.refresh(), Status::kOk);
  EXPECT_EQ(reader.latest().consumed, 10U);
  EXPECT_EQ(reader.latest().state, PeerState::kOpen);
  EXPECT_EQ(reader.refresh(), Status::kEmpty);
}

TEST_F(StatusLines, ATornLineKeepsTheLastGoodOneUntilItHeals) {
  write(line_of(10, kEpoch, 1));
  ASSERT_EQ(reader.refresh(), Status::kOk);
  const wire::StatusLine next = line_of(20, kEpoch, 2);
  window.words[7] = next.commit_word;  // the commit word overtook the rest
  EXPECT_EQ(reader.refresh(), Status::kTorn);
  EXPECT_EQ(reader.refresh(), Status::kTorn);
  EXPECT_EQ(reader.latest().consumed, 10U);
  EXPECT_EQ(reader.torn_count(), 2U);
  write(next);
  EXPECT_EQ(reader.refresh(), Status::kOk);
  EXPECT_EQ(reader.latest().consumed, 20U);
}

TEST_F(StatusLines, EverySingleBitFlipIsDetected) {
  write(line_of(10, kEpoch, 1));
  for (std::size_t bit = 0; bit < 512; ++bit) {
    window.words[bit / 64] ^= 1ULL << (bit % 64);
    wire::StatusLineReader fresh(window.words, kEpoch);
    ASSERT_EQ(fresh.refresh(), Status::kTorn) << "bit " << bit;
    window.words[bit / 64] ^= 1ULL << (bit % 64);
  }
}

TEST_F(StatusLines, ALineOfAnotherEpochIsNeverTaken) {
  write(line_of(10, kEpoch - 1, 1));
  EXPECT_EQ(reader.refresh(), Status::kTorn);
  EXPECT_EQ(reader.latest().consumed, 0U);
}

TEST_F(StatusLines, ALateWriteOfAnEarlierVersionIsNeverTaken) {
  write(line_of(20, kEpoch, 2));
  ASSERT_EQ(reader.refresh(), Status::kOk);
  write(line_of(10, kEpoch, 1));
  EXPECT_EQ(reader.refresh(), Status::kTorn);
  EXPECT_EQ(reader.latest().consumed, 20U);
}

TEST_F(StatusLines, MissedVersionsAndTheWrapOfTheLowHalfDoNoHarm) {
  for (const std::uint64_t version :
       {1ULL, 900ULL, 0xFFFFFFFFULL, 0x100000000ULL, 0x1C0000000ULL}) {
    write(line_of(version, kEpoch, version));
    ASSERT_EQ(reader.refresh(), Status::kOk) << version;
    EXPECT_EQ(reader.latest().consumed, version);
  }
}

TEST_F(StatusLines, AReaderRacingTheWriterNeverTakesAMixedLine) {
  constexpr std::uint64_t kLastVersion = 20'000;
  std::thread writer([this] {
    for (std::uint64_t version = 1; version <= kLastVersion; ++version) {
      const wire::StatusLine line = line_of(version, kEpoch, version);
      std::uint64_t words[8];
      std::memcpy(words, &line, sizeof words);
      // The commit word first: the worst order a NIC may choose.
      for (std::size_t i = 8; i-- > 0;) store_relaxed(window.words + i, words[i]);
    }
  });
  std::uint64_t previous = 0;
  while (reader.latest().consumed != kLastVersion) {
    if (reader.refresh() != Status::kOk) continue;
    const wire::StatusLine& line = reader.latest();
    EXPECT_GT(line.consumed, previous);
    EXPECT_TRUE(line.applied == line.consumed && line.durable == line.consumed &&
                line.next_sequence == line.consumed && line.heartbeat == line.consumed &&
                line.time_ns == line.consumed);
    previous = line.consumed;
  }
  writer.join();
}

// --- names --------------------------------------------------------------------------------------

TEST(Names, EveryStatusHasItsOwn) {
  std::set<std::string> names;
  for (int value = -14; value <= 0; ++value) names.insert(status_name(static_cast<Status>(value)));
  EXPECT_EQ(names.size(), 15U);
  EXPECT_FALSE(names.contains("unknown_status"));
  EXPECT_STREQ(status_name(Status::kFull), "full");
  EXPECT_STREQ(status_name(static_cast<Status>(1)), "unknown_status");
  EXPECT_STREQ(status_name(static_cast<Status>(-15)), "unknown_status");
}

TEST(Names, EveryReasonHasItsOwn) {
  std::set<std::string> names;
  for (std::uint8_t value = 0; value < kReasonCount; ++value) {
    names.insert(reason_name(static_cast<Reason>(value)));
  }
  EXPECT_EQ(names.size(), kReasonCount);
  EXPECT_FALSE(names.contains("unknown_reason"));
  EXPECT_STREQ(reason_name(Reason::kDuplicateClOrdId), "duplicate_cl_ord_id");
  EXPECT_STREQ(reason_name(static_cast<Reason>(kReasonCount)), "unknown_reason");
  EXPECT_STREQ(reason_name(static_cast<Reason>(255)), "unknown_reason");
}

template <class Block>
class BlockCopy : public testing::Test {};
using Blocks = testing::Types<wire::NewOrder, wire::ReplaceOrder, wire::CancelOrder,
                              wire::MassCancel, wire::ExecutionReport>;
TYPED_TEST_SUITE(BlockCopy, Blocks);

TYPED_TEST(BlockCopy, PutsEveryByteWhereTheStructHasIt) {
  std::array<std::uint8_t, wire::kBlockBytes> bytes;
  std::iota(bytes.begin(), bytes.end(),
            std::uint8_t{0xC1});  // high bits set: signs must not spread
  TypeParam block;
  std::memcpy(&block, bytes.data(), sizeof block);
  std::uint64_t words[wire::kBlockBytes / 8] = {};
  wire::copy_block(block, words);
  EXPECT_EQ(std::memcmp(words, bytes.data(), sizeof words), 0);
}

TEST(Names, EveryExecTypeHasItsOwn) {
  EXPECT_STREQ(exec_type_name(ExecType::kNew), "new");
  EXPECT_STREQ(exec_type_name(ExecType::kCanceled), "canceled");
  EXPECT_STREQ(exec_type_name(ExecType::kReplaced), "replaced");
  EXPECT_STREQ(exec_type_name(ExecType::kRejected), "rejected");
  EXPECT_STREQ(exec_type_name(ExecType::kExpired), "expired");
  EXPECT_STREQ(exec_type_name(ExecType::kTrade), "trade");
  EXPECT_STREQ(exec_type_name(static_cast<ExecType>(0)), "unknown_exec_type");
}

}  // namespace
}  // namespace rdmaorder
