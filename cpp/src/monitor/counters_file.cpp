#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/clock.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/memory/unique_fd.hpp"
#include "rdmaorder/monitor.hpp"

namespace rdmaorder::monitor {
namespace {

constexpr std::size_t kProcessLabelBytes = 80;

struct FileHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t counter_count;
  std::uint64_t process_id;
  std::uint64_t start_time_ns;
  std::uint64_t labels_offset;
  std::uint64_t values_offset;
  char label[kProcessLabelBytes];
};
static_assert(sizeof(FileHeader) == kCountersHeaderBytes && offsetof(FileHeader, label) == 48);
static_assert(sizeof(kCountersMagic) == sizeof(FileHeader::magic) + 1);
static_assert(kCountersHeaderBytes % kCacheLineBytes == 0);
static_assert(kCounterLabelBytes % kCacheLineBytes == 0);  // so values start on a line

bool is_word(std::string_view text, std::string_view extra) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           extra.find(c) != std::string_view::npos;
  });
}

/// name, or name{key=value}. Nothing in it needs escaping wherever it is printed.
bool is_counter_name(std::string_view name) {
  const auto brace = name.find('{');
  if (brace == std::string_view::npos) return is_word(name, "");
  if (name.back() != '}') return false;
  const auto inside = name.substr(brace + 1, name.size() - brace - 2);
  const auto equals = inside.find('=');
  return equals != std::string_view::npos && is_word(name.substr(0, brace), "") &&
         is_word(inside.substr(0, equals), "") && is_word(inside.substr(equals + 1), ".:-");
}

/// At most `limit` bytes of UTF-8 text, without half a character at the end.
std::string_view cut_utf8(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xC0U) == 0x80U) --limit;
  return text.substr(0, limit);
}

/// Shared, zeroed memory: of the file when there is one (fd >= 0), else of this process and its
/// children alone.
class Mapping {
 public:
  Mapping(int fd, std::size_t bytes, const std::string& name) : bytes_(bytes) {
    const int flags = MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0);
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (memory == MAP_FAILED) throw_errno("map counters file", name, errno);
    memory_ = static_cast<std::byte*>(memory);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { ::munmap(memory_, bytes_); }

  [[nodiscard]] std::byte* at(std::size_t offset) const noexcept { return memory_ + offset; }

 private:
  std::byte* memory_ = nullptr;
  std::size_t bytes_;
};

/// Process id in the header of a counters file, for a message.
std::string writer_of(int fd) {
  FileHeader header{};
  const bool known = ::pread(fd, &header, sizeof header, 0) == sizeof header &&
                     std::memcmp(header.magic, kCountersMagic, sizeof header.magic) == 0;
  return known ? "process " + std::to_string(header.process_id) : "another process";
}

/// A file beside `path` that takes its place by commit(), or vanishes. Locked as long as its fd is
/// open, which tells a file in use from one that was left; mkstemp makes it with mode 0600.
class ReplacementFile {
 public:
  ReplacementFile(const std::string& path, std::size_t bytes) : path_(path) {
    struct stat info{};
    if (::lstat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
      throw Error(ErrorKind::kConfig, "counters file " + path +
                                          ": there is something that is not a regular file; "
                                          "name another path");
    }
    temporary_ = path + ".XXXXXX";
    fd_.reset(::mkostemp(temporary_.data(), O_CLOEXEC));
    if (!fd_) {
      throw_errno("create counters file", path, errno, "its directory must exist and be writable");
    }
    if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      ::unlink(temporary_.c_str());
      throw_errno("lock counters file", path, error, "put it on /run or /dev/shm");
    }
    // Takes the blocks now: on a full disk this fails here, and not by SIGBUS at the first count.
    const int error = ::posix_fallocate(fd_.get(), 0, static_cast<off_t>(bytes));
    if (error != 0) {
      ::unlink(temporary_.c_str());
      throw_errno("allocate counters file", path, error, std::to_string(bytes) + " bytes needed");
    }
  }
  ReplacementFile(const ReplacementFile&) = delete;
  ReplacementFile& operator=(const ReplacementFile&) = delete;
  ~ReplacementFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  /// Throws when a living process uses the file there is. Gives the fd: its lock says "in use".
  memory::UniqueFd commit() {
    while (!take_name()) {
    }
    temporary_.clear();
    return std::move(fd_);
  }

 private:
  /// False: the file of before came, went or was replaced meanwhile; look again. Whoever replaces a
  /// file holds its lock, so of two that start at once one is refused.
  bool take_name() {
    const memory::UniqueFd before(
        ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!before) {
      if (errno != ENOENT) throw_errno("open counters file", path_, errno, "name another path");
      if (::link(temporary_.c_str(), path_.c_str()) == 0) {
        ::unlink(temporary_.c_str());
        return true;
      }
      if (errno != EEXIST) throw_errno("name counters file", path_, errno);
      return false;
    }
    if (::flock(before.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) throw_errno("lock counters file", path_, errno);
      throw Error(ErrorKind::kConfig, "counters file " + path_ + ": in use by " +
                                          writer_of(before.get()) +
                                          "; stop it, or give each gateway a path of its own");
    }
    struct stat opened{};
    struct stat named{};
    if (::fstat(before.get(), &opened) != 0 || ::lstat(path_.c_str(), &named) != 0 ||
        opened.st_dev != named.st_dev || opened.st_ino != named.st_ino) {
      return false;
    }
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
      throw_errno("move counters file to", path_, errno);
    }
    return true;
  }

  const std::string& path_;
  std::string temporary_;
  memory::UniqueFd fd_;
};

class MappedCounters final : public CountersFile {
 public:
  MappedCounters(std::string path, std::unique_ptr<Mapping> mapping, std::uint32_t capacity)
      : path_(std::move(path)), mapping_(std::move(mapping)), capacity_(capacity) {}

  static std::size_t file_bytes(std::uint32_t capacity) noexcept {
    return kCountersHeaderBytes +
           std::size_t{capacity} * (kCounterLabelBytes + sizeof(std::uint64_t));
  }

  void write_header(std::string_view label) noexcept {
    FileHeader header{};
    std::memcpy(header.magic, kCountersMagic, sizeof header.magic);
    header.version = kCountersVersion;
    header.counter_count = capacity_;
    header.process_id = static_cast<std::uint64_t>(::getpid());
    header.start_time_ns = realtime_ns();
    header.labels_offset = kCountersHeaderBytes;
    header.values_offset = values_offset();
    const auto cut = cut_utf8(label, kProcessLabelBytes - 1);
    std::memcpy(header.label, cut.data(), cut.size());
    std::memcpy(mapping_->at(0), &header, sizeof header);
  }

  void keep(memory::UniqueFd lock) noexcept { lock_ = std::move(lock); }

  Counter make(const std::string& name) override {
    if (name.size() >= kCounterLabelBytes || !is_counter_name(name)) {
      throw Error(ErrorKind::kConfig, "counter \"" + name +
                                          "\": a name is letters, digits and _, then optionally "
                                          "{key=value}, below " +
                                          std::to_string(kCounterLabelBytes) + " bytes in all");
    }
    const std::lock_guard lock(mutex_);
    for (std::uint32_t i = 0; i < used_count_; ++i) {
      if (name == label_of(i)) return Counter(value_cell(i));
    }
    if (used_count_ == capacity_) {
      throw Error(ErrorKind::kConfig, "counter \"" + name + "\": all " + std::to_string(capacity_) +
                                          " places of the counters file " + path_ +
                                          " are taken; create it with a higher capacity");
    }
    write_label(used_count_, name);
    return Counter(value_cell(used_count_++));
  }

  [[nodiscard]] const std::string& path() const noexcept override { return path_; }

  [[nodiscard]] std::vector<std::pair<std::string, std::uint64_t>> snapshot() const override {
    const std::lock_guard lock(mutex_);
    std::vector<std::pair<std::string, std::uint64_t>> result;
    result.reserve(used_count_);
    for (std::uint32_t i = 0; i < used_count_; ++i) {
      result.emplace_back(label_of(i), load_relaxed(value_cell(i)));
    }
    return result;
  }

 private:
  [[nodiscard]] std::size_t values_offset() const noexcept {
    return kCountersHeaderBytes + std::size_t{capacity_} * kCounterLabelBytes;
  }
  [[nodiscard]] char* label_of(std::uint32_t index) const noexcept {
    return reinterpret_cast<char*>(
        mapping_->at(kCountersHeaderBytes + std::size_t{index} * kCounterLabelBytes));
  }
  [[nodiscard]] std::uint64_t* value_cell(std::uint32_t index) const noexcept {
    return reinterpret_cast<std::uint64_t*>(mapping_->at(values_offset())) + index;
  }

  void write_label(std::uint32_t index, const std::string& name) noexcept {
    char padded[kCounterLabelBytes] = {};
    std::memcpy(padded, name.data(), name.size());
    std::uint64_t first_word = 0;
    std::memcpy(&first_word, padded, sizeof first_word);
    std::memcpy(label_of(index) + sizeof first_word, padded + sizeof first_word,
                sizeof padded - sizeof first_word);
    // SYNC the whole label: release here, acquire in the reader that finds byte 0 set (another
    // process; rdmaorder/monitor/counters.py copies the first word before the rest).
    store_release(reinterpret_cast<std::uint64_t*>(label_of(index)), first_word);
  }

  std::string path_;
  memory::UniqueFd lock_;
  std::unique_ptr<Mapping> mapping_;
  std::uint32_t capacity_;
  std::uint32_t used_count_ = 0;
  mutable std::mutex mutex_;
};

}  // namespace

std::unique_ptr<CountersFile> CountersFile::create(const std::string& path,
                                                   const std::string& label,
                                                   std::uint32_t capacity) {
  if (capacity == 0 || capacity > kCounterCountMax) {
    throw Error(ErrorKind::kConfig, "counters file " + path + ": capacity is " +
                                        std::to_string(capacity) + "; it must be 1 to " +
                                        std::to_string(kCounterCountMax));
  }
  const auto bytes = MappedCounters::file_bytes(capacity);
  if (path.empty()) {
    auto counters = std::make_unique<MappedCounters>(
        path, std::make_unique<Mapping>(-1, bytes, "(anonymous)"), capacity);
    counters->write_header(label);
    return counters;
  }
  ReplacementFile file(path, bytes);
  auto counters = std::make_unique<MappedCounters>(
      path, std::make_unique<Mapping>(file.fd(), bytes, path), capacity);
  counters->write_header(label);
  counters->keep(file.commit());
  return counters;
}

}  // namespace rdmaorder::monitor
