#include "rdmaorder/wire/status_line.hpp"

namespace rdmaorder::wire {

Status StatusLineReader::refresh() noexcept {
  // SYNC the line's fields: release store of the commit word by the peer (its CPU over shared
  // memory), acquired here. A NIC promises no such order; there, and for a peer that misbehaves,
  // the CRC over the copy decides.
  const std::uint64_t commit_word = load_acquire(words_ + 7);
  if (commit_word == seen_commit_word_) return Status::kEmpty;
  std::uint64_t copy[8];
  copy_words_from_shared(copy, words_, 7);
  copy[7] = commit_word;
  const std::uint64_t version =
      version_ + static_cast<std::uint32_t>(commit_sequence_low(commit_word) -
                                            static_cast<std::uint32_t>(version_));
  if (slot_crc(slot_crc_prefix(epoch_, version), copy, kSlotBytesDefault) !=
      commit_crc(commit_word)) {
    ++torn_count_;
    return Status::kTorn;
  }
  std::memcpy(&latest_, copy, sizeof latest_);
  seen_commit_word_ = commit_word;
  version_ = version;
  return Status::kOk;
}

}  // namespace rdmaorder::wire
