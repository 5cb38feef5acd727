// In-process transport: the peer's window belongs to the same process. For tests, and for a
// strategy that lives inside its gateway.
#pragma once

#include <memory>

#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/transport/transport.hpp"

namespace rdmaorder::transport {

/// `peer_window` is shared with its owner, so that it outlives the transport.
std::unique_ptr<Transport> make_inproc(std::shared_ptr<memory::Window> peer_window);

}  // namespace rdmaorder::transport
