// Starting a thread of the library's own: where there can be none, an Error that says what to do.
#pragma once

#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "rdmaorder/error.hpp"

namespace rdmaorder {

/// `what` names the thread in the message. Throws Error(kSystem).
template <class Run>
std::thread start_thread(const std::string& what, Run&& run) {
  try {
    return std::thread(std::forward<Run>(run));
  } catch (const std::system_error& error) {
    throw_errno("start", what, error.code().value(),
                "raise the limit of threads: ulimit -u, TasksMax= in the systemd unit, pids.max "
                "of the cgroup (--pids-limit for a container)");
  }
}

}  // namespace rdmaorder
