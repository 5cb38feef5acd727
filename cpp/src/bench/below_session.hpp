// Scenarios beneath the session: the floor, raw transport puts, the ring; and what the kernel and a
// bare queue offer for the same 64 bytes.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>

#include <atomic>

#include "bench/local_links.hpp"
#include "bench/scenario.hpp"

namespace rdmaorder::bench {

/// One 64-bit word each way: the physical reference.
class FloorWord final : public Scenario {
 public:
  FloorWord() : Scenario("floor_word"), lines_(make_shared<FloorLines>()) {}
  void serve(const Pair& pair) override {
    Floor(*lines_).answer([&] { return pair.stopped(); });
  }
  void run(RoundTrips& round_trips) override {
    Floor floor(*lines_);
    round_trips([&] { floor.round_trip(); });
    floor.finish();
  }

 private:
  FloorLines* lines_;
};

/// 56 bytes and a sequence in one line each way, written and read whole.
class FloorLine final : public Scenario {
 public:
  FloorLine() : Scenario("floor_line"), lines_(make_shared<FloorLines>()) {}
  void serve(const Pair& pair) override {
    std::uint64_t copy[8] = {};
    for (std::uint64_t sequence = load_relaxed(&lines_->last_sequence) + 1; !pair.stopped();
         ++sequence) {
      const std::size_t line = FloorLines::index_of(sequence);
      while (load_acquire(&lines_->ping[line].words[7]) != sequence) {
        if (pair.stopped()) return;
      }
      copy_words_from_shared(copy, lines_->ping[line].words, 7);
      write(lines_->pong[line], copy, sequence);
    }
  }
  void run(RoundTrips& round_trips) override {
    std::uint64_t sequence = load_relaxed(&lines_->last_sequence);
    std::uint64_t copy[8] = {};
    round_trips([&] {
      const std::size_t line = FloorLines::index_of(++sequence);
      write(lines_->ping[line], copy, sequence);
      while (load_acquire(&lines_->pong[line].words[7]) != sequence) {
      }
      copy_words_from_shared(copy, lines_->pong[line].words, 7);
    });
    store_relaxed(&lines_->last_sequence, sequence);
  }

 private:
  static void write(LoneLine& line, const std::uint64_t* from, std::uint64_t sequence) noexcept {
    store_line(line.words, from, sequence);
  }
  FloorLines* lines_;
};

/// Both windows and the transports into them, made before the fork and so known to both sides.
struct WindowPair {
  ring::Geometry geometry = ring_of(256);
  memory::Window own = make_window(geometry, "bench-own");    ///< this process reads it
  memory::Window peer = make_window(geometry, "bench-peer");  ///< the peer reads it
  std::unique_ptr<transport::Transport> to_peer =
      transport::make_shm(map_again(getpid(), peer.fd(), geometry.window_bytes()));
  std::unique_ptr<transport::Transport> to_own =
      transport::make_shm(map_again(getpid(), own.fd(), geometry.window_bytes()));
};

/// Transport::put of 64 bytes each way; the last word carries a sequence. Places as for the floor.
class RawPut final : public Scenario {
 public:
  RawPut() : Scenario("raw_put"), last_sequence_(make_shared<LoneWord>()) {}
  void serve(const Pair& pair) override {
    wire::Slot64 slot{};
    for (std::uint64_t sequence = load_relaxed(&last_sequence_->value) + 1; !pair.stopped();
         ++sequence) {
      const std::uint64_t offset = offset_of(sequence);
      while (load_acquire(windows_.peer.words() + offset / 8 + 7) != sequence) {
        if (pair.stopped()) return;
      }
      slot.words[7] = sequence;
      (void)windows_.to_own->put(offset, slot.words, sizeof slot);
    }
  }
  void run(RoundTrips& round_trips) override {
    std::uint64_t sequence = load_relaxed(&last_sequence_->value);
    wire::Slot64 slot{};
    round_trips([&] {
      const std::uint64_t offset = offset_of(++sequence);
      slot.words[7] = sequence;
      (void)windows_.to_peer->put(offset, slot.words, sizeof slot);
      while (load_acquire(windows_.own.words() + offset / 8 + 7) != sequence) {
      }
    });
    store_relaxed(&last_sequence_->value, sequence);
  }

 private:
  static std::uint64_t offset_of(std::uint64_t sequence) noexcept {
    return kRingOffsetBytes + FloorLines::index_of(sequence) * kFalseSharingBytes;
  }
  WindowPair windows_;
  LoneWord* last_sequence_;
};

/// Link::send and Reader::read both ways: sequence, credit, CRC and copy, no session above.
class Ring final : public Scenario {
 public:
  Ring()
      : Scenario("ring"),
        own_(config(windows_.own, 1), std::move(windows_.to_peer)),
        peer_(config(windows_.peer, 1), std::move(windows_.to_own)) {}
  void serve(const Pair& pair) override {
    wire::Slot64 slot{};
    while (!pair.stopped()) {
      if (!ok(peer_.reader().read(slot.words))) continue;
      send(peer_, slot);
      give_credit(peer_);
    }
  }
  void run(RoundTrips& round_trips) override {
    wire::Slot64 slot{};
    round_trips([&] {
      send(own_, slot);
      give_credit(own_);
      while (!ok(own_.reader().read(slot.words))) {
      }
    });
  }

 private:
  [[nodiscard]] LinkConfig config(const memory::Window& own, std::uint64_t epoch) const {
    LinkConfig config;
    config.epoch = epoch;
    config.own_window_words = own.words();
    config.inbound = windows_.geometry;
    config.outbound = windows_.geometry;
    return config;
  }
  // Without credit for a moment where the line that gives it is being written just now.
  static void send(Link& link, wire::Slot64& slot) noexcept {
    while (!ok(link.send(ring::Lane::kNormal, slot.words))) {
    }
  }
  static void give_credit(Link& link) noexcept {
    if (link.unpublished_count() >= 64) (void)link.publish({});
  }
  WindowPair windows_;
  Link own_;
  Link peer_;
};

/// A bare single-producer single-consumer queue of 64-byte items with cached indices each way.
class BareQueue final : public Scenario {
 public:
  BareQueue() : Scenario("peer_spsc_queue"), queues_(make_shared<Queues>()) {}
  void serve(const Pair& pair) override {
    wire::Slot64 item{};
    while (!pair.stopped()) {
      if (queues_->there.pop(item)) queues_->back.push(item);
    }
  }
  void run(RoundTrips& round_trips) override {
    wire::Slot64 item{};
    round_trips([&] {
      queues_->there.push(item);
      while (!queues_->back.pop(item)) {
      }
    });
  }

  class Queue {
   public:
    bool push(const wire::Slot64& item) noexcept {
      const std::uint64_t tail = load_relaxed(&tail_.value);
      if (tail - seen_head_.value == kCount) {
        seen_head_.value = load_acquire(&head_.value);
        if (tail - seen_head_.value == kCount) return false;
      }
      items_[tail % kCount] = item;
      store_release(&tail_.value, tail + 1);
      return true;
    }
    bool pop(wire::Slot64& item) noexcept {
      const std::uint64_t head = load_relaxed(&head_.value);
      if (head == seen_tail_.value) {
        seen_tail_.value = load_acquire(&tail_.value);
        if (head == seen_tail_.value) return false;
      }
      item = items_[head % kCount];
      store_release(&head_.value, head + 1);
      return true;
    }

   private:
    static constexpr std::uint64_t kCount = 1024;
    LoneWord head_, seen_tail_, tail_, seen_head_;
    wire::Slot64 items_[kCount];
  };

 private:
  struct Queues {
    Queue there, back;
  };
  Queues* queues_;
};

/// 64 bytes through a pair of descriptors, both sides spinning on non-blocking reads.
class Descriptors final : public Scenario {
 public:
  enum class Kind : std::uint8_t { kUnixSocket, kPipe };
  explicit Descriptors(Kind kind)
      : Scenario(kind == Kind::kPipe ? "peer_pipe" : "peer_unix_socket") {
    int there[2], back[2];
    if (kind == Kind::kPipe) {
      if (pipe2(there, O_NONBLOCK) != 0 || pipe2(back, O_NONBLOCK) != 0) fail();
      own_in_ = back[0], own_out_ = there[1], peer_in_ = there[0], peer_out_ = back[1];
    } else {
      if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, there) != 0) fail();
      own_in_ = own_out_ = there[0], peer_in_ = peer_out_ = there[1];
    }
  }
  void serve(const Pair& pair) override {
    wire::Slot64 item{};
    while (!pair.stopped()) {
      if (::read(peer_in_, &item, sizeof item) == sizeof item) send(peer_out_, item);
    }
  }
  void run(RoundTrips& round_trips) override {
    wire::Slot64 item{};
    round_trips([&] {
      send(own_out_, item);
      while (::read(own_in_, &item, sizeof item) != sizeof item) {
      }
    });
  }

 private:
  [[noreturn]] static void fail() { throw std::runtime_error("cannot make a socket pair or pipe"); }
  static void send(int fd, const wire::Slot64& item) {
    if (::write(fd, &item, sizeof item) != sizeof item) fail();
  }
  int own_in_, own_out_, peer_in_, peer_out_;
};

}  // namespace rdmaorder::bench
