// Keeps a copy of what was put into the order ring, for messages that may have to be sent again. A
// session that does not ask for that has none of this on its path.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "rdmaorder/ring/geometry.hpp"
#include "rdmaorder/transport/transport.hpp"

namespace rdmaorder {

class KeepingTransport final : public transport::Transport {
 public:
  KeepingTransport(std::unique_ptr<Transport> inner, const ring::Geometry& orders)
      : inner_(std::move(inner)), orders_(orders), copy_(orders.ring_bytes() / 8, 0) {}

  Status put(std::uint64_t offset_bytes, const void* source,
             std::uint32_t bytes) noexcept override {
    const Status status = inner_->put(offset_bytes, source, bytes);
    if (ok(status)) keep({offset_bytes, source, bytes});
    return status;
  }
  std::uint32_t put_list(std::span<const transport::PutRequest> puts,
                         Status* status) noexcept override {
    const std::uint32_t taken = inner_->put_list(puts, status);
    for (const transport::PutRequest& each : puts.first(taken)) keep(each);
    return taken;
  }
  Status progress() noexcept override { return inner_->progress(); }
  [[nodiscard]] const transport::Info& info() const noexcept override { return inner_->info(); }
  [[nodiscard]] std::string failure() const override { return inner_->failure(); }
  void linger() noexcept override { inner_->linger(); }
  void close() noexcept override { inner_->close(); }

  [[nodiscard]] Transport& inner() noexcept { return *inner_; }
  /// The slot of a sequence that was put over this transport, one of a ring's newest.
  void append_slot(std::uint64_t sequence, std::vector<std::uint64_t>* slots) const {
    const std::size_t slot_words = orders_.slot_bytes / 8;
    const auto* slot = &copy_[orders_.slot_index(sequence) * slot_words];
    slots->insert(slots->end(), slot, slot + slot_words);
  }

 private:
  void keep(const transport::PutRequest& put) noexcept {
    if (put.offset_bytes < orders_.offset_bytes) return;
    std::memcpy(&copy_[(put.offset_bytes - orders_.offset_bytes) / 8], put.source, put.bytes);
  }

  std::unique_ptr<Transport> inner_;
  ring::Geometry orders_;
  std::vector<std::uint64_t> copy_;  ///< of the order ring
};

}  // namespace rdmaorder
