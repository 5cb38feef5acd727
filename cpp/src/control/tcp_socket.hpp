// TCP under the control plane of rdma:// links.
#pragma once

#include <string>

#include "control/channel.hpp"
#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::control {

struct TcpSocket {
  memory::UniqueFd fd;
  std::string local_address;  ///< numeric, without port
  std::string peer_address;   ///< numeric, without port
};

/// Resolves `url.host` and connects to the first of its addresses that answers. The socket is
/// non-blocking, without Nagle's delay, and fails within seconds when the other host falls silent.
/// Throws Error: kSystem (unknown host, nobody listens …), kTimeout.
TcpSocket connect_tcp(const Url& url, const Deadline& deadline);

/// "gateway at HOST:PORT", the host in brackets where it holds a colon.
std::string tcp_peer_name(const Url& url);

}  // namespace rdmaorder::control
