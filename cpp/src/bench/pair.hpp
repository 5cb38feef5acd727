// Two processes, each pinned to a core of its own: this one and a forked peer that does what a
// shared word says. Between runs the peer plays the other half of the floor: the bare ping-pong of
// one cache line each way, which tells how far apart the two cores are at this moment. On virtual
// machines that distance changes every few seconds without the guest noticing, so each run is
// bracketed by two probes and counts only when both saw the same.
#pragma once

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>

#include "bench/samples.hpp"
#include "rdmaorder/atomic_word.hpp"

namespace rdmaorder::bench {

inline void pin_this_thread(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    throw std::runtime_error("cannot pin to cpu " + std::to_string(cpu));
  }
}

/// A word on cache lines of its own.
struct alignas(kFalseSharingBytes) LoneWord {
  std::uint64_t value = 0;
};
/// 56 bytes of payload and a sequence: what fits one cache line.
struct alignas(kFalseSharingBytes) LoneLine {
  std::uint64_t words[8] = {};
};

/// The lines of the floor. How long one line takes depends on where its address hashes to in the
/// processor's mesh, so several take turns, each for a while.
struct FloorLines {
  static constexpr std::uint64_t kLineCount = 32;
  static constexpr std::uint64_t kTurnsPerLine = 64;

  [[nodiscard]] static RDMAORDER_ALWAYS_INLINE std::size_t index_of(
      std::uint64_t sequence) noexcept {
    return (sequence / kTurnsPerLine) % kLineCount;
  }
  LoneLine ping[kLineCount];
  LoneLine pong[kLineCount];
  std::uint64_t last_sequence = 0;  ///< written by the side that begins, between runs
};

/// The bare ping-pong: one aligned word a line each way, nothing else.
class Floor {
 public:
  explicit Floor(FloorLines& lines) noexcept
      : lines_(lines), sequence_(load_relaxed(&lines.last_sequence)) {}

  /// Side that begins.
  RDMAORDER_ALWAYS_INLINE void round_trip() noexcept {
    const std::size_t line = FloorLines::index_of(++sequence_);
    store_release(&lines_.ping[line].words[7], sequence_);
    while (load_acquire(&lines_.pong[line].words[7]) != sequence_) {
    }
  }
  /// Before the other side is told to stop.
  void finish() noexcept { store_relaxed(&lines_.last_sequence, sequence_); }

  /// Side that answers, until `stopped()`.
  template <class Stopped>
  void answer(Stopped&& stopped) noexcept {
    for (std::uint64_t sequence = sequence_ + 1; !stopped(); ++sequence) {
      const std::size_t line = FloorLines::index_of(sequence);
      while (load_acquire(&lines_.ping[line].words[7]) != sequence) {
        if (stopped()) return;
      }
      store_release(&lines_.pong[line].words[7], sequence);
    }
  }

 private:
  FloorLines& lines_;
  std::uint64_t sequence_;
};

/// Memory both processes see, zero at first. Unmapped never: it lives as long as the program.
template <class T>
T* make_shared() {
  void* memory =
      mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("mmap of shared memory failed");
  return new (memory) T();
}

class Pair {
 public:
  using Stop = std::function<bool()>;

  struct Probe {
    double p50_ns = 0;  ///< one way
    double p99_ns = 0;
  };

  Pair(int own_cpu, int peer_cpu)
      : own_cpu_(own_cpu),
        peer_cpu_(peer_cpu),
        control_(make_shared<Control>()),
        probe_(1U << 16) {}
  ~Pair() {
    if (peer_ <= 0) return;
    set_mode(kExit);
    waitpid(peer_, nullptr, 0);
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  /// Forks. In the peer: `prepare`, then for each run `serve(index)`, which returns soon after
  /// `stopped()`. The peer is pinned after `prepare`, so that helper threads made there are not.
  /// A peer that dies ends this process too: a spinning wait would otherwise never end.
  void start(const std::function<void()>& prepare,
             const std::function<void(std::uint32_t)>& serve) {
    (void)TickRate::get();
    struct sigaction action{};
    action.sa_handler = [](int) {
      int status = 0;
      if (waitpid(-1, &status, WNOHANG) > 0 && status != 0) _exit(3);
    };
    action.sa_flags = SA_NOCLDSTOP;
    sigaction(SIGCHLD, &action, nullptr);
    peer_ = fork();
    if (peer_ < 0) throw std::runtime_error("fork failed");
    if (peer_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      try {
        prepare();
        pin_this_thread(peer_cpu_);
        serve_modes(serve);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "bench peer: %s\n", error.what());
        _exit(1);
      }
      _exit(0);
    }
    pin_this_thread(own_cpu_);
    set_mode(kIdle);
  }

  [[nodiscard]] pid_t peer() const noexcept { return peer_; }

  /// Peer's side, inside `serve`.
  [[nodiscard]] RDMAORDER_ALWAYS_INLINE bool stopped() const noexcept {
    return load_relaxed(&control_->mode.value) != serving_;
  }

  /// Runs `body` while the peer serves `index`.
  template <class Body>
  void run(std::uint32_t index, Body&& body) {
    set_mode(kFirstRun + index);
    body();
    set_mode(kIdle);
  }

  /// The floor now: about `duration_ns` of ping-pong.
  Probe probe(std::uint64_t duration_ns = 15'000'000) {
    probe_.clear();
    set_mode(kProbe);
    Floor floor(control_->floor);
    const std::uint64_t end = ticks() + TickRate::get().from_ns(duration_ns);
    std::uint64_t before = ticks();
    while (before < end && !probe_.full()) {
      floor.round_trip();
      const std::uint64_t now = ticks();
      probe_.add(now - before);
      before = now;
    }
    floor.finish();
    set_mode(kIdle);
    probe_.sort();
    return {probe_.at_ns(0.5) / 2, probe_.at_ns(0.99) / 2};
  }

 private:
  static constexpr std::uint64_t kStarting = 0, kIdle = 1, kProbe = 2, kExit = 3, kFirstRun = 16;

  struct Control {
    LoneWord mode, accepted;
    FloorLines floor;
  };

  void set_mode(std::uint64_t mode) noexcept {
    // SYNC what the run needs: released here, acquired in serve_modes; and back by `accepted`.
    store_release(&control_->mode.value, mode);
    while (load_acquire(&control_->accepted.value) != mode) cpu_relax();
  }

  void serve_modes(const std::function<void(std::uint32_t)>& serve) {
    for (;;) {
      serving_ = load_acquire(&control_->mode.value);
      store_release(&control_->accepted.value, serving_);
      if (serving_ == kExit) return;
      if (serving_ == kProbe) {
        Floor(control_->floor).answer([this] { return stopped(); });
      } else if (serving_ >= kFirstRun) {
        serve(static_cast<std::uint32_t>(serving_ - kFirstRun));
      }
      while (!stopped()) cpu_relax();
    }
  }

  int own_cpu_;
  int peer_cpu_;
  Control* control_;
  Samples probe_;
  pid_t peer_ = -1;
  std::uint64_t serving_ = kStarting;
};

}  // namespace rdmaorder::bench
