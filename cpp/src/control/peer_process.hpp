// Whether the process at the other end of a Unix socket is on its way out.
#pragma once

#include <sys/types.h>

namespace rdmaorder::control {

/// The process that listens at the other end, in this process' namespace (SO_PEERCRED, unix(7)); 0
/// where that cannot be told, as on a TCP socket.
pid_t peer_pid(int socket_fd) noexcept;

/// True when every thread of `pid` is exiting or killed, so that its code has come to its end. The
/// kernel marks the threads first, then takes the memory down and closes the sockets: for a process
/// with much memory, milliseconds later. False for 0, and for what /proc does not show. A few
/// system calls; one more for each thread only when the first one is exiting.
bool is_exiting(pid_t pid) noexcept;

}  // namespace rdmaorder::control
