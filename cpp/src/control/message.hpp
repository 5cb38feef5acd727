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

#include "rdmaorder/ring/geometry.hpp"

namespace rdmaorder::control {

inline constexpr std::uint32_t kFrameHeaderBytes = 4;
inline constexpr std::uint64_t kSequenceMax = (std::uint64_t{1} << 63) - 1;

/// One map being written, keys in the order of the calls.
class MessageWriter {
 public:
  explicit MessageWriter(std::string_view type) { text("type", type); }
  MessageWriter& text(std::string_view key, std::string_view value);
  MessageWriter& number(std::string_view key, std::uint64_t value);
  /// The map "window": the ring `geometry` inside a window of `window_bytes`.
  MessageWriter& window(const ring::Geometry& geometry, std::uint64_t window_bytes);
  /// Length and body.
  [[nodiscard]] std::string frame() const;

 private:
  using Fields = std::vector<std::pair<std::string, std::uint64_t>>;
  std::vector<std::pair<std::string, std::variant<std::uint64_t, std::string, Fields>>> fields_;
};

/// One received map. Accessors throw Error(kHandshake) naming the key that is missing, of another
/// kind or out of range.
class Message {
 public:
  /// Throws Error(kHandshake) unless `body` is exactly one map within the limits.
  static Message parse(std::string_view body);

  [[nodiscard]] const std::string& type() const noexcept { return type_; }
  [[nodiscard]] std::uint64_t number(const std::string& key, std::uint64_t low,
                                     std::uint64_t high) const;
  /// At most 1024 bytes; control characters come out as '?', for it will stand in error messages.
  [[nodiscard]] std::string text(const std::string& key) const;
  struct Window {
    ring::Geometry geometry;
    std::uint64_t bytes = 0;
  };
  /// The map "window"; its geometry is valid and its ring fits `bytes`.
  [[nodiscard]] Window window() const;

 private:
  using Numbers = std::map<std::string, std::uint64_t>;
  std::string type_;
  Numbers numbers_;
  std::map<std::string, std::string> texts_;
  std::map<std::string, Numbers> maps_;
};

/// Length that the first kFrameHeaderBytes of a frame announce; 0 when it is outside the limits.
std::uint32_t body_length_bytes(const char* header) noexcept;

}  // namespace rdmaorder::control
