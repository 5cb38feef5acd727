// Asynchronous events of all links of this process: one thread that sleeps in poll() and so costs
// the data path nothing. It runs while there is a link.
#pragma once

#include "transport/verbs/verbs_api.hpp"

namespace rdmaorder::transport {

class EventSink {
 public:
  /// On the watcher's thread. Must not call the watcher.
  virtual void on_event(const ibv_async_event& event) noexcept = 0;

 protected:
  ~EventSink() = default;
};

/// Makes the context's event descriptor non-blocking and hands its events to `sink` until
/// unwatch_events returns; each event is acknowledged at once (else destroying its object blocks).
/// One context belongs to one sink. Throws Error(kSystem), and then watches nothing.
void watch_events(const VerbsApi& api, ibv_context* context, EventSink* sink);

/// When it returns the sink is not touched any more. No effect for one that is not watched.
void unwatch_events(EventSink* sink) noexcept;

/// Whether a link with this event cannot go on; `port` is the link's own.
[[nodiscard]] bool is_fatal_event(const ibv_async_event& event, std::uint8_t port) noexcept;

}  // namespace rdmaorder::transport
