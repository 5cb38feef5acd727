// What TLS is told to accept, and what its errors mean.
#include <openssl/err.h>
#include <openssl/x509_vfy.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "control/tls_stream.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

/// Newest reason in OpenSSL's error queue, which is empty then.
std::string newest_reason() {
  const unsigned long code = ::ERR_peek_last_error();
  ::ERR_clear_error();
  const char* reason = code == 0 ? nullptr : ::ERR_reason_error_string(code);
  return reason == nullptr ? "no reason given" : reason;
}

[[noreturn]] void bad_file(const char* option, const std::string& path, const char* expected) {
  const std::ifstream readable(path);
  const std::string why = readable ? newest_reason() : std::strerror(errno);
  ::ERR_clear_error();
  throw Error(ErrorKind::kConfig, std::string(option) + " = " + path + ": cannot be used (" + why +
                                      "); give the path of a PEM file with " + expected);
}

std::string describe_untrusted(long verdict) {
  const std::string what = std::string("the gateway's certificate is refused: ") +
                           ::X509_verify_cert_error_string(verdict);
  switch (verdict) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return what + "; renew it, or set this machine's clock";
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return what + "; connect by a name in its subjectAltName, or give that name as tls_name";
    default:
      return what + "; give the CA that signed it as tls_ca";
  }
}

}  // namespace

TlsContext make_tls_context(const TlsSettings& settings) {
  ::ERR_clear_error();
  TlsContext context(::SSL_CTX_new(::TLS_client_method()));
  if (!context || SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) != 1) {
    throw Error(ErrorKind::kSystem, "OpenSSL cannot do TLS 1.3: " + newest_reason());
  }
  // Nothing is resumed: each connection has a handshake, and so a binding, of its own.
  ::SSL_CTX_set_options(context.get(), SSL_OP_NO_TICKET);
  (void)SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  ::SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (::SSL_CTX_load_verify_locations(context.get(), settings.ca.c_str(), nullptr) != 1) {
    bad_file("tls_ca", settings.ca, "the CA's certificate");
  }
  if (settings.certificate.empty()) return context;
  if (::SSL_CTX_use_certificate_chain_file(context.get(), settings.certificate.c_str()) != 1) {
    bad_file("tls_certificate", settings.certificate, "this side's certificate");
  }
  if (::SSL_CTX_use_PrivateKey_file(context.get(), settings.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    bad_file("tls_key", settings.key, "the key of tls_certificate, without a passphrase");
  }
  return context;
}

std::string describe_tls_error(const SSL* ssl) {
  const unsigned long code = ::ERR_peek_last_error();
  const long verdict = ::SSL_get_verify_result(ssl);
  const std::string reason = newest_reason();
  if (verdict != X509_V_OK) return describe_untrusted(verdict);
  switch (ERR_GET_REASON(code)) {
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_HTTP_REQUEST:
      return "it does not speak TLS (" + reason +
             "); check the port, and where the gateway's config says tls = \"off\" add tls=off to "
             "the URL";
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
      return "the gateway demands a certificate; give tls_certificate and tls_key";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
      return "the gateway refuses the certificate in tls_certificate (" + reason +
             "); its tls_client_ca must have signed it";
    default:
      return "TLS failed: " + reason + "; see the gateway's log";
  }
}

}  // namespace rdmaorder::control
