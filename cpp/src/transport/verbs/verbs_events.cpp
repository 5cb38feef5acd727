#include "transport/verbs/verbs_events.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "base/start_thread.hpp"
#include "rdmaorder/memory/unique_fd.hpp"

namespace rdmaorder::transport {
namespace {

struct Watched {
  const VerbsApi* api;
  ibv_context* context;
  EventSink* sink;
  std::uint64_t number = 0;  ///< of each watch; descriptors and addresses are used again
};

/// A thread started meanwhile inherits this: signals belong to the program's own threads (Python's
/// main thread).
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

class Watcher {
 public:
  /// A constructor that throws has watched nothing.
  explicit Watcher(const Watched& first)
      : wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), watched_{first} {
    if (!wake_) throw_errno("create", "an eventfd for RDMA events", errno);
    start();
  }

  void add(const Watched& watched) {
    const std::lock_guard lock(mutex_);
    watched_.push_back(watched);
    watched_.back().number = ++last_number_;
    wake();
  }
  /// True when it was the last one: the caller then stops this watcher.
  bool remove(EventSink* sink) noexcept {
    const std::lock_guard lock(mutex_);
    std::erase_if(watched_, [&](const Watched& w) { return w.sink == sink; });
    wake();
    return watched_.empty();
  }
  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake();
    if (thread_.joinable()) thread_.join();
  }

 private:
  void start() {
    const SignalsBlocked blocked;
    thread_ = start_thread("the RDMA event thread", [this] { run(); });
    pthread_setname_np(thread_.native_handle(), "rdma-events");
  }
  void wake() noexcept {
    const std::uint64_t one = 1;
    (void)!write(wake_.get(), &one, sizeof one);
  }
  void run() {
    std::vector<pollfd> fds;
    std::vector<std::uint64_t> numbers;  // of fds, from the second on
    while (true) {
      fds.assign(1, {wake_.get(), POLLIN, 0});
      numbers.clear();
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) return;
        for (const Watched& w : watched_) {
          fds.push_back({w.context->async_fd, POLLIN, 0});
          numbers.push_back(w.number);
        }
      }
      if (poll(fds.data(), fds.size(), -1) < 0) continue;  // EINTR
      std::uint64_t wakes = 0;
      (void)!read(wake_.get(), &wakes, sizeof wakes);
      const std::lock_guard lock(mutex_);
      for (std::size_t i = 1; i < fds.size(); ++i) {
        if (fds[i].revents != 0) dispatch(numbers[i - 1], fds[i].revents);
      }
    }
  }
  /// The list may have changed since poll(), and a new link may have the descriptor of one that is
  /// gone: looked up again, under the lock, by what is not used twice.
  void dispatch(std::uint64_t number, short ready) {
    const auto at = std::find_if(watched_.begin(), watched_.end(),
                                 [&](const Watched& w) { return w.number == number; });
    if (at == watched_.end()) return;
    ibv_async_event event{};
    while (at->api->get_async_event(at->context, &event) == 0) {
      at->sink->on_event(event);
      at->api->ack_async_event(&event);
    }
    const bool unreadable = errno != EAGAIN && errno != EINTR;
    // POLLNVAL tells of the program, which closed the descriptor, and nothing of the device.
    const bool gone = (ready & (POLLERR | POLLHUP)) != 0;
    if (gone) {
      // The kernel took the device away from under its descriptor.
      event = {};
      event.event_type = IBV_EVENT_DEVICE_FATAL;
      at->sink->on_event(event);
    }
    // A descriptor that stays readable and cannot be read would keep this thread turning, with the
    // lock in its hand. What its events would have told, completions and the heartbeat tell.
    if (gone || unreadable) watched_.erase(at);
  }

  memory::UniqueFd wake_;
  std::mutex mutex_;
  std::vector<Watched> watched_;
  std::uint64_t last_number_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

std::mutex registry_mutex;
Watcher* registry = nullptr;  // while there is a link
pid_t registry_pid = -1;      // a forked child has the memory, but not the thread

}  // namespace

void watch_events(const VerbsApi& api, ibv_context* context, EventSink* sink) {
  const int flags = fcntl(context->async_fd, F_GETFL);
  if (flags < 0 || fcntl(context->async_fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    throw_errno("make non-blocking", "the event descriptor of an RDMA device", errno);
  }
  const std::lock_guard lock(registry_mutex);
  if (registry == nullptr || registry_pid != getpid()) {
    registry = new Watcher({&api, context, sink});
    registry_pid = getpid();
    return;
  }
  registry->add({&api, context, sink});
}

void unwatch_events(EventSink* sink) noexcept {
  const std::lock_guard lock(registry_mutex);
  if (registry == nullptr || registry_pid != getpid() || !registry->remove(sink)) return;
  registry->stop();
  delete registry;
  registry = nullptr;
}

bool is_fatal_event(const ibv_async_event& event, std::uint8_t port) noexcept {
  switch (event.event_type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_PATH_MIG_ERR:
    case IBV_EVENT_CQ_ERR:
    case IBV_EVENT_WQ_FATAL:
    case IBV_EVENT_DEVICE_FATAL:
      return true;
    case IBV_EVENT_PORT_ERR:
      return event.element.port_num == port;
    default:
      return false;  // COMM_EST, PORT_ACTIVE, LID_CHANGE …: what they break shows as a completion
  }
}

}  // namespace rdmaorder::transport
