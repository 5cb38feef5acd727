// The control socket of a live link: is the gateway there, and the graceful end.
//
// Frames are looked at with MSG_PEEK and taken only when whole, so no buffer has to be kept beside
// the descriptor and a gateway that sends byte by byte does no harm.
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

#include "control/channel.hpp"
#include "control/message.hpp"
#include "rdmaorder/control.hpp"

namespace rdmaorder::control {
namespace {

/// Whole frame of the only message a gateway sends on a live link. Far above a real one.
constexpr std::size_t kTerminateMaxBytes = 8 * 1024;

struct Look {
  PeerCheck state = PeerCheck::kQuiet;
  std::string code;
  std::string text;
  std::uint64_t last_sequence = 0;
};

Look gone(std::string why) { return {PeerCheck::kGone, {}, std::move(why), 0}; }

/// Nothing more will come after what is there already.
bool is_closed(int socket_fd) noexcept {
  pollfd entry{socket_fd, POLLRDHUP, 0};
  return ::poll(&entry, 1, 0) > 0 &&
         (entry.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

Look look(int socket_fd) {
  const bool closed = is_closed(socket_fd);  // before the look: what comes between is then not lost
  std::array<char, kTerminateMaxBytes> buffer;
  ssize_t got = 0;
  do {
    got = ::recv(socket_fd, buffer.data(), buffer.size(), MSG_PEEK | MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno == EAGAIN ? Look{} : gone("the control connection failed");
  if (got == 0) return gone("the gateway closed the control connection");

  const auto have = static_cast<std::size_t>(got);
  const std::uint32_t length = have < kFrameHeaderBytes ? 0 : body_length_bytes(buffer.data());
  const std::size_t frame_bytes = kFrameHeaderBytes + length;
  if (have >= kFrameHeaderBytes && (length == 0 || frame_bytes > buffer.size())) {
    return gone("the gateway sent something that is no control frame");
  }
  if (have < frame_bytes || have < kFrameHeaderBytes) {
    return closed ? gone("the gateway closed within a frame") : Look{};
  }
  (void)::recv(socket_fd, buffer.data(), frame_bytes, MSG_DONTWAIT);  // takes what was seen
  const Message message = Message::parse({buffer.data() + kFrameHeaderBytes, length});
  if (message.type() != "Terminate") return gone("the gateway sent " + message.type());
  return {PeerCheck::kTerminated, message.text("code"), message.text("text"),
          message.number("last_sequence", 0, kSequenceMax)};
}

Look look_caught(int socket_fd) noexcept {
  try {
    return look(socket_fd);
  } catch (...) {  // a frame that is none of ours, or no memory for it
    Look failed;
    failed.state = PeerCheck::kGone;
    return failed;
  }
}

bool send_all(int socket_fd, std::string_view data, const Deadline& deadline) noexcept {
  while (!data.empty()) {
    const ssize_t sent = ::send(socket_fd, data.data(), data.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      data.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    const int remaining_ms = deadline.remaining_ms();
    if (errno != EAGAIN || remaining_ms == 0) return false;
    pollfd entry{socket_fd, POLLOUT, 0};
    (void)::poll(&entry, 1, remaining_ms);
  }
  return true;
}

}  // namespace

PeerCheck check_peer(int socket_fd, std::string* text) noexcept {
  Look seen = look_caught(socket_fd);
  if (text != nullptr && seen.state != PeerCheck::kQuiet) {
    try {
      *text = seen.code;
      if (!seen.code.empty() && !seen.text.empty()) *text += ": ";
      *text += seen.text;
      if (text->empty()) *text = "the gateway sent something that is no control message";
    } catch (...) {  // no memory for the words; the state is told all the same
      text->clear();
    }
  }
  return seen.state;
}

bool terminate(int socket_fd, std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
               std::uint64_t* confirmed) noexcept {
  const Deadline deadline(timeout_ns);
  try {
    const std::string frame = MessageWriter("Terminate")
                                  .text("code", "Finished")
                                  .number("last_sequence", last_order_sequence)
                                  .text("text", "")
                                  .frame();
    // A gateway that ended the link first has closed its end, but its Terminate may be waiting.
    (void)send_all(socket_fd, frame, deadline);
  } catch (...) {
    return false;
  }
  for (;;) {
    const Look seen = look_caught(socket_fd);
    if (seen.state == PeerCheck::kTerminated) {
      if (confirmed != nullptr) *confirmed = seen.last_sequence;
      return true;
    }
    const int remaining_ms = deadline.remaining_ms();
    if (seen.state == PeerCheck::kGone || remaining_ms == 0) return false;
    // A frame that is there in part keeps POLLIN up: pace the looks instead of spinning on it.
    char byte = 0;
    const bool in_part = ::recv(socket_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
    pollfd entry{socket_fd, static_cast<short>(in_part ? 0 : POLLIN), 0};
    (void)::poll(&entry, 1, in_part ? std::min(remaining_ms, 1) : remaining_ms);
  }
}

}  // namespace rdmaorder::control
