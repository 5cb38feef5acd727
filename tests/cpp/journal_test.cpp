// Reading and recovery: what is written comes back, what is damaged is found and kept aside.
#include "rdmaorder/journal.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <random>

#include "journal/format.hpp"
#include "journal_support.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/journal_reader.hpp"

namespace rdmaorder::journal {
namespace {

TEST_F(Journal, RoundTripsAcrossSegments) {
  const std::uint64_t count = kPerSegment * 3 + 17;
  write_records(count);
  const ScanResult result = scan_checked(directory_);
  EXPECT_TRUE(result.clean) << result.damage;
  EXPECT_EQ(result.last_position, count);
  EXPECT_EQ(result.segment_count, 4U);
  EXPECT_EQ(list_segments(directory_).size(), 4U) << "the prepared segment was left behind";
}

TEST_F(Journal, KeepsPayloadsOfEverySizeAndRefusesEmptyAndOversizedOnes) {
  std::vector<std::byte> payload(kPayloadBytesMax + 1, std::byte{0xA5});
  {
    auto writer = open();
    EXPECT_EQ(writer->append(RecordKind::kLink, 0, 1, 1, 1, payload.data(), 0), Status::kInvalid);
    EXPECT_EQ(writer->append(RecordKind::kLink, 0, 1, 1, 1, payload.data(), kPayloadBytesMax + 1),
              Status::kTooLarge);
    EXPECT_EQ(writer->last_position(), 0U);
    for (std::uint32_t size = 1; size <= kPayloadBytesMax; size += size < 300 ? 1 : 97) {
      ASSERT_EQ(writer->append(RecordKind::kSession, 3, 1, 1, 1, payload.data(), size),
                Status::kOk);
    }
  }
  std::uint32_t size = 1;
  const ScanResult result = scan(directory_, [&](const Record& record) {
    EXPECT_EQ(record.payload.size(), size);
    EXPECT_EQ(std::memcmp(record.payload.data(), payload.data(), record.payload.size()), 0);
    size += size < 300 ? 1 : 97;
    return true;
  });
  EXPECT_TRUE(result.clean) << result.damage;
  EXPECT_GT(result.segment_count, 2U);
  EXPECT_GT(size, kPayloadBytesMax);
}

TEST_F(Journal, ReopeningContinuesAfterTheLastRecord) {
  for (int round = 0; round < 5; ++round) write_records(kPerSegment / 2 + 1);
  std::uint64_t recovered_count = 0;
  ScanResult recovered;
  auto writer = Writer::open(
      config(), [&](const Record& record) { EXPECT_TRUE(is_right(record, ++recovered_count)); },
      &recovered);
  EXPECT_EQ(recovered_count, 5 * (kPerSegment / 2 + 1));
  EXPECT_EQ(recovered.last_position, recovered_count);
  EXPECT_EQ(writer->last_position(), recovered_count);
  EXPECT_EQ(writer->durable_position(), recovered_count);
}

TEST_F(Journal, DetectsAFlipOfEveryByteOfARecord) {
  write_records(5);
  const std::vector<char> good = read_file(segment(1));
  const std::uint64_t at = kSegmentHeaderBytes + 2 * kRecord;
  for (std::uint64_t i = 0; i < kRecord; ++i) {
    for (const char mask : {char{1}, static_cast<char>(0x80), static_cast<char>(0xFF)}) {
      std::vector<char> bytes = good;
      bytes[at + i] = static_cast<char>(bytes[at + i] ^ mask);
      write_file(segment(1), bytes);
      const ScanResult result = scan_checked(directory_);
      ASSERT_FALSE(result.clean) << "byte " << i;
      ASSERT_EQ(result.record_count, 2U) << "byte " << i;
      ASSERT_NE(
          result.damage.find(segment(1) + " at offset " + std::to_string(at) + ", position 3: "),
          std::string::npos)
          << result.damage;
    }
  }
}

TEST_F(Journal, DetectsAFlipOfEveryByteOfASegmentHeader) {
  write_records(1);
  const std::vector<char> good = read_file(segment(1));
  for (std::size_t i = 0; i < sizeof(SegmentHeader); ++i) {
    std::vector<char> bytes = good;
    bytes[i] = static_cast<char>(bytes[i] ^ 4);
    write_file(segment(1), bytes);
    EXPECT_THROW(static_cast<void>(scan(directory_, [](const Record&) { return true; })), Error)
        << "byte " << i;
    EXPECT_THROW(open(), Error) << "byte " << i;
  }
}

TEST_F(Journal, ReadsThePrefixOfAFileTruncatedAtAnyLength) {
  write_records(4);
  const std::uint64_t end = kSegmentHeaderBytes + 4 * kRecord;
  for (std::uint64_t size = end + kRecord; size-- > kSegmentHeaderBytes;) {
    ASSERT_EQ(truncate(segment(1).c_str(), static_cast<off_t>(size)), 0);
    const ScanResult result = scan_checked(directory_);
    ASSERT_FALSE(result.clean) << size;
    ASSERT_EQ(result.record_count,
              std::min<std::uint64_t>((size - kSegmentHeaderBytes) / kRecord, 4))
        << size;
  }
  for (const off_t size : {off_t{63}, off_t{8}, off_t{0}}) {
    ASSERT_EQ(truncate(segment(1).c_str(), size), 0);
    EXPECT_THROW(static_cast<void>(scan(directory_, [](const Record&) { return true; })), Error);
  }
}

TEST_F(Journal, RecoveryOfATruncatedFileKeepsThePrefixAndGoesOn) {
  write_records(4);
  ASSERT_EQ(truncate(segment(1).c_str(), kSegmentHeaderBytes + 3 * kRecord - 1), 0);
  ScanResult recovered;
  {
    auto writer = open(SyncPolicy::kNone, &recovered);
    EXPECT_FALSE(recovered.clean);
    EXPECT_EQ(writer->last_position(), 2U);
    append_many(*writer, kPerSegment);
  }
  const ScanResult result = scan_checked(directory_);
  EXPECT_TRUE(result.clean) << result.damage;
  EXPECT_EQ(result.record_count, kPerSegment + 2);
  EXPECT_EQ(fs::file_size(segment(1)), kSegment);
}

TEST_F(Journal, SurvivesRandomBytesInASegment) {
  write_records(20);
  const std::vector<char> good = read_file(segment(1));
  std::mt19937 random(7);  // NOLINT: the same bytes every time
  for (int round = 0; round < 400; ++round) {
    std::vector<char> bytes = good;
    const std::size_t from =
        round % 2 == 0 ? kSegmentHeaderBytes : kSegmentHeaderBytes + random() % (20 * kRecord);
    const std::size_t count = 1 + random() % (bytes.size() - from);
    for (std::size_t i = from; i < from + count; ++i) {
      bytes[i] = static_cast<char>(round % 3 == 0 ? random() & random() & random() : random());
    }
    if (round % 5 == 0) bytes.resize(random() % bytes.size());
    write_file(segment(1), bytes);
    std::uint64_t right = 0;
    try {
      static_cast<void>(scan(directory_, [&](const Record& record) {
        EXPECT_TRUE(is_right(record, record.position));
        ++right;
        return true;
      }));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kJournal);
    }
    EXPECT_LE(right, 20U);
  }
}

TEST_F(Journal, KeepsADamagedTailAsideBeforeCuttingItOff) {
  write_records(10);
  flip(segment(1), kSegmentHeaderBytes + 6 * kRecord + 50);
  const std::vector<char> before = read_file(segment(1));
  ScanResult recovered;
  {
    auto writer = open(SyncPolicy::kNone, &recovered);
    EXPECT_FALSE(recovered.clean);
    EXPECT_EQ(writer->last_position(), 6U);
  }
  const std::size_t cut = kSegmentHeaderBytes + 6 * kRecord;
  EXPECT_EQ(read_file(segment(1) + ".damaged"),
            std::vector<char>(before.begin() + static_cast<std::ptrdiff_t>(cut), before.end()));
  const std::vector<char> after = read_file(segment(1));
  EXPECT_EQ(std::count(after.begin() + static_cast<std::ptrdiff_t>(cut), after.end(), 0),
            std::ssize(after) - static_cast<std::ptrdiff_t>(cut))
      << "stale bytes could come back to life";
  EXPECT_TRUE(scan_checked(directory_).clean);

  flip(segment(1), kSegmentHeaderBytes + 50);  // a second time: the first copy is kept
  EXPECT_EQ(open()->last_position(), 0U);
  EXPECT_TRUE(fs::exists(segment(1) + ".damaged.2"));
}

TEST_F(Journal, DamageInAnEarlierSegmentMovesTheLaterOnesAside) {
  write_records(3 * kPerSegment);
  flip(segment(2), kSegmentHeaderBytes + 60);
  ScanResult recovered;
  {
    auto writer = open(SyncPolicy::kNone, &recovered);
    EXPECT_FALSE(recovered.clean);
    EXPECT_EQ(writer->last_position(), kPerSegment);
    append_many(*writer, 2 * kPerSegment);
  }
  EXPECT_TRUE(fs::exists(segment(2) + ".damaged"));
  EXPECT_TRUE(fs::exists(segment(3) + ".damaged"));
  const ScanResult result = scan_checked(directory_);
  EXPECT_TRUE(result.clean) << result.damage;
  EXPECT_EQ(result.last_position, 3 * kPerSegment);
}

TEST_F(Journal, AZeroedRecordWithOthersBehindItIsDamageAndNotTheEnd) {
  write_records(kPerSegment + 200);
  const std::array<char, kRecord> zeros{};
  const std::vector<char> good = read_file(segment(2));
  for (const std::uint64_t index : {0U, 50U, 197U, 198U}) {
    write_file(segment(2), good);
    poke(segment(2), kSegmentHeaderBytes + index * kRecord, zeros.data(), zeros.size());
    const ScanResult result = scan_checked(directory_);
    EXPECT_FALSE(result.clean) << index;
    EXPECT_EQ(result.record_count, kPerSegment + index);
  }
  write_file(segment(2), good);
  poke(segment(1), kSegmentHeaderBytes + (kPerSegment - 1) * kRecord, zeros.data(), zeros.size());
  EXPECT_FALSE(scan_checked(directory_).clean) << "the next segment begins too late";
}

TEST_F(Journal, TheBodyOfAnAppendThatNeverCompletedIsNoDamageAndIsZeroed) {
  write_records(3);
  const std::array<char, kRecord - 8> body = [] {
    std::array<char, kRecord - 8> bytes{};
    bytes.fill(0x33);
    return bytes;
  }();
  poke(segment(1), kSegmentHeaderBytes + 3 * kRecord + 8, body.data(), body.size());
  EXPECT_TRUE(scan_checked(directory_).clean);
  EXPECT_EQ(open()->last_position(), 3U);
  const std::vector<char> after = read_file(segment(1));
  EXPECT_EQ(after[kSegmentHeaderBytes + 3 * kRecord + 8], 0);
  EXPECT_FALSE(fs::exists(segment(1) + ".damaged"));
}

TEST_F(Journal, RecordsOfAnotherFileDoNotVerify) {
  write_records(10);
  const std::vector<char> older = read_file(segment(1));
  fs::remove_all(directory_);
  write_records(4);
  // The very same records, at the same places, of an older file: only the salt differs.
  poke(segment(1), kSegmentHeaderBytes + 4 * kRecord,
       older.data() + kSegmentHeaderBytes + 4 * kRecord, 6 * kRecord);
  const ScanResult result = scan_checked(directory_);
  EXPECT_FALSE(result.clean);
  EXPECT_EQ(result.record_count, 4U);
  EXPECT_EQ(open()->last_position(), 4U);
}

TEST_F(Journal, AMissingSegmentIsNamedAndRefused) {
  write_records(3 * kPerSegment);
  for (const std::uint64_t missing : {1U, 2U}) {
    fs::rename(segment(missing), root_ + "/away");
    const ScanResult result = scan_checked(directory_);
    EXPECT_FALSE(result.clean);
    EXPECT_EQ(result.record_count, (missing - 1) * kPerSegment);
    EXPECT_NE(result.damage.find(segment_name(missing) + " is missing"), std::string::npos)
        << result.damage;
    EXPECT_THROW(open(), Error);
    fs::rename(root_ + "/away", segment(missing));
  }
  EXPECT_TRUE(scan_checked(directory_).clean);
}

TEST_F(Journal, ASegmentUnderAnotherNumberIsRefused) {
  write_records(kPerSegment + 5);
  fs::copy_file(segment(1), segment(3));
  try {
    static_cast<void>(scan(directory_, [](const Record&) { return true; }));
    FAIL() << "the copy was accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("says it is segment 1"), std::string::npos)
        << error.what();
  }
  EXPECT_THROW(open(), Error);
  EXPECT_TRUE(fs::exists(segment(3))) << "a refusal must not touch files";
}

TEST_F(Journal, ANamedPipeInPlaceOfASegmentIsRefusedAndNotWaitedFor) {
  write_records(5);
  fs::remove(segment(2));
  ASSERT_EQ(::mkfifo(segment(2).c_str(), 0600), 0);
  const std::string words = segment(2) + ": not a regular file";
  const auto refuses = [&](const auto& reads) {
    try {
      reads();
      FAIL() << "the pipe was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  };
  refuses([&] { (void)scan(directory_, [](const Record&) { return true; }); });
  refuses([&] { (void)open(); });
}

TEST_F(Journal, IgnoresForeignFilesAndDirectories) {
  write_records(5);
  for (const char* name : {"notes.txt", "0000000002.rojl.bak", "00000002.rojl", "000000000x.rojl",
                           "-000000002.rojl", ".rojl", "0000000000.rojl"}) {
    write_file(directory_ + "/" + name, {'x', 'y'});
  }
  fs::create_directory(directory_ + "/0000000002.rojl.d");
  write_file(directory_ + "/0000000002.rojl.new", {'h', 'a', 'l', 'f'});
  EXPECT_TRUE(scan_checked(directory_).clean);
  write_records(kPerSegment);
  EXPECT_EQ(scan_checked(directory_).record_count, kPerSegment + 5);
  EXPECT_TRUE(fs::exists(directory_ + "/notes.txt"));
  EXPECT_FALSE(fs::exists(directory_ + "/0000000002.rojl.new"));
}

TEST_F(Journal, AScanMayStopEarly) {
  write_records(10);
  std::uint64_t seen = 0;
  static_cast<void>(scan(directory_, [&](const Record&) { return ++seen < 4; }));
  EXPECT_EQ(seen, 4U);
}

TEST_F(Journal, CanBeReadFromThePlaceOfAnyRecordAndFromWhereTheWriterStands) {
  std::vector<Location> places;
  {
    const auto writer = open();
    for (std::uint64_t i = 0; i < 2 * kPerSegment + 3; ++i) {
      places.push_back(writer->location());
      ASSERT_EQ(append_next(*writer), Status::kOk);
    }
  }
  std::vector<Location> read_places;
  (void)scan(directory_, [&](const Record& record) {
    read_places.push_back({record.segment, record.offset, record.position});
    return true;
  });
  ASSERT_EQ(read_places.size(), places.size());
  for (std::size_t i = 0; i < places.size(); i += 101) {
    for (const Location& place : {places[i], read_places[i]}) {
      Reader reader(directory_, place);
      Record record;
      std::uint64_t position = i + 1;
      while (reader.next(record)) ASSERT_TRUE(is_right(record, position++));
      ASSERT_EQ(position, places.size() + 1) << "from record " << i + 1;
    }
  }
  EXPECT_THROW(Reader(directory_, {9, kSegmentHeaderBytes, 1}), Error);
}

TEST_F(Journal, AnEmptyDirectoryIsACleanJournalOfNothing) {
  fs::create_directory(directory_);
  const ScanResult result = scan_checked(directory_);
  EXPECT_TRUE(result.clean);
  EXPECT_EQ(result.segment_count, 0U);
}

}  // namespace
}  // namespace rdmaorder::journal
