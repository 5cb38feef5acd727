// bench_probe [--cpu N] [--peer-cpu N]
//
// The floor on demand, for measurements that other programs make: each line read gives one probe as
// a line of JSON. Between probes nothing of it runs.
#include "bench/json.hpp"
#include "bench/options.hpp"
#include "bench/pair.hpp"

namespace rdmaorder::bench {
namespace {

int run(const Options& options) {
  char line[16];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    Pair pair(options.own_cpu(), options.peer_cpu());
    pair.start([] {}, [](std::uint32_t) {});
    const Pair::Probe probe = pair.probe();
    JsonLine().add("p50_ns", probe.p50_ns).add("p99_ns", probe.p99_ns).print();
  }
  return 0;
}

}  // namespace
}  // namespace rdmaorder::bench

int main(int argc, char** argv) {
  return rdmaorder::bench::guarded_main(argc, argv, rdmaorder::bench::run);
}
