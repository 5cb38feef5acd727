// The store sequence shared by the two transports whose peer's window is mapped into this process.
#pragma once

#include <cstdint>

#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/transport/transport.hpp"

namespace rdmaorder::transport {

/// put() onto mapped memory. Bounds are checked here: a caller's mistake never writes elsewhere.
RDMAORDER_ALWAYS_INLINE Status mapped_put(std::uint64_t* window_words, std::uint64_t window_bytes,
                                          std::uint64_t offset_bytes, const void* source,
                                          std::uint32_t bytes) noexcept {
  if (RDMAORDER_UNLIKELY((offset_bytes & 7U) != 0 || offset_bytes > window_bytes ||
                         bytes > window_bytes - offset_bytes)) {
    return (bytes > window_bytes) ? Status::kTooLarge : Status::kInvalid;
  }
  std::uint64_t* to = window_words + offset_bytes / 8;
  const auto* from = static_cast<const std::uint64_t*>(source);
  // SYNC a whole line: its last word released in store_line; acquired by Reader::read and
  // StatusLineReader::refresh through the commit word, which is that last word.
  if (RDMAORDER_LIKELY(bytes == kCacheLineBytes)) {
    store_line(to, from, from[7]);
    return Status::kOk;
  }
  if (RDMAORDER_UNLIKELY(bytes == 0 || (bytes & 7U) != 0)) return Status::kInvalid;
  std::uint32_t words = bytes / 8;
  for (; words > 8; words -= 8, to += 8, from += 8) store_line(to, from, from[7]);
  for (std::uint32_t i = 0; i + 1 < words; ++i) store_relaxed(to + i, from[i]);
  store_release(to + words - 1, from[words - 1]);
  return Status::kOk;
}

}  // namespace rdmaorder::transport
