#include <signal.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "bench/pingpong/stamp.hpp"
#include "rdmaorder/pingpong.hpp"

namespace rdmaorder::pingpong {
namespace {

volatile std::sig_atomic_t interrupt_seen = 0;

constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};

void on_signal(int /*number*/) { interrupt_seen = 1; }

}  // namespace

struct InterruptGuard::Saved {
  std::array<struct sigaction, kSignals.size()> actions{};
};

InterruptGuard::InterruptGuard() : saved_(std::make_unique<Saved>()) {
  interrupt_seen = 0;
  struct sigaction action{};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    struct sigaction& before = saved_->actions[i];
    sigaction(kSignals[i], nullptr, &before);
    const bool nohup = kSignals[i] == SIGHUP && before.sa_handler == SIG_IGN;
    if (!nohup) sigaction(kSignals[i], &action, nullptr);
  }
}

InterruptGuard::~InterruptGuard() {
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    sigaction(kSignals[i], &saved_->actions[i], nullptr);
  }
}

bool InterruptGuard::interrupted() noexcept { return interrupt_seen != 0; }

ClockFacts measure_clock() {
  constexpr int kRounds = 64;
  constexpr int kReads = 1000;
  ClockFacts facts;
  const double per_ns = TickRate::get().ticks_per_ns();
  facts.ticks_per_ns = per_ns;
  std::uint64_t best = UINT64_MAX;
  std::uint64_t best_pairs = UINT64_MAX;
  std::uint64_t step = UINT64_MAX;
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t start = ticks();
    std::uint64_t last = start;
    for (int i = 0; i < kReads; ++i) {
      const std::uint64_t now = ticks_after_loads();
      if (now != last) step = std::min(step, now - last);
      last = now;
    }
    best = std::min(best, last - start);
    // What a sample shows when nothing happens between its stamps.
    std::uint64_t sum = 0;
    for (int i = 0; i < kReads; ++i) {
      const std::uint64_t before = ticks();
      asm volatile("" ::: "memory");
      sum += ticks_after_loads() - before;
    }
    best_pairs = std::min(best_pairs, sum);
  }
  facts.read_cost_ns = static_cast<double>(best) / kReads / per_ns;
  facts.order_cost_ns = static_cast<double>(best_pairs) / kReads / per_ns;
  facts.step_ticks = step;
  return facts;
}

}  // namespace rdmaorder::pingpong
