// Files of a journal directory: names, creation, lock, reading, repair. Set-up and helper-thread
// code; errors of the disk come back as values where the writer lives on, as Error where it cannot.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "journal/format.hpp"
#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::journal {

/// The system calls whose failure the journal must survive. Tests replace them; 0 or an errno.
class FileCalls {
 public:
  virtual ~FileCalls() = default;
  /// posix_fallocate of the whole file: a full disk shows here and never as SIGBUS in an append.
  virtual int allocate(int fd, std::uint64_t bytes) noexcept;
  virtual int data_sync(int fd) noexcept;
  virtual int full_sync(int fd) noexcept;
};
FileCalls& system_file_calls() noexcept;

/// "0000000001.rojl"
std::string segment_name(std::uint64_t number);
std::string segment_path(const std::string& directory, std::uint64_t number);
/// Numbers of the segment files in the directory, ascending. Other names are ignored. Throws
/// Error(kJournal) when the directory cannot be read.
std::vector<std::uint64_t> list_segments(const std::string& directory);

/// A segment mapped for writing. Unmaps and closes.
struct MappedSegment {
  MappedSegment() = default;
  MappedSegment(const MappedSegment&) = delete;
  MappedSegment& operator=(const MappedSegment&) = delete;
  ~MappedSegment();

  memory::UniqueFd fd;
  std::string path;
  std::uint64_t number = 0;
  std::uint64_t bytes = 0;
  std::byte* data = nullptr;
  std::uint64_t salt = 0;
  std::uint64_t prefault_end = 0;   ///< offset up to which pages were asked for
  std::uint64_t last_position = 0;  ///< set when the segment is closed
  MappedSegment* next = nullptr;    ///< link of the writer's lists
};

/// What went wrong where; `error_number` 0 means nothing did.
struct StorageFailure {
  int error_number = 0;
  std::string what;  ///< "<operation> <file>: <cause>"
};

/// Creates segment `number`, zero throughout, allocated, and on stable storage with its directory
/// entry. It appears under its name only when all that is done. Null and *failure otherwise.
std::unique_ptr<MappedSegment> create_segment(const std::string& directory, std::uint64_t number,
                                              std::uint64_t bytes, FileCalls& calls,
                                              StorageFailure* failure);
/// Maps an existing segment of `bytes`. Throws Error.
std::unique_ptr<MappedSegment> map_segment(const std::string& path, std::uint64_t number,
                                           std::uint64_t bytes, std::uint64_t salt);
/// Makes a prepared segment part of the journal, by stores to its mapping only.
void publish_header(MappedSegment& segment, std::uint64_t first_position) noexcept;

/// Exclusive lock on the directory ("journal.lock", holds the pid of the owner). Throws
/// Error(kJournal) naming that pid when another writer has it.
memory::UniqueFd lock_directory(const std::string& directory);
/// Throws Error(kSystem).
void sync_directory(const std::string& directory);
/// Creates the directory (and its parents) when there is none. Throws Error.
void make_directory(const std::string& directory);

/// pread until `bytes` are there or the file ends; the count. Throws Error(kSystem).
std::uint64_t read_at(int fd, const std::string& path, std::uint64_t offset, void* to,
                      std::uint64_t bytes);
/// Range of bytes that are not zero in [from, to), skipping holes; empty (first == last) when none.
struct NonZero {
  std::uint64_t first = 0;
  std::uint64_t last = 0;  ///< one past the last
};
NonZero find_nonzero(int fd, const std::string& path, std::uint64_t from, std::uint64_t to);

}  // namespace rdmaorder::journal
