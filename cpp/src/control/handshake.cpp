#include "control/handshake.hpp"

#include <unistd.h>

#include <bit>

#include "control/message.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

/// Status line and ring on pages of their own.
constexpr std::uint64_t kReportRingOffsetBytes = kPageBytes;
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

/// "session alpha, Negotiate with the gateway at /run/gw.sock: "
std::string where(const Channel& channel, const ConnectRequest& request, const char* step) {
  return "session " + request.session + ", " + step + " with the " + channel.peer() + ": ";
}

/// Receives the answer to `step`: a message of type `wanted`, or `reject` as Error(kRefused).
Message receive_answer(Frame& frame, const char* wanted, const char* reject) {
  Message message = Message::parse(frame.body);
  if (message.type() == reject) {
    const std::string code = message.text("code");
    throw Error(ErrorKind::kRefused, "the gateway refused, " + code + ": " + message.text("text"),
                0, code);
  }
  if (message.type() != wanted) {
    throw Error(ErrorKind::kHandshake,
                "expected " + std::string(wanted) + ", got '" + message.type() + "'");
  }
  return message;
}

/// Runs `body`; what it throws gets the session, step and gateway in front.
template <typename Body>
auto in_step(const Channel& channel, const ConnectRequest& request, const char* step, Body body) {
  try {
    return body();
  } catch (const Error& error) {
    throw Error(error.kind(), where(channel, request, step) + error.what(), error.error_number(),
                error.code());
  }
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

void read_ack(const Message& message, const ConnectRequest& request, const Granted& granted,
              Frame& frame, Established& link) {
  link.epoch = message.number("epoch", 1, UINT64_MAX);
  link.next_order_sequence = message.number("next_order_sequence", 1, kSequenceMax);
  link.next_report_sequence = message.number("next_report_sequence", 1, kSequenceMax);
  link.not_applied_count = message.number("not_applied_count", 0, kSequenceMax);
  const Message::Window window = message.window();
  if (window.geometry.slot_bytes != request.slot_bytes ||
      window.geometry.slot_count != granted.order_slot_count) {
    throw Error(ErrorKind::kHandshake,
                "the order window holds " + std::to_string(window.geometry.slot_count) +
                    " slots of " + std::to_string(window.geometry.slot_bytes) + " bytes, granted " +
                    "were " + std::to_string(granted.order_slot_count) + " of " +
                    std::to_string(request.slot_bytes));
  }
  if (frame.descriptors.size() != 1) {
    throw Error(ErrorKind::kHandshake, "EstablishmentAck came with " +
                                           std::to_string(frame.descriptors.size()) +
                                           " descriptors instead of one");
  }
  link.order_geometry = window.geometry;
  link.order_window = memory::Window::map_peer(std::move(frame.descriptors.front()), window.bytes);
}

}  // namespace

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
    Frame answer = channel.receive(deadline);
    if (!answer.descriptors.empty()) {
      throw Error(ErrorKind::kHandshake, "the answer carries a descriptor, which it never does");
    }
    return read_grant(receive_answer(answer, "NegotiationResponse", "NegotiationReject"), request);
  });
}

Established establish_shm(Channel& channel, const ConnectRequest& request, const Granted& granted,
                          const Deadline& deadline) {
  Established link;
  link.session_index = granted.session_index;
  link.cancel_reserve_count = granted.cancel_reserve_count;
  link.heartbeat_interval_ns = granted.heartbeat_interval_ns;
  link.gateway_version = granted.gateway_version;
  link.gateway_pid = granted.gateway_pid;
  link.report_geometry = {kReportRingOffsetBytes, request.slot_bytes, granted.report_slot_count};

  memory::WindowConfig config;
  config.bytes = link.report_geometry.window_bytes();
  config.huge_pages = request.huge_pages;
  config.name = "rdmaorder-reports:" + request.session;
  link.report_window = memory::Window::create(config);

  const std::string frame = MessageWriter("Establish")
                                .text("session", request.session)
                                .number("next_order_sequence", request.next_order_sequence)
                                .number("next_report_sequence", granted.next_report_sequence)
                                .window(link.report_geometry, link.report_window.bytes())
                                .frame();
  in_step(channel, request, "Establish", [&] {
    channel.send(frame, link.report_window.fd(), deadline);
    Frame answer = channel.receive(deadline);
    read_ack(receive_answer(answer, "EstablishmentAck", "EstablishmentReject"), request, granted,
             answer, link);
  });
  return link;
}

}  // namespace rdmaorder::control
