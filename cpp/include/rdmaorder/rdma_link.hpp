// Where control plane and verbs meet: the addresses one exchanges are those the other connects
// with. Neither includes the other; session and gateway use this.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "rdmaorder/control.hpp"
#include "rdmaorder/transport/verbs.hpp"

namespace rdmaorder {

/// Settings of an rdma:// URL (control::Url::options) for the verbs transport. Options that are not
/// given keep the defaults of VerbsConfig, signal_interval at most half of the depth; those of TLS
/// are skipped.
transport::VerbsConfig verbs_config(const std::map<std::string, std::string>& options,
                                    const std::string& local_address);

control::Endpoint to_endpoint(const transport::VerbsAddress& address);
transport::VerbsAddress to_verbs_address(const control::Endpoint& endpoint,
                                         std::uint64_t window_address, std::uint32_t window_key,
                                         std::uint64_t window_bytes);

/// Throws Error(kConfig) where the device takes less than a slot in one message: an order is one
/// WRITE or it is not sent.
void check_slot_fits(const transport::VerbsTransport& transport, std::uint32_t slot_bytes);

/// Strategy side of an RDMA link while control::connect runs.
class RdmaLinkMaker final : public control::LinkMaker {
 public:
  control::LinkOffer offer(const control::LinkTerms& terms) override;
  bool accept(const control::LinkAnswer& answer) override;
  void abandon() noexcept override;
  /// The connected transport, after connect() returned.
  std::unique_ptr<transport::VerbsTransport> take_transport() { return std::move(transport_); }

 private:
  std::uint32_t slot_bytes_ = 0;
  std::unique_ptr<transport::VerbsEndpoint> endpoint_;
  std::unique_ptr<transport::VerbsTransport> transport_;
};

}  // namespace rdmaorder
