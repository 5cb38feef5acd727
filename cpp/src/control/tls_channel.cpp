// Frames inside TLS, and the live link over them.
#include <poll.h>

#include <cerrno>

#include "control/liveness.hpp"
#include "control/message.hpp"
#include "control/tls.hpp"
#include "control/tls_stream.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

class TlsConnection final : public LiveConnection {
 public:
  explicit TlsConnection(std::unique_ptr<TlsStream> stream) : stream_(std::move(stream)) {}
  void disown() noexcept override { stream_->disown(); }
  int fd() const noexcept override { return stream_->fd(); }

 protected:
  Got read_some(char* data, std::size_t bytes, std::size_t* got) override {
    return stream_->read_some(data, bytes, got);
  }
  void write(std::string_view frame, const Deadline& deadline) override {
    stream_->write(frame, deadline);
  }

 private:
  std::unique_ptr<TlsStream> stream_;
};

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
      case Got::kData:
        data += got;
        bytes -= got;
        break;
      case Got::kNothing:
        await_ready(stream_->fd(), POLLIN, deadline);
        break;
      case Got::kClosed:
        throw Error(
            ErrorKind::kHandshake,
            "the connection was closed before the answer was complete; see the gateway's log",
            ECONNRESET);
    }
  }
}

}  // namespace

std::unique_ptr<Channel> make_tls_channel(memory::UniqueFd socket, std::string peer,
                                          const TlsSettings& settings, const Deadline& deadline) {
  auto stream = std::make_unique<TlsStream>(std::move(socket), settings);
  stream->handshake(deadline);
  return std::make_unique<TlsChannel>(std::move(stream), std::move(peer));
}

}  // namespace rdmaorder::control
