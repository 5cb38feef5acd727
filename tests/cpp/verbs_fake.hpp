// A libibverbs of our own: a function table and context operations that keep devices, queue pairs
// and regions in memory, move bytes really into the peer's registered memory, and misbehave on
// request. Every call of the table can be made to fail; work can complete at once, on demand or
// from a thread that reads its sources late, as a retransmission does.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "rdmaorder/atomic_word.hpp"
#include "transport/verbs/verbs_device.hpp"

namespace rdmaorder::transport {

/// One WRITE or receive as it was posted.
struct FakeWork {
  std::uint64_t id = 0;
  std::uint64_t index = 0;  ///< from 1, per queue pair
  unsigned flags = 0;
  ibv_wr_opcode opcode = IBV_WR_RDMA_WRITE;
  std::uint64_t address = 0;
  std::uint32_t bytes = 0;
  std::uint32_t local_key = 0;
  std::vector<std::uint64_t> inlined;
  std::uint64_t remote_address = 0;
  std::uint32_t key = 0;
};

struct FakeCq {
  ibv_cq base{};
  std::deque<std::pair<ibv_wc, std::uint64_t>> entries;  ///< with the index of the work
  std::size_t most = 0;                                  ///< entries at any time
};

struct FakeQp {
  ibv_qp_ex base{};
  FakeCq* queue = nullptr;
  ibv_qp_state state = IBV_QPS_RESET;
  ibv_qp_attr attributes{};
  std::uint32_t depth = 0;
  std::uint32_t inline_bytes = 0;
  std::deque<FakeWork> work;
  std::deque<std::uint64_t> receives;
  std::uint64_t posted = 0;
  std::uint64_t reclaimed = 0;  ///< a slot is free once a completion behind it was polled
  FakeWork building;            ///< between wr_start and wr_complete
};

struct FakeMr {
  ibv_mr base{};
  int access = 0;
};

struct FakeContext {
  ibv_context base{};
  std::deque<ibv_async_event> events;
};

struct FakePort {
  ibv_port_attr attributes{};
  std::vector<std::pair<RawGid, std::uint32_t>> gids;  ///< with ibv_gid_type
};

struct FakeDevice {
  ibv_device base{};
  std::string name;
  ibv_device_attr limits{};
  std::vector<FakePort> ports;
};

inline FakePort roce_port(const std::string& address, std::uint32_t type = IBV_GID_TYPE_ROCE_V2) {
  FakePort port;
  port.attributes.state = IBV_PORT_ACTIVE;
  port.attributes.active_mtu = IBV_MTU_1024;
  port.attributes.max_msg_sz = 1U << 23;
  port.attributes.link_layer = IBV_LINK_LAYER_ETHERNET;
  port.gids = {{parse_gid_address("fe80::1")->raw, type}, {parse_gid_address(address)->raw, type}};
  port.attributes.gid_tbl_len = 4;  // two empty rows behind
  return port;
}

class FakeVerbs {
 public:
  enum class Nic : std::uint8_t { kAtOnce, kOnDemand, kThread };

  explicit FakeVerbs(Nic nic = Nic::kAtOnce) : nic_(nic) {
    current() = this;
    if (nic == Nic::kThread) {
      thread_ = std::thread([this] {
        while (!stop_) {
          deliver(1);
          std::this_thread::yield();
        }
      });
    }
  }
  ~FakeVerbs() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    // What a test made refuse its release.
    for (const auto& [object, free] : live_) free();
    current() = nullptr;
  }
  FakeVerbs(const FakeVerbs&) = delete;
  FakeVerbs& operator=(const FakeVerbs&) = delete;

  FakeDevice& add_device(const std::string& name, FakePort port) {
    auto device = std::make_unique<FakeDevice>();
    device->name = name;
    device->limits.phys_port_cnt = 1;
    device->limits.max_qp_wr = 4096;
    device->limits.max_cqe = 8192;
    device->limits.max_mr_size = 1ULL << 40;
    std::strcpy(device->limits.fw_ver, "1.2.3");
    device->ports.push_back(std::move(port));
    devices.push_back(std::move(device));
    return *devices.back();
  }

  VerbsApi api();

  /// Executes up to `count` posted works of each queue pair.
  void deliver(std::size_t count) {
    const std::lock_guard lock(mutex_);
    for (auto& [number, qp] : qps_) {
      for (std::size_t i = 0; i < count && !qp->work.empty(); ++i) execute(*qp);
    }
  }
  void announce(ibv_event_type type, int port = 0) {
    const std::lock_guard lock(mutex_);
    for (FakeContext* context : contexts_) {
      ibv_async_event event{};
      event.event_type = type;
      event.element.port_num = port;
      context->events.push_back(event);
      const std::uint64_t one = 1;
      (void)!write(context->base.async_fd, &one, sizeof one);
    }
  }
  /// The peer sends a message: the receive of the queue pair completes.
  void send_message_to(std::uint32_t number) {
    const std::lock_guard lock(mutex_);
    FakeQp& qp = *qps_.at(number);
    complete(qp, qp.receives.front(), 0, IBV_WC_SUCCESS);
    qp.receives.pop_front();
  }
  FakeQp& qp(std::uint32_t number) { return *qps_.at(number); }
  [[nodiscard]] std::size_t live_count() const { return live_.size(); }
  [[nodiscard]] std::uint64_t unacknowledged_events() const { return events_given - events_acked; }

  std::vector<std::unique_ptr<FakeDevice>> devices;
  std::uint32_t inline_limit = 512;
  int fail_at = -1;                          ///< the call with this index fails, -1: none
  std::string fail_name;                     ///< every call of this name fails
  int fail_errno = 0;                        ///< instead of the call's usual one
  int call_count = 0;                        ///< of calls that can fail, since the start
  std::string failed;                        ///< name of the call that last failed
  std::optional<ibv_wc_status> next_status;  ///< of the next WRITE executed
  int post_error = 0;                        ///< of each further work request …
  int posts_before_error = 0;                ///< … behind so many
  bool deliver_at_poll = false;              ///< each ibv_poll_cq lets one more work complete
  int poll_error = 0;                        ///< of each further ibv_poll_cq
  int data_in_order = 0;
  std::atomic<std::uint64_t> events_given{0}, events_acked{0};
  std::atomic<std::uint64_t> events_refused{0};  ///< reads of an event that failed, as asked below
  std::atomic<bool> events_unreadable{false};    ///< read by the watcher's thread
  std::uint64_t doorbells = 0;                   ///< calls of ibv_post_send
  std::vector<FakeWork> log;                     ///< every WRITE as it was posted
  std::vector<std::string> releases;             ///< in their order
  std::vector<int> region_access;
  bool overflowed = false;  ///< a send queue or completion queue was given too much
  bool list_is_null = false;
  std::chrono::milliseconds time{0};       ///< what `now` says …
  std::chrono::milliseconds time_step{0};  ///< … and how far it moves on each time it is asked

 private:
  static FakeVerbs*& current() {
    static FakeVerbs* instance = nullptr;
    return instance;
  }
  static FakeVerbs& self() { return *current(); }
  static FakeQp& of(ibv_qp* qp) { return *reinterpret_cast<FakeQp*>(qp); }
  static FakeQp& of(ibv_qp_ex* qp) { return *reinterpret_cast<FakeQp*>(qp); }

  /// Counts the call; true (errno set) when it is the one to fail.
  static bool fails(const char* name, int error) {
    FakeVerbs& fake = self();
    const bool chosen = fake.call_count++ == fake.fail_at || fake.fail_name == name;
    if (!chosen) return false;
    fake.failed = name;
    errno = fake.fail_errno != 0 ? fake.fail_errno : error;
    return true;
  }
  template <class T>
  static T* born(T* object) {
    self().live_[object] = [object] { delete object; };
    return object;
  }
  template <class T>
  static int die(const char* name, T* object) {
    const std::lock_guard lock(self().mutex_);
    if (fails(name, EBUSY)) return EBUSY;
    self().releases.emplace_back(name);
    EXPECT_EQ(self().live_.erase(object), 1U) << name << " of what does not live";
    delete object;
    return 0;
  }

  static int post(FakeQp& qp, FakeWork work) {
    FakeVerbs& fake = self();
    const std::lock_guard lock(fake.mutex_);
    if (fake.post_error != 0 && fake.posts_before_error-- == 0) return fake.post_error;
    if (qp.posted - qp.reclaimed >= qp.depth) {
      fake.overflowed = true;
      return ENOMEM;
    }
    if ((work.flags & IBV_SEND_INLINE) != 0) {
      if (work.bytes > qp.inline_bytes) return EINVAL;
      work.inlined.resize((work.bytes + 7) / 8);
      std::memcpy(work.inlined.data(), reinterpret_cast<const void*>(work.address), work.bytes);
    }
    work.index = ++qp.posted;
    fake.log.push_back(work);
    qp.work.push_back(std::move(work));
    if (fake.nic_ == Nic::kAtOnce) fake.execute(qp);
    return 0;
  }
  void complete(FakeQp& qp, std::uint64_t id, std::uint64_t index, ibv_wc_status status) {
    ibv_wc wc{};
    wc.wr_id = id;
    wc.status = status;
    wc.vendor_err = status == IBV_WC_SUCCESS ? 0 : 0x89;
    if (qp.queue->entries.size() >= static_cast<std::size_t>(qp.queue->base.cqe)) overflowed = true;
    qp.queue->entries.emplace_back(wc, index);
    qp.queue->most = std::max(qp.queue->most, qp.queue->entries.size());
  }
  void break_down(FakeQp& qp) {
    qp.state = IBV_QPS_ERR;
    for (const FakeWork& work : qp.work) complete(qp, work.id, work.index, IBV_WC_WR_FLUSH_ERR);
    for (const std::uint64_t id : qp.receives) complete(qp, id, 0, IBV_WC_WR_FLUSH_ERR);
    qp.work.clear();
    qp.receives.clear();
  }
  ibv_wc_status judge(const FakeWork& work, FakeQp* peer) {
    if (next_status) return *std::exchange(next_status, std::nullopt);
    if (peer == nullptr || (peer->state != IBV_QPS_RTR && peer->state != IBV_QPS_RTS)) {
      return IBV_WC_RETRY_EXC_ERR;
    }
    if ((peer->attributes.qp_access_flags & IBV_ACCESS_REMOTE_WRITE) == 0) {
      return IBV_WC_REM_INV_REQ_ERR;
    }
    if (work.bytes == 0) return IBV_WC_SUCCESS;
    const auto mr = mrs_.find(work.key);
    if (mr == mrs_.end() || mr->second->base.pd != peer->base.qp_base.pd ||
        (mr->second->access & IBV_ACCESS_REMOTE_WRITE) == 0) {
      return IBV_WC_REM_ACCESS_ERR;
    }
    const auto start = reinterpret_cast<std::uint64_t>(mr->second->base.addr);
    const bool inside = work.remote_address >= start &&
                        work.remote_address + work.bytes <= start + mr->second->base.length;
    return inside ? IBV_WC_SUCCESS : IBV_WC_REM_ACCESS_ERR;
  }
  void execute(FakeQp& qp) {
    if (qp.work.empty()) return;
    if (qp.state == IBV_QPS_ERR) return break_down(qp);
    const FakeWork work = std::move(qp.work.front());
    qp.work.pop_front();
    const auto at = qps_.find(qp.attributes.dest_qp_num);
    FakeQp* peer = at == qps_.end() ? nullptr : at->second;
    const ibv_wc_status status = judge(work, peer);
    if (status == IBV_WC_SUCCESS) {
      const auto* from = work.inlined.empty() ? reinterpret_cast<const std::uint64_t*>(work.address)
                                              : work.inlined.data();
      auto* to = reinterpret_cast<std::uint64_t*>(work.remote_address);
      for (std::uint32_t i = 0; i < work.bytes / 8; ++i) store_release(to + i, from[i]);
      if ((work.flags & IBV_SEND_SIGNALED) != 0) complete(qp, work.id, work.index, status);
      return;
    }
    complete(qp, work.id, work.index, status);
    break_down(qp);
    const bool refused_by_peer =
        status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR;
    if (peer != nullptr && refused_by_peer) break_down(*peer);
  }

  static void fill_data_path(FakeContext& context, FakeQp* qp);

  Nic nic_;
  std::thread thread_;
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::map<void*, std::function<void()>> live_;
  std::set<FakeContext*> contexts_;
  std::map<std::uint32_t, FakeQp*> qps_;
  std::map<std::uint32_t, FakeMr*> mrs_;
  std::uint32_t next_number_ = 0x11;
  std::uint32_t next_key_ = 0x1000;
};

}  // namespace rdmaorder::transport

#include "verbs_fake_table.hpp"
