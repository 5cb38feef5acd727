// Reading a journal: one segment after the other through a buffer, every record checked, and at the
// end a look at what lies behind it, which tells a clean end from a damaged one.
//
// Beside a live writer whatever looks wrong or absent is read once more before it is believed:
// between two looks the writer may have completed a record or gone on to the next segment.
#include "rdmaorder/journal_reader.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "journal/files.hpp"
#include "journal/format.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::journal {
namespace {

[[noreturn]] void bad_header(const std::string& path, const std::string& cause) {
  throw Error(ErrorKind::kJournal, "journal segment " + path + ": " + cause +
                                       "; restore the file, or move it out of the directory");
}

/// Header of a segment file: false when it is not part of the journal yet (magic not stored).
bool look_at_header(int fd, const std::string& path, std::uint64_t number, SegmentHeader* header) {
  // SYNC the header: the read system call orders what follows; publish_header stores magic last.
  if (read_at(fd, path, 0, header, sizeof(*header)) < sizeof(*header)) {
    bad_header(path, "the file ends inside its header");
  }
  if (header->magic == 0) return false;
  // Magic was seen, so a second look shows the whole header.
  if (read_at(fd, path, 0, header, sizeof(*header)) < sizeof(*header) || header->magic != kMagic) {
    bad_header(path, "not a journal segment (wrong magic)");
  }
  if (header->version != kVersion) {
    bad_header(path, "written in version " + std::to_string(header->version) +
                         " of the format, this program reads version " + std::to_string(kVersion));
  }
  if (header->crc != segment_header_crc(*header))
    bad_header(path, "checksum of the header is wrong");
  if (header->number != number) {
    bad_header(path, "its header says it is segment " + std::to_string(header->number) +
                         " (a copy under another name?)");
  }
  if (!is_valid_segment_bytes(header->segment_bytes)) {
    bad_header(path, "its header gives a size of " + std::to_string(header->segment_bytes) +
                         " bytes, which no writer makes");
  }
  return true;
}

}  // namespace

struct Reader::Segment {
  memory::UniqueFd fd;
  std::string path;
  SegmentHeader header{};
  std::uint64_t size = 0;  ///< readable bytes: of the file, at most what the header says
  RecordCrc crc;
  std::vector<std::byte> buffer;
  std::uint64_t buffer_offset = 0;
  std::uint64_t buffer_count = 0;

  /// Opens segment `number`: false when there is no such file; `opened` tells whether it is part of
  /// the journal yet.
  bool open(const std::string& directory, std::uint64_t number, bool* opened) {
    path = segment_path(directory, number);
    fd.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe would wait
    if (!fd) {
      if (errno == ENOENT) return false;
      throw_errno("open journal segment", path, errno);
    }
    struct stat facts{};
    if (fstat(fd.get(), &facts) != 0) throw_errno("stat journal segment", path, errno);
    if (!S_ISREG(facts.st_mode)) bad_header(path, "not a regular file");
    *opened = look_at_header(fd.get(), path, number, &header);
    size = static_cast<std::uint64_t>(facts.st_size);
    if (*opened) {
      size = std::min(size, header.segment_bytes);
      crc = RecordCrc(header.salt);
    }
    return true;
  }

  /// `bytes` contiguous bytes at `offset`, null when the file does not hold them.
  const std::byte* at(std::uint64_t offset, std::uint64_t bytes) {
    if (offset > size || bytes > size - offset) return nullptr;
    if (offset < buffer_offset || offset + bytes > buffer_offset + buffer_count) {
      buffer.resize(kBufferBytes);
      buffer_offset = offset;
      buffer_count = read_at(fd.get(), path, offset, buffer.data(),
                             std::min<std::uint64_t>(kBufferBytes, size - offset));
      if (buffer_count < bytes) {  // the file was shortened under us
        size = offset + buffer_count;
        return nullptr;
      }
    }
    return buffer.data() + (offset - buffer_offset);
  }

  void forget() noexcept { buffer_count = 0; }

  /// True when a record with a right checksum starts at `offset`.
  bool has_record_at(std::uint64_t offset) {
    const std::byte* bytes = at(offset, kRecordHeaderBytes);
    if (bytes == nullptr) return false;
    RecordHeader record{};
    std::memcpy(&record, bytes, sizeof(record));
    if (record.payload_bytes < kPayloadBytesMin || record.payload_bytes > kPayloadBytesMax) {
      return false;
    }
    bytes = at(offset, kRecordHeaderBytes + std::uint64_t{record.payload_bytes});
    return bytes != nullptr && crc(bytes, record.payload_bytes) == record.crc;
  }
};

Reader::Reader(std::string directory) : directory_(std::move(directory)) {
  while (directory_.size() > 1 && directory_.back() == '/') directory_.pop_back();
}
Reader::Reader(std::string directory, const Location& from) : Reader(std::move(directory)) {
  if (from.segment == 0) return;
  auto segment = std::make_unique<Segment>();
  bool opened = false;
  if (!segment->open(directory_, from.segment, &opened) || !opened) {
    throw Error(ErrorKind::kJournal, "journal segment " + segment->path + " is gone");
  }
  segment_ = std::move(segment);
  number_ = from.segment;
  offset_ = from.offset;
  expected_ = from.position;
  result_.segment_count = 1;
}
Reader::~Reader() = default;

Reader::Check Reader::check(Record& record, std::string& cause) {
  if (segment_ == nullptr) return Check::kEnd;
  const std::byte* bytes = segment_->at(offset_, kRecordHeaderBytes);
  if (bytes == nullptr) return Check::kEnd;
  RecordHeader header{};
  std::memcpy(&header, bytes, sizeof(header));
  if (header.crc == 0 && header.payload_bytes == 0) return Check::kZero;
  if (header.payload_bytes < kPayloadBytesMin || header.payload_bytes > kPayloadBytesMax) {
    cause = "payload size " + std::to_string(header.payload_bytes) + " is out of range";
    return Check::kBad;
  }
  bytes = segment_->at(offset_, kRecordHeaderBytes + std::uint64_t{header.payload_bytes});
  if (bytes == nullptr) {
    cause = "the record runs past the end of the segment";
    return Check::kBad;
  }
  if (segment_->crc(bytes, header.payload_bytes) != header.crc) {
    cause = "checksum is wrong";
    return Check::kBad;
  }
  if (header.position != expected_) {
    cause = "it has position " + std::to_string(header.position);
    return Check::kBad;
  }
  record.position = header.position;
  record.time_ns = header.time_ns;
  record.sequence = header.sequence;
  record.session_index = header.session_index;
  record.kind = static_cast<RecordKind>(header.kind);
  record.detail = header.detail;
  record.payload = {bytes + kRecordHeaderBytes, header.payload_bytes};
  record.segment = number_;
  record.offset = offset_;
  return Check::kGood;
}

Reader::Check Reader::check_again(Record& record, std::string& cause) {
  if (segment_ == nullptr) return Check::kEnd;
  segment_->forget();
  return check(record, cause);
}

void Reader::stop(EndKind kind, const std::string& cause) {
  done_ = true;
  end_kind_ = kind;
  if (kind == EndKind::kClean || kind == EndKind::kUnfinished) return;
  result_.clean = false;
  const std::string where =
      segment_ != nullptr ? segment_->path + " at offset " + std::to_string(offset_) : directory_;
  result_.damage = where + ", position " + std::to_string(expected_) + ": " + cause;
}

bool Reader::next(Record& record) {
  std::string cause;
  while (!done_) {
    Check found = check(record, cause);
    if (RDMAORDER_UNLIKELY(found != Check::kGood)) found = check_again(record, cause);
    if (RDMAORDER_UNLIKELY(found == Check::kBad)) found = check_again(record, cause);
    if (RDMAORDER_LIKELY(found == Check::kGood)) {
      offset_ += record_bytes(static_cast<std::uint32_t>(record.payload.size()));
      result_.last_position = expected_;
      ++expected_;
      ++result_.record_count;
      return true;
    }
    if (found == Check::kBad) {
      stop(EndKind::kBadRecord, cause);
    } else if (advance() == Next::kStop) {
      break;
    }
  }
  return false;
}

/// Nothing more where we stand: goes on to the next segment, or finds that this is the end.
Reader::Next Reader::advance() {
  if (number_ == 0 && list_segments(directory_).empty()) {
    stop(EndKind::kClean, {});
    return Next::kStop;
  }
  auto next = std::make_unique<Segment>();
  bool opened = false;
  const bool exists = next->open(directory_, number_ + 1, &opened);
  if (!opened) return judge_end(exists);

  // The next segment is in use, so this one is complete now; it was not when we looked.
  Record record;
  std::string cause;
  const Check again = check_again(record, cause);
  if (again == Check::kGood || again == Check::kBad) return Next::kContinue;
  const std::uint64_t first = next->header.first_position;
  if (first != expected_) {
    stop(first > expected_ ? EndKind::kHole : EndKind::kOverlap,
         "no record here, but " + next->path + " begins with position " + std::to_string(first));
    return Next::kStop;
  }
  segment_ = std::move(next);
  ++number_;
  ++result_.segment_count;
  offset_ = kSegmentHeaderBytes;
  return Next::kContinue;
}

/// The next segment is not in use. Tells a clean end from lost data behind it: first gathers what
/// speaks against a clean end, then makes sure that it was not the work of a live writer meanwhile.
Reader::Next Reader::judge_end(bool next_exists) {
  const std::vector<std::uint64_t> numbers = list_segments(directory_);
  const bool later_exists = !numbers.empty() && numbers.back() > number_ + 1;
  const bool later_data = (next_exists || later_exists) && later_segment_has_data(numbers);
  NonZero rest{};
  if (segment_ != nullptr) {
    rest = find_nonzero(segment_->fd.get(), segment_->path, offset_, segment_->size);
  }
  const std::uint64_t data_behind = find_data_behind(rest.last);

  if (later_exists || later_data || rest.last != 0) {
    Segment next;
    bool opened = false;
    const bool exists_now = next.open(directory_, number_ + 1, &opened);
    if (opened || exists_now != next_exists) return Next::kContinue;
    Record record;
    std::string cause;
    const Check again = check_again(record, cause);
    if (again == Check::kGood || again == Check::kBad) return Next::kContinue;
  }
  if (later_exists && !next_exists) {
    stop(EndKind::kMissingSegment, "segment " + segment_name(number_ + 1) + " is missing, but " +
                                       segment_name(numbers.back()) + " exists");
  } else if (later_data) {
    stop(EndKind::kHole, "no record here, but a later segment holds data");
  } else if (data_behind != 0) {
    stop(EndKind::kHole, "no record here, but data at offset " + std::to_string(data_behind));
  } else if (segment_ != nullptr && segment_->size < segment_->header.segment_bytes) {
    stop(EndKind::kShortFile, "the file ends at " + std::to_string(segment_->size) +
                                  " bytes, its header says " +
                                  std::to_string(segment_->header.segment_bytes));
  } else {
    stop(rest.last != 0 ? EndKind::kUnfinished : EndKind::kClean, {});
  }
  return Next::kStop;
}

/// Offset of bytes behind the end that one append cut short cannot have left there; 0 when none.
std::uint64_t Reader::find_data_behind(std::uint64_t nonzero_end) {
  if (nonzero_end > offset_ + kRecordBytesMax) return nonzero_end - 1;
  for (std::uint64_t at = offset_ + kRecordAlignBytes; at < nonzero_end; at += kRecordAlignBytes) {
    if (segment_->has_record_at(at)) return at;
  }
  return 0;
}

bool Reader::later_segment_has_data(const std::vector<std::uint64_t>& numbers) {
  for (const std::uint64_t number : numbers) {
    if (number <= number_) continue;
    Segment later;
    bool opened = false;
    if (!later.open(directory_, number, &opened)) continue;
    // The first page may hold notes, and a header whose magic was not stored yet.
    if (opened ||
        find_nonzero(later.fd.get(), later.path, kSegmentHeaderBytes, later.size).last != 0) {
      return true;
    }
  }
  return false;
}

ScanResult scan(const std::string& directory, const std::function<bool(const Record&)>& visit) {
  Reader reader(directory);
  Record record;
  while (reader.next(record)) {
    if (!visit(record)) break;
  }
  return reader.result();
}

}  // namespace rdmaorder::journal
