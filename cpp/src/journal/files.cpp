#include "journal/files.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/clock.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::journal {
namespace {

constexpr std::size_t kNumberDigits = 10;
constexpr const char* kSuffix = ".rojl";
constexpr const char* kNewSuffix = ".new";

/// 0 when `name` is not that of a segment.
std::uint64_t number_of(const char* name) noexcept {
  if (std::strlen(name) != kNumberDigits + std::strlen(kSuffix)) return 0;
  if (std::strcmp(name + kNumberDigits, kSuffix) != 0) return 0;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(name, name + kNumberDigits, number);
  return error == std::errc{} && end == name + kNumberDigits ? number : 0;
}

StorageFailure failure_of(const std::string& operation, const std::string& path, int error) {
  return {error, operation + " " + path + ": " + std::strerror(error)};
}

int map_into(MappedSegment& segment) noexcept {
  void* data =
      mmap(nullptr, segment.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, segment.fd.get(), 0);
  if (data == MAP_FAILED) return errno;
  segment.data = static_cast<std::byte*>(data);
  return 0;
}

std::uint64_t random_salt() noexcept {
  std::uint64_t salt = 0;
  while (getrandom(&salt, sizeof(salt), 0) != static_cast<ssize_t>(sizeof(salt))) {
  }
  return salt;
}

}  // namespace

int FileCalls::allocate(int fd, std::uint64_t bytes) noexcept {
  int error = 0;
  do {
    error = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  return error;
}

int FileCalls::data_sync(int fd) noexcept {
  // An interrupted call reported nothing, so it may be repeated; a failed one may not: the kernel
  // marks the pages clean and the next call would succeed without having written them.
  while (fdatasync(fd) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

int FileCalls::full_sync(int fd) noexcept {
  while (fsync(fd) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

FileCalls& system_file_calls() noexcept {
  static FileCalls calls;
  return calls;
}

std::string segment_name(std::uint64_t number) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%010llu%s", static_cast<unsigned long long>(number),
                kSuffix);
  return text.data();
}

std::string segment_path(const std::string& directory, std::uint64_t number) {
  return directory + "/" + segment_name(number);
}

std::vector<std::uint64_t> list_segments(const std::string& directory) {
  DIR* stream = opendir(directory.c_str());
  if (stream == nullptr) {
    const int error = errno;
    throw Error(ErrorKind::kJournal,
                "open journal directory " + directory + ": " + std::strerror(error) +
                    "; name the directory given to the gateway as its journal",
                error);
  }
  std::vector<std::uint64_t> numbers;
  errno = 0;
  for (const dirent* entry = readdir(stream); entry != nullptr; entry = readdir(stream)) {
    const bool is_file = entry->d_type == DT_REG || entry->d_type == DT_UNKNOWN;
    const std::uint64_t number = number_of(entry->d_name);
    if (is_file && number != 0) numbers.push_back(number);
  }
  const int error = errno;
  closedir(stream);
  if (error != 0) {
    throw Error(ErrorKind::kJournal,
                "read journal directory " + directory + ": " + std::strerror(error), error);
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

MappedSegment::~MappedSegment() {
  if (data != nullptr) munmap(data, bytes);
}

std::unique_ptr<MappedSegment> create_segment(const std::string& directory, std::uint64_t number,
                                              std::uint64_t bytes, FileCalls& calls,
                                              StorageFailure* failure) {
  auto segment = std::make_unique<MappedSegment>();
  segment->path = segment_path(directory, number);
  segment->number = number;
  segment->bytes = bytes;
  segment->salt = random_salt();
  const std::string new_path = segment->path + kNewSuffix;
  const auto give_up = [&](const char* operation, int error) {
    *failure = failure_of(operation, segment->path, error);
    unlink(new_path.c_str());
    return std::unique_ptr<MappedSegment>();
  };

  segment->fd.reset(open(new_path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!segment->fd) return give_up("create", errno);
  if (const int error = calls.allocate(segment->fd.get(), bytes)) {
    return give_up("allocate", error);
  }
  if (const int error = calls.full_sync(segment->fd.get())) return give_up("fsync", error);
  if (const int error = map_into(*segment)) return give_up("map", error);
  if (rename(new_path.c_str(), segment->path.c_str()) != 0) return give_up("rename", errno);
  const memory::UniqueFd directory_fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const int error = directory_fd ? calls.full_sync(directory_fd.get()) : errno;
  if (error != 0) {
    unlink(segment->path.c_str());
    return give_up("fsync the directory of", error);
  }
  return segment;
}

std::unique_ptr<MappedSegment> map_segment(const std::string& path, std::uint64_t number,
                                           std::uint64_t bytes, std::uint64_t salt) {
  auto segment = std::make_unique<MappedSegment>();
  segment->path = path;
  segment->number = number;
  segment->bytes = bytes;
  segment->salt = salt;
  segment->fd.reset(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!segment->fd) throw_errno("open journal segment", path, errno);
  if (const int error = map_into(*segment)) throw_errno("map journal segment", path, error);
  return segment;
}

void publish_header(MappedSegment& segment, std::uint64_t first_position) noexcept {
  SegmentHeader header{};
  header.magic = kMagic;
  header.version = kVersion;
  header.number = segment.number;
  header.first_position = first_position;
  header.segment_bytes = segment.bytes;
  header.created_ns = realtime_ns();
  header.salt = segment.salt;
  header.crc = segment_header_crc(header);
  std::memcpy(segment.data + 8, reinterpret_cast<const std::byte*>(&header) + 8,
              sizeof(header) - 8);
  // SYNC the header: release here; readers of other processes pread it (look_at_header).
  store_release(reinterpret_cast<std::uint64_t*>(segment.data), header.magic);
}

memory::UniqueFd lock_directory(const std::string& directory) {
  const std::string path = directory + "/journal.lock";
  memory::UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) throw_errno("open journal lock", path, errno);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error != EWOULDBLOCK) throw_errno("lock journal", path, error);
    std::array<char, 32> owner{};
    const ssize_t count = pread(fd.get(), owner.data(), owner.size() - 1, 0);
    const std::string pid(owner.data(), count > 0 ? std::strcspn(owner.data(), "\n") : 0);
    throw Error(ErrorKind::kJournal,
                "journal " + directory + " is in use by another writer (" +
                    (pid.empty() ? "process unknown" : "process " + pid) +
                    "); stop it or give each gateway a journal directory of its own",
                error);
  }
  // The pid only serves the message above; the lock itself is what counts.
  const std::string pid = std::to_string(getpid()) + "\n";
  if (ftruncate(fd.get(), 0) != 0 ||
      pwrite(fd.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    if (errno != ENOSPC && errno != EDQUOT) throw_errno("write journal lock", path, errno);
  }
  return fd;
}

void sync_directory(const std::string& directory) {
  const memory::UniqueFd fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || fsync(fd.get()) != 0) throw_errno("fsync journal directory", directory, errno);
}

void make_directory(const std::string& directory) {
  if (directory.empty()) {
    throw Error(ErrorKind::kConfig, "journal directory is empty; name a directory");
  }
  std::error_code error;
  const bool created = std::filesystem::create_directories(directory, error);
  if (error) throw_errno("create journal directory", directory, error.value());
  if (!created) return;
  chmod(directory.c_str(), 0700);
  sync_directory(std::filesystem::canonical(directory).parent_path().string());
}

std::uint64_t read_at(int fd, const std::string& path, std::uint64_t offset, void* to,
                      std::uint64_t bytes) {
  std::uint64_t done = 0;
  while (done < bytes) {
    const ssize_t count = pread(fd, static_cast<std::byte*>(to) + done, bytes - done,
                                static_cast<off_t>(offset + done));
    if (count == 0) break;
    if (count < 0) {
      if (errno == EINTR) continue;
      throw_errno("read journal segment", path + " at " + std::to_string(offset + done), errno);
    }
    done += static_cast<std::uint64_t>(count);
  }
  return done;
}

NonZero find_nonzero(int fd, const std::string& path, std::uint64_t from, std::uint64_t to) {
  NonZero found{};
  std::vector<std::byte> buffer(std::size_t{256} << 10);
  while (from < to) {
    // Preallocated blocks never written are holes to SEEK_DATA; without support it answers `from`.
    const off_t data = lseek(fd, static_cast<off_t>(from), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data > 0) from = std::max(from, static_cast<std::uint64_t>(data));
    if (from >= to) break;
    const std::uint64_t want = std::min<std::uint64_t>(buffer.size(), to - from);
    const std::uint64_t count = read_at(fd, path, from, buffer.data(), want);
    for (std::uint64_t i = 0; i < count; ++i) {
      if (buffer[i] == std::byte{0}) continue;
      if (found.last == 0) found.first = from + i;
      found.last = from + i + 1;
    }
    if (count < want) break;
    from += count;
  }
  return found;
}

}  // namespace rdmaorder::journal
