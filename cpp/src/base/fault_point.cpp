#include "rdmaorder/fault_point.hpp"

#include <csignal>
#include <ctime>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "rdmaorder/error.hpp"

namespace rdmaorder::fault {
namespace {

struct Point {
  std::atomic<std::uint64_t> reached{0};
  std::uint64_t due = 0;  ///< 0: never
  Action action = Action::kKill;
};
std::array<Point, kStepCount> points;  // NOLINT: one plan a process, as one environment
bool any = false;

[[noreturn]] void bad(const std::string& part) {
  throw Error(
      ErrorKind::kConfig,
      "RDMAORDER_FAULT: \"" + part +
          "\" is not STEP:COUNT or STEP:COUNT:ACTION with STEP one of after_write, "
          "after_journal, before_handler, after_handler, before_report, after_report, COUNT "
          "from 1, ACTION kill, stop or stall");
}

void arm_one(const std::string& part) {
  const std::size_t first = part.find(':');
  if (first == std::string::npos) bad(part);
  const std::size_t second = part.find(':', first + 1);
  const std::string count = part.substr(first + 1, second - first - 1);
  const std::string action = second == std::string::npos ? "kill" : part.substr(second + 1);
  std::uint64_t due = 0;
  const auto [end, error] = std::from_chars(count.data(), count.data() + count.size(), due);
  if (error != std::errc() || end != count.data() + count.size() || due == 0) bad(part);
  for (std::uint8_t i = 0; i < kStepCount; ++i) {
    if (part.substr(0, first) != step_name(static_cast<Step>(i))) continue;
    points[i].due = due;
    if (action == "kill") {
      points[i].action = Action::kKill;
    } else if (action == "stop") {
      points[i].action = Action::kStop;
    } else if (action == "stall") {
      points[i].action = Action::kStall;
    } else {
      bad(part);
    }
    any = true;
    return;
  }
  bad(part);
}

}  // namespace

const char* step_name(Step step) noexcept {
  switch (step) {
    case Step::kAfterWrite:
      return "after_write";
    case Step::kAfterJournal:
      return "after_journal";
    case Step::kBeforeHandler:
      return "before_handler";
    case Step::kAfterHandler:
      return "after_handler";
    case Step::kBeforeReport:
      return "before_report";
    case Step::kAfterReport:
      return "after_report";
  }
  return "?";
}

void arm(const std::string& plan) {
  any = false;
  for (Point& point : points) {
    point.due = 0;
    point.reached.store(0, std::memory_order_relaxed);
  }
  for (std::size_t start = 0; start < plan.size();) {
    const std::size_t end = std::min(plan.find(',', start), plan.size());
    arm_one(plan.substr(start, end - start));
    start = end + 1;
  }
}

bool armed() {
  static std::once_flag once;
  std::call_once(once, [] {
    const char* plan = std::getenv("RDMAORDER_FAULT");
    if (plan == nullptr || *plan == '\0') return;
    arm(plan);
    std::fprintf(stderr,
                 "rdmaorder: WARNING: RDMAORDER_FAULT=%s: this process will fail on purpose\n",
                 plan);
  });
  return any;
}

void reach(Step step, std::uint64_t count) noexcept {
  Point& point = points[static_cast<std::size_t>(step)];
  if (point.due == 0) return;
  const std::uint64_t before = point.reached.fetch_add(count, std::memory_order_relaxed);
  if (point.due <= before || point.due > before + count) return;
  switch (point.action) {
    case Action::kKill:
      (void)raise(SIGKILL);
      return;
    case Action::kStop:
      (void)raise(SIGSTOP);
      return;
    case Action::kStall: {
      const timespec nap{static_cast<time_t>(kStallNs / 1'000'000'000),
                         static_cast<long>(kStallNs % 1'000'000'000)};
      nanosleep(&nap, nullptr);
      return;
    }
  }
}

}  // namespace rdmaorder::fault
