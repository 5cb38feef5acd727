// bench_costs [--repeats N] [--cpu N] [--journal DIR]
//
// Nanoseconds of single steps, everything in one thread and warm: the order path's parts, and what
// a pass of the gateway costs with idle sessions. One JSON object a repeat and step; the reader
// takes medians.
#include <cstdlib>
#include <filesystem>

#include "bench/json.hpp"
#include "bench/one_thread.hpp"
#include "bench/options.hpp"
#include "bench/pair.hpp"

namespace rdmaorder::bench {
namespace {

constexpr std::uint32_t kBlock = 512;

/// Keeps a value from being optimised away.
template <class T>
RDMAORDER_ALWAYS_INLINE void keep(const T& value) noexcept {
  asm volatile("" : : "r,m"(value) : "memory");
}

/// Times `count` calls of `body` at once and gives nanoseconds of one; the stamps' own cost is
/// spread over the block.
template <class Body>
double block_ns(std::uint32_t count, Body&& body) {
  const std::uint64_t start = ticks();
  for (std::uint32_t i = 0; i < count; ++i) body(i);
  return static_cast<double>(ticks() - start) / TickRate::get().ticks_per_ns() / count;
}

void report(const char* step, std::uint64_t repeat, const std::vector<double>& blocks) {
  JsonLine().add("step", step).add("repeat", repeat).add("ns", median(blocks)).print();
}

template <class Body>
void measure(const char* step, std::uint64_t repeat, Body&& body) {
  std::vector<double> blocks;
  for (int i = 0; i < 200; ++i) blocks.push_back(body());
  report(step, repeat, blocks);
}

void primitives(std::uint64_t repeat) {
  measure("tsc_read", repeat, [] { return block_ns(kBlock, [](auto) { keep(ticks()); }); });
  wire::Slot64 slot{};
  measure("crc_slot", repeat, [&] {
    return block_ns(kBlock, [&](std::uint32_t i) {
      // Each takes the result of the one before: latency, as on the order path.
      slot.words[0] =
          wire::slot_crc(wire::slot_crc_prefix(1, i), slot.words, wire::kSlotBytesDefault);
    });
  });
  std::uint64_t wide[32] = {1, 2, 3, 4, 5, 6, 7};  // a message of 56 bytes in a slot of 256
  measure("crc_slot_256", repeat, [&] {
    return block_ns(kBlock, [&](std::uint32_t i) {
      wide[0] = wire::slot_crc(wire::slot_crc_prefix(1, i), wide, sizeof wide);
    });
  });
  monitor::Histogram histogram;
  measure("histogram_record", repeat,
          [&] { return block_ns(kBlock, [&](std::uint32_t i) { histogram.record(300 + i); }); });
}

void journal_append(std::uint64_t repeat, const std::string& directory) {
  const auto writer = open_journal(directory + "/append", journal::SyncPolicy::kNone);
  wire::Slot64 slot{};
  std::uint64_t sequence = 0;
  measure("journal_append", repeat, [&] {
    return block_ns(kBlock, [&](std::uint32_t i) {
      ++sequence;
      (void)writer->append(journal::RecordKind::kOrder, 0, 0, sequence, i, slot.words, 56);
    });
  });
}

/// A block of orders sent, picked up, answered and polled, each stage timed by itself.
void stages(const char* const names[3], std::uint64_t repeat, OneThread& path) {
  std::vector<double> send, pick_up, poll;
  wire::NewOrder order = sample_order(0);
  for (int i = 0; i < 200; ++i) {
    send.push_back(block_ns(kBlock, [&](std::uint32_t) {
      std::uint64_t sequence = 0;
      ++order.cl_ord_id;
      keep(path.session().try_new_order(order, &sequence));
    }));
    const std::uint64_t start = ticks();
    while (path.gateway().run_pass()) {
    }
    pick_up.push_back(static_cast<double>(ticks() - start) / TickRate::get().ticks_per_ns() /
                      kBlock);
    path.drain_gateway();
    std::uint64_t polled = 0;
    wire::ReportRecord reports[16];
    const std::uint64_t poll_start = ticks();
    while (const std::uint32_t n = path.session().poll(reports, 16)) polled += n;
    if (polled != 0) {
      poll.push_back(static_cast<double>(ticks() - poll_start) / TickRate::get().ticks_per_ns() /
                     static_cast<double>(polled));
    }
    path.drain_session();
  }
  report(names[0], repeat, send);
  report(names[1], repeat, pick_up);
  if (!poll.empty()) report(names[2], repeat, poll);
}

void order_path(std::uint64_t repeat, const std::string& directory) {
  {
    OneThread path(make_null_handler(), nullptr);
    stages((const char* const[]){"send", "pick_up", ""}, repeat, path);
  }
  {
    OneThread path(make_null_handler(),
                   open_journal(directory + "/pick-up", journal::SyncPolicy::kNone));
    stages((const char* const[]){"send_again", "pick_up_journal", ""}, repeat, path);
  }
  {
    OneThread path(make_accept_handler(), nullptr);
    stages((const char* const[]){"send_answered", "pick_up_and_report", "poll_report"}, repeat,
           path);
  }
}

void idle_passes(std::uint64_t repeat) {
  for (const std::uint32_t count : {0U, 1U, 16U, 64U, 256U, 1024U}) {
    OneThread path(make_null_handler(), nullptr, count);
    path.drain_gateway();
    std::vector<double> blocks;
    for (int i = 0; i < 100; ++i) {
      blocks.push_back(block_ns(256, [&](std::uint32_t) { keep(path.gateway().run_pass()); }));
    }
    JsonLine()
        .add("step", "idle_pass")
        .add("idle_sessions", std::uint64_t{count})
        .add("repeat", repeat)
        .add("ns", median(blocks))
        .print();
  }
}

int run(const Options& options) {
  raise_descriptor_limit();
  pin_this_thread(options.own_cpu());
  const std::string directory = options.text("journal", "");
  if (directory.empty()) throw std::invalid_argument("--journal DIR is needed");
  const std::uint64_t repeats = options.number("repeats", 5);
  for (std::uint64_t repeat = 0; repeat < repeats; ++repeat) {
    primitives(repeat);
    journal_append(repeat, directory);
    order_path(repeat, directory);
    idle_passes(repeat);
  }
  return 0;
}

}  // namespace
}  // namespace rdmaorder::bench

int main(int argc, char** argv) {
  return rdmaorder::bench::guarded_main(argc, argv, rdmaorder::bench::run);
}
