// Frames inside TLS, and the live link over them.
#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "control/liveness.hpp"
#include "control/message.hpp"
#include "control/tls.hpp"
#include "control/tls_stream.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

/// The control connection of a live link. What was decrypted and is no whole frame yet is kept.
class TlsConnection final : public Connection {
 public:
  explicit TlsConnection(std::unique_ptr<TlsStream> stream) : stream_(std::move(stream)) {}

  PeerCheck check(std::string* text) noexcept override { return tell(look(), text); }
  bool terminate(std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
                 std::uint64_t* confirmed) noexcept override;
  std::string ask(const std::string& frame, std::uint64_t timeout_ns) override;
  int fd() const noexcept override { return stream_->fd(); }

 private:
  Look look() noexcept;

  std::unique_ptr<TlsStream> stream_;
  std::string available_;
  bool closed_ = false;
};

Look TlsConnection::look() noexcept {
  try {
    std::array<char, 2048> buffer;
    while (!closed_ && available_.size() < kTerminateMaxBytes) {
      std::size_t got = 0;
      const TlsStream::Got state = stream_->read_some(buffer.data(), buffer.size(), &got);
      if (state == TlsStream::Got::kNothing) break;
      closed_ = state == TlsStream::Got::kClosed;
      available_.append(buffer.data(), got);
    }
    std::size_t taken_bytes = 0;
    Look seen = judge(available_, closed_, &taken_bytes);
    available_.erase(0, taken_bytes);
    return seen;
  } catch (const std::exception&) {  // broken TLS, a frame that is none of ours, no memory
    Look failed;
    failed.state = PeerCheck::kGone;
    return failed;
  }
}

bool TlsConnection::terminate(std::uint64_t last_order_sequence, std::uint64_t timeout_ns,
                              std::uint64_t* confirmed) noexcept {
  const Deadline deadline(timeout_ns);
  try {
    stream_->write(terminate_frame(last_order_sequence), deadline);
  } catch (const std::exception&) {  // the gateway's own Terminate may be waiting all the same
  }
  for (;;) {
    const Look seen = look();
    if (seen.state == PeerCheck::kTerminated) {
      if (confirmed != nullptr) *confirmed = seen.last_sequence;
      return true;
    }
    const int remaining_ms = deadline.remaining_ms();
    if (seen.state == PeerCheck::kGone || remaining_ms == 0) return false;
    pollfd entry{stream_->fd(), POLLIN, 0};
    (void)::poll(&entry, 1, remaining_ms);
  }
}

class TlsChannel final : public Channel {
 public:
  TlsChannel(std::unique_ptr<TlsStream> stream, std::string peer)
      : stream_(std::move(stream)), peer_(std::move(peer)) {}

  void send(std::string_view frame, int descriptor, const Deadline& deadline) override;
  Frame receive(const Deadline& deadline) override;
  std::unique_ptr<Connection> release() override {
    return std::make_unique<TlsConnection>(std::move(stream_));
  }
  const std::string& peer() const noexcept override { return peer_; }
  std::string binding() const override { return stream_->binding(); }
  std::unique_ptr<TlsStream> take_stream() { return std::move(stream_); }
  int fd() const noexcept override { return stream_->fd(); }

 private:
  void read_exactly(char* data, std::size_t bytes, const Deadline& deadline);

  std::unique_ptr<TlsStream> stream_;
  std::string peer_;
};

void TlsChannel::send(std::string_view frame, int descriptor, const Deadline& deadline) {
  if (descriptor >= 0) throw Error(ErrorKind::kConfig, "TCP carries no descriptors");
  stream_->write(frame, deadline);
}

Frame TlsChannel::receive(const Deadline& deadline) {
  Frame frame;
  char header[kFrameHeaderBytes];
  read_exactly(header, sizeof header, deadline);
  const std::uint32_t length = body_length_bytes(header);
  if (length == 0) {
    throw Error(ErrorKind::kHandshake, "the answer is no control frame (a length of 0 or above " +
                                           std::to_string(kMaxFrameBytes) +
                                           " bytes); does a gateway listen there?");
  }
  frame.body.resize(length);
  read_exactly(frame.body.data(), length, deadline);
  return frame;
}

void TlsChannel::read_exactly(char* data, std::size_t bytes, const Deadline& deadline) {
  while (bytes > 0) {
    std::size_t got = 0;
    switch (stream_->read_some(data, bytes, &got)) {
      case TlsStream::Got::kData:
        data += got;
        bytes -= got;
        break;
      case TlsStream::Got::kNothing:
        await_ready(stream_->fd(), POLLIN, deadline);
        break;
      case TlsStream::Got::kClosed:
        throw Error(
            ErrorKind::kHandshake,
            "the connection was closed before the answer was complete; see the gateway's log",
            ECONNRESET);
    }
  }
}

std::string TlsConnection::ask(const std::string& frame, std::uint64_t timeout_ns) {
  const Deadline deadline(timeout_ns);
  TlsChannel channel(std::move(stream_), "gateway");
  struct GiveBack {
    std::unique_ptr<TlsStream>& stream;
    TlsChannel& channel;
    ~GiveBack() { stream = channel.take_stream(); }
  } const give_back{stream_, channel};
  channel.send(frame, -1, deadline);
  return channel.receive(deadline).body;
}

}  // namespace

std::unique_ptr<Channel> make_tls_channel(memory::UniqueFd socket, std::string peer,
                                          const TlsSettings& settings, const Deadline& deadline) {
  auto stream = std::make_unique<TlsStream>(std::move(socket), settings);
  stream->handshake(deadline);
  return std::make_unique<TlsChannel>(std::move(stream), std::move(peer));
}

}  // namespace rdmaorder::control
