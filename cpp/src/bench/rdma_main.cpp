// bench_rdma --own rxe1 --peer rxe0 [--repeats N] [--run-ms N] [--only a,b] [--cpu A --peer-cpu B]
//
// Between two RDMA devices of this machine, in two pinned processes: one-way latency (round trip /
// 2) of bare puts and of the full session, and messages a second. Runs are interleaved. Prints one
// JSON object a run. perftest measures the same devices beside it: benchmarks/rdma.py.
#include "bench/full_session.hpp"
#include "bench/json.hpp"
#include "bench/options.hpp"
#include "rdmaorder/transport/verbs.hpp"

namespace rdmaorder::bench {
namespace {

using transport::VerbsAddress;
using transport::VerbsConfig;
using transport::VerbsEndpoint;
using transport::VerbsTransport;

/// What the two processes tell each other. Each opens its device after the fork: verbs objects do
/// not cross one.
struct Meeting {
  LoneWord own_ready, peer_ready, last_sequence;
  VerbsAddress own, peer;
  AttachedLink attached;
};

VerbsConfig config_of(const std::string& device, std::uint32_t inline_bytes) {
  VerbsConfig config;
  config.device = device;
  config.inline_bytes = inline_bytes;
  config.timeout_exponent = 18;  // a stalled machine is no loss of packets
  return config;
}

void await(const LoneWord& word) {
  while (load_acquire(&word.value) == 0) cpu_relax();
}

/// VerbsTransport::put both ways; the last word carries a sequence.
class VerbsPut final : public Scenario {
 public:
  /// `post_only`: the call alone, without waiting for the answer.
  VerbsPut(std::uint32_t bytes, bool post_only, const Options& options)
      : Scenario((post_only ? "post_" : "put_") + std::to_string(bytes)),
        bytes_(bytes),
        post_only_(post_only),
        own_config_(config_of(options.text("own", ""), bytes)),
        peer_config_(config_of(options.text("peer", ""), bytes)),
        meeting_(make_shared<Meeting>()) {}

  void prepare_peer() override { open(peer_config_, &meeting_->peer); }
  void prepare_own(pid_t) override {
    open(own_config_, &meeting_->own);
    transport_ = VerbsEndpoint::connect(std::move(endpoint_), meeting_->peer);
    store_release(&meeting_->own_ready.value, std::uint64_t{1});
  }
  void serve(const Pair& pair) override {
    if (!transport_) {
      await(meeting_->own_ready);
      transport_ = VerbsEndpoint::connect(std::move(endpoint_), meeting_->own);
      store_release(&meeting_->peer_ready.value, std::uint64_t{1});
    }
    for (std::uint64_t sequence = load_relaxed(&meeting_->last_sequence.value) + 1; !pair.stopped();
         ++sequence) {
      if (!arrived(sequence, [&] { return pair.stopped(); })) return;
      send(sequence);
    }
  }
  void run(RoundTrips& round_trips) override {
    await(meeting_->peer_ready);
    std::uint64_t sequence = load_relaxed(&meeting_->last_sequence.value);
    if (post_only_) {
      // Twice, because what is printed is half of a round trip.
      round_trips([&] {
        send(0);
        send(0);
      });
      return;
    }
    round_trips([&] {
      send(++sequence);
      (void)arrived(sequence, [] { return false; });
    });
    store_relaxed(&meeting_->last_sequence.value, sequence);
  }

 private:
  void open(const VerbsConfig& config, VerbsAddress* address) {
    window_ = make_window(ring_of(64), "bench-put");
    endpoint_ = VerbsEndpoint::open(config, window_);
    *address = endpoint_->local();
  }
  void send(std::uint64_t sequence) {
    words_[bytes_ / 8 - 1] = sequence;
    Status status = transport_->put(0, words_, bytes_);
    while (status == Status::kFull) {
      (void)transport_->progress();
      status = transport_->put(0, words_, bytes_);
    }
    if (!ok(status)) throw std::runtime_error(transport_->failure());
  }
  template <class Stopped>
  bool arrived(std::uint64_t sequence, Stopped&& stopped) {
    while (load_acquire(window_.words() + bytes_ / 8 - 1) != sequence) {
      if (stopped()) return false;
    }
    return true;
  }

  std::uint32_t bytes_;
  bool post_only_;
  VerbsConfig own_config_, peer_config_;
  Meeting* meeting_;
  memory::Window window_;
  std::unique_ptr<VerbsEndpoint> endpoint_;
  std::unique_ptr<VerbsTransport> transport_;
  std::uint64_t words_[wire::kSlotBytesMax / 8] = {};
};

/// A gateway in the peer, a session here.
class VerbsSession final : public Scenario {
 public:
  VerbsSession(std::uint32_t slot_bytes, bool answers, const Options& options)
      : Scenario((answers ? "session_" : "rate_") + std::to_string(slot_bytes)),
        slot_bytes_(slot_bytes),
        answers_(answers),
        reports_{kRingOffsetBytes, slot_bytes, 1024},
        own_config_(config_of(options.text("own", ""), slot_bytes)),
        peer_config_(config_of(options.text("peer", ""), slot_bytes)),
        meeting_(make_shared<Meeting>()) {}

  void prepare_peer() override {
    GatewayConfig config;
    config.max_session_count = 1;
    config.huge_pages = memory::HugePages::kOff;
    gateway_ = std::make_unique<Gateway>(
        config, answers_ ? make_accept_handler() : make_null_handler(), nullptr);
  }
  void prepare_own(pid_t) override {
    report_window_ = make_window(reports_, "bench-reports");
    endpoint_ = VerbsEndpoint::open(own_config_, report_window_);
    meeting_->own = endpoint_->local();
    store_release(&meeting_->own_ready.value, std::uint64_t{1});
  }
  void serve(const Pair& pair) override {
    if (load_relaxed(&meeting_->peer_ready.value) == 0) attach();
    while (!pair.stopped()) (void)gateway_->run_pass();
  }
  void run(RoundTrips& round_trips) override {
    establish();
    wire::ReportRecord reports[8];
    wire::NewOrder order = sample_order(0);
    round_trips([&] {
      std::uint64_t sequence = 0;
      ++order.cl_ord_id;
      send(order, &sequence);
      while (session_->poll(reports, 8) == 0) {
      }
    });
  }
  /// Orders a second, each a call and a WRITE of its own, nothing answered.
  double rate(std::uint64_t run_ns) {
    establish();
    wire::NewOrder order = sample_order(0);
    std::uint64_t sequence = 0, count = 0;
    const std::uint64_t start = ticks(), end = start + TickRate::get().from_ns(run_ns);
    while (ticks() < end) {
      for (int i = 0; i < 64; ++i, ++count) {
        ++order.cl_ord_id;
        send(order, &sequence);
      }
    }
    while (session_->peer().applied < sequence) session_->check_link();
    return static_cast<double>(count) * 1e9 /
           static_cast<double>(TickRate::get().to_ns(ticks() - start));
  }

 private:
  void attach() {
    await(meeting_->own_ready);
    SessionRequest request;
    request.name = name();
    request.slot_bytes = slot_bytes_;
    request.order_slot_count = 1024;
    request.report_slot_count = reports_.slot_count;
    AttachRequest attach;
    attach.session_index = gateway_->open_session(request).session_index;
    attach.report_geometry = reports_;
    attach.connect = [&](const memory::Window& window) {
      auto endpoint = VerbsEndpoint::open(peer_config_, window);
      meeting_->peer = endpoint->local();
      return VerbsEndpoint::connect(std::move(endpoint), meeting_->own);
    };
    const AttachResult made = gateway_->attach(std::move(attach));
    meeting_->attached = {made.epoch, made.order_geometry, -1, made.order_window->bytes()};
    store_release(&meeting_->peer_ready.value, std::uint64_t{1});
  }
  void establish() {
    if (session_) return;
    await(meeting_->peer_ready);
    auto transport = VerbsEndpoint::connect(std::move(endpoint_), meeting_->peer);
    control::Established established;
    established.epoch = meeting_->attached.epoch;
    established.order_geometry = meeting_->attached.order_geometry;
    established.report_geometry = reports_;
    established.report_window = std::move(report_window_);
    established.cancel_reserve_count = 16;
    established.heartbeat_interval_ns = 1'000'000;
    SessionConfig config;
    config.suspect_after_ns = config.dead_after_ns = kHourNs;
    session_ = std::make_unique<Session>(config, std::move(established), std::move(transport));
  }
  void send(const wire::NewOrder& order, std::uint64_t* sequence) {
    Status status = session_->try_new_order(order, sequence);
    while (status == Status::kFull) {
      session_->check_link();
      status = session_->try_new_order(order, sequence);
    }
    if (!ok(status)) throw std::runtime_error("order refused: " + session_->cause());
  }

  std::uint32_t slot_bytes_;
  bool answers_;
  ring::Geometry reports_;
  VerbsConfig own_config_, peer_config_;
  Meeting* meeting_;
  memory::Window report_window_;
  std::unique_ptr<VerbsEndpoint> endpoint_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<Session> session_;
};

void measure(Pair& pair, Scenario& scenario, std::uint32_t index, std::uint64_t repeat,
             std::uint64_t run_ns, Samples& samples) {
  JsonLine line;
  line.add("scenario", scenario.name()).add("repeat", repeat);
  if (auto* session = dynamic_cast<VerbsSession*>(&scenario);
      session != nullptr && scenario.name().starts_with("rate_")) {
    double rate = 0;
    pair.run(index, [&] { rate = session->rate(run_ns); });
    line.add("orders_per_s", rate).print();
    return;
  }
  samples.clear();
  pair.run(index, [&] {
    RoundTrips round_trips(samples, run_ns);
    scenario.run(round_trips);
  });
  samples.sort();
  line.add("n", std::uint64_t{samples.size()})
      .add("p50_ns", samples.at_ns(0.5) / 2)
      .add("p99_ns", samples.at_ns(0.99) / 2)
      .print();
}

int run(const Options& options) {
  const std::uint64_t repeats = options.number("repeats", 1);
  const std::uint64_t run_ns = options.number("run-ms", 500) * 1'000'000;
  Scenarios scenarios;
  for (const std::uint32_t bytes : {64U, 256U}) {
    scenarios.push_back(std::make_unique<VerbsPut>(bytes, false, options));
    scenarios.push_back(std::make_unique<VerbsSession>(bytes, true, options));
  }
  scenarios.push_back(std::make_unique<VerbsSession>(64, false, options));
  scenarios.push_back(std::make_unique<VerbsPut>(64, true, options));
  Samples samples(1U << 18);
  measure_in_turn(options, std::move(scenarios), repeats,
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
