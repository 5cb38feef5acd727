// Proof that both sides have a session's key, without sending it.
//
// HMAC-SHA256 under the key over, in this order:
//   16 bytes  "rdmaorder client" (the strategy's proof) or "rdmaorder server" (the gateway's)
//    4 bytes  protocol version, u32 little-endian
//    4 bytes  layout version, u32 little-endian
//    1 byte   length of the session's name, and the name
//   32 bytes  nonce of the gateway
//   32 bytes  nonce of the strategy
//    1 byte   length of the channel's binding, and the binding
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace rdmaorder::control {

inline constexpr std::size_t kNonceBytes = 32;
inline constexpr std::size_t kProofBytes = 32;

struct ProofInput {
  std::string_view session;
  std::string_view gateway_nonce;
  std::string_view client_nonce;
  std::string_view binding;
};

enum class Prover { kClient, kGateway };

/// kNonceBytes from the system's random source. Throws Error(kSystem) when it has none.
std::string random_nonce();

/// The kProofBytes that `prover` sends.
std::string proof_of(Prover prover, std::string_view key, const ProofInput& input);

/// Takes the same time wherever the two differ.
bool is_same_proof(std::string_view one, std::string_view other) noexcept;

}  // namespace rdmaorder::control
