// Negotiate and Establish on the strategy's side, over any Channel.
#pragma once

#include <string>

#include "control/channel.hpp"
#include "control/message.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {

/// What NegotiationResponse granted, checked against what was asked.
struct Granted {
  std::string gateway_version;
  std::uint32_t session_index = 0;
  std::uint32_t order_slot_count = 0;
  std::uint32_t report_slot_count = 0;
  std::uint32_t cancel_reserve_count = 0;
  std::uint64_t next_report_sequence = 1;
  std::uint64_t undelivered_report_sequence = 1;
  std::uint64_t heartbeat_interval_ns = 0;
  int gateway_pid = 0;
};

/// Throws Error(kConfig) naming the first field of `request` that is out of its range.
void check_request(const ConnectRequest& request);

/// Agrees on the session, proving the session's key where it has one. `transport` names how the
/// windows will be reached ("shm", "rdma"). Throws Error: kRefused with the gateway's code,
/// kHandshake, kTimeout, kSystem.
Granted negotiate(Channel& channel, const ConnectRequest& request, const char* transport,
                  const Deadline& deadline);

/// Makes the report window, exchanges windows as descriptors and maps the gateway's. Leaves
/// `connection` empty. Throws as negotiate, and Error(kSystem) when memory is short.
Established establish_shm(Channel& channel, const ConnectRequest& request, const Granted& granted,
                          const Deadline& deadline);

/// Makes the report window, exchanges endpoints and addresses through `maker`, and tells the
/// gateway when the link may be written to. `terms` has options and addresses; the rest is filled
/// in here. Leaves `connection` empty. Throws as establish_shm, and what `maker` throws.
Established establish_rdma(Channel& channel, const ConnectRequest& request, const Granted& granted,
                           LinkMaker& maker, LinkTerms terms, const Deadline& deadline);

/// "session alpha, Negotiate with the gateway at /run/gw.sock: "
std::string where(const Channel& channel, const ConnectRequest& request, const char* step);

/// Throws Error unless `message` is a `wanted`; kRefused with its code when it is a `reject`.
void expect_type(const Message& message, const char* wanted, const char* reject);

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

}  // namespace rdmaorder::control
