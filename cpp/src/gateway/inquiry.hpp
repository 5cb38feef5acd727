// Answers out of the journal, for control threads: the fates of orders, and which are open.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rdmaorder/journal.hpp"
#include "rdmaorder/order_fate.hpp"

namespace rdmaorder::gateway {

struct Inquiry {
  std::string directory;        ///< of the journal
  journal::Location begin;      ///< before the first record of interest
  std::uint64_t last_position;  ///< nothing behind it is read
  std::uint32_t session_index;
  std::uint64_t next_order_sequence;  ///< of the session at last_position
};

/// One fate a sequence of [from, from + count). Throws Error(kJournal).
std::vector<OrderFate> find_fates(const Inquiry& inquiry, std::uint64_t from, std::uint32_t count);

/// Open orders and unanswered requests whose sequence is `from` or later, ascending. Reads the
/// whole journal. Throws Error(kJournal).
std::vector<OrderFate> find_open_orders(const Inquiry& inquiry, std::uint64_t from);

}  // namespace rdmaorder::gateway
