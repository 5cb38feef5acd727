// Control messages as bytes: frames of one msgpack map. No sockets. docs/control-plane.md lists
// every message and key. The reader trusts nothing: limits are set before memory is spent, a key
// given twice is an error, a value of another kind counts as missing, unknown keys are ignored.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "rdmaorder/control.hpp"
#include "rdmaorder/ring/geometry.hpp"

namespace rdmaorder::control {

inline constexpr std::uint32_t kFrameHeaderBytes = 4;
inline constexpr std::uint64_t kSequenceMax = (std::uint64_t{1} << 63) - 1;
/// Queue pair numbers and packet sequences have 24 bits.
inline constexpr std::uint32_t k24BitsMax = (1U << 24) - 1;

/// One map being written, keys in the order of the calls.
class MessageWriter {
 public:
  explicit MessageWriter(std::string_view type) { text("type", type); }
  MessageWriter& text(std::string_view key, std::string_view value);
  MessageWriter& number(std::string_view key, std::uint64_t value);
  MessageWriter& binary(std::string_view key, std::string_view bytes);
  /// The map "window": the ring `geometry` inside a window of `window_bytes`.
  MessageWriter& window(const ring::Geometry& geometry, std::uint64_t window_bytes);
  /// The map "window" of a window that is reached over RDMA.
  MessageWriter& window(const RemoteWindow& window);
  /// The map "endpoint".
  MessageWriter& endpoint(const Endpoint& endpoint);
  /// Length and body.
  [[nodiscard]] std::string frame() const;

 private:
  struct Binary {
    std::string bytes;
  };
  using InnerFields = std::vector<std::pair<std::string, std::variant<std::uint64_t, Binary>>>;
  using Value = std::variant<std::uint64_t, std::string, Binary, InnerFields>;
  std::vector<std::pair<std::string, Value>> fields_;
};

/// One received map. Accessors throw Error(kHandshake) naming the key that is missing, of another
/// kind or out of range.
class Message {
 public:
  /// Throws Error(kHandshake) unless `body` is exactly one map within the limits.
  static Message parse(std::string_view body);
  /// The same for an answer whose binaries may be as long as a frame.
  static Message parse_long(std::string_view body);

  [[nodiscard]] const std::string& type() const noexcept { return type_; }
  [[nodiscard]] std::uint64_t number(const std::string& key, std::uint64_t low,
                                     std::uint64_t high) const;
  [[nodiscard]] bool has_number(const std::string& key) const { return numbers_.contains(key); }
  /// False where the key is absent (an older peer); else 0 or 1.
  [[nodiscard]] bool flag(const std::string& key) const;
  /// At most 1024 bytes; control characters come out as '?', for it will stand in error messages.
  [[nodiscard]] std::string text(const std::string& key) const;
  /// Exactly `count` bytes.
  [[nodiscard]] std::string binary(const std::string& key, std::size_t count) const;
  /// As long as it is.
  [[nodiscard]] const std::string& bytes(const std::string& key) const;
  struct Window {
    ring::Geometry geometry;
    std::uint64_t bytes = 0;
  };
  /// The map "window"; its geometry is valid and its ring fits `bytes`.
  [[nodiscard]] Window window() const;
  /// The same with the address and key of a window that is reached over RDMA.
  [[nodiscard]] RemoteWindow remote_window() const;
  /// The map "endpoint".
  [[nodiscard]] Endpoint endpoint() const;

 private:
  static Message parse_limited(std::string_view body, std::size_t max_binary_bytes);
  using Numbers = std::map<std::string, std::uint64_t>;
  using Binaries = std::map<std::string, std::string>;
  struct Inner {
    Numbers numbers;
    Binaries binaries;
  };
  [[nodiscard]] const Inner& inner(const std::string& key) const;

  std::string type_;
  Numbers numbers_;
  Binaries binaries_;
  std::map<std::string, std::string> texts_;
  std::map<std::string, Inner> maps_;
};

/// Length that the first kFrameHeaderBytes of a frame announce; 0 when it is outside the limits.
std::uint32_t body_length_bytes(const char* header) noexcept;

}  // namespace rdmaorder::control
