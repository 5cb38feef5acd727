#include "rdmaorder/handler.hpp"

namespace rdmaorder {
namespace {

class NullHandler final : public Handler {
 public:
  void on_orders(std::span<const wire::OrderRecord> /*orders*/,
                 ReportSink& /*sink*/) noexcept override {}
};

}  // namespace

std::unique_ptr<Handler> make_null_handler() { return std::make_unique<NullHandler>(); }

}  // namespace rdmaorder
