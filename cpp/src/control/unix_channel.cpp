// A socket without TLS under the control plane, and how a Unix socket is connected. Descriptors
// travel as SCM_RIGHTS with the bytes of their frame; reads never go past the frame being read, so
// they cannot be mixed up.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "control/channel.hpp"
#include "control/message.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/interruption.hpp"

namespace rdmaorder::control {
namespace {

using memory::UniqueFd;

/// A frame carries one; room for more only so that they can be told and closed.
constexpr std::size_t kDescriptorsPerRead = 4;
/// Pause before connecting again to a gateway whose backlog is full.
constexpr int kBacklogRetryMs = 2;

class PlainChannel final : public Channel {
 public:
  PlainChannel(UniqueFd socket, std::string peer)
      : socket_(std::move(socket)), peer_(std::move(peer)) {}

  void send(std::string_view frame, int descriptor, const Deadline& deadline) override;
  Frame receive(const Deadline& deadline) override;
  std::unique_ptr<Connection> release() override {
    return make_plain_connection(std::move(socket_));
  }
  const std::string& peer() const noexcept override { return peer_; }
  int fd() const noexcept override { return socket_.get(); }

 private:
  void read_exactly(char* data, std::size_t bytes, std::vector<UniqueFd>& descriptors,
                    const Deadline& deadline);
  std::size_t read_some(char* data, std::size_t bytes, std::vector<UniqueFd>& descriptors);

  UniqueFd socket_;
  std::string peer_;
};

void PlainChannel::send(std::string_view frame, int descriptor, const Deadline& deadline) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  while (!frame.empty()) {
    iovec data{const_cast<char*>(frame.data()), frame.size()};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    if (descriptor >= 0) {
      header.msg_control = control;
      header.msg_controllen = sizeof control;
      cmsghdr* rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
    }
    const ssize_t sent = ::sendmsg(socket_.get(), &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      frame.remove_prefix(static_cast<std::size_t>(sent));
      descriptor = -1;  // went with the first byte
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return;
    } else if (errno == EAGAIN) {
      await_ready(socket_.get(), POLLOUT, deadline);
    } else if (errno != EINTR) {
      throw_errno("send to", "the control socket", errno);
    }
  }
}

Frame PlainChannel::receive(const Deadline& deadline) {
  Frame frame;
  char header[kFrameHeaderBytes];
  read_exactly(header, sizeof header, frame.descriptors, deadline);
  const std::uint32_t length = body_length_bytes(header);
  if (length == 0) {
    throw Error(ErrorKind::kHandshake, "the answer is no control frame (a length of 0 or above " +
                                           std::to_string(kMaxFrameBytes) +
                                           " bytes); does a gateway listen there?");
  }
  frame.body.resize(length);
  read_exactly(frame.body.data(), length, frame.descriptors, deadline);
  return frame;
}

void PlainChannel::read_exactly(char* data, std::size_t bytes, std::vector<UniqueFd>& descriptors,
                                const Deadline& deadline) {
  while (bytes > 0) {
    await_ready(socket_.get(), POLLIN, deadline);
    const std::size_t got = read_some(data, bytes, descriptors);
    data += got;
    bytes -= got;
  }
}

/// One recvmsg. 0: nothing there after all. End of file throws.
std::size_t PlainChannel::read_some(char* data, std::size_t bytes,
                                    std::vector<UniqueFd>& descriptors) {
  alignas(cmsghdr) char control[CMSG_SPACE(kDescriptorsPerRead * sizeof(int))];
  iovec target{data, bytes};
  msghdr header{};
  header.msg_iov = &target;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return 0;
    if (errno != ECONNRESET) throw_errno("receive from", "the control socket", errno);
  }
  if (got > 0) {
    for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr;
         item = CMSG_NXTHDR(&header, item)) {
      if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
      const std::size_t count = (item->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(item) + i * sizeof(int), sizeof(int));
        descriptors.emplace_back(fd);
      }
    }
    if ((header.msg_flags & MSG_CTRUNC) != 0 || descriptors.size() > kDescriptorsPerRead) {
      throw Error(ErrorKind::kHandshake,
                  "more descriptors came than a frame carries (or this process has none free)");
    }
    return static_cast<std::size_t>(got);
  }
  throw Error(ErrorKind::kHandshake,
              "the connection was closed before the answer was complete; see the gateway's log",
              ECONNRESET);
}

/// The two mistakes connect(2) tells apart badly or not at all.
void check_socket_file(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) {
    const int error = errno;
    throw_errno("connect to gateway at", path, error,
                error == ENOENT || error == ENOTDIR
                    ? "no such socket: is the gateway running? start it with rdmaorder gateway "
                      "--listen shm:" +
                          std::string(path.starts_with('/') ? "//" : "") + path
                    : "check the permissions of the directories above it");
  }
  if (!S_ISSOCK(status.st_mode)) {
    throw Error(
        ErrorKind::kSystem,
        "connect to gateway at " + path + ": is not a socket; give the path the gateway listens on",
        ENOTSOCK);
  }
}

[[noreturn]] void throw_connect_error(const std::string& path, int error) {
  const char* remedy = "check the path";
  if (error == ECONNREFUSED) {
    remedy = "nobody listens: the gateway that made this socket has ended; start it again";
  } else if (error == EACCES || error == EPERM) {
    remedy =
        "this user may not use the socket; run as the gateway's user or name this uid in its "
        "allowed_uids";
  } else if (error == EPROTOTYPE) {
    remedy = "the socket is of another kind (not a stream); give the path the gateway listens on";
  }
  throw_errno("connect to gateway at", path, error, remedy);
}

UniqueFd connect_socket(const std::string& path, const Deadline& deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);  // parse_url bounds it
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) throw_errno("connect to gateway at", path, errno, "raise the limit of open files");
  for (;;) {
    if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) {
      return socket;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) throw_connect_error(path, errno);
    if (deadline.remaining_ms() == 0) {  // backlog full: a Unix socket has no queue
      throw Error(ErrorKind::kTimeout, "connect to gateway at " + path +
                                           ": it accepted nobody within " +
                                           std::to_string(deadline.timeout_ns() / 1'000'000) +
                                           " ms; is it stopped or overloaded?");
    }
    ::poll(nullptr, 0, std::min(deadline.slice_ms(), kBacklogRetryMs));
  }
}

void check_peer_uid(int socket_fd, const std::string& path) {
  ucred credentials{};
  socklen_t bytes = sizeof credentials;
  if (::getsockopt(socket_fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
    throw_errno("SO_PEERCRED of gateway at", path, errno);
  }
  if (credentials.uid != ::geteuid() && credentials.uid != 0) {
    throw Error(ErrorKind::kHandshake, "gateway at " + path + " runs as uid " +
                                           std::to_string(credentials.uid) + ", expected " +
                                           std::to_string(::geteuid()) +
                                           " or root; somebody else listens on this path");
  }
}

}  // namespace

int Deadline::remaining_ms() const noexcept {
  const std::uint64_t elapsed_ns = monotonic_ns() - start_ns_;
  if (elapsed_ns >= timeout_ns_) return 0;
  const std::uint64_t left_ms = (timeout_ns_ - elapsed_ns + 999'999) / 1'000'000;
  return static_cast<int>(std::min<std::uint64_t>(left_ms, 60'000));
}

int Deadline::slice_ms() const {
  if (Interruption::wanted()) throw Error(ErrorKind::kInterrupted, "interrupted");
  return std::min(remaining_ms(), Interruption::kSliceMs);
}

void await_ready(int socket_fd, short events, const Deadline& deadline) {
  for (;;) {
    if (deadline.remaining_ms() == 0) {  // also ends a peer that trickles bytes
      throw Error(ErrorKind::kTimeout, "no answer within " +
                                           std::to_string(deadline.timeout_ns() / 1'000'000) +
                                           " ms; is it stopped or overloaded?");
    }
    pollfd entry{socket_fd, events, 0};
    const int ready = ::poll(&entry, 1, deadline.slice_ms());
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw_errno("poll", "the control socket", errno);
  }
}

Got receive_some(int socket_fd, char* data, std::size_t bytes, std::size_t* got) {
  ssize_t read = 0;
  do {
    read = ::recv(socket_fd, data, bytes, MSG_DONTWAIT);
  } while (read < 0 && errno == EINTR);
  if (read > 0) {
    *got = static_cast<std::size_t>(read);
    return Got::kData;
  }
  if (read < 0 && errno == EAGAIN) return Got::kNothing;
  if (read < 0 && errno != ECONNRESET) throw_errno("receive from", "the control socket", errno);
  return Got::kClosed;
}

bool send_some(int socket_fd, std::string* outgoing) {
  while (!outgoing->empty()) {
    const ssize_t sent =
        ::send(socket_fd, outgoing->data(), outgoing->size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      outgoing->erase(0, static_cast<std::size_t>(sent));
    } else if (errno == EPIPE || errno == ECONNRESET) {
      outgoing->clear();
    } else if (errno == EAGAIN) {
      return false;
    } else if (errno != EINTR) {
      throw_errno("send to", "the control socket", errno);
    }
  }
  return true;
}

std::unique_ptr<Channel> make_plain_channel(UniqueFd socket, std::string peer) {
  return std::make_unique<PlainChannel>(std::move(socket), std::move(peer));
}

std::unique_ptr<Channel> connect_unix(const std::string& path, const Deadline& deadline) {
  check_socket_file(path);
  UniqueFd socket = connect_socket(path, deadline);
  check_peer_uid(socket.get(), path);
  return make_plain_channel(std::move(socket), "gateway at " + path);
}

}  // namespace rdmaorder::control
