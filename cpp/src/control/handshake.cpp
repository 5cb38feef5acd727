#include "control/handshake.hpp"

#include <unistd.h>

#include <bit>

#include "control/authenticate.hpp"
#include "control/message.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

constexpr std::uint64_t kHeartbeatMaxNs = 3'600'000'000'000;
constexpr std::size_t kSessionNameMax = 64;

bool is_session_name(const std::string& name) {
  constexpr std::string_view allowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-";
  return !name.empty() && name.size() <= kSessionNameMax &&
         name.find_first_not_of(allowed) == std::string::npos;
}

bool is_slot_count(std::uint64_t count) {
  return count >= ring::kSlotCountMin && count <= ring::kSlotCountMax && std::has_single_bit(count);
}

[[noreturn]] void bad_request(const std::string& what) {
  throw Error(ErrorKind::kConfig, "connect: " + what);
}

std::uint32_t slot_count_of(const Message& message, const char* key) {
  const std::uint64_t count = message.number(key, ring::kSlotCountMin, ring::kSlotCountMax);
  if (!is_slot_count(count)) {
    throw Error(ErrorKind::kHandshake,
                std::string(key) + " = " + std::to_string(count) + " is not a power of two");
  }
  return static_cast<std::uint32_t>(count);
}

Granted read_grant(const Message& message, const ConnectRequest& request) {
  Granted granted;
  granted.gateway_version = message.text("gateway_version");
  granted.session_index =
      static_cast<std::uint32_t>(message.number("session_index", 0, UINT32_MAX));
  granted.order_slot_count = slot_count_of(message, "order_slot_count");
  granted.report_slot_count = slot_count_of(message, "report_slot_count");
  granted.cancel_reserve_count = static_cast<std::uint32_t>(
      message.number("cancel_reserve_count", 0, granted.order_slot_count - 1));
  (void)message.number("next_order_sequence", 1, kSequenceMax);  // Establish settles it
  granted.next_report_sequence = message.number("next_report_sequence", 1, kSequenceMax);
  granted.undelivered_report_sequence =
      message.has_number("undelivered_report_sequence")
          ? message.number("undelivered_report_sequence", 1, kSequenceMax)
          : granted.next_report_sequence;
  granted.heartbeat_interval_ns = message.number("heartbeat_interval_ns", 1, kHeartbeatMaxNs);
  granted.gateway_pid = static_cast<int>(message.number("pid", 0, INT32_MAX));
  const std::uint64_t slot_bytes = message.number("slot_bytes", 0, UINT32_MAX);
  if (slot_bytes != request.slot_bytes) {
    throw Error(ErrorKind::kHandshake, "slots of " + std::to_string(request.slot_bytes) +
                                           " bytes were asked for, the gateway grants " +
                                           std::to_string(slot_bytes) + "; ask for that size");
  }
  return granted;
}

/// A message that carries no descriptor.
Message receive_message(Channel& channel, const Deadline& deadline) {
  const Frame answer = channel.receive(deadline);
  if (!answer.descriptors.empty()) {
    throw Error(ErrorKind::kHandshake, "the answer carries a descriptor, which it never does");
  }
  return Message::parse(answer.body);
}

/// Answers the gateway's Challenge and returns what it says next. *gateway_proof: what its own must
/// be.
Message answer_challenge(Channel& channel, const ConnectRequest& request, const Message& challenge,
                         const Deadline& deadline, std::string* gateway_proof) {
  if (request.session_key.empty()) {
    throw Error(ErrorKind::kConfig,
                "the gateway has a key for this session and none was given here; connect with the "
                "key of its [sessions." +
                    request.session + "] table");
  }
  const std::string gateway_nonce = challenge.binary("nonce", kNonceBytes);
  const std::string client_nonce = random_nonce();
  const std::string binding = channel.binding();
  const ProofInput input{request.session, gateway_nonce, client_nonce, binding};
  *gateway_proof = proof_of(Prover::kGateway, request.session_key, input);
  channel.send(MessageWriter("Authenticate")
                   .binary("client_nonce", client_nonce)
                   .binary("mac", proof_of(Prover::kClient, request.session_key, input))
                   .frame(),
               -1, deadline);
  return receive_message(channel, deadline);
}

/// A gateway that did not ask for proof of the key, or has another, is not the one that was meant.
void check_gateway_proof(const ConnectRequest& request, const Message& response,
                         const std::string& expected) {
  if (request.session_key.empty()) return;
  if (expected.empty()) {
    throw Error(ErrorKind::kHandshake,
                "a session key was given and the gateway asked for none: it is another gateway, or "
                "its config lacks the table [sessions." +
                    request.session + "]");
  }
  if (!is_same_proof(response.binary("mac", kProofBytes), expected)) {
    throw Error(ErrorKind::kHandshake,
                "the gateway did not prove that it has the session's key; somebody else answers");
  }
}

}  // namespace

std::string where(const Channel& channel, const ConnectRequest& request, const char* step) {
  return "session " + request.session + ", " + step + " with the " + channel.peer() + ": ";
}

void expect_type(const Message& message, const char* wanted, const char* reject) {
  if (message.type() == reject) {
    const std::string code = message.text("code");
    throw Error(ErrorKind::kRefused, "the gateway refused, " + code + ": " + message.text("text"),
                0, code);
  }
  if (message.type() != wanted) {
    throw Error(ErrorKind::kHandshake,
                "expected " + std::string(wanted) + ", got '" + message.type() + "'");
  }
}

void check_request(const ConnectRequest& request) {
  if (!is_session_name(request.session)) {
    bad_request("session '" + request.session.substr(0, 80) +
                "' is not 1 to 64 characters of A-Z a-z 0-9 _ . : -");
  }
  if (!wire::is_valid_slot_bytes(request.slot_bytes)) {
    bad_request("slot_bytes = " + std::to_string(request.slot_bytes) +
                " is not a multiple of 64 from 64 to " + std::to_string(wire::kSlotBytesMax));
  }
  const std::string counts = " is not a power of two from " + std::to_string(ring::kSlotCountMin) +
                             " to " + std::to_string(ring::kSlotCountMax);
  if (!is_slot_count(request.order_slot_count)) {
    bad_request("order_slot_count = " + std::to_string(request.order_slot_count) + counts);
  }
  if (!is_slot_count(request.report_slot_count)) {
    bad_request("report_slot_count = " + std::to_string(request.report_slot_count) + counts);
  }
  if (request.next_order_sequence > kSequenceMax) {
    bad_request("next_order_sequence = " + std::to_string(request.next_order_sequence) +
                " is above " + std::to_string(kSequenceMax));
  }
  if (request.next_report_sequence > kSequenceMax) {
    bad_request("next_report_sequence = " + std::to_string(request.next_report_sequence) +
                " is above " + std::to_string(kSequenceMax));
  }
  if (!request.session_key.empty() && request.session_key.size() < kSessionKeyMinBytes) {
    bad_request("session_key has " + std::to_string(request.session_key.size()) +
                " bytes; a key has at least " + std::to_string(kSessionKeyMinBytes));
  }
  if (request.timeout_ns == 0) bad_request("timeout_ns = 0 leaves no time; give at least 1 ms");
}

Granted negotiate(Channel& channel, const ConnectRequest& request, const char* transport,
                  const Deadline& deadline) {
  const char* step = "Negotiate";
  const std::string frame = MessageWriter("Negotiate")
                                .text("protocol", "rdmaorder")
                                .number("protocol_version", kProtocolVersion)
                                .number("layout_version", kLayoutVersion)
                                .text("client_version", RDMAORDER_VERSION)
                                .text("session", request.session)
                                .text("transport", transport)
                                .number("schema_id", request.schema_id)
                                .number("schema_version", request.schema_version)
                                .number("slot_bytes", request.slot_bytes)
                                .number("order_slot_count", request.order_slot_count)
                                .number("report_slot_count", request.report_slot_count)
                                .text("flow", "Idempotent")
                                .number("timestamp_ns", realtime_ns())
                                .number("pid", static_cast<std::uint64_t>(::getpid()))
                                .frame();
  return in_step(channel, request, step, [&] {
    channel.send(frame, -1, deadline);
    std::string gateway_proof;
    Message answer = receive_message(channel, deadline);
    if (answer.type() == "Challenge") {
      answer = answer_challenge(channel, request, answer, deadline, &gateway_proof);
    }
    expect_type(answer, "NegotiationResponse", "NegotiationReject");
    check_gateway_proof(request, answer, gateway_proof);
    return read_grant(answer, request);
  });
}

}  // namespace rdmaorder::control
