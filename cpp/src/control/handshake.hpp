// Negotiate and Establish on the strategy's side, over any Channel.
#pragma once

#include "control/channel.hpp"
#include "rdmaorder/control.hpp"

namespace rdmaorder::control {

/// What NegotiationResponse granted, checked against what was asked.
struct Granted {
  std::string gateway_version;
  std::uint32_t session_index = 0;
  std::uint32_t order_slot_count = 0;
  std::uint32_t report_slot_count = 0;
  std::uint32_t cancel_reserve_count = 0;
  std::uint64_t next_report_sequence = 1;
  std::uint64_t heartbeat_interval_ns = 0;
  int gateway_pid = 0;
};

/// Throws Error(kConfig) naming the first field of `request` that is out of its range.
void check_request(const ConnectRequest& request);

/// Agrees on the session. `transport` names how the windows will be reached ("shm").
/// Throws Error: kRefused with the gateway's code, kHandshake, kTimeout, kSystem.
Granted negotiate(Channel& channel, const ConnectRequest& request, const char* transport,
                  const Deadline& deadline);

/// Makes the report window, exchanges windows as descriptors and maps the gateway's. Leaves
/// `socket` empty. Throws as negotiate, and Error(kSystem) when memory is short.
Established establish_shm(Channel& channel, const ConnectRequest& request, const Granted& granted,
                          const Deadline& deadline);

}  // namespace rdmaorder::control
