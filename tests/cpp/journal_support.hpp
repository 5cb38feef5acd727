// What the journal's test programs share: records that follow from their position, a directory of
// its own for each test.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "journal/files.hpp"
#include "rdmaorder/journal.hpp"

namespace rdmaorder::journal {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

inline constexpr std::uint64_t kSegment = 64ULL << 10;
inline constexpr std::uint64_t kRecord = 96;  // of a 56-byte payload
inline constexpr std::uint64_t kPerSegment = (kSegment - kSegmentHeaderBytes) / kRecord;

/// What record `position` of a test journal holds: every field follows from the position.
inline std::array<std::byte, 56> payload_of(std::uint64_t position) {
  std::array<std::byte, 56> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(position * 7 + i);
  }
  return bytes;
}

inline Status append_next(Writer& writer) {
  const std::uint64_t position = writer.last_position() + 1;
  const auto payload = payload_of(position);
  return writer.append(RecordKind::kOrder, static_cast<std::uint16_t>(position % 5),
                       static_cast<std::uint32_t>(position % 3), position + 1000, position + 2000,
                       payload.data(), static_cast<std::uint32_t>(payload.size()));
}

inline void append_many(Writer& writer, std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) ASSERT_EQ(append_next(writer), Status::kOk);
}

inline bool is_right(const Record& record, std::uint64_t position) {
  const auto payload = payload_of(position);
  return record.position == position && record.kind == RecordKind::kOrder &&
         record.detail == position % 5 && record.session_index == position % 3 &&
         record.sequence == position + 1000 && record.time_ns == position + 2000 &&
         record.payload.size() == payload.size() &&
         std::memcmp(record.payload.data(), payload.data(), payload.size()) == 0;
}

/// Scans and checks that every record is the one written at its position.
inline ScanResult scan_checked(const std::string& directory) {
  std::uint64_t expected = 0;
  std::uint64_t wrong = 0;
  ScanResult result = scan(directory, [&](const Record& record) {
    if (!is_right(record, ++expected)) ++wrong;
    return true;
  });
  EXPECT_EQ(wrong, 0U);
  EXPECT_EQ(result.record_count, expected);
  return result;
}

inline bool eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 5000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(2ms);
  }
  return false;
}

/// File calls that fail on demand.
class FaultyCalls : public FileCalls {
 public:
  std::atomic<int> allocate_error{0};
  std::atomic<int> sync_error{0};
  std::atomic<int> allocate_count{0};
  std::atomic<int> sync_count{0};
  int allocate(int fd, std::uint64_t bytes) noexcept override {
    ++allocate_count;
    if (const int error = allocate_error.load()) return error;
    return FileCalls::allocate(fd, bytes);
  }
  int data_sync(int fd) noexcept override {
    ++sync_count;
    if (const int error = sync_error.load()) return error;
    return FileCalls::data_sync(fd);
  }
};

class Journal : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "rdmaorder-journal-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    directory_ = root_ + "/j";
  }
  void TearDown() override { fs::remove_all(root_); }

  Config config(SyncPolicy sync = SyncPolicy::kNone) const {
    return {directory_, kSegment, sync, 1'000'000};
  }
  std::unique_ptr<Writer> open(SyncPolicy sync = SyncPolicy::kNone, ScanResult* result = nullptr) {
    return Writer::open(config(sync), {}, result);
  }
  void write_records(std::uint64_t count) { append_many(*open(), count); }
  std::string segment(std::uint64_t number) const { return segment_path(directory_, number); }

  static std::vector<char> read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write_file(const std::string& path, const std::vector<char>& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  }
  static void poke(const std::string& path, std::uint64_t offset, const void* data,
                   std::size_t bytes) {
    const memory::UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(pwrite(fd.get(), data, bytes, static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes));
  }
  static void flip(const std::string& path, std::uint64_t offset) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(static_cast<std::streamoff>(offset));
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
  }

  std::string root_;
  std::string directory_;
};

}  // namespace rdmaorder::journal
