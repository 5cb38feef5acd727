// A fork copies a session and shares its link: socket, windows and queue pair are the parent's. The
// child's copy lets go of them before the child can use it; nothing of this is on the order path.
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rdmaorder/error.hpp"
#include "session/session_registry.hpp"

namespace rdmaorder {

void Session::enlist() {
  SessionRegistry& registry = SessionRegistry::get();
  static const int error =
      ::pthread_atfork([] { SessionRegistry::get().mutex.lock(); },
                       [] { SessionRegistry::get().mutex.unlock(); }, &SessionRegistry::in_child);
  if (error != 0) throw_errno("watch forks of", "this process", error);
  foreign_cause_ =
      "this session belongs to process " + std::to_string(::getpid()) + "; connect in this one";
  const std::lock_guard lock(registry.mutex);
  registry.sessions.push_back(this);
}

void Session::delist() noexcept {
  SessionRegistry& registry = SessionRegistry::get();
  const std::lock_guard lock(registry.mutex);
  std::erase(registry.sessions, this);
}

void Session::become_foreign() noexcept {
  foreign_ = true;
  state_ = LinkState::kDead;
  gate_ = Status::kClosed;
  // Reports that come are the parent's: here the ring stays empty. Memory registered with a device
  // may be gone from the child altogether; there is some again.
  const memory::Window& window = established_.report_window;
  if (!window) return;
  (void)::mmap(window.data(), window.bytes(), PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

}  // namespace rdmaorder
