// A connected link's beginning and end; its data path is in verbs_datapath.cpp.
#include "transport/verbs/verbs_link.hpp"

#include <bit>
#include <chrono>

#include "rdmaorder/error.hpp"

namespace rdmaorder::transport {
namespace {

/// How long linger() waits for WRITEs that are under way; on a path without loss they take
/// microseconds.
constexpr std::chrono::milliseconds kLinger{50};

}  // namespace

// Queue pair before the regions and the completion queue it uses, the protection domain after all
// of them, the context last: the kernel refuses any other order with EBUSY and keeps the objects.
void VerbsObjects::release() noexcept {
  extended = nullptr;
  queue_pair.reset();
  staging_region.reset();
  window_region.reset();
  completions.reset();
  domain.reset();
  device.context.reset();
}

VerbsLink::VerbsLink(std::unique_ptr<Endpoint> endpoint, const VerbsAddress& remote)
    : endpoint_(std::move(endpoint)) {
  const VerbsObjects& objects = endpoint_->objects;
  const VerbsFacts& known = endpoint_->known;
  inline_bytes_ = known.inline_bytes;
  depth_ = known.depth;
  signal_interval_ = known.signal_interval;
  window_address_ = remote.window_address;
  window_bytes_ = remote.window_bytes;
  window_key_ = remote.window_key;
  max_put_bytes_ = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(known.max_put_bytes, window_bytes_ & ~7ULL));
  queue_pair_ = objects.queue_pair.get();
  extended_ = objects.extended;
  completions_ = objects.completions.get();
  staging_ = objects.staging.data();
  // The window rounds up to pages; positions need a power of two.
  staging_units_ =
      std::bit_floor(static_cast<std::uint32_t>(objects.staging.bytes() / kStagingUnitBytes));

  piece_.lkey = objects.staging_region->lkey;
  request_.sg_list = &piece_;
  request_.num_sge = 1;
  request_.opcode = IBV_WR_RDMA_WRITE;
  request_.wr.rdma.rkey = window_key_;
  for (std::size_t i = 0; i < kPutListMax; ++i) {
    list_pieces_[i] = piece_;
    list_requests_[i] = request_;
    list_requests_[i].sg_list = &list_pieces_[i];
  }

  info_.name = "verbs";
  info_.window_bytes = window_bytes_;
  info_.max_put_bytes = max_put_bytes_;
  info_.inline_bytes = inline_bytes_;
  info_.depth = depth_;
  info_.can_revoke = true;
  RawGid raw = remote.gid;
  where_ = "on " + known.device + " port " + std::to_string(known.port) + " to queue pair " +
           std::to_string(remote.qp_number) +
           (endpoint_->port.link_layer == LinkLayer::kEthernet
                ? " at " + gid_text(raw)
                : " at LID " + std::to_string(remote.lid));
  watch_events(*objects.api, objects.device.context.get(), this);
}

VerbsLink::~VerbsLink() { close(); }

void VerbsLink::set_peer_data_in_order(bool data_in_order) noexcept {
  info_.byte_order = data_in_order ? ByteOrder::kAscendingLine : ByteOrder::kUnspecified;
}

void VerbsLink::on_event(const ibv_async_event& event) noexcept {
  if (!is_fatal_event(event, endpoint_->known.port)) return;
  int none = -1;
  (void)event_.compare_exchange_strong(none, event.event_type, std::memory_order_relaxed);
}

std::string VerbsLink::failure() const {
  VerbsFailure failure = failure_;
  failure.event = event_.load(std::memory_order_relaxed);
  return failure_text(*endpoint_->objects.api, failure, where_);
}

// A WRITE of no bytes touches nothing and is checked against no key; its completion says that all
// before it arrived. Needed only where the last put did not ask for one. A full queue has no place
// for it, but a WRITE that asked.
void VerbsLink::linger() noexcept {
  if (cause_ != VerbsCause::kNone || !endpoint_->objects.are_own()) return;
  const VerbsApi& api = *endpoint_->objects.api;
  const auto end = api.now() + kLinger;
  while (outstanding() != 0 && api.now() < end) {
    if (!last_signalled_ && outstanding() < depth_) {
      ibv_send_wr marker = request_;
      marker.num_sge = 0;
      marker.wr_id = next_id();
      marker.send_flags = IBV_SEND_SIGNALED;
      marker.wr.rdma.remote_addr = window_address_;
      ibv_send_wr* refused = nullptr;
      if (ibv_post_send(queue_pair_, &marker, &refused) != 0) return;
      ++posted_;
      last_signalled_ = true;
    }
    if (!ok(reap())) return;
  }
}

void VerbsLink::close() noexcept {
  if (cause_ == VerbsCause::kNone) (void)fail(VerbsCause::kClosed, 0);
  VerbsObjects& objects = endpoint_->objects;
  if (!objects.are_own()) return;
  unwatch_events(this);
  const std::lock_guard lock(ending_);
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_ERR;
  (void)objects.api->modify_qp(objects.queue_pair.get(), &attributes, IBV_QP_STATE);
  objects.release();
}

Status VerbsLink::fence() noexcept {
  const std::lock_guard lock(ending_);
  VerbsObjects& objects = endpoint_->objects;
  if (fenced_ || !objects.are_own()) return Status::kOk;
  ibv_qp_attr attributes{};
  attributes.qp_access_flags = 0;
  int error = objects.api->modify_qp(objects.queue_pair.get(), &attributes, IBV_QP_ACCESS_FLAGS);
  if (error != 0) {
    attributes = {};
    attributes.qp_state = IBV_QPS_ERR;
    error = objects.api->modify_qp(objects.queue_pair.get(), &attributes, IBV_QP_STATE);
  }
  // Without the key nothing lands even where the queue pair could not be changed; and the call
  // returns only when no access is under way.
  if (objects.api->dereg_mr(objects.window_region.get()) == 0) {
    (void)objects.window_region.release();
    error = 0;
  }
  fenced_ = error == 0;
  return fenced_ ? Status::kOk : Status::kTransport;
}

}  // namespace rdmaorder::transport
