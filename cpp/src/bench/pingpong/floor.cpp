// The floor, between two threads of this process: what one cache line costs there and back between
// the two processors at this moment.
#include <atomic>
#include <thread>

#include "bench/pair.hpp"
#include "rdmaorder/error.hpp"
#include "rdmaorder/pingpong.hpp"

namespace rdmaorder::pingpong {
namespace {

constexpr int kWarmUpCount = 500;

/// Pins the calling thread; false where the processor does not exist or is not ours.
bool pin(int cpu) noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  return sched_setaffinity(0, sizeof set, &set) == 0;
}

}  // namespace

std::size_t run_floor(int own_cpu, int peer_cpu, std::span<std::uint64_t> round_trip_ticks,
                      std::uint64_t limit_ns) {
  std::size_t count = 0;
  const auto lines = std::make_unique<bench::FloorLines>();
  std::atomic<int> ready{0};
  std::atomic<bool> refused{false};
  std::atomic<bool> stop{false};
  const auto stopped = [&] { return stop.load(std::memory_order_relaxed); };
  // Both wait for each other asleep or nearly so: they may share a processor until they are pinned.
  const auto meet = [&](int cpu) {
    if (!pin(cpu)) refused = true;
    ++ready;
    while (ready.load() != 2) sched_yield();
    return !refused.load();
  };
  std::thread peer([&] {
    if (meet(peer_cpu)) bench::Floor(*lines).answer(stopped);
  });
  std::thread own([&] {
    if (!meet(own_cpu)) return;
    bench::Floor floor(*lines);
    for (int i = 0; i < kWarmUpCount; ++i) floor.round_trip();
    std::uint64_t before = ticks();
    const std::uint64_t end = before + TickRate::get().from_ns(limit_ns);
    for (std::uint64_t& sample : round_trip_ticks) {
      floor.round_trip();
      const std::uint64_t now = ticks();
      sample = now - before;
      before = now;
      ++count;
      if (RDMAORDER_UNLIKELY(now >= end)) break;
    }
    stop = true;
  });
  own.join();
  peer.join();
  if (refused) {
    throw Error(ErrorKind::kConfig, "cannot run on processors " + std::to_string(own_cpu) +
                                        " and " + std::to_string(peer_cpu) +
                                        ": they do not exist or are not allowed to this process");
  }
  return count;
}

}  // namespace rdmaorder::pingpong
