#include "control/authenticate.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstdint>

#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

void append_u32(std::string& data, std::uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) data.push_back(static_cast<char>(value >> shift));
}

/// Names have at most 64 bytes and bindings 64.
void append_counted(std::string& data, std::string_view part) {
  data.push_back(static_cast<char>(part.size()));
  data.append(part);
}

}  // namespace

std::string random_nonce() {
  std::string nonce(kNonceBytes, '\0');
  auto* bytes = reinterpret_cast<unsigned char*>(nonce.data());
  if (::RAND_bytes(bytes, static_cast<int>(kNonceBytes)) != 1) {
    throw Error(ErrorKind::kSystem, "OpenSSL has no random bytes on this machine");
  }
  return nonce;
}

std::string proof_of(Prover prover, std::string_view key, const ProofInput& input) {
  std::string data(prover == Prover::kClient ? "rdmaorder client" : "rdmaorder server");
  append_u32(data, kProtocolVersion);
  append_u32(data, kLayoutVersion);
  append_counted(data, input.session);
  data.append(input.gateway_nonce).append(input.client_nonce);
  append_counted(data, input.binding);

  std::string proof(kProofBytes, '\0');
  unsigned int bytes = 0;
  if (::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(data.data()), data.size(),
             reinterpret_cast<unsigned char*>(proof.data()), &bytes) == nullptr ||
      bytes != kProofBytes) {
    throw Error(ErrorKind::kSystem, "OpenSSL has no HMAC-SHA256");
  }
  return proof;
}

bool is_same_proof(std::string_view one, std::string_view other) noexcept {
  return one.size() == other.size() && ::CRYPTO_memcmp(one.data(), other.data(), one.size()) == 0;
}

}  // namespace rdmaorder::control
