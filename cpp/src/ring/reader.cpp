#include "rdmaorder/ring/reader.hpp"

namespace rdmaorder::ring {

Reader::Reader(const std::uint64_t* window_words, const Geometry& geometry, std::uint64_t epoch,
               std::uint64_t first_sequence, std::uint64_t previous_epoch) noexcept
    : next_(first_sequence),
      epoch_state_(wire::slot_crc_epoch(epoch)),
      prefix_(wire::slot_crc_next(epoch_state_, first_sequence)),
      geometry_(geometry),
      window_words_(window_words),
      previous_epoch_(previous_epoch) {
  commit_word_address_ = address_of(next_, geometry_.slot_bytes);
}

// The word is neither the next sequence nor known as idle. Decides once what it is and remembers
// it.
Status Reader::classify_other(std::uint64_t commit_word) noexcept {
  const auto distance = static_cast<std::int32_t>(wire::commit_sequence_low(commit_word) -
                                                  static_cast<std::uint32_t>(next_));
  const auto lap = static_cast<std::int32_t>(geometry_.slot_count);
  if (commit_word == 0) {  // never written
    idle_word_ = commit_word;
    return Status::kEmpty;
  }
  if (distance > 0 && distance % lap == 0) {
    ++counts_.lapped;
    return Status::kLapped;
  }
  // Later laps hold older words only where the writer wrote a slot again out of turn.
  if (distance < 0 && distance % lap == 0) {
    ++counts_.repeated;
  } else {
    ++counts_.garbage;
  }
  idle_word_ = commit_word;
  return Status::kEmpty;
}

// The commit word is that of the next sequence, the CRC is not.
Status Reader::classify_mismatch(const std::uint64_t* slot) noexcept {
  const std::uint64_t commit_word = slot[geometry_.slot_bytes / 8 - 1];
  if (commit_word == 0)
    return Status::kEmpty;  // never written; only sequence k * 2^32 looks like it
  if (previous_epoch_ != 0 &&
      wire::slot_crc(wire::slot_crc_prefix(previous_epoch_, next_), slot, geometry_.slot_bytes) ==
          wire::commit_crc(commit_word)) {
    // Complete and valid under the old epoch. The real message will have another commit word.
    if (commit_word != idle_word_) ++counts_.stale;
    idle_word_ = commit_word;
    return Status::kEmpty;
  }
  ++counts_.torn;
  return Status::kTorn;
}

}  // namespace rdmaorder::ring
