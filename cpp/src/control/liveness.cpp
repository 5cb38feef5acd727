#include "control/liveness.hpp"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>

#include "control/peer_process.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/interruption.hpp"

namespace rdmaorder::control {
namespace {

std::string terminate_frame(std::uint64_t last_order_sequence) {
  return MessageWriter("Terminate")
      .text("code", "Finished")
      .number("last_sequence", last_order_sequence)
      .text("text", "")
      .frame();
}

class PlainConnection final : public LiveConnection {
 public:
  explicit PlainConnection(memory::UniqueFd socket) noexcept
      : socket_(std::move(socket)), peer_pid_(peer_pid(socket_.get())) {}
  PeerCheck check(std::string* text) noexcept override {
    const bool exiting = is_exiting(peer_pid_);  // before the look: then it has said all it will
    const PeerCheck seen = LiveConnection::check(text);
    if (seen != PeerCheck::kQuiet || !exiting) return seen;
    return tell(gone("its process is exiting"), text);
  }
  int fd() const noexcept override { return socket_.get(); }

 protected:
  Got read_some(char* data, std::size_t bytes, std::size_t* got) override;
  void write(std::string_view frame, const Deadline& deadline) override;

 private:
  memory::UniqueFd socket_;
  pid_t peer_pid_;  ///< 0: not told
  std::string outgoing_;
};

Got PlainConnection::read_some(char* data, std::size_t bytes, std::size_t* got) {
  return receive_some(socket_.get(), data, bytes, got);
}

void PlainConnection::write(std::string_view frame, const Deadline& deadline) {
  outgoing_.append(frame);
  while (!send_some(socket_.get(), &outgoing_)) await_ready(socket_.get(), POLLOUT, deadline);
}

}  // namespace

Look gone(std::string why) { return {PeerCheck::kGone, {}, std::move(why), 0}; }

PeerCheck tell(const Look& seen, std::string* text) noexcept {
  if (text == nullptr || seen.state == PeerCheck::kQuiet) return seen.state;
  try {
    *text = seen.code;
    if (!seen.code.empty() && !seen.text.empty()) *text += ": ";
    *text += seen.text;
    if (text->empty()) *text = "no memory to read what it sent";
  } catch (...) {  // nor for the words; the state is told all the same
    text->clear();
  }
  return seen.state;
}

std::unique_ptr<Connection> make_plain_connection(memory::UniqueFd socket) {
  return std::make_unique<PlainConnection>(std::move(socket));
}

/// Reads on to the end of the next frame as far as that goes without waiting. True: it is there.
bool LiveConnection::fetch() {
  std::array<char, 16 * 1024> buffer;
  for (;;) {
    std::size_t frame_bytes = kFrameHeaderBytes;
    if (available_.size() >= kFrameHeaderBytes) {
      const std::uint32_t length = body_length_bytes(available_.data());
      if (length == 0) {
        throw Error(ErrorKind::kHandshake, "a frame's length is 0 or beyond the limit");
      }
      frame_bytes += length;
      if (available_.size() == frame_bytes) return true;
    }
    if (closed_) return false;
    std::size_t got = 0;
    const std::size_t missing = frame_bytes - available_.size();
    const Got state = read_some(buffer.data(), std::min(missing, buffer.size()), &got);
    if (state == Got::kNothing) return false;
    closed_ = state == Got::kClosed;
    available_.append(buffer.data(), got);
  }
}

Message LiveConnection::fetched() const {
  return Message::parse_long(std::string_view(available_).substr(kFrameHeaderBytes));
}

/// Number of the open question that this answers, which is open no longer; 0: of none. What the
/// gateway has to look up may be answered behind a later question.
std::uint64_t LiveConnection::take_answer(const Message& message) {
  const std::string& type = message.type();
  if (type != "Clock" && type != "Resolved" && type != "Killed" && type != "Refused") return 0;
  const std::uint64_t request = message.number("request", 1, UINT64_MAX);
  return std::erase(open_, request) != 0 ? request : 0;
}

Look LiveConnection::judge() {
  while (fetch()) {
    const Message message = fetched();
    available_.clear();
    if (take_answer(message) != 0) continue;  // nobody waits for it any more
    if (message.type() != "Terminate") return gone("it sent " + message.type());
    return {PeerCheck::kTerminated, message.text("code"), message.text("text"),
            message.number("last_sequence", 0, kSequenceMax)};
  }
  if (!closed_) return {};
  return gone(available_.empty() ? "control connection closed"
                                 : "control connection closed within a frame");
}

Look LiveConnection::look() noexcept {
  try {
    try {
      return judge();
    } catch (const Error& error) {  // a frame that is none of ours, or a broken connection
      const bool is_garbage = error.kind() == ErrorKind::kHandshake;
      return gone((is_garbage ? "it sent something that is no control message: " : std::string()) +
                  error.what());
    }
  } catch (...) {  // no memory
    Look failed;
    failed.state = PeerCheck::kGone;
    return failed;
  }
}

bool LiveConnection::terminate(std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
                               std::uint64_t* confirmed) noexcept {
  const Deadline deadline(timeout_ns);
  try {
    write(terminate_frame(last_order_sequence), deadline);
  } catch (const std::exception&) {  // the gateway's own Terminate may be waiting all the same
  }
  for (;;) {
    const Look seen = look();
    if (seen.state == PeerCheck::kTerminated) {
      if (confirmed != nullptr) *confirmed = seen.last_sequence;
      return true;
    }
    const int remaining_ms = deadline.remaining_ms();
    if (seen.state == PeerCheck::kGone || remaining_ms == 0 || Interruption::wanted()) return false;
    pollfd entry{fd(), POLLIN, 0};
    (void)::poll(&entry, 1, std::min(remaining_ms, Interruption::kSliceMs));
  }
}

/// Passes over the answers before that of `request`.
Message LiveConnection::await_answer(std::uint64_t request, const Deadline& deadline) {
  for (;;) {
    while (!fetch()) {
      if (closed_) {
        throw Error(
            ErrorKind::kHandshake,
            "the connection was closed before the answer was complete; see the gateway's log",
            ECONNRESET);
      }
      await_ready(fd(), POLLIN, deadline);
    }
    Message message = fetched();
    if (message.type() == "Terminate") return message;  // and stays for check()
    const std::uint64_t answered = take_answer(message);
    if (answered == 0) {  // stays too: the link is over
      throw Error(ErrorKind::kHandshake,
                  "the gateway sent '" + message.type() + "', which answers no question of ours");
    }
    available_.clear();
    if (answered == request) return message;
  }
}

Message LiveConnection::ask(MessageWriter& question, Turn turn, std::uint64_t timeout_ns) {
  const Deadline deadline(timeout_ns);
  while (turn == Turn::kInTurn && !open_.empty()) {
    Message owed = await_answer(open_.back(), deadline);
    if (owed.type() == "Terminate") return owed;
  }
  const std::string frame = question.number("request", asked_ + 1).frame();
  open_.push_back(++asked_);
  write(frame, deadline);
  return await_answer(asked_, deadline);
}

}  // namespace rdmaorder::control
