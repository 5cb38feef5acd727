// One TLS connection over a non-blocking socket. OpenSSL works on memory, the socket is read and
// written here: no SIGPIPE, and every wait has a deadline.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>
#include <string_view>

#include "control/channel.hpp"
#include "control/tls.hpp"
#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::control {

struct TlsFree {
  void operator()(SSL_CTX* context) const noexcept { ::SSL_CTX_free(context); }
  void operator()(SSL* ssl) const noexcept { ::SSL_free(ssl); }
};
using TlsContext = std::unique_ptr<SSL_CTX, TlsFree>;

/// TLS 1.3 only, the peer's certificate demanded. Throws Error(kConfig) naming the file at fault.
TlsContext make_tls_context(const TlsSettings& settings);

/// What the newest failed call on `ssl` means, with the remedy; empties OpenSSL's error queue.
std::string describe_tls_error(const SSL* ssl);

class TlsStream {
 public:
  /// Ready for handshake(). Throws Error.
  TlsStream(memory::UniqueFd socket, const TlsSettings& settings);
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;
  ~TlsStream();

  void handshake(const Deadline& deadline);
  /// Sends all of it; returns also when the peer has closed. Throws Error: kTimeout, kSystem.
  void write(std::string_view data, const Deadline& deadline);

  /// Never waits. kData: *got bytes. Throws Error: kSystem, kHandshake (broken TLS).
  Got read_some(char* data, std::size_t bytes, std::size_t* got);

  /// The client's Finished message: a MAC over this very handshake and both certificates, which the
  /// gateway saw too. TLS 1.3 without resumption, so it is bound to this connection alone.
  [[nodiscard]] std::string binding() const;
  /// Its end says nothing to the peer.
  void disown() noexcept { peer_closed_ = true; }
  [[nodiscard]] int fd() const noexcept { return socket_.get(); }

 private:
  Got fill();
  bool flush_some();
  void flush(const Deadline& deadline);

  memory::UniqueFd socket_;
  TlsContext context_;
  std::unique_ptr<SSL, TlsFree> ssl_;
  std::string outgoing_;
  bool peer_closed_ = false;
};

}  // namespace rdmaorder::control
