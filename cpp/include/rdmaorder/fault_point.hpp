// Named steps at which a process can be made to die or hang, for the fault suite. They stand at
// seams (a handler, a journal or a transport wrapped by another), which are put in only when the
// environment asks for it: a process without RDMAORDER_FAULT has none of them on its order path.
//
//   RDMAORDER_FAULT=STEP:COUNT[:ACTION][,STEP:COUNT[:ACTION] ...]
//
// ACTION is done when STEP is reached for the COUNTth time (from 1), once.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "rdmaorder/platform.hpp"

namespace rdmaorder::fault {

enum class Step : std::uint8_t {
  kAfterWrite,     ///< strategy: an order, or a run of them, was put into the order ring
  kAfterJournal,   ///< gateway: an order was appended to the journal
  kBeforeHandler,  ///< gateway: before Handler::on_orders
  kAfterHandler,   ///< gateway: after it returned
  kBeforeReport,   ///< gateway: a report is about to be journalled
  kAfterReport,    ///< gateway: it was journalled and not yet written to the strategy
};
inline constexpr std::uint8_t kStepCount = 6;
/// "after_write" …
const char* step_name(Step step) noexcept;

enum class Action : std::uint8_t {
  kKill,   ///< SIGKILL to this process
  kStop,   ///< SIGSTOP to this process; it goes on after SIGCONT
  kStall,  ///< the thread sleeps kStallNs
};
inline constexpr std::uint64_t kStallNs = 200'000'000;

/// What RDMAORDER_FAULT asks for, read once; a line on stderr says that faults are armed. Throws
/// Error(kConfig) naming what is wrong with it. Any thread.
[[nodiscard]] bool armed();

/// A step was reached `count` times in one go. Nothing happens unless armed. Any thread.
void reach(Step step, std::uint64_t count = 1) noexcept;

/// Reads a plan; used by armed(). Throws Error(kConfig). Replaces the plan of before (tests).
void arm(const std::string& plan);

}  // namespace rdmaorder::fault
