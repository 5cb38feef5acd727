// The gateway's fault points (fault_point.hpp): a handler and a journal that tell which step the
// order path has reached, around the real ones.
#pragma once

#include <memory>

#include "rdmaorder/handler.hpp"
#include "rdmaorder/journal.hpp"

namespace rdmaorder::gateway {

std::unique_ptr<Handler> with_fault_points(std::unique_ptr<Handler> handler);
/// Null stays null.
std::unique_ptr<journal::Writer> with_fault_points(std::unique_ptr<journal::Writer> writer);

}  // namespace rdmaorder::gateway
