// A window: page-aligned memory one side exposes to the other. On shared memory it is a sealed
// memfd whose descriptor travels over the control socket; for verbs the same mapping is registered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::memory {

enum class HugePages : std::uint8_t { kOff, kTry, kRequire };

struct WindowConfig {
  std::uint64_t bytes = 0;  ///< rounded up to whole pages
  HugePages huge_pages = HugePages::kTry;
  bool lock = true;                ///< mlock; a refusal is a fact in `WindowFacts`, not an error
  int numa_node = -1;              ///< preferred node, -1: that of the calling thread
  std::string name = "rdmaorder";  ///< shows in /proc/PID/maps
};

/// What was obtained, for status displays.
struct WindowFacts {
  bool huge_pages = false;
  bool locked = false;
  int numa_node = -1;  ///< where the first page really is, -1 unknown
};

/// RAII mapping. Movable; unmaps and closes on destruction. Memory is zero when created.
class Window {
 public:
  Window() = default;
  Window(Window&& other) noexcept;
  Window& operator=(Window&& other) noexcept;
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  ~Window();

  /// Creates memory of its own, sealed against shrinking and growing. Throws Error.
  static Window create(const WindowConfig& config);

  /// Maps the first `min_bytes` of a window received from a peer, in whole pages. Refuses (Error
  /// kHandshake) a descriptor that is not a memfd sealed against shrinking and growing (the peer
  /// could truncate it under us: SIGBUS), or holds fewer than `min_bytes`, or more than these in
  /// whole 2 MiB pages. Takes the descriptor.
  static Window map_peer(UniqueFd fd, std::uint64_t min_bytes, bool lock = true);

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t* words() const noexcept {
    return reinterpret_cast<std::uint64_t*>(data_);
  }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] const WindowFacts& facts() const noexcept { return facts_; }
  [[nodiscard]] explicit operator bool() const noexcept { return data_ != nullptr; }

 private:
  bool try_create(const WindowConfig& config, bool huge) noexcept;
  void reset() noexcept;

  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
  UniqueFd fd_;
  WindowFacts facts_;
};

}  // namespace rdmaorder::memory
