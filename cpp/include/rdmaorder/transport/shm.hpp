// Shared-memory transport: the peer's window is mapped here, a put is stores.
#pragma once

#include <memory>

#include "rdmaorder/memory/window.hpp"
#include "rdmaorder/transport/transport.hpp"

namespace rdmaorder::transport {

/// Takes ownership of the mapping of the peer's window. byte_order is kAscendingLine: the last word
/// of each 64-byte line is a release store after the others.
std::unique_ptr<Transport> make_shm(memory::Window peer_window);

}  // namespace rdmaorder::transport
