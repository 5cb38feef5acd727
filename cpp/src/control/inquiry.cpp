// Questions on the control connection of a live link. docs/control-plane.md has the messages.
#include <cstring>

#include "control/channel.hpp"
#include "control/handshake.hpp"
#include "control/message.hpp"
#include "rdmaorder/control.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder::control {
namespace {

/// The answer, which is a `wanted`. A gateway that ended the link meanwhile is told as kRefused.
Message ask(Connection& connection, MessageWriter question, const char* wanted,
            std::uint64_t timeout_ns, Turn turn = Turn::kInTurn) {
  Message answer = connection.ask(question, turn, timeout_ns);
  if (answer.type() == "Terminate") {
    const std::string code = answer.text("code");
    throw Error(ErrorKind::kRefused,
                "the gateway ended the link, " + code + ": " + answer.text("text"), 0, code);
  }
  expect_type(answer, wanted, "Refused");
  return answer;
}

}  // namespace

ClockOffset measure_clock(Connection& connection, std::uint64_t timeout_ns) {
  constexpr int kQuestionCount = 8;
  ClockOffset best;
  best.bound_ns = UINT64_MAX;
  for (int i = 0; i < kQuestionCount; ++i) {
    // In this order: a pause between the two readings then counts as part of the way there.
    const std::uint64_t start = monotonic_ns();
    const std::uint64_t start_ns = realtime_ns();
    const Message answer = ask(connection, MessageWriter("Clock"), "Clock", timeout_ns);
    const std::uint64_t bound_ns = (monotonic_ns() - start) / 2 + 1;
    if (bound_ns >= best.bound_ns) continue;
    best.bound_ns = bound_ns;
    best.offset_ns =
        static_cast<std::int64_t>(answer.number("time_ns", 0, UINT64_MAX) - (start_ns + bound_ns));
  }
  return best;
}

Resolved resolve(Connection& connection, Inquiry inquiry, std::uint64_t from, std::uint32_t count,
                 std::uint64_t timeout_ns) {
  MessageWriter question("Resolve");
  question.text("what", inquiry == Inquiry::kFates ? "fates" : "open")
      .number("from_sequence", from)
      .number("count", count);
  const Message answer = ask(connection, question, "Resolved", timeout_ns);
  const std::string& bytes = answer.bytes("fates");
  if (bytes.size() % sizeof(OrderFate) != 0) {
    throw Error(ErrorKind::kHandshake, "Resolved carries " + std::to_string(bytes.size()) +
                                           " bytes of fates, no multiple of " +
                                           std::to_string(sizeof(OrderFate)));
  }
  Resolved resolved;
  resolved.next_order_sequence = answer.number("next_order_sequence", 1, kSequenceMax);
  resolved.fates.resize(bytes.size() / sizeof(OrderFate));
  std::memcpy(resolved.fates.data(), bytes.data(), bytes.size());
  std::uint64_t least = from;  // open orders ascend, so that the next page lies behind this one
  for (std::size_t i = 0; i < resolved.fates.size(); ++i) {
    const std::uint64_t sequence = resolved.fates[i].sequence;
    const bool fits = inquiry == Inquiry::kFates ? sequence == from + i
                                                 : sequence >= least && sequence <= kSequenceMax;
    if (i < count && fits) {
      least = sequence;
      continue;
    }
    throw Error(ErrorKind::kHandshake, "Resolved has order " + std::to_string(sequence) +
                                           " in place " + std::to_string(i) +
                                           " of an answer about " + std::to_string(count) +
                                           " from " + std::to_string(from) + " on");
  }
  return resolved;
}

std::uint64_t kill(Connection& connection, std::uint64_t timeout_ns) {
  const Message answer =
      ask(connection, MessageWriter("Kill"), "Killed", timeout_ns, Turn::kAtOnce);
  return answer.number("canceled", 0, UINT64_MAX);
}

}  // namespace rdmaorder::control
