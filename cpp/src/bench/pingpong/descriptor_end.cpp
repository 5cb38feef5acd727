// The kernel's ways to move the same bytes: both sides spin on non-blocking reads.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bench/pingpong/loops.hpp"
#include "bench/pingpong/payload.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::pingpong {
namespace {

class DescriptorPort {
 public:
  DescriptorPort(int fd, bool datagrams, std::uint32_t payload_bytes)
      : fd_(fd), datagrams_(datagrams), bytes_(payload_bytes) {}

  [[nodiscard]] std::size_t word_count() const noexcept { return bytes_ / 8; }
  Status send(std::uint64_t sequence) noexcept {
    fill(out_.words, word_count(), sequence);
    return send_prepared();
  }
  /// The rest of a message that went in part has to follow whatever else happens.
  Status send_prepared() noexcept {
    const char* from = reinterpret_cast<const char*>(out_.words);
    std::size_t sent = 0;
    while (sent < bytes_) {
      const ssize_t now = ::send(fd_, from + sent, bytes_ - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (now > 0) {
        sent += static_cast<std::size_t>(now);
      } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        if (sent == 0) return Status::kFull;
      } else if (errno != EINTR) {
        return failed("send");
      }
    }
    return Status::kOk;
  }
  /// A whole message is in `words()`.
  bool take() noexcept {
    char* to = reinterpret_cast<char*>(in_.words);
    const ssize_t now = ::recv(fd_, to + filled_, bytes_ - filled_, MSG_DONTWAIT);
    if (now > 0) {
      filled_ += static_cast<std::size_t>(now);
      if (filled_ < bytes_ && !datagrams_) return false;
      filled_ = 0;
      return true;
    }
    if (now == 0 && !datagrams_) {
      closed_ = true;
    } else if (now < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      (void)failed("recv");
    }
    return false;
  }
  [[nodiscard]] const std::uint64_t* words() const noexcept { return in_.words; }
  [[nodiscard]] bool closed() const noexcept { return closed_; }
  [[nodiscard]] const std::string& cause() const noexcept { return cause_; }

 private:
  Status failed(const char* operation) noexcept {
    if (!closed_) cause_ = std::string(operation) + ": " + std::strerror(errno);
    closed_ = true;
    return Status::kTransport;
  }
  int fd_;
  bool datagrams_;
  std::uint32_t bytes_;
  std::size_t filled_ = 0;
  bool closed_ = false;
  std::string cause_;
  Payload in_{};
  Payload out_{};
};

class DescriptorEnd {
 public:
  DescriptorEnd(int fd, bool datagrams, std::uint32_t payload_bytes)
      : port_(fd, datagrams, payload_bytes) {}
  Status send(std::uint64_t index) noexcept { return port_.send(index + 1); }
  template <class Answered>
  std::uint32_t poll(Answered&& answered) noexcept {
    if (!port_.take()) return 0;
    const std::uint64_t sequence = port_.words()[0];
    if (!is_payload(port_.words(), port_.word_count(), sequence)) ++bad_payloads_;
    answered(sequence - 1);
    return 1;
  }
  void settle() const noexcept {}
  bool alive() const noexcept { return !port_.closed(); }
  [[nodiscard]] std::string cause() const {
    return port_.cause().empty() && port_.closed() ? "the peer closed the connection"
                                                   : port_.cause();
  }
  void finish(Outcome& outcome) const noexcept { outcome.bad_payloads += bad_payloads_; }

 private:
  DescriptorPort port_;
  std::uint64_t bad_payloads_ = 0;
};

}  // namespace

Outcome run_descriptor(int fd, bool datagrams, std::uint32_t payload_bytes, const Plan& plan) {
  DescriptorEnd end(fd, datagrams, payload_bytes);
  return Loop(end, plan).run();
}

void serve_descriptor(int fd, bool datagrams, std::uint32_t payload_bytes) {
  DescriptorPort port(fd, datagrams, payload_bytes);
  std::uint64_t idle = 0;
  while (!port.closed()) {
    if (!port.take()) {
      if ((++idle & 1023) == 0 && InterruptGuard::interrupted()) return;
      continue;
    }
    Status status = port.send(port.words()[0]);
    while (status == Status::kFull) status = port.send_prepared();
  }
}

}  // namespace rdmaorder::pingpong
