// Every session of this process, for a fork. The mutex is held over it, so that the child finds
// whole what Session::become_foreign touches: set-up code that changes it holds the mutex too.
#pragma once

#include <mutex>
#include <vector>

#include "rdmaorder/session.hpp"

namespace rdmaorder {

struct SessionRegistry {
  std::mutex mutex;
  std::vector<Session*> sessions;

  static SessionRegistry& get() {
    static SessionRegistry& registry = *new SessionRegistry;  // outlives every session
    return registry;
  }
  static void in_child() {
    for (Session* session : get().sessions) session->become_foreign();
    get().mutex.unlock();
  }
};

}  // namespace rdmaorder
