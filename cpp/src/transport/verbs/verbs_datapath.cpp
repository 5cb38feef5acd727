// put and progress: no system call of ours, no lock, no allocation, no exception.
#include <cstring>

#include "transport/verbs/verbs_link.hpp"

namespace rdmaorder::transport {
namespace {

constexpr std::uint32_t kStagingMask = (1U << 31) - 1;
constexpr int kReapBatch = 16;

}  // namespace

/// Copies into staging; 0 when there is no room until more completions are known.
std::uint64_t VerbsLink::stage(const void* source, std::uint32_t bytes) noexcept {
  const std::uint32_t units = (bytes + kStagingUnitBytes - 1) / kStagingUnitBytes;
  const std::uint32_t at = staging_head_ & (staging_units_ - 1);
  const std::uint32_t skipped = at + units > staging_units_ ? staging_units_ - at : 0;
  const std::uint32_t used = (staging_head_ - staging_tail_) & kStagingMask;
  if (used + skipped + units > staging_units_) return 0;
  std::byte* to = staging_ + std::size_t{skipped == 0 ? at : 0} * kStagingUnitBytes;
  std::memcpy(to, source, bytes);
  staging_head_ = (staging_head_ + skipped + units) & kStagingMask;
  staging_unsignalled_units_ += skipped + units;
  return reinterpret_cast<std::uint64_t>(to);
}

RDMAORDER_ALWAYS_INLINE int VerbsLink::post(std::uint64_t remote_address, const Work& work,
                                            std::uint32_t bytes) noexcept {
  if (extended_ != nullptr) {
    extended_->wr_id = next_id();
    extended_->wr_flags = work.flags;  // with IBV_SEND_INLINE: rxe looks for it, mlx5 does not
    ibv_wr_start(extended_);
    ibv_wr_rdma_write(extended_, window_key_, remote_address);
    if ((work.flags & IBV_SEND_INLINE) != 0) {
      ibv_wr_set_inline_data(extended_, reinterpret_cast<void*>(work.local_address), bytes);
    } else {
      ibv_wr_set_sge(extended_, piece_.lkey, work.local_address, bytes);
    }
    return ibv_wr_complete(extended_);
  }
  piece_.addr = work.local_address;
  piece_.length = bytes;
  request_.wr_id = next_id();
  request_.send_flags = work.flags;
  request_.wr.rdma.remote_addr = remote_address;
  ibv_send_wr* refused = nullptr;
  return ibv_post_send(queue_pair_, &request_, &refused);
}

/// May it go now, from where, and does it ask for a completion?
RDMAORDER_ALWAYS_INLINE Status VerbsLink::admit(std::uint64_t offset_bytes, const void* source,
                                                std::uint32_t bytes, Work* work) noexcept {
  if (RDMAORDER_UNLIKELY(cause_ != VerbsCause::kNone)) return Status::kTransport;
  if (RDMAORDER_UNLIKELY(bytes > max_put_bytes_)) return Status::kTooLarge;
  // max_put_bytes_ <= window_bytes_, so the difference does not wrap.
  if (RDMAORDER_UNLIKELY(((offset_bytes | bytes) & 7U) != 0 || bytes == 0 ||
                         offset_bytes > window_bytes_ - bytes)) {
    return Status::kInvalid;
  }
  if (RDMAORDER_UNLIKELY(outstanding() >= depth_)) {
    if (!ok(reap())) return Status::kTransport;
    if (outstanding() >= depth_) return Status::kFull;
  }
  work->flags = IBV_SEND_INLINE;
  work->local_address = reinterpret_cast<std::uint64_t>(source);
  if (RDMAORDER_UNLIKELY(bytes > inline_bytes_)) {
    work->flags = 0;
    work->local_address = stage(source, bytes);
    if (work->local_address == 0) {
      if (!ok(reap())) return Status::kTransport;
      work->local_address = stage(source, bytes);
      if (work->local_address == 0) return Status::kFull;
    }
  }
  ++unsignalled_count_;
  const bool signalled = unsignalled_count_ >= signal_interval_ ||
                         staging_unsignalled_units_ >= staging_units_ / kStagingPuts;
  if (RDMAORDER_UNLIKELY(signalled)) {
    work->flags |= IBV_SEND_SIGNALED;
    unsignalled_count_ = 0;
    staging_unsignalled_units_ = 0;
  }
  last_signalled_ = signalled;
  return Status::kOk;
}

Status VerbsLink::put(std::uint64_t offset_bytes, const void* source,
                      std::uint32_t bytes) noexcept {
  Work work;
  const Status status = admit(offset_bytes, source, bytes, &work);
  if (RDMAORDER_UNLIKELY(!ok(status))) return status;
  if (const int error = post(window_address_ + offset_bytes, work, bytes);
      RDMAORDER_UNLIKELY(error != 0)) {
    return fail(VerbsCause::kPost, error);
  }
  ++posted_;
  // After the doorbell. What it finds shows at the next call: this put was taken.
  if (RDMAORDER_UNLIKELY(outstanding() > depth_ / 2)) (void)reap();
  return Status::kOk;
}

// The chain is admitted as a whole before it is posted, so that ids and signals are those of single
// puts; reap() meanwhile finds nothing of it.
std::uint32_t VerbsLink::put_list(std::span<const PutRequest> puts, Status* status) noexcept {
  if (extended_ != nullptr || puts.size() > kPutListMax) return Transport::put_list(puts, status);
  std::uint32_t count = 0;
  *status = Status::kOk;
  for (; count < puts.size(); ++count) {
    const PutRequest& each = puts[count];
    Work work;
    *status = admit(each.offset_bytes, each.source, each.bytes, &work);
    if (!ok(*status)) break;
    list_pieces_[count].addr = work.local_address;
    list_pieces_[count].length = each.bytes;
    ibv_send_wr& request = list_requests_[count];
    request.wr_id = next_id();
    request.send_flags = work.flags;
    request.wr.rdma.remote_addr = window_address_ + each.offset_bytes;
    request.next = nullptr;
    if (count != 0) list_requests_[count - 1].next = &request;
    ++posted_;
  }
  if (count == 0) return 0;
  ibv_send_wr* refused = nullptr;
  if (const int error = ibv_post_send(queue_pair_, list_requests_, &refused); error != 0) {
    // Those before the refused one are on their way: to call them unsent would be a lie.
    const auto taken =
        refused == nullptr ? 0 : static_cast<std::uint32_t>(refused - list_requests_);
    posted_ -= count - taken;
    *status = fail(VerbsCause::kPost, error);
    return taken;
  }
  if (outstanding() > depth_ / 2) (void)reap();
  return count;
}

Status VerbsLink::progress() noexcept {
  if (RDMAORDER_UNLIKELY(cause_ != VerbsCause::kNone)) return Status::kTransport;
  if (RDMAORDER_UNLIKELY(event_.load(std::memory_order_relaxed) >= 0)) {
    return fail(VerbsCause::kEvent, 0);
  }
  return reap();
}

/// Takes what has completed, at most what can be outstanding.
Status VerbsLink::reap() noexcept {
  ibv_wc batch[kReapBatch];
  for (std::uint32_t taken = 0; taken <= depth_ + 1; taken += kReapBatch) {
    const int count = ibv_poll_cq(completions_, kReapBatch, batch);
    if (RDMAORDER_UNLIKELY(count < 0)) return fail(VerbsCause::kPoll, -count);
    for (int i = 0; i < count; ++i) take(batch[i]);
    if (count < kReapBatch) break;
  }
  return RDMAORDER_LIKELY(cause_ == VerbsCause::kNone) ? Status::kOk : Status::kTransport;
}

RDMAORDER_ALWAYS_INLINE void VerbsLink::take(const ibv_wc& completion) noexcept {
  if (RDMAORDER_UNLIKELY(completion.status != IBV_WC_SUCCESS)) return take_error(completion);
  if (RDMAORDER_UNLIKELY(completion.wr_id == kTripwireId)) {
    if (cause_ == VerbsCause::kNone) (void)fail(VerbsCause::kMessage, 0);
    return;
  }
  completed_ = static_cast<std::uint32_t>(completion.wr_id);
  staging_tail_ = static_cast<std::uint32_t>(completion.wr_id >> 32);
}

/// The first error counts, except that "flushed" is only the consequence of another one.
void VerbsLink::take_error(const ibv_wc& completion) noexcept {
  const bool known = cause_ != VerbsCause::kNone && !(cause_ == VerbsCause::kCompletion &&
                                                      failure_.status == IBV_WC_WR_FLUSH_ERR &&
                                                      completion.status != IBV_WC_WR_FLUSH_ERR);
  if (known) return;
  failure_.status = completion.status;
  failure_.vendor_code = completion.vendor_err;
  failure_.of_tripwire = completion.wr_id == kTripwireId;
  (void)fail(VerbsCause::kCompletion, 0);
}

Status VerbsLink::fail(VerbsCause cause, int error_number) noexcept {
  cause_ = cause;
  failure_.cause = cause;
  failure_.error_number = error_number;
  return Status::kTransport;
}

}  // namespace rdmaorder::transport
