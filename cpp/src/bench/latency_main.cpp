// bench_latency [--repeats N] [--run-ms N] [--journal DIR] [--only a,b] [--cpus A,B]
//
// One-way latency (round trip / 2) of 64 bytes between two pinned processes, from the bare cache
// line up to the full session. Scenarios are interleaved; every run stands between two probes of
// the floor. Prints one JSON object a run; what to keep is decided by the reader.
#include <cstdlib>
#include <filesystem>

#include "bench/below_session.hpp"
#include "bench/full_session.hpp"
#include "bench/json.hpp"
#include "bench/options.hpp"

namespace rdmaorder::bench {
namespace {

Scenarios make_scenarios(const std::string& journal_directory) {
  Scenarios all;
  all.push_back(std::make_unique<FloorWord>());
  all.push_back(std::make_unique<FloorLine>());
  all.push_back(std::make_unique<RawPut>());
  all.push_back(std::make_unique<Ring>());
  const auto session = [&](SessionSetup setup) {
    all.push_back(std::make_unique<SessionRoundTrip>(std::move(setup)));
  };
  session({.name = "session"});
  if (!journal_directory.empty()) {
    session({.name = "session_journal_none",
             .journal_directory = journal_directory + "/latency-none",
             .sync = journal::SyncPolicy::kNone});
    session({.name = "session_journal_interval",
             .journal_directory = journal_directory + "/latency-interval",
             .sync = journal::SyncPolicy::kInterval});
  }
  for (const std::uint32_t idle : {1U, 16U, 64U, 256U, 1023U}) {
    session({.name = "session_beside_idle_" + std::to_string(idle), .idle_session_count = idle});
  }
  all.push_back(std::make_unique<BareQueue>());
  all.push_back(std::make_unique<Descriptors>(Descriptors::Kind::kUnixSocket));
  all.push_back(std::make_unique<Descriptors>(Descriptors::Kind::kPipe));
  return all;
}

void measure(Pair& pair, Scenario& scenario, std::uint32_t index, std::uint64_t repeat,
             std::uint64_t run_ns, Samples& samples) {
  samples.clear();
  const Pair::Probe before = pair.probe();
  pair.run(index, [&] {
    RoundTrips round_trips(samples, run_ns);
    scenario.run(round_trips);
  });
  const Pair::Probe after = pair.probe();
  samples.sort();
  JsonLine()
      .add("scenario", scenario.name())
      .add("repeat", repeat)
      .add("floor_before_ns", before.p50_ns)
      .add("floor_after_ns", after.p50_ns)
      .add("n", std::uint64_t{samples.size()})
      .add("p50_ns", samples.at_ns(0.5) / 2)
      .add("p90_ns", samples.at_ns(0.9) / 2)
      .add("p99_ns", samples.at_ns(0.99) / 2)
      .add("p99_9_ns", samples.at_ns(0.999) / 2)
      .print();
}

int run(const Options& options) {
  raise_descriptor_limit();
  const std::uint64_t repeats = options.number("repeats", 5);
  const std::uint64_t run_ns = options.number("run-ms", 40) * 1'000'000;
  Samples samples(1U << 20);
  measure_in_turn(options, make_scenarios(options.text("journal", "")), repeats,
                  [&](Pair& pair, Scenario& scenario, std::uint32_t index, std::uint64_t repeat) {
                    measure(pair, scenario, index, repeat, run_ns, samples);
                  });
  return 0;
}

}  // namespace
}  // namespace rdmaorder::bench

int main(int argc, char** argv) {
  return rdmaorder::bench::guarded_main(argc, argv, rdmaorder::bench::run);
}
