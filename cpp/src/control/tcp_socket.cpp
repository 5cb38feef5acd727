#include "control/tcp_socket.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <future>
#include <vector>

#include "base/start_thread.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

using memory::UniqueFd;

// A host that falls silent is noticed after about four seconds: probes after one second of silence,
// one a second, three unanswered. Bytes sent may stay unacknowledged for as long, a SYN among them.
constexpr int kKeepIdleS = 1;
constexpr int kKeepIntervalS = 1;
constexpr int kKeepCount = 3;
constexpr unsigned kUserTimeoutMs = 4000;

struct Address {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
  [[nodiscard]] const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

struct Resolved {
  int status = 0;  ///< of getaddrinfo
  int error_number = 0;
  std::vector<Address> addresses;
};

Resolved look_up(const std::string& host, std::uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags;
  addrinfo* list = nullptr;
  Resolved result;
  result.status = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
  result.error_number = result.status == EAI_SYSTEM ? errno : 0;
  if (result.status != 0) return result;
  for (const addrinfo* each = list; each != nullptr; each = each->ai_next) {
    Address& address = result.addresses.emplace_back();
    std::copy_n(reinterpret_cast<const char*>(each->ai_addr), each->ai_addrlen,
                reinterpret_cast<char*>(&address.storage));
    address.bytes = each->ai_addrlen;
  }
  ::freeaddrinfo(list);
  return result;
}

[[noreturn]] void throw_timeout(const Url& url, const char* what, const Deadline& deadline,
                                const char* remedy) {
  throw Error(ErrorKind::kTimeout, "connect to " + tcp_peer_name(url) + ": " + what + " within " +
                                       std::to_string(deadline.timeout_ns() / 1'000'000) + " ms; " +
                                       remedy);
}

/// getaddrinfo knows no deadline: for a name it runs in a thread of its own, which is left behind
/// when time is up.
std::vector<Address> resolve(const Url& url, const Deadline& deadline) {
  Resolved resolved = look_up(url.host, url.port, AI_NUMERICHOST);
  const bool is_name = url.host.find(':') == std::string::npos;  // no IPv6 address
  if (resolved.status == EAI_NONAME && is_name) {
    auto promise = std::make_shared<std::promise<Resolved>>();
    std::future<Resolved> answer = promise->get_future();
    start_thread("a thread to resolve " + url.host, [promise, host = url.host, port = url.port] {
      promise->set_value(look_up(host, port, AI_ADDRCONFIG));
    }).detach();
    while (answer.wait_for(std::chrono::milliseconds(deadline.slice_ms())) !=
           std::future_status::ready) {
      if (deadline.remaining_ms() == 0) {
        throw_timeout(url, "the name was not resolved", deadline,
                      "check the name and its server, or give an IP address");
      }
    }
    resolved = answer.get();
  }
  if (resolved.status != 0) {
    throw Error(ErrorKind::kSystem,
                "connect to " + tcp_peer_name(url) + ": host " + url.host + ": " +
                    ::gai_strerror(resolved.status) + "; check the name or give an IP address",
                resolved.error_number);
  }
  return std::move(resolved.addresses);
}

void set_option(int fd, int level, int name, int value) {
  if (::setsockopt(fd, level, name, &value, sizeof value) != 0) {
    throw_errno("set an option of", "the control socket", errno);
  }
}

void set_options(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, kKeepIdleS);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, kKeepIntervalS);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepCount);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(kUserTimeoutMs));
}

/// 0, or the errno of the attempt; ETIMEDOUT after `wait_ms`. Throws Error(kInterrupted).
int try_connect(int fd, const Address& address, int wait_ms) {
  if (::connect(fd, address.get(), address.bytes) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  const Deadline attempt(static_cast<std::uint64_t>(wait_ms) * 1'000'000);
  pollfd entry{fd, POLLOUT, 0};
  int ready = 0;
  do {
    ready = ::poll(&entry, 1, attempt.slice_ms());
  } while (ready == 0 ? attempt.remaining_ms() > 0 : ready < 0 && errno == EINTR);
  if (ready <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t bytes = sizeof error;
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) == 0 ? error : errno;
}

/// The first of the addresses that answers, else none; `error`: 0, or the errno of the last one.
UniqueFd connect_to_any(const std::vector<Address>& addresses, const Deadline& deadline,
                        int* error) {
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    UniqueFd fd(::socket(addresses[i].storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                         IPPROTO_TCP));
    if (!fd) {
      *error = errno;
      continue;
    }
    set_options(fd.get());
    // An address that swallows packets leaves time for those after it.
    const auto left = static_cast<int>(addresses.size() - i);
    *error = try_connect(fd.get(), addresses[i], std::max(1, deadline.remaining_ms() / left));
    if (*error == 0) return fd;
  }
  return {};
}

std::string numeric(int fd, int (*name_of)(int, sockaddr*, socklen_t*)) {
  Address address;
  address.bytes = sizeof address.storage;
  char host[NI_MAXHOST] = {};
  if (name_of(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.bytes) != 0 ||
      ::getnameinfo(address.get(), address.bytes, host, sizeof host, nullptr, 0, NI_NUMERICHOST) !=
          0) {
    return {};
  }
  const std::string text(host);
  return text.starts_with("::ffff:") ? text.substr(7) : text;  // IPv4 in an IPv6 socket
}

const char* remedy_of(int error) {
  switch (error) {
    case ECONNREFUSED:
      return "nobody listens on that port: is the gateway running with this address in listen?";
    case EHOSTUNREACH:
    case ENETUNREACH:
      return "there is no route: check the address, the interface and the firewall";
    case EADDRNOTAVAIL:
      return "this machine has no address of that kind; check the interface";
    case EINVAL:
      return "a link-local address needs its interface: [fe80::1%eth0]";
    default:
      return "check the address and the firewall";
  }
}

}  // namespace

std::string tcp_peer_name(const Url& url) {
  const bool bare = url.host.find(':') == std::string::npos;
  return "gateway at " + (bare ? url.host : "[" + url.host + "]") + ":" + std::to_string(url.port);
}

TcpSocket connect_tcp(const Url& url, const Deadline& deadline) {
  const std::vector<Address> addresses = resolve(url, deadline);
  int error = ENOENT;
  UniqueFd fd;
  do {  // the kernel gives an attempt up after kUserTimeoutMs
    fd = connect_to_any(addresses, deadline, &error);
  } while (error == ETIMEDOUT && deadline.remaining_ms() > 0);
  if (fd) {
    TcpSocket made;
    made.local_address = numeric(fd.get(), ::getsockname);
    made.peer_address = numeric(fd.get(), ::getpeername);
    made.fd = std::move(fd);
    return made;
  }
  if (error == ETIMEDOUT) throw_timeout(url, "nobody answered", deadline, remedy_of(error));
  throw_errno("connect to", tcp_peer_name(url), error, remedy_of(error));
}

}  // namespace rdmaorder::control
