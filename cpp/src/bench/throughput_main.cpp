// bench_throughput [--repeats N] [--run-ms N] [--journal DIR] [--cpu N] [--peer-cpu N]
//
// Messages a second of 64 bytes from one pinned process to another: sent as fast as credit allows
// for a while, then timed until the gateway has taken the last one. One JSON object a run.
#include "bench/below_session.hpp"
#include "bench/full_session.hpp"
#include "bench/json.hpp"
#include "bench/options.hpp"

namespace rdmaorder::bench {
namespace {

constexpr std::uint32_t kBatchCount = 256;

struct Result {
  std::uint64_t messages = 0;
  std::uint64_t elapsed_ticks = 0;
};

class Flow {
 public:
  explicit Flow(std::string name) : name_(std::move(name)) {}
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;
  virtual ~Flow() = default;
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  virtual void prepare_peer() {}
  virtual void prepare_own(pid_t /*peer*/) {}
  virtual void serve(const Pair& pair) = 0;
  virtual Result run(std::uint64_t duration_ticks) = 0;

 private:
  std::string name_;
};

class SessionFlow final : public Flow {
 public:
  enum class Mode : std::uint8_t { kSingle, kBatched, kAnswered };

  SessionFlow(SessionSetup setup, Mode mode)
      : Flow(setup.name), split_(std::move(setup)), mode_(mode), batch_(kBatchCount) {
    for (std::uint32_t i = 0; i < kBatchCount; ++i) {
      const wire::MessageHeader header = wire::header_of(wire::TemplateId::kNewOrder);
      const wire::NewOrder order = sample_order(i + 1);
      std::memcpy(&batch_[i].words[0], &header, sizeof header);
      std::memcpy(&batch_[i].words[1], &order, sizeof order);
    }
  }
  void prepare_peer() override { split_.prepare_peer(); }
  void prepare_own(pid_t peer) override { split_.prepare_own(peer); }
  void serve(const Pair& pair) override { split_.serve(pair); }

  Result run(std::uint64_t duration_ticks) override {
    Session& session = split_.session();
    const std::uint64_t first = session.next_sequence();
    const std::uint64_t start = ticks();
    while (ticks() - start < duration_ticks) {
      if (mode_ == Mode::kBatched) {
        Status status = Status::kOk;
        (void)session.try_send_batch(batch_[0].words, kBatchCount, &status);
      } else {
        send_single(session);
      }
    }
    const std::uint64_t last = session.next_sequence() - 1;
    while (session.peer().applied < last) {
      if (mode_ == Mode::kAnswered) (void)session.poll(reports_, 64);
      session.check_link();
    }
    const std::uint64_t elapsed = ticks() - start;
    while (session.poll(reports_, 64) != 0) {
    }
    return {last + 1 - first, elapsed};
  }

 private:
  void send_single(Session& session) noexcept {
    std::uint64_t sequence = 0;
    wire::NewOrder order = order_;  // of its own, so that it may be in registers
    for (std::uint32_t i = 0; i < 64; ++i) {
      ++order.cl_ord_id;
      (void)session.try_new_order(order, &sequence);
    }
    order_.cl_ord_id = order.cl_ord_id;
    if (mode_ == Mode::kAnswered) (void)session.poll(reports_, 64);
  }

  SplitSession split_;
  Mode mode_;
  wire::NewOrder order_ = sample_order(0);
  std::vector<wire::Slot64> batch_;
  wire::ReportRecord reports_[64];
};

class QueueFlow final : public Flow {
 public:
  QueueFlow() : Flow("peer_spsc_queue"), shared_(make_shared<Shared>()) {}
  void serve(const Pair& pair) override {
    wire::Slot64 item{};
    while (!pair.stopped()) {
      if (shared_->queue.pop(item)) store_release(&shared_->taken.value, ++taken_);
    }
  }
  Result run(std::uint64_t duration_ticks) override {
    const std::uint64_t first = sent_;
    wire::Slot64 item{};
    const std::uint64_t start = ticks();
    while (ticks() - start < duration_ticks) {
      for (int i = 0; i < 64; ++i) sent_ += shared_->queue.push(item) ? 1U : 0U;
    }
    while (load_acquire(&shared_->taken.value) != sent_) {
    }
    return {sent_ - first, ticks() - start};
  }

 private:
  struct Shared {
    BareQueue::Queue queue;
    LoneWord taken;
  };
  Shared* shared_;
  std::uint64_t sent_ = 0;
  std::uint64_t taken_ = 0;
};

std::vector<std::unique_ptr<Flow>> make_flows(const std::string& journal_directory) {
  using Mode = SessionFlow::Mode;
  std::vector<std::unique_ptr<Flow>> flows;
  const auto add = [&](const std::string& name, Mode mode, const std::string& journal) {
    SessionSetup setup{
        .name = name,
        .journal_directory = journal.empty() ? journal : journal_directory + "/" + journal,
        .order_slot_count = 4096,
        .answers = mode == Mode::kAnswered};
    flows.push_back(std::make_unique<SessionFlow>(std::move(setup), mode));
  };
  add("single", Mode::kSingle, "");
  add("batched", Mode::kBatched, "");
  add("answered", Mode::kAnswered, "");
  if (!journal_directory.empty()) {
    add("single_journal", Mode::kSingle, "single");
    add("batched_journal", Mode::kBatched, "batched");
  }
  flows.push_back(std::make_unique<QueueFlow>());
  return flows;
}

int run(const Options& options) {
  const std::uint64_t repeats = options.number("repeats", 5);
  const std::uint64_t run_ticks = TickRate::get().from_ns(options.number("run-ms", 50) * 1'000'000);
  const auto flows = make_flows(options.text("journal", ""));
  Pair pair(options.own_cpu(), options.peer_cpu());
  pair.start(
      [&] {
        for (const auto& each : flows) each->prepare_peer();
      },
      [&](std::uint32_t index) { flows[index]->serve(pair); });
  for (const auto& each : flows) each->prepare_own(pair.peer());
  for (std::uint64_t repeat = 0; repeat < repeats; ++repeat) {
    for (std::uint32_t i = 0; i < flows.size(); ++i) {
      const Pair::Probe before = pair.probe();
      Result result;
      pair.run(i, [&] { result = flows[i]->run(run_ticks); });
      const Pair::Probe after = pair.probe();
      const double seconds =
          static_cast<double>(result.elapsed_ticks) / TickRate::get().ticks_per_ns() / 1e9;
      JsonLine()
          .add("flow", flows[i]->name())
          .add("repeat", repeat)
          .add("floor_before_ns", before.p50_ns)
          .add("floor_after_ns", after.p50_ns)
          .add("n", result.messages)
          .add("million_per_s", static_cast<double>(result.messages) / seconds / 1e6)
          .print();
    }
  }
  return 0;
}

}  // namespace
}  // namespace rdmaorder::bench

int main(int argc, char** argv) {
  return rdmaorder::bench::guarded_main(argc, argv, rdmaorder::bench::run);
}
