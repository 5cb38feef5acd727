// What the control connection of a live link says, whatever carries its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "rdmaorder/control.hpp"

namespace rdmaorder::control {

/// Whole frame of the only message a gateway sends on a live link. Far above a real one.
inline constexpr std::size_t kTerminateMaxBytes = 8 * 1024;

struct Look {
  PeerCheck state = PeerCheck::kQuiet;
  std::string code;
  std::string text;
  std::uint64_t last_sequence = 0;
};

/// The peer is gone, and why in words.
Look gone(std::string why);

/// Judges the bytes that are there and have not been taken. `closed`: no more will come.
/// *taken_bytes: length of the frame judged, 0 when there is no whole one. Throws Error for a frame
/// that is no message.
Look judge(std::string_view available, bool closed, std::size_t* taken_bytes);

/// The state, with its words in *text unless that is null or nothing was said.
PeerCheck tell(const Look& seen, std::string* text) noexcept;

/// The frame that ends a link from this side.
std::string terminate_frame(std::uint64_t last_order_sequence);

}  // namespace rdmaorder::control
