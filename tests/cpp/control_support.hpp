// A gateway's half of the handshake, scripted: listens on a socket of its own in a thread and runs
// one function per connection.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "control/message.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {

/// Far more than any test needs; only a hang gets there.
inline constexpr std::uint64_t kPatienceNs = 20'000'000'000;
/// For deadlines that a test waits to pass.
inline constexpr std::uint64_t kShortNs = 60'000'000;

inline std::string golden(const char* name) {
  const auto path = std::filesystem::path(__FILE__).parent_path() / ".." / "golden" / name;
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// Body of a frame.
inline std::string_view body_of(std::string_view frame) { return frame.substr(kFrameHeaderBytes); }

inline std::string frame_of(std::string_view body) {
  const auto length = static_cast<std::uint32_t>(body.size());
  std::string frame(kFrameHeaderBytes, '\0');
  std::memcpy(frame.data(), &length, kFrameHeaderBytes);
  return frame.append(body);
}

inline std::size_t open_descriptor_count() {
  const std::filesystem::directory_iterator entries("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

inline memory::UniqueFd make_memfd(std::uint64_t bytes, int seals) {
  memory::UniqueFd fd(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

inline sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

/// A directory that goes away with its contents.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = std::filesystem::temp_directory_path() / "control-XXXXXX";
    EXPECT_NE(::mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

/// The gateway's end of one connection.
class Peer {
 public:
  static constexpr std::size_t kDescriptorsMax = 253;

  explicit Peer(int fd) : fd_(fd) {}
  [[nodiscard]] int fd() const { return fd_; }

  void send(std::string_view data, const std::vector<int>& descriptors = {}) const {
    iovec part{const_cast<char*>(data.data()), data.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kDescriptorsMax)];
    ASSERT_LE(descriptors.size(), kDescriptorsMax);
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (!descriptors.empty()) {
      header.msg_control = control;
      header.msg_controllen = CMSG_SPACE(sizeof(int) * descriptors.size());
      cmsghdr* rights = CMSG_FIRSTHDR(&header);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int) * descriptors.size());
      std::memcpy(CMSG_DATA(rights), descriptors.data(), sizeof(int) * descriptors.size());
    }
    (void)::sendmsg(fd_, &header, MSG_NOSIGNAL);
  }

  /// The next frame's message and, if one came, its descriptor.
  Message receive(memory::UniqueFd* descriptor = nullptr) const {
    std::string header(kFrameHeaderBytes, '\0');
    read(header, descriptor);
    std::string body(body_length_bytes(header.data()), '\0');
    read(body, descriptor);
    return Message::parse(body);
  }

  /// Returns when the client has closed.
  void await_close() const {
    char byte;
    while (::recv(fd_, &byte, 1, 0) > 0) {
    }
  }

 private:
  void read(std::string& data, memory::UniqueFd* descriptor) const {
    std::size_t have = 0;
    while (have < data.size()) {
      alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
      iovec part{data.data() + have, data.size() - have};
      msghdr header{};
      header.msg_iov = &part;
      header.msg_iovlen = 1;
      header.msg_control = control;
      header.msg_controllen = sizeof control;
      const ssize_t got = ::recvmsg(fd_, &header, MSG_CMSG_CLOEXEC);
      if (got <= 0) throw Error(ErrorKind::kHandshake, "the client closed");
      have += static_cast<std::size_t>(got);
      const cmsghdr* rights = CMSG_FIRSTHDR(&header);
      if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
        memory::UniqueFd received(*reinterpret_cast<const int*>(CMSG_DATA(rights)));
        if (descriptor != nullptr) *descriptor = std::move(received);
      }
    }
  }

  int fd_;
};

/// Accepts one connection and runs `script` on it; what the script throws is forgotten, for the
/// client is what is tested.
class FakeGateway {
 public:
  FakeGateway(const std::string& path, std::function<void(const Peer&)> script)
      : listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const sockaddr_un address = address_of(path);
    EXPECT_EQ(::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
    EXPECT_EQ(::listen(listener_.get(), 4), 0);
    thread_ = std::thread([this, run = std::move(script)] {
      memory::UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket) return;
      try {
        run(Peer(socket.get()));
      } catch (const Error&) {
      }
    });
  }
  FakeGateway(const FakeGateway&) = delete;
  FakeGateway& operator=(const FakeGateway&) = delete;
  ~FakeGateway() {
    ::shutdown(listener_.get(), SHUT_RDWR);  // ends an accept nobody came for
    thread_.join();
  }

 private:
  memory::UniqueFd listener_;
  std::thread thread_;
};

}  // namespace rdmaorder::control
