// Owners of verbs objects. Declare them parents first: destruction then runs queue pair, regions,
// completion queue, protection domain, context, which is the only order the kernel takes.
#pragma once

#include <unistd.h>

#include <memory>

#include "transport/verbs/verbs_api.hpp"

namespace rdmaorder::transport {

/// A refused release cannot be repaired here; the process-wide kernel object goes with the context.
/// A forked child inherits handles, not objects: there nothing is released, for it would be its
/// parent's.
struct VerbsRelease {
  const VerbsApi* api = nullptr;
  pid_t owner = -1;
  [[nodiscard]] bool is_owner() const noexcept { return owner == getpid(); }
  void operator()(ibv_context* context) const noexcept {
    if (is_owner()) (void)api->close_device(context);
  }
  void operator()(ibv_pd* domain) const noexcept {
    if (is_owner()) (void)api->dealloc_pd(domain);
  }
  void operator()(ibv_cq* queue) const noexcept {
    if (is_owner()) (void)api->destroy_cq(queue);
  }
  void operator()(ibv_mr* region) const noexcept {
    if (is_owner()) (void)api->dereg_mr(region);
  }
  void operator()(ibv_qp* queue_pair) const noexcept {
    if (is_owner()) (void)api->destroy_qp(queue_pair);
  }
  void operator()(ibv_device** list) const noexcept { api->free_device_list(list); }
};

template <class T>
using VerbsHandle = std::unique_ptr<T, VerbsRelease>;

template <class T>
VerbsHandle<T> own(const VerbsApi& api, T* object) noexcept {
  return VerbsHandle<T>(object, VerbsRelease{&api, getpid()});
}

}  // namespace rdmaorder::transport
