// The strategy's fault point (fault_point.hpp): a transport that tells when orders were put.
#pragma once

#include <memory>
#include <utility>

#include "rdmaorder/fault_point.hpp"
#include "rdmaorder/transport/transport.hpp"

namespace rdmaorder {

class WatchedTransport final : public transport::Transport {
 public:
  /// Puts from `ring_offset_bytes` on are slots of `slot_bytes`; what lies before is the status
  /// line.
  WatchedTransport(std::unique_ptr<Transport> inner, std::uint64_t ring_offset_bytes,
                   std::uint32_t slot_bytes)
      : inner_(std::move(inner)), ring_offset_bytes_(ring_offset_bytes), slot_bytes_(slot_bytes) {}

  Status put(std::uint64_t offset_bytes, const void* source,
             std::uint32_t bytes) noexcept override {
    const Status status = inner_->put(offset_bytes, source, bytes);
    if (offset_bytes >= ring_offset_bytes_ && ok(status)) {
      fault::reach(fault::Step::kAfterWrite, bytes / slot_bytes_);
    }
    return status;
  }
  Status progress() noexcept override { return inner_->progress(); }
  [[nodiscard]] const transport::Info& info() const noexcept override { return inner_->info(); }
  [[nodiscard]] std::string failure() const override { return inner_->failure(); }
  void linger() noexcept override { inner_->linger(); }
  void close() noexcept override { inner_->close(); }

 private:
  std::unique_ptr<Transport> inner_;
  std::uint64_t ring_offset_bytes_;
  std::uint32_t slot_bytes_;
};

}  // namespace rdmaorder
