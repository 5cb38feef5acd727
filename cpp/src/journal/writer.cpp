#include "journal/writer.hpp"

#include <cstring>

#include "base/start_thread.hpp"
#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/clock.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::journal {
namespace {

void check_config(const Config& config) {
  if (!is_valid_segment_bytes(config.segment_bytes)) {
    throw Error(ErrorKind::kConfig,
                "journal segment_bytes is " + std::to_string(config.segment_bytes) +
                    "; it must be a multiple of 4096 from 65536 to 1099511627776");
  }
  if (config.sync == SyncPolicy::kInterval &&
      (config.sync_interval_ns < 100'000 || config.sync_interval_ns > 60'000'000'000)) {
    throw Error(ErrorKind::kConfig, "journal sync_interval_ns is " +
                                        std::to_string(config.sync_interval_ns) +
                                        "; it must be from 100000 (0.1 ms) to 60000000000 (60 s)");
  }
}

}  // namespace

std::unique_ptr<Writer> open_writer(const Config& config,
                                    const std::function<void(const Record&)>& recover_visit,
                                    ScanResult* recovered, FileCalls& calls) {
  check_config(config);
  Config own = config;
  while (own.directory.size() > 1 && own.directory.back() == '/') own.directory.pop_back();
  make_directory(own.directory);
  memory::UniqueFd lock = lock_directory(own.directory);
  Recovered state = recover(own, recover_visit, calls);
  if (recovered != nullptr) *recovered = state.scan;
  return std::make_unique<SegmentWriter>(std::move(own), calls, std::move(lock), std::move(state));
}

std::unique_ptr<Writer> Writer::open(const Config& config,
                                     const std::function<void(const Record&)>& recover_visit,
                                     ScanResult* recovered) {
  return open_writer(config, recover_visit, recovered, system_file_calls());
}

SegmentWriter::SegmentWriter(Config config, FileCalls& calls, memory::UniqueFd lock,
                             Recovered recovered)
    : config_(std::move(config)), calls_(calls), lock_(std::move(lock)) {
  next_position_ = recovered.last_position + 1;
  last_position_.store(recovered.last_position, std::memory_order_relaxed);
  durable_position_.store(recovered.last_position, std::memory_order_relaxed);
  next_number_ = recovered.segment->number + 1;
  MappedSegment* segment = recovered.segment.release();
  current_.store(segment, std::memory_order_relaxed);
  enter(*segment, recovered.append_offset);
  seen_cursor_ = cursor_.load(std::memory_order_relaxed);
  prefault_current();
  try {
    helper_ = start_thread("the journal's helper thread", [this] { help(); });
  } catch (...) {
    delete segment;
    throw;
  }
}

void SegmentWriter::enter(MappedSegment& segment, std::uint64_t offset) noexcept {
  crc_ = RecordCrc(segment.salt);
  end_ = segment.data + segment.bytes;
  cursor_.store(segment.data + offset, std::memory_order_relaxed);
}

// Inlined twice: with the usual size as a constant, and for any.
RDMAORDER_ALWAYS_INLINE Status SegmentWriter::append_record(std::uint64_t facts,
                                                            std::uint64_t sequence,
                                                            std::uint64_t time_ns,
                                                            const void* payload,
                                                            std::uint32_t payload_bytes) noexcept {
  if (RDMAORDER_UNLIKELY(failed_.load(std::memory_order_relaxed))) return Status::kIo;
  const std::uint64_t bytes = record_bytes(payload_bytes);
  std::byte* record = cursor_.load(std::memory_order_relaxed);
  if (RDMAORDER_UNLIKELY(static_cast<std::uint64_t>(end_ - record) < bytes)) {
    if (!change_segment()) return Status::kIo;
    record = cursor_.load(std::memory_order_relaxed);
  }

  auto* words = reinterpret_cast<std::uint64_t*>(record);
  words[1] = next_position_;
  words[2] = time_ns;
  words[3] = sequence;
  words[4] = facts;
  if (payload_bytes == kUsualPayloadBytes) {
    // Word by word, as it was stored a moment ago: a wider load would wait for the store buffer.
    const auto* from = static_cast<const AliasingWord*>(payload);
#pragma GCC unroll 8
    for (std::size_t i = 0; i < kUsualPayloadBytes / 8; ++i) {
      store_relaxed(words + kRecordHeaderBytes / 8 + i, from[i]);
    }
  } else {
    std::memcpy(record + kRecordHeaderBytes, payload, payload_bytes);
  }
  const std::uint32_t crc = crc_(record, payload_bytes);
  // SYNC the record: release here; a reader of another process preads this word not zero and then
  // finds the rest (Reader::check, which looks again before it calls a record bad).
  store_release(words, crc | std::uint64_t{payload_bytes} << 32);
  cursor_.store(record + bytes, std::memory_order_relaxed);
  // SYNC what was appended: release here, acquire in sync_segments and last_position.
  last_position_.store(next_position_, std::memory_order_release);
  ++next_position_;
  return Status::kOk;
}

Status SegmentWriter::append(RecordKind kind, std::uint16_t detail, std::uint32_t session_index,
                             std::uint64_t sequence, std::uint64_t time_ns, const void* payload,
                             std::uint32_t payload_bytes) noexcept {
  const std::uint64_t facts = session_index |
                              std::uint64_t{static_cast<std::uint16_t>(kind)} << 32 |
                              std::uint64_t{detail} << 48;
  if (RDMAORDER_LIKELY(payload_bytes == kUsualPayloadBytes)) {
    return append_record(facts, sequence, time_ns, payload, kUsualPayloadBytes);
  }
  if (payload_bytes - kPayloadBytesMin > kPayloadBytesMax - kPayloadBytesMin) {
    return payload_bytes == 0 ? Status::kInvalid : Status::kTooLarge;
  }
  return append_record(facts, sequence, time_ns, payload, payload_bytes);
}

/// Goes on to the prepared segment; makes one here when the helper has not yet. False: no room.
bool SegmentWriter::change_segment() noexcept {
  // SYNC the prepared segment: acquire here, release in prepare_next.
  MappedSegment* next = prepared_.load(std::memory_order_acquire);
  if (next == nullptr) {
    // Where the last attempt failed (a full disk may take its time to say so), the helper goes on
    // trying, and nobody's orders and heartbeats wait for it.
    if (next_attempt_ns_.load(std::memory_order_relaxed) != 0) return false;
    prepare_next();
    next = prepared_.load(std::memory_order_acquire);
    if (next == nullptr) return false;
  }
  MappedSegment* full = current_.load(std::memory_order_relaxed);
  full->last_position = next_position_ - 1;
  // Notes go along, and first: where the newest header is, there they are, wherever a crash comes.
  std::memcpy(next->data + sizeof(SegmentHeader), full->data + sizeof(SegmentHeader),
              kSegmentHeaderBytes - sizeof(SegmentHeader));
  publish_header(*next, next_position_);
  // Closed before replaced: sync_segments reads them in the other order and so misses neither.
  // SYNC the closed segment: release here, acquire in sync_segments.
  full->next = closed_.load(std::memory_order_relaxed);
  while (!closed_.compare_exchange_weak(full->next, full, std::memory_order_release,
                                        std::memory_order_relaxed)) {
  }
  current_.store(next, std::memory_order_release);
  enter(*next, kSegmentHeaderBytes);
  // Freed last: the helper makes segment n + 2 only when the header of n + 1 is in place, which
  // readers rely on to tell a gap from a journal being written.
  prepared_.store(nullptr, std::memory_order_release);
  return true;
}

std::uint64_t* SegmentWriter::note_of(std::uint32_t session_index) const noexcept {
  static_assert(sizeof(SegmentHeader) + kNotedSessionCount * 8 == kRefusedOffset);
  if (session_index >= kNotedSessionCount || !lock_) return nullptr;
  std::byte* notes = current_.load(std::memory_order_relaxed)->data + sizeof(SegmentHeader);
  return reinterpret_cast<std::uint64_t*>(notes) + session_index;
}

void SegmentWriter::note_reports(std::uint32_t session_index,
                                 std::uint64_t next_report_sequence) noexcept {
  if (std::uint64_t* note = note_of(session_index)) store_relaxed(note, next_report_sequence);
}

std::uint64_t SegmentWriter::noted_reports(std::uint32_t session_index) const noexcept {
  const std::uint64_t* note = note_of(session_index);
  return note != nullptr ? load_relaxed(note) : 0;
}

void SegmentWriter::note_refused(std::uint64_t first_position) noexcept {
  if (!lock_) return;
  std::byte* page = current_.load(std::memory_order_relaxed)->data;
  auto* words = reinterpret_cast<std::uint64_t*>(page + kRefusedOffset);
  // In this order, whenever the process dies: never one note's begin with another one's end.
  store_release(words + 1, 0);
  store_release(words, first_position);
  store_release(words + 1, next_position_);
}

bool SegmentWriter::is_noted_refused(std::uint64_t position) const noexcept {
  const std::byte* page = current_.load(std::memory_order_relaxed)->data;
  const auto* words = reinterpret_cast<const std::uint64_t*>(page + kRefusedOffset);
  return position >= load_relaxed(words) && position < load_relaxed(words + 1);
}

Status SegmentWriter::sync_batch() noexcept {
  if (config_.sync != SyncPolicy::kBatch) return Status::kOk;
  return sync_segments(true) ? Status::kOk : Status::kIo;
}

Status SegmentWriter::sync_now() noexcept {
  return sync_segments(true) ? Status::kOk : Status::kIo;
}

std::string SegmentWriter::last_error() const {
  const std::lock_guard guard(error_mutex_);
  return sync_error_.empty() ? create_error_ : sync_error_;
}

}  // namespace rdmaorder::journal
