// Links made by hand: without the control plane, for measuring what lies beneath it.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "rdmaorder/gateway.hpp"
#include "rdmaorder/session.hpp"
#include "rdmaorder/transport/inproc.hpp"
#include "rdmaorder/transport/shm.hpp"

namespace rdmaorder::bench {

inline constexpr std::uint64_t kHourNs = 3'600'000'000'000;
inline constexpr std::uint64_t kRingOffsetBytes = kPageBytes;

[[nodiscard]] inline memory::Window make_window(const ring::Geometry& geometry,
                                                const std::string& name) {
  return memory::Window::create({geometry.window_bytes(), memory::HugePages::kOff, true, -1, name});
}

[[nodiscard]] inline ring::Geometry ring_of(std::uint32_t slot_count) {
  return {kRingOffsetBytes, wire::kSlotBytesDefault, slot_count};
}

/// A second mapping of a window, of this process or of one of ours with the same user.
[[nodiscard]] inline memory::Window map_again(pid_t owner, int fd, std::uint64_t bytes) {
  const std::string path = "/proc/" + std::to_string(owner) + "/fd/" + std::to_string(fd);
  memory::UniqueFd opened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!opened) throw std::runtime_error("cannot open " + path);
  return memory::Window::map_peer(std::move(opened), bytes);
}

/// Each session has two windows and each window a descriptor.
inline void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/// What the strategy's side needs to know of an attached link. Plain bytes: crosses a fork.
struct AttachedLink {
  std::uint64_t epoch = 0;
  ring::Geometry order_geometry;
  int order_window_fd = -1;
  std::uint64_t order_window_bytes = 0;
};

/// Opens a session at the gateway and attaches a link whose reports go through `transport`.
[[nodiscard]] inline AttachedLink attach_link(Gateway& gateway, const std::string& name,
                                              std::uint32_t order_slot_count,
                                              const ring::Geometry& report_geometry,
                                              std::unique_ptr<transport::Transport> transport) {
  SessionRequest request;
  request.name = name;
  request.order_slot_count = order_slot_count;
  request.report_slot_count = report_geometry.slot_count;
  const SessionGrant grant = gateway.open_session(request);
  AttachRequest attach;
  attach.session_index = grant.session_index;
  attach.report_geometry = report_geometry;
  attach.transport = std::move(transport);
  const AttachResult result = gateway.attach(std::move(attach));
  return {result.epoch, result.order_geometry, result.order_window->fd(),
          result.order_window->bytes()};
}

/// The strategy's session over a link that `attach_link` made. Never gives up on a gateway that is
/// kept from its loop between two runs.
[[nodiscard]] inline std::unique_ptr<Session> make_session(
    const AttachedLink& link, memory::Window order_window, memory::Window report_window,
    const ring::Geometry& report_geometry, std::uint64_t heartbeat_interval_ns = 1'000'000) {
  control::Established established;
  established.epoch = link.epoch;
  established.order_geometry = link.order_geometry;
  established.report_geometry = report_geometry;
  established.report_window = std::move(report_window);
  established.cancel_reserve_count = 16;
  established.heartbeat_interval_ns = heartbeat_interval_ns;
  SessionConfig config;
  config.suspect_after_ns = kHourNs;
  config.dead_after_ns = kHourNs;
  return std::make_unique<Session>(config, std::move(established),
                                   transport::make_shm(std::move(order_window)));
}

[[nodiscard]] inline wire::NewOrder sample_order(std::uint64_t cl_ord_id) noexcept {
  wire::NewOrder order{};
  order.cl_ord_id = cl_ord_id;
  order.price = 187'250'000'000;
  order.quantity = 100;
  order.instrument = 7;
  order.side = Side::kBuy;
  order.ord_type = OrdType::kLimit;
  return order;
}

/// A directory for a journal; empty text: no journal.
[[nodiscard]] inline std::unique_ptr<journal::Writer> open_journal(const std::string& directory,
                                                                   journal::SyncPolicy sync) {
  if (directory.empty()) return nullptr;
  journal::Config config;
  config.directory = directory;
  config.sync = sync;
  return journal::Writer::open(config, {});
}

}  // namespace rdmaorder::bench
