#include <cstdio>

#include "control/channel.hpp"
#include "control/handshake.hpp"
#include "control/tcp_socket.hpp"
#include "control/tls.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

Established connect_shm(const ConnectRequest& request, const Url& url, const Deadline& deadline) {
  const std::unique_ptr<Channel> channel = connect_unix(url.path, deadline);
  const Granted granted = negotiate(*channel, request, "shm", deadline);
  Established link = establish_shm(*channel, request, granted, deadline);
  link.connection = channel->release();
  return link;
}

bool is_without_tls(const Url& url) { return url.text("tls", "on") == "off"; }

/// Checked before anything is connected.
TlsSettings tls_settings(const ConnectRequest& request, const Url& url) {
  TlsSettings settings;
  settings.ca = url.text("tls_ca", request.tls_ca);
  settings.certificate = url.text("tls_certificate", request.tls_certificate);
  settings.key = url.text("tls_key", request.tls_key);
  settings.name = url.text("tls_name", request.tls_name.empty() ? url.host : request.tls_name);
  if (settings.ca.empty()) {
    throw Error(ErrorKind::kConfig,
                "connect to " + request.url +
                    ": tls_ca is not given; name the PEM file of the CA that signed the gateway's "
                    "certificate (?tls_ca=FILE), or tls=off where the gateway's config says so");
  }
  if (settings.certificate.empty() != settings.key.empty()) {
    throw Error(ErrorKind::kConfig, "connect to " + request.url +
                                        ": tls_certificate and tls_key belong together; give both "
                                        "or none");
  }
  return settings;
}

std::unique_ptr<Channel> open_tcp_channel(TcpSocket socket, const ConnectRequest& request,
                                          const Url& url, const Deadline& deadline) {
  const std::string peer = tcp_peer_name(url);
  if (is_without_tls(url)) {
    std::fprintf(stderr,
                 "rdmaorder: WARNING: session %s to the %s without TLS (tls=off): anyone on the "
                 "network can read, change and forge this control connection\n",
                 request.session.c_str(), peer.c_str());
    return make_plain_channel(std::move(socket.fd), peer);
  }
  const TlsSettings settings = tls_settings(request, url);
  try {
    return make_tls_channel(std::move(socket.fd), peer, settings, deadline);
  } catch (const Error& error) {
    throw Error(error.kind(),
                "session " + request.session + ", TLS with the " + peer + ": " + error.what(),
                error.error_number(), error.code());
  }
}

Established connect_rdma(const ConnectRequest& request, const Url& url, LinkMaker* maker,
                         const Deadline& deadline) {
  if (maker == nullptr) {
    throw Error(ErrorKind::kConfig,
                "URL '" + request.url + "' asks for RDMA, which this program does not bring");
  }
  if (!is_without_tls(url)) (void)tls_settings(request, url);
  TcpSocket socket = connect_tcp(url, deadline);
  LinkTerms terms;
  terms.options = url.options;
  terms.local_address = socket.local_address;
  terms.peer_address = socket.peer_address;
  const std::unique_ptr<Channel> channel =
      open_tcp_channel(std::move(socket), request, url, deadline);
  const Granted granted = negotiate(*channel, request, "rdma", deadline);
  Established link = establish_rdma(*channel, request, granted, *maker, std::move(terms), deadline);
  link.connection = channel->release();
  return link;
}

}  // namespace

Established connect(const ConnectRequest& request, LinkMaker* maker) {
  check_request(request);
  const Url url = parse_url(request.url);
  const Deadline deadline(request.timeout_ns);
  if (url.scheme == "rdma") return connect_rdma(request, url, maker, deadline);
  return connect_shm(request, url, deadline);
}

}  // namespace rdmaorder::control
