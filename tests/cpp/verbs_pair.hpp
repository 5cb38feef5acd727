// Two ends of a verbs link in one process, over the fake or over real devices.
#pragma once

#include <memory>
#include <utility>

#include "rdmaorder/transport/verbs.hpp"
#include "ring_support.hpp"
#include "transport/verbs/verbs_link.hpp"

namespace rdmaorder::transport {

struct VerbsPair {
  memory::Window near_window, far_window;
  std::unique_ptr<VerbsTransport> near_end, far_end;
  VerbsAddress near_address, far_address;

  /// As two processes do it: both open, both learn the other's address, both connect.
  static VerbsPair make(const VerbsApi& api, const VerbsConfig& near, const VerbsConfig& far,
                        std::uint64_t window_bytes = 8192) {
    VerbsPair pair;
    pair.near_window = ring_support::make_window(window_bytes);
    pair.far_window = ring_support::make_window(window_bytes);
    auto near_endpoint = open_endpoint(api, near, pair.near_window);
    auto far_endpoint = open_endpoint(api, far, pair.far_window);
    pair.near_address = near_endpoint->local();
    pair.far_address = far_endpoint->local();
    pair.near_end = VerbsEndpoint::connect(std::move(near_endpoint), pair.far_address);
    pair.far_end = VerbsEndpoint::connect(std::move(far_endpoint), pair.near_address);
    return pair;
  }

  VerbsPair() = default;
  VerbsPair(VerbsPair&&) = default;
  VerbsPair& operator=(VerbsPair&&) = delete;
  /// The windows outlive what registered them.
  ~VerbsPair() {
    near_end.reset();
    far_end.reset();
  }
};

/// True when the transport ends within the time that ring_support::eventually allows.
inline bool fails_eventually(Transport& transport) {
  return ring_support::eventually([&] { return transport.progress() == Status::kTransport; });
}

}  // namespace rdmaorder::transport
