// Consumer half of a ring: finds the next slot in the own window, copies it once and verifies the
// copy. The peer can rewrite its ring at any time; nothing is ever read twice.
#pragma once

#include <cstdint>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/ring/geometry.hpp"
#include "rdmaorder/status.hpp"
#include "rdmaorder/wire/slot.hpp"

namespace rdmaorder::ring {

/// What was met besides good slots. Each kind is counted once per slot content, not per look, save
/// torn, which counts looks.
struct ReaderCounts {
  std::uint64_t torn = 0;      ///< commit word of the next sequence, contents not (yet) matching
  std::uint64_t stale = 0;     ///< valid under the previous epoch: late write of an earlier link
  std::uint64_t repeated = 0;  ///< a sequence already taken, written again
  std::uint64_t garbage = 0;   ///< a commit word that belongs to no sequence of this slot
  std::uint64_t lapped = 0;    ///< the writer overran the reader
};

/// Single thread.
class Reader {
 public:
  /// `window_words`: the own window, `geometry` fits in it. `previous_epoch` 0: none.
  Reader(const std::uint64_t* window_words, const Geometry& geometry, std::uint64_t epoch,
         std::uint64_t first_sequence, std::uint64_t previous_epoch = 0) noexcept;

  /// kOk: the next slot was copied to `slot_out` (slot_bytes of private memory) and verified; the
  /// reader moved on. kEmpty: not there. kTorn: its commit word is there and the rest does not
  /// match: look again, give up after a deadline. kLapped: sequences were lost, for good.
  /// `kSlotBytes`: the ring's slot_bytes where the caller knows it, for shorter code; 0: any.
  template <std::uint32_t kSlotBytes = 0>
  RDMAORDER_ALWAYS_INLINE Status read(AliasingWord* slot_out) noexcept {
    // SYNC slot contents: the writer's transport releases the commit word after the other words of
    // its line (mapped_put), acquired here. Where the transport promises no order (NICs) and for
    // slots of several lines the CRC of the copy decides alone.
    const std::uint64_t commit_word = load_acquire(commit_word_address_);
    if (wire::commit_sequence_low(commit_word) != static_cast<std::uint32_t>(next_)) {
      if (commit_word == idle_word_) return Status::kEmpty;
      if (wire::commit_sequence_low(commit_word) ==
          static_cast<std::uint32_t>(next_) - geometry_.slot_count) {  // the previous lap
        idle_word_ = commit_word;
        return Status::kEmpty;
      }
      return classify_other(commit_word);
    }
    const std::uint32_t slot_bytes = kSlotBytes != 0 ? kSlotBytes : geometry_.slot_bytes;
    const std::uint32_t word_count = slot_bytes / 8;
    const std::uint64_t* slot = commit_word_address_ - (word_count - 1);
    if (RDMAORDER_LIKELY(word_count == 8)) {
      copy_words_from_shared(slot_out, slot, 7);
    } else {
      copy_words_from_shared(slot_out, slot, word_count - 1);
    }
    slot_out[word_count - 1] = commit_word;
    if (RDMAORDER_UNLIKELY(wire::slot_crc(prefix_, slot_out, slot_bytes) !=
                           wire::commit_crc(commit_word))) {
      return classify_mismatch(slot_out);
    }
    advance(slot_bytes);
    return Status::kOk;
  }

  /// The commit word of the next sequence stands in its slot (nothing verified yet). A hint: also
  /// true for a slot never written where the sequence's low half is 0, which read() calls kEmpty.
  [[nodiscard]] bool has_next() const noexcept {
    return wire::commit_sequence_low(load_relaxed(commit_word_address_)) ==
           static_cast<std::uint32_t>(next_);
  }

  [[nodiscard]] std::uint64_t next_sequence() const noexcept { return next_; }
  [[nodiscard]] const Geometry& geometry() const noexcept { return geometry_; }
  [[nodiscard]] const ReaderCounts& counts() const noexcept { return counts_; }

  /// For a dense scan over many readers: while *commit_word_address() == idle_word(), read() would
  /// return kEmpty. Both change only in read().
  [[nodiscard]] const std::uint64_t* commit_word_address() const noexcept {
    return commit_word_address_;
  }
  [[nodiscard]] std::uint64_t idle_word() const noexcept { return idle_word_; }

 private:
  RDMAORDER_ALWAYS_INLINE void advance(std::uint32_t slot_bytes) noexcept {
    ++next_;
    commit_word_address_ = address_of(next_, slot_bytes);
    prefix_ = wire::slot_crc_next(epoch_state_, next_);
    __builtin_prefetch(commit_word_address_);
  }
  [[nodiscard]] const std::uint64_t* address_of(std::uint64_t sequence,
                                                std::uint32_t slot_bytes) const noexcept {
    return window_words_ + (geometry_.slot_offset_bytes(sequence, slot_bytes) + slot_bytes) / 8 - 1;
  }
  Status classify_other(std::uint64_t commit_word) noexcept;
  Status classify_mismatch(const std::uint64_t* slot) noexcept;

  const std::uint64_t* commit_word_address_;
  std::uint64_t idle_word_ = 0;  ///< contents of that word known to mean "nothing new"
  std::uint64_t next_;
  std::uint32_t epoch_state_;
  std::uint32_t prefix_;
  Geometry geometry_;
  const std::uint64_t* window_words_;
  std::uint64_t previous_epoch_;
  ReaderCounts counts_;
};

}  // namespace rdmaorder::ring
