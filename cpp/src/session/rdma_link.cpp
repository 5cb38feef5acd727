#include "rdmaorder/rdma_link.hpp"

#include <algorithm>

#include "rdmaorder/error.hpp"

namespace rdmaorder {
namespace {

/// Reads the numeric option `key` into `value`, whose type bounds it; parse_url checked the range.
template <class Value>
void take(const std::map<std::string, std::string>& options, const char* key, Value& value) {
  const auto found = options.find(key);
  if (found != options.end()) value = static_cast<Value>(std::stoul(found->second));
}

}  // namespace

transport::VerbsConfig verbs_config(const std::map<std::string, std::string>& options,
                                    const std::string& local_address) {
  transport::VerbsConfig config;
  config.local_address = local_address;
  if (const auto device = options.find("device"); device != options.end()) {
    config.device = device->second;
  }
  take(options, "port", config.port);
  take(options, "gid_index", config.gid_index);
  take(options, "mtu", config.mtu_bytes);
  take(options, "depth", config.depth);
  take(options, "inline_bytes", config.inline_bytes);
  // Who asks for a shallow queue alone has asked for no interval.
  config.signal_interval = std::min(config.signal_interval, config.depth / 2);
  take(options, "signal_interval", config.signal_interval);
  take(options, "timeout_exponent", config.timeout_exponent);
  take(options, "retry_count", config.retry_count);
  take(options, "rnr_retry_count", config.rnr_retry_count);
  take(options, "traffic_class", config.traffic_class);
  take(options, "service_level", config.service_level);
  return config;
}

control::Endpoint to_endpoint(const transport::VerbsAddress& address) {
  return {address.qp_number, address.packet_sequence, address.gid, address.lid, address.mtu_bytes};
}

transport::VerbsAddress to_verbs_address(const control::Endpoint& endpoint,
                                         std::uint64_t window_address, std::uint32_t window_key,
                                         std::uint64_t window_bytes) {
  transport::VerbsAddress address;
  address.qp_number = endpoint.qp_number;
  address.packet_sequence = endpoint.packet_sequence;
  address.gid = endpoint.gid;
  address.lid = endpoint.lid;
  // Only a port of an InfiniBand subnet has a LID.
  address.link_layer =
      endpoint.lid != 0 ? transport::LinkLayer::kInfiniBand : transport::LinkLayer::kEthernet;
  address.mtu_bytes = endpoint.mtu_bytes;
  address.window_address = window_address;
  address.window_key = window_key;
  address.window_bytes = window_bytes;
  return address;
}

void check_slot_fits(const transport::VerbsTransport& transport, std::uint32_t slot_bytes) {
  const transport::VerbsFacts facts = transport.facts();
  if (slot_bytes <= facts.max_put_bytes) return;
  throw Error(ErrorKind::kConfig, "slots of " + std::to_string(slot_bytes) +
                                      " bytes are larger than the " +
                                      std::to_string(facts.max_put_bytes) + " bytes that " +
                                      facts.device + " port " + std::to_string(facts.port) +
                                      " takes in one message; ask for a smaller slot_bytes");
}

control::LinkOffer RdmaLinkMaker::offer(const control::LinkTerms& terms) {
  slot_bytes_ = terms.report_geometry.slot_bytes;
  endpoint_ = transport::VerbsEndpoint::open(verbs_config(terms.options, terms.local_address),
                                             *terms.report_window);
  const transport::VerbsAddress& local = endpoint_->local();
  return {to_endpoint(local), local.window_address, local.window_key};
}

bool RdmaLinkMaker::accept(const control::LinkAnswer& answer) {
  const control::RemoteWindow& window = answer.order_window;
  transport_ = transport::VerbsEndpoint::connect(
      std::move(endpoint_),
      to_verbs_address(answer.endpoint, window.address, window.key, window.bytes));
  check_slot_fits(*transport_, slot_bytes_);
  transport_->set_peer_data_in_order(answer.data_in_order);
  return transport_->facts().data_in_order;
}

void RdmaLinkMaker::abandon() noexcept {
  transport_.reset();
  endpoint_.reset();
}

}  // namespace rdmaorder
