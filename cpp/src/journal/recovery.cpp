#include "journal/recovery.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "rdmaorder/error.hpp"
#include "rdmaorder/journal_reader.hpp"

namespace rdmaorder::journal {
namespace {

constexpr std::size_t kCopyBytes = 1U << 20;

memory::UniqueFd open_for_writing(const std::string& path) {
  memory::UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) throw_errno("open journal segment", path, errno);
  return fd;
}

void sync_file(int fd, const std::string& path, FileCalls& calls) {
  if (const int error = calls.data_sync(fd)) {
    throw_errno("sync journal segment", path, error, "check the disk before starting again");
  }
}

/// Segments that a crash left half created: never part of the journal.
void remove_half_created(const std::string& directory) {
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".rojl.new")) unlink(entry.path().c_str());
  }
}

/// Syncs every segment, and drops the cached pages of the last two: after a failed write-back the
/// kernel keeps pages that never reached the disk and calls them clean. Recovery must read what
/// the disk holds, or it would report as durable what the next power loss takes.
void settle(const std::string& directory, FileCalls& calls) {
  const std::vector<std::uint64_t> numbers = list_segments(directory);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const std::string path = segment_path(directory, numbers[i]);
    const memory::UniqueFd fd = open_for_writing(path);
    sync_file(fd.get(), path, calls);
    if (i + 2 >= numbers.size()) posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  }
}

/// <segment>.damaged, or with a number appended when that exists.
std::string damaged_path(const std::string& segment) {
  std::string path = segment + ".damaged";
  for (unsigned i = 2; std::filesystem::exists(path); ++i) {
    path = segment + ".damaged." + std::to_string(i);
  }
  return path;
}

/// Copies [offset, end of file) of a segment to <segment>.damaged and brings the copy to stable
/// storage, so that zeroing the original afterwards loses nothing.
void copy_aside(int fd, const std::string& path, std::uint64_t offset, FileCalls& calls) {
  const std::string copy_path = damaged_path(path);
  const memory::UniqueFd copy(
      open(copy_path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!copy) throw_errno("create", copy_path, errno);
  const auto fail = [&](int error) {
    unlink(copy_path.c_str());
    throw_errno("copy the damaged end of " + path + " to", copy_path, error,
                "make room for it and start again");
  };
  std::vector<std::byte> buffer(kCopyBytes);
  for (;;) {
    const std::uint64_t count = read_at(fd, path, offset, buffer.data(), buffer.size());
    for (std::uint64_t done = 0; done < count;) {
      const ssize_t written = write(copy.get(), buffer.data() + done, count - done);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail(written < 0 ? errno : EIO);
      done += static_cast<std::uint64_t>(written);
    }
    offset += count;
    if (count < buffer.size()) break;
  }
  if (const int error = calls.full_sync(copy.get())) fail(error);
}

/// Zeroes [offset, bytes) so that nothing that lay there can ever be taken for a record.
void zero_rest(int fd, const std::string& path, std::uint64_t offset, std::uint64_t bytes,
               FileCalls& calls) {
  if (const int error = calls.allocate(fd, bytes)) {
    throw_errno("allocate", path, error, "make room on the disk and start again");
  }
  const NonZero rest = find_nonzero(fd, path, offset, bytes);
  const std::vector<std::byte> zeros(kCopyBytes);
  for (std::uint64_t at = rest.first; at < rest.last;) {
    const ssize_t written =
        pwrite(fd, zeros.data(), std::min<std::uint64_t>(kCopyBytes, rest.last - at),
               static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) throw_errno("zero the end of", path, written < 0 ? errno : EIO);
    at += static_cast<std::uint64_t>(written);
  }
  sync_file(fd, path, calls);
}

/// Positions behind the last record are given anew: a note of refused orders must not name them.
void end_refused_at(int fd, const std::string& path, std::uint64_t next_position) {
  std::uint64_t end = 0;
  constexpr std::uint64_t kAt = kRefusedOffset + sizeof(end);
  if (read_at(fd, path, kAt, &end, sizeof(end)) < sizeof(end) || end <= next_position) return;
  if (pwrite(fd, &next_position, sizeof(next_position), kAt) != sizeof(next_position)) {
    throw_errno("write the header page of", path, errno);
  }
}

/// Takes the segments behind `number` out of the journal: unused ones are removed, others renamed.
void retire_later_segments(const std::string& directory, std::uint64_t number) {
  for (const std::uint64_t later : list_segments(directory)) {
    if (later <= number) continue;
    const std::string path = segment_path(directory, later);
    const memory::UniqueFd fd = open_for_writing(path);
    const auto size = static_cast<std::uint64_t>(std::filesystem::file_size(path));
    std::uint64_t magic = 0;
    const bool has_magic = read_at(fd.get(), path, 0, &magic, sizeof(magic)) && magic != 0;
    if (has_magic || find_nonzero(fd.get(), path, kSegmentHeaderBytes, size).last != 0) {
      const std::string aside = damaged_path(path);
      if (rename(path.c_str(), aside.c_str()) != 0)
        throw_errno("rename " + path + " to", aside, errno);
    } else if (unlink(path.c_str()) != 0) {
      throw_errno("remove unused journal segment", path, errno);
    }
  }
}

std::unique_ptr<MappedSegment> create_first(const Config& config, FileCalls& calls) {
  StorageFailure failure;
  auto segment = create_segment(config.directory, 1, config.segment_bytes, calls, &failure);
  if (segment == nullptr) {
    throw Error(ErrorKind::kSystem,
                failure.what + "; the journal needs " + std::to_string(config.segment_bytes) +
                    " bytes a segment",
                failure.error_number);
  }
  publish_header(*segment, 1);
  sync_file(segment->fd.get(), segment->path, calls);
  return segment;
}

}  // namespace

Recovered recover(const Config& config, const std::function<void(const Record&)>& visit,
                  FileCalls& calls) {
  remove_half_created(config.directory);
  settle(config.directory, calls);

  Reader reader(config.directory);
  Record record;
  while (reader.next(record)) {
    if (visit) visit(record);
  }
  Recovered result;
  result.scan = reader.result();
  result.last_position = result.scan.last_position;
  const EndKind end = reader.end_kind();
  if (end == EndKind::kMissingSegment || end == EndKind::kOverlap) {
    throw Error(ErrorKind::kJournal,
                "journal is not whole: " + result.scan.damage +
                    "; put the missing file back, or move the later ones out of the directory");
  }
  if (reader.end_segment() == 0) {
    retire_later_segments(config.directory, 0);
    result.segment = create_first(config, calls);
    return result;
  }

  const std::string path = segment_path(config.directory, reader.end_segment());
  const memory::UniqueFd fd = open_for_writing(path);
  SegmentHeader header{};
  read_at(fd.get(), path, 0, &header, sizeof(header));
  if (!result.scan.clean) {
    copy_aside(fd.get(), path, reader.end_offset(), calls);
    sync_directory(config.directory);
  }
  retire_later_segments(config.directory, reader.end_segment());
  end_refused_at(fd.get(), path, result.last_position + 1);
  zero_rest(fd.get(), path, reader.end_offset(), header.segment_bytes, calls);
  sync_directory(config.directory);
  result.segment = map_segment(path, header.number, header.segment_bytes, header.salt);
  result.append_offset = reader.end_offset();
  return result;
}

}  // namespace rdmaorder::journal
