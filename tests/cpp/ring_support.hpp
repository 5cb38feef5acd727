// What the tests of rings, links and transports share: slots whose every byte follows from their
// sequence, so that a lost, repeated, reordered or mixed slot shows in its contents.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/ring/reader.hpp"
#include "rdmaorder/ring/writer.hpp"
#include "transport/shm/mapped_put.hpp"

namespace rdmaorder::ring_support {

using ring::Geometry;
using ring::Lane;
using ring::Reader;
using ring::Writer;

inline constexpr std::uint64_t kEpoch = 0x1F2E3D4C5B6A7988;

/// Word `index` of the message that is sent as `sequence`.
inline std::uint64_t word_of(std::uint64_t sequence, std::size_t index) {
  std::uint64_t x = sequence * 0x9E3779B97F4A7C15ULL + index + 1;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9ULL;
  return x ^ (x >> 32);
}

/// A slot in private memory. The commit word is what the writer makes of it.
using Words = std::vector<std::uint64_t>;

inline void fill(std::uint64_t* slot, std::uint32_t slot_bytes, std::uint64_t sequence) {
  for (std::size_t i = 0; i + 1 < slot_bytes / 8; ++i) slot[i] = word_of(sequence, i);
}
inline Words message(std::uint32_t slot_bytes, std::uint64_t sequence) {
  Words slot(slot_bytes / 8, 0);
  fill(slot.data(), slot_bytes, sequence);
  return slot;
}
/// The slot holds the message of `sequence` and nothing of another.
inline bool holds(const std::uint64_t* slot, std::uint32_t slot_bytes, std::uint64_t sequence) {
  for (std::size_t i = 0; i + 1 < slot_bytes / 8; ++i) {
    if (slot[i] != word_of(sequence, i)) return false;
  }
  return true;
}
/// The message of `sequence` as a writer of `epoch` seals it.
inline Words sealed(std::uint32_t slot_bytes, std::uint64_t epoch, std::uint64_t sequence) {
  Words slot = message(slot_bytes, sequence);
  slot.back() = wire::make_commit_word(
      wire::slot_crc(wire::slot_crc_prefix(epoch, sequence), slot.data(), slot_bytes), sequence);
  return slot;
}

/// Small pages, not locked: what a test asks for.
inline memory::Window make_window(std::uint64_t bytes) {
  return memory::Window::create({bytes, memory::HugePages::kOff, false, -1, "rdmaorder-test"});
}
/// The same memory once more, as a peer gets it over the socket.
inline memory::Window map_again(const memory::Window& window) {
  return memory::Window::map_peer(memory::UniqueFd(dup(window.fd())), window.bytes(), false);
}

/// Stores a whole slot as a transport does.
inline void store(std::uint64_t* window_words, const Geometry& geometry, std::uint64_t sequence,
                  const Words& slot) {
  ASSERT_EQ(
      transport::mapped_put(window_words, geometry.window_bytes(),
                            geometry.slot_offset_bytes(sequence), slot.data(), geometry.slot_bytes),
      Status::kOk);
}

/// Waits for a condition that other threads or processes bring about; false after 100 s: machines
/// that share two cores among many processes are slow, and a broken core is still told.
inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(100);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace rdmaorder::ring_support
