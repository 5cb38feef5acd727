#include "control/tls_stream.hpp"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>

#include <cerrno>

#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

constexpr std::size_t kReadBytes = 16 * 1024;
constexpr std::size_t kFinishedMaxBytes = 64;
/// What TLS itself may owe a peer that reads nothing.
constexpr std::size_t kOwedMaxBytes = 2 * std::size_t{kMaxFrameBytes};

/// The certificate must carry the name or address, in its subjectAltName; the subject is not looked
/// at, nor is a wildcard within a label taken.
void expect_name(SSL* ssl, const std::string& name) {
  X509_VERIFY_PARAM* parameters = ::SSL_get0_param(ssl);
  ::X509_VERIFY_PARAM_set_hostflags(
      parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  if (::X509_VERIFY_PARAM_set1_ip_asc(parameters, name.c_str()) == 1) return;
  ::ERR_clear_error();
  if (::X509_VERIFY_PARAM_set1_host(parameters, name.c_str(), name.size()) != 1 ||
      SSL_set_tlsext_host_name(ssl, name.c_str()) != 1) {
    throw Error(ErrorKind::kConfig, "tls_name '" + name.substr(0, 80) + "' is no name of a host");
  }
}

}  // namespace

TlsStream::TlsStream(memory::UniqueFd socket, const TlsSettings& settings)
    : socket_(std::move(socket)),
      context_(make_tls_context(settings)),
      ssl_(::SSL_new(context_.get())) {
  BIO* incoming = ::BIO_new(::BIO_s_mem());
  BIO* outgoing = ::BIO_new(::BIO_s_mem());
  if (!ssl_ || incoming == nullptr || outgoing == nullptr) {
    ::BIO_free(incoming);
    ::BIO_free(outgoing);
    throw Error(ErrorKind::kSystem, "no memory for a TLS connection", ENOMEM);
  }
  ::SSL_set_bio(ssl_.get(), incoming, outgoing);
  ::SSL_set_connect_state(ssl_.get());
  expect_name(ssl_.get(), settings.name);
}

/// Tells the peer that nothing more comes, unless that would have to wait.
TlsStream::~TlsStream() {
  if (peer_closed_ || ::SSL_is_init_finished(ssl_.get()) == 0) return;
  (void)::SSL_shutdown(ssl_.get());
  ::ERR_clear_error();
  try {
    (void)flush_some();
  } catch (...) {  // the socket is closed right after
  }
}

void TlsStream::handshake(const Deadline& deadline) {
  for (;;) {
    ::ERR_clear_error();
    const int done = ::SSL_do_handshake(ssl_.get());
    const int problem = ::SSL_get_error(ssl_.get(), done);
    flush(deadline);  // also the alert that says why
    if (done == 1) return;
    if (problem != SSL_ERROR_WANT_READ) {
      throw Error(ErrorKind::kHandshake, describe_tls_error(ssl_.get()));
    }
    await_ready(socket_.get(), POLLIN, deadline);
    if (fill() == Got::kClosed) {
      throw Error(ErrorKind::kHandshake,
                  "the connection was closed during the TLS handshake; see the gateway's log (a "
                  "gateway with tls = \"off\" wants tls=off here too)");
    }
  }
}

void TlsStream::write(std::string_view data, const Deadline& deadline) {
  std::size_t written = 0;
  ::ERR_clear_error();
  if (::SSL_write_ex(ssl_.get(), data.data(), data.size(), &written) != 1) {
    if (::SSL_get_error(ssl_.get(), 0) == SSL_ERROR_ZERO_RETURN || peer_closed_) return;
    throw Error(ErrorKind::kHandshake, describe_tls_error(ssl_.get()));
  }
  flush(deadline);  // memory took it all: control frames are one record or a few
}

Got TlsStream::read_some(char* data, std::size_t bytes, std::size_t* got) {
  for (bool filled = false;; filled = true) {
    ::ERR_clear_error();
    if (::SSL_read_ex(ssl_.get(), data, bytes, got) == 1) return Got::kData;
    const int problem = ::SSL_get_error(ssl_.get(), 0);
    if (!flush_some() && outgoing_.size() > kOwedMaxBytes) {  // what TLS itself has to say
      throw Error(ErrorKind::kHandshake, "it asks for new keys on and on and reads no answer");
    }
    if (problem == SSL_ERROR_ZERO_RETURN) {
      peer_closed_ = true;
      return Got::kClosed;
    }
    if (problem != SSL_ERROR_WANT_READ) {
      throw Error(ErrorKind::kHandshake, describe_tls_error(ssl_.get()));
    }
    // TLS kept all of it, a key update say: with more of them the caller's time would never be up.
    if (filled) return Got::kNothing;
    const Got state = fill();
    if (state != Got::kData) return state;
  }
}

std::string TlsStream::binding() const {
  std::string finished(kFinishedMaxBytes, '\0');
  const std::size_t bytes = ::SSL_get_finished(ssl_.get(), finished.data(), finished.size());
  finished.resize(std::min(bytes, finished.size()));
  return finished;
}

/// From the socket to OpenSSL, once.
Got TlsStream::fill() {
  char buffer[kReadBytes];
  std::size_t got = 0;
  const Got state = receive_some(socket_.get(), buffer, sizeof buffer, &got);
  if (state == Got::kClosed) peer_closed_ = true;
  // Memory takes it whole or there is no memory left.
  const int bytes = static_cast<int>(got);
  if (state == Got::kData && ::BIO_write(::SSL_get_rbio(ssl_.get()), buffer, bytes) != bytes) {
    throw Error(ErrorKind::kSystem, "no memory for what the gateway sent", ENOMEM);
  }
  return state;
}

/// From OpenSSL to the socket as far as it goes without waiting. True when nothing is left.
bool TlsStream::flush_some() {
  BIO* source = ::SSL_get_wbio(ssl_.get());
  char* pending = nullptr;
  const long bytes = BIO_get_mem_data(source, &pending);
  if (bytes > 0) {
    outgoing_.append(pending, static_cast<std::size_t>(bytes));
    (void)BIO_reset(source);
  }
  return send_some(socket_.get(), &outgoing_);
}

void TlsStream::flush(const Deadline& deadline) {
  while (!flush_some()) await_ready(socket_.get(), POLLOUT, deadline);
}

}  // namespace rdmaorder::control
