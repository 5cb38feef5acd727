// TLS 1.3 for the control plane over TCP.
#pragma once

#include <memory>
#include <string>

#include "control/channel.hpp"

namespace rdmaorder::control {

struct TlsSettings {
  std::string ca;           ///< PEM file of who may have signed the gateway's certificate
  std::string certificate;  ///< PEM file of the own certificate, empty: none
  std::string key;          ///< PEM file of its key
  std::string name;         ///< name or IP address that the gateway's certificate must carry
};

/// Shakes hands over `socket` (connected, non-blocking) and gives frames inside TLS. Throws Error:
/// kConfig (a file that cannot be used), kHandshake (not TLS, a certificate refused by either
/// side), kTimeout, kSystem.
std::unique_ptr<Channel> make_tls_channel(memory::UniqueFd socket, std::string peer,
                                          const TlsSettings& settings, const Deadline& deadline);

}  // namespace rdmaorder::control
