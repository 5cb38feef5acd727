// A connected control socket, whatever its kind: frames out and in before a deadline, and for the
// kinds that can, descriptors beside them. The handshake (handshake.hpp) speaks through this only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rdmaorder/clock.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::control {

/// An instant of CLOCK_MONOTONIC, and the time allowed up to it for error messages.
class Deadline {
 public:
  explicit Deadline(std::uint64_t timeout_ns) noexcept
      : timeout_ns_(timeout_ns), start_ns_(monotonic_ns()) {}
  /// Milliseconds left, rounded up, for poll(2); 0 when it has passed.
  [[nodiscard]] int remaining_ms() const noexcept;
  /// How long to wait before looking again. Throws Error(kInterrupted).
  [[nodiscard]] int slice_ms() const;
  [[nodiscard]] std::uint64_t timeout_ns() const noexcept { return timeout_ns_; }

 private:
  std::uint64_t timeout_ns_;
  std::uint64_t start_ns_;
};

/// What a read that never waits found.
enum class Got { kData, kNothing, kClosed };

struct Frame {
  std::string body;
  std::vector<memory::UniqueFd> descriptors;
};

class Channel {
 public:
  Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  virtual ~Channel() = default;

  /// Sends `frame` whole, with `descriptor` unless it is -1. Returns also when the peer has closed
  /// already: what it said before is then still to be received. Throws Error: kTimeout, kSystem.
  /// Errors name the cause; the caller adds the step and the peer.
  virtual void send(std::string_view frame, int descriptor, const Deadline& deadline) = 0;

  /// The next frame. Throws Error: kTimeout, kSystem, kHandshake (closed, or no frame).
  virtual Frame receive(const Deadline& deadline) = 0;

  /// Turns into the connection of a live link; the channel is unusable then.
  virtual std::unique_ptr<Connection> release() = 0;

  /// The peer for error messages, for example "gateway at /run/gw.sock".
  [[nodiscard]] virtual const std::string& peer() const noexcept = 0;

  /// Bytes that only the two ends of this very connection know alike (docs/control-plane.md);
  /// empty where the channel gives none.
  [[nodiscard]] virtual std::string binding() const { return {}; }

  [[nodiscard]] virtual int fd() const noexcept = 0;
};

/// Waits until `socket_fd` is ready for `events`. Throws Error: kTimeout, kSystem, kInterrupted.
void await_ready(int socket_fd, short events, const Deadline& deadline);
/// Never waits. kData: *got bytes. Throws Error(kSystem).
Got receive_some(int socket_fd, char* data, std::size_t bytes, std::size_t* got);
/// Sends of `outgoing` what goes without waiting, and takes it off; all of it when the peer has
/// closed: what that said before is still to be received. True when nothing is left. Throws
/// Error(kSystem).
bool send_some(int socket_fd, std::string* outgoing);

/// Frames over `socket`, a connected non-blocking stream socket without TLS.
std::unique_ptr<Channel> make_plain_channel(memory::UniqueFd socket, std::string peer);

/// Connects to the Unix socket `path` and checks that its listener runs under this uid or root's.
std::unique_ptr<Channel> connect_unix(const std::string& path, const Deadline& deadline);

/// The connection of a live link over a socket without TLS.
std::unique_ptr<Connection> make_plain_connection(memory::UniqueFd socket);

}  // namespace rdmaorder::control
