// The control connection of a live link: is the gateway there, and the graceful end.
//
// On a plain socket frames are looked at with MSG_PEEK and taken only when whole, so no buffer has
// to be kept beside the descriptor and a gateway that sends byte by byte does no harm.
#include "control/liveness.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "control/channel.hpp"
#include "control/message.hpp"
#include "control/peer_process.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

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
  if (got < 0) return errno == EAGAIN ? Look{} : gone("control connection failed");
  if (got == 0) return gone("control connection closed");
  std::size_t taken_bytes = 0;
  Look seen = judge({buffer.data(), static_cast<std::size_t>(got)}, closed, &taken_bytes);
  if (taken_bytes > 0) (void)::recv(socket_fd, buffer.data(), taken_bytes, MSG_DONTWAIT);
  return seen;
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

class PlainConnection final : public Connection {
 public:
  explicit PlainConnection(memory::UniqueFd socket) noexcept
      : socket_(std::move(socket)), peer_pid_(peer_pid(socket_.get())) {}
  PeerCheck check(std::string* text) noexcept override {
    const bool exiting = is_exiting(peer_pid_);  // before the look: then it has said all it will
    const PeerCheck seen = check_peer(socket_.get(), text);
    if (seen != PeerCheck::kQuiet || !exiting) return seen;
    return tell(gone("its process is exiting"), text);
  }
  bool terminate(std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
                 std::uint64_t* confirmed) noexcept override {
    return control::terminate(socket_.get(), last_order_sequence, timeout_ns, confirmed);
  }
  std::string ask(const std::string& frame, std::uint64_t timeout_ns) override {
    memory::UniqueFd again(::fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0));
    if (!again) throw_errno("duplicate", "the control connection", errno);
    const std::unique_ptr<Channel> channel = make_plain_channel(std::move(again), "gateway");
    const Deadline deadline(timeout_ns);
    channel->send(frame, -1, deadline);
    return channel->receive(deadline).body;
  }
  int fd() const noexcept override { return socket_.get(); }

 private:
  memory::UniqueFd socket_;
  pid_t peer_pid_;  ///< 0: not told
};

}  // namespace

Look gone(std::string why) { return {PeerCheck::kGone, {}, std::move(why), 0}; }

Look judge(std::string_view available, bool closed, std::size_t* taken_bytes) {
  *taken_bytes = 0;
  const bool has_length = available.size() >= kFrameHeaderBytes;
  const std::uint32_t length = has_length ? body_length_bytes(available.data()) : 0;
  const std::size_t frame_bytes = kFrameHeaderBytes + length;
  if (has_length && (length == 0 || frame_bytes > kTerminateMaxBytes)) {
    return gone("it sent something that is no control frame");
  }
  if (!has_length || available.size() < frame_bytes) {
    if (!closed) return {};
    return gone(available.empty() ? "control connection closed"
                                  : "control connection closed within a frame");
  }
  *taken_bytes = frame_bytes;
  const Message message = Message::parse(available.substr(kFrameHeaderBytes, length));
  if (message.type() != "Terminate") return gone("it sent " + message.type());
  return {PeerCheck::kTerminated, message.text("code"), message.text("text"),
          message.number("last_sequence", 0, kSequenceMax)};
}

PeerCheck tell(const Look& seen, std::string* text) noexcept {
  if (text == nullptr || seen.state == PeerCheck::kQuiet) return seen.state;
  try {
    *text = seen.code;
    if (!seen.code.empty() && !seen.text.empty()) *text += ": ";
    *text += seen.text;
    if (text->empty()) *text = "it sent something that is no control message";
  } catch (...) {  // no memory for the words; the state is told all the same
    text->clear();
  }
  return seen.state;
}

std::string terminate_frame(std::uint64_t last_order_sequence) {
  return MessageWriter("Terminate")
      .text("code", "Finished")
      .number("last_sequence", last_order_sequence)
      .text("text", "")
      .frame();
}

std::unique_ptr<Connection> make_plain_connection(memory::UniqueFd socket) {
  return std::make_unique<PlainConnection>(std::move(socket));
}

PeerCheck check_peer(int socket_fd, std::string* text) noexcept {
  return tell(look_caught(socket_fd), text);
}

bool terminate(int socket_fd, std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
               std::uint64_t* confirmed) noexcept {
  const Deadline deadline(timeout_ns);
  try {
    // A gateway that ended the link first has closed its end, but its Terminate may be waiting.
    (void)send_all(socket_fd, terminate_frame(last_order_sequence), deadline);
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
