// One thing to measure between two processes: what the peer serves and what this side times.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/options.hpp"
#include "bench/pair.hpp"

namespace rdmaorder::bench {

/// Times round trips one after the other: each stamp ends one and begins the next, so the single
/// TSC read a round trip costs is the same for the floor and for everything set beside it.
class RoundTrips {
 public:
  RoundTrips(Samples& samples, std::uint64_t duration_ns)
      : samples_(samples), duration_ticks_(TickRate::get().from_ns(duration_ns)) {}

  template <class Once>
  void operator()(Once&& once) {
    for (int i = 0; i < kWarmUpCount; ++i) once();
    std::uint64_t before = ticks();
    const std::uint64_t end = before + duration_ticks_;
    while (before < end && !samples_.full()) {
      once();
      const std::uint64_t now = ticks();
      samples_.add(now - before);
      before = now;
    }
  }

 private:
  static constexpr int kWarmUpCount = 500;
  Samples& samples_;
  std::uint64_t duration_ticks_;
};

class Scenario {
 public:
  explicit Scenario(std::string name) : name_(std::move(name)) {}
  Scenario(const Scenario&) = delete;
  Scenario& operator=(const Scenario&) = delete;
  virtual ~Scenario() = default;

  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  /// In the peer, after the fork.
  virtual void prepare_peer() {}
  /// In this process, after every prepare_peer.
  virtual void prepare_own(pid_t /*peer*/) {}
  /// In the peer: answers until pair.stopped().
  virtual void serve(const Pair& pair) = 0;
  /// In this process.
  virtual void run(RoundTrips& round_trips) = 0;

 private:
  std::string name_;
};

using Scenarios = std::vector<std::unique_ptr<Scenario>>;

/// Those that --only names (default: all), each in turn, `repeats` times over: `measure(pair,
/// scenario, index, repeat)`, where index is what Pair::run takes.
template <class Measure>
void measure_in_turn(const Options& options, Scenarios scenarios, std::uint64_t repeats,
                     Measure&& measure) {
  const std::string only = options.text("only", "");
  if (!only.empty()) {
    std::erase_if(scenarios, [&](const auto& each) { return !in_list(only, each->name()); });
  }
  Pair pair(options.own_cpu(), options.peer_cpu());
  pair.start(
      [&] {
        for (const auto& each : scenarios) each->prepare_peer();
      },
      [&](std::uint32_t index) { scenarios[index]->serve(pair); });
  for (const auto& each : scenarios) each->prepare_own(pair.peer());
  for (std::uint64_t repeat = 0; repeat < repeats; ++repeat) {
    for (std::uint32_t i = 0; i < scenarios.size(); ++i) {
      measure(pair, *scenarios[i], i, repeat);
    }
  }
}

}  // namespace rdmaorder::bench
