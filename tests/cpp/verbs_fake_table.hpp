// The function table of the fake and the operations its contexts and queue pairs carry.
#pragma once

#include "verbs_fake.hpp"

namespace rdmaorder::transport {

inline void FakeVerbs::fill_data_path(FakeContext& context, FakeQp* qp) {
  context.base.ops.post_send = [](ibv_qp* queue_pair, ibv_send_wr* wr, ibv_send_wr** refused) {
    ++self().doorbells;
    for (; wr != nullptr; wr = wr->next) {
      FakeWork work;
      work.id = wr->wr_id;
      work.flags = wr->send_flags;
      work.opcode = wr->opcode;
      work.remote_address = wr->wr.rdma.remote_addr;
      work.key = wr->wr.rdma.rkey;
      if (wr->num_sge == 1) {
        work.address = wr->sg_list->addr;
        work.bytes = wr->sg_list->length;
        work.local_key = wr->sg_list->lkey;
      }
      *refused = wr;
      if (const int error = post(of(queue_pair), std::move(work)); error != 0) return error;
    }
    return 0;
  };
  context.base.ops.post_recv = [](ibv_qp* queue_pair, ibv_recv_wr* wr, ibv_recv_wr**) {
    const std::lock_guard lock(self().mutex_);
    if (fails("post_recv", ENOMEM)) return errno;
    of(queue_pair).receives.push_back(wr->wr_id);
    return 0;
  };
  context.base.ops.poll_cq = [](ibv_cq* cq, int count, ibv_wc* wc) {
    const std::lock_guard lock(self().mutex_);
    if (self().poll_error != 0) return -self().poll_error;
    auto& queue = *reinterpret_cast<FakeCq*>(cq);
    for (auto& [number, owner] : self().qps_) {
      if (self().deliver_at_poll) self().execute(*owner);
    }
    int taken = 0;
    for (; taken < count && !queue.entries.empty(); ++taken) {
      wc[taken] = queue.entries.front().first;
      for (auto& [number, owner] : self().qps_) {
        if (owner->queue == &queue && queue.entries.front().second != 0) {
          owner->reclaimed = queue.entries.front().second;
        }
      }
      queue.entries.pop_front();
    }
    return taken;
  };
  if (qp == nullptr) return;
  qp->base.wr_start = [](ibv_qp_ex* ex) { of(ex).building = {}; };
  qp->base.wr_rdma_write = [](ibv_qp_ex* ex, std::uint32_t key, std::uint64_t address) {
    of(ex).building.key = key;
    of(ex).building.remote_address = address;
  };
  qp->base.wr_set_inline_data = [](ibv_qp_ex* ex, void* address, std::size_t bytes) {
    of(ex).building.flags |= IBV_SEND_INLINE;
    of(ex).building.address = reinterpret_cast<std::uint64_t>(address);
    of(ex).building.bytes = static_cast<std::uint32_t>(bytes);
  };
  qp->base.wr_set_sge = [](ibv_qp_ex* ex, std::uint32_t key, std::uint64_t address,
                           std::uint32_t bytes) {
    of(ex).building.local_key = key;
    of(ex).building.address = address;
    of(ex).building.bytes = bytes;
  };
  qp->base.wr_complete = [](ibv_qp_ex* ex) {
    of(ex).building.id = ex->wr_id;
    of(ex).building.flags |= ex->wr_flags;
    return post(of(ex), of(ex).building);
  };
}

inline VerbsApi FakeVerbs::api() {
  VerbsApi api{};
  api.get_device_list = [](int* count) -> ibv_device** {
    if (fails("get_device_list", EACCES)) return nullptr;
    if (self().list_is_null) {
      errno = ENOSYS;
      return nullptr;
    }
    *count = static_cast<int>(self().devices.size());
    auto** list = new ibv_device*[self().devices.size() + 1]();
    for (std::size_t i = 0; i < self().devices.size(); ++i) list[i] = &self().devices[i]->base;
    self().live_[list] = [list] { delete[] list; };
    return list;
  };
  api.free_device_list = [](ibv_device** list) {
    EXPECT_EQ(self().live_.erase(list), 1U);
    delete[] list;
  };
  api.get_device_name = [](ibv_device* device) {
    return reinterpret_cast<FakeDevice*>(device)->name.c_str();
  };
  api.open_device = [](ibv_device* device) -> ibv_context* {
    if (fails("open_device", EACCES)) return nullptr;
    auto* context = born(new FakeContext);
    context->base.device = device;
    context->base.async_fd = eventfd(0, EFD_CLOEXEC);
    fill_data_path(*context, nullptr);
    const std::lock_guard lock(self().mutex_);
    self().contexts_.insert(context);
    return &context->base;
  };
  api.close_device = [](ibv_context* context) {
    auto* mine = reinterpret_cast<FakeContext*>(context);
    ::close(context->async_fd);
    self().contexts_.erase(mine);
    return die("close_device", mine);
  };
  api.query_device = [](ibv_context* context, ibv_device_attr* attributes) {
    if (fails("query_device", EIO)) return errno;
    *attributes = reinterpret_cast<FakeDevice*>(context->device)->limits;
    return 0;
  };
  api.query_port = [](ibv_context* context, std::uint8_t port, ibv_port_attr* attributes) {
    if (fails("query_port", EIO)) return errno;
    *attributes = reinterpret_cast<FakeDevice*>(context->device)->ports[port - 1U].attributes;
    return 0;
  };
  api.query_gid_ex = [](ibv_context* context, std::uint32_t port, std::uint32_t index,
                        ibv_gid_entry* entry, std::uint32_t, std::size_t) {
    const auto& gids = reinterpret_cast<FakeDevice*>(context->device)->ports[port - 1].gids;
    if (index >= gids.size()) return ENODATA;
    if (fails("query_gid_ex", EIO)) return errno;
    std::memcpy(entry->gid.raw, gids[index].first.data(), 16);
    entry->gid_type = gids[index].second;
    entry->gid_index = index;
    return 0;
  };
  api.alloc_pd = [](ibv_context* context) -> ibv_pd* {
    if (fails("alloc_pd", ENOMEM)) return nullptr;
    auto* pd = born(new ibv_pd{});
    pd->context = context;
    return pd;
  };
  api.dealloc_pd = [](ibv_pd* pd) { return die("dealloc_pd", pd); };
  api.reg_mr = [](ibv_pd* pd, void* address, std::size_t bytes, int access) -> ibv_mr* {
    if (fails("reg_mr", ENOMEM)) return nullptr;
    auto* mr = born(new FakeMr);
    mr->base.pd = pd;
    mr->base.addr = address;
    mr->base.length = bytes;
    mr->access = access;
    const std::lock_guard lock(self().mutex_);
    mr->base.lkey = mr->base.rkey = self().next_key_++;
    self().mrs_[mr->base.rkey] = mr;
    self().region_access.push_back(access);
    return &mr->base;
  };
  api.dereg_mr = [](ibv_mr* mr) {
    const std::uint32_t key = mr->rkey;
    const int error = die("dereg_mr", reinterpret_cast<FakeMr*>(mr));
    if (error == 0) self().mrs_.erase(key);
    return error;
  };
  api.create_cq = [](ibv_context* context, int entries, void*, ibv_comp_channel*, int) -> ibv_cq* {
    if (fails("create_cq", EINVAL)) return nullptr;
    auto* cq = born(new FakeCq);
    cq->base.context = context;
    cq->base.cqe = entries;
    return &cq->base;
  };
  api.destroy_cq = [](ibv_cq* cq) { return die("destroy_cq", reinterpret_cast<FakeCq*>(cq)); };
  static const auto make_qp = [](const char* name, ibv_pd* pd, ibv_cq* cq,
                                 ibv_qp_cap* cap) -> ibv_qp* {
    if (cap->max_inline_data > self().inline_limit) {
      errno = EINVAL;
      return nullptr;
    }
    if (fails(name, ENOMEM)) return nullptr;
    auto* qp = born(new FakeQp);
    qp->queue = reinterpret_cast<FakeCq*>(cq);
    qp->depth = cap->max_send_wr;
    qp->inline_bytes = cap->max_inline_data;
    qp->base.qp_base.context = pd->context;
    qp->base.qp_base.pd = pd;
    fill_data_path(*reinterpret_cast<FakeContext*>(pd->context), qp);
    const std::lock_guard lock(self().mutex_);
    qp->base.qp_base.qp_num = self().next_number_++;
    self().qps_[qp->base.qp_base.qp_num] = qp;
    return &qp->base.qp_base;
  };
  api.create_qp = [](ibv_pd* pd, ibv_qp_init_attr* attributes) {
    return make_qp("create_qp", pd, attributes->send_cq, &attributes->cap);
  };
  api.create_qp_ex = [](ibv_context*, ibv_qp_init_attr_ex* attributes) {
    return make_qp("create_qp_ex", attributes->pd, attributes->send_cq, &attributes->cap);
  };
  api.qp_to_qp_ex = [](ibv_qp* qp) -> ibv_qp_ex* {
    if (fails("qp_to_qp_ex", EOPNOTSUPP)) return nullptr;
    return &of(qp).base;
  };
  api.destroy_qp = [](ibv_qp* qp) {
    {
      const std::lock_guard lock(self().mutex_);
      self().qps_.erase(qp->qp_num);
    }
    return die("destroy_qp", &of(qp));
  };
  api.modify_qp = [](ibv_qp* qp, ibv_qp_attr* attributes, int mask) {
    const std::lock_guard lock(self().mutex_);
    if (fails("modify_qp", ETIMEDOUT)) return errno;
    FakeQp& mine = of(qp);
    if ((mask & IBV_QP_ACCESS_FLAGS) != 0) {
      mine.attributes.qp_access_flags = attributes->qp_access_flags;
    }
    if ((mask & IBV_QP_STATE) == 0) return 0;
    mine.state = attributes->qp_state;
    const unsigned access = mine.attributes.qp_access_flags;
    const std::uint32_t receive_psn = mine.attributes.rq_psn;
    if (mine.state == IBV_QPS_RTR) mine.attributes = *attributes;
    if (mine.state == IBV_QPS_RTR) mine.attributes.qp_access_flags = access;
    if (mine.state == IBV_QPS_RTS) {
      mine.attributes.sq_psn = attributes->sq_psn;
      mine.attributes.timeout = attributes->timeout;
      mine.attributes.retry_cnt = attributes->retry_cnt;
      EXPECT_EQ(mine.attributes.rq_psn, receive_psn);
    }
    if (mine.state == IBV_QPS_ERR) self().break_down(mine);
    return 0;
  };
  api.get_async_event = [](ibv_context* context, ibv_async_event* event) {
    if (self().events_unreadable) {
      ++self().events_refused;
      errno = EIO;
      return -1;
    }
    const std::lock_guard lock(self().mutex_);
    auto& mine = *reinterpret_cast<FakeContext*>(context);
    if (mine.events.empty()) {
      std::uint64_t count = 0;
      EXPECT_NE(fcntl(context->async_fd, F_GETFL) & O_NONBLOCK, 0) << "would block";
      (void)!read(context->async_fd, &count, sizeof count);
      errno = EAGAIN;
      return -1;
    }
    *event = mine.events.front();
    mine.events.pop_front();
    ++self().events_given;
    return 0;
  };
  api.ack_async_event = [](ibv_async_event*) { ++self().events_acked; };
  api.wc_status_str = [](ibv_wc_status status) -> const char* {
    return status == IBV_WC_RETRY_EXC_ERR ? "transport retry counter exceeded" : "some error";
  };
  api.event_type_str = [](ibv_event_type) -> const char* { return "some event"; };
  api.query_qp_data_in_order = [](ibv_qp* qp, ibv_wr_opcode opcode, std::uint32_t) {
    EXPECT_EQ(of(qp).state, IBV_QPS_RTS) << "providers answer only in RTS";
    EXPECT_EQ(opcode, IBV_WR_RDMA_WRITE);
    return self().data_in_order;
  };
  api.sysfs = "/nonexistent";
  api.now = [] { return std::chrono::steady_clock::time_point(self().time += self().time_step); };
  return api;
}

}  // namespace rdmaorder::transport
