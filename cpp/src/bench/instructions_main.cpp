// bench_instructions --step NAME [--journal DIR]
//
// Runs one step kStepCount times inside measured_step(), which valgrind --tool=callgrind counts
// (--toggle-collect=measured_step); everything around it is preparation. Counts are exact, so one
// run is enough. Prints how often the step ran.
#include "bench/json.hpp"
#include "bench/one_thread.hpp"
#include "bench/options.hpp"

namespace rdmaorder::bench {
namespace {

constexpr std::uint32_t kStepCount = 4096;

/// What the counted function does; set before each call. Its own call and loop are in the count.
struct Step {
  virtual ~Step() = default;
  virtual void prepare() {}  ///< not counted
  virtual void once() = 0;   ///< counted
};

}  // namespace
}  // namespace rdmaorder::bench

// Outside every namespace, so that its name is what the command line of valgrind says.
extern "C" [[gnu::noinline, gnu::visibility("default")]] void measured_step(void* step) {
  static_cast<rdmaorder::bench::Step*>(step)->once();
}

namespace rdmaorder::bench {
namespace {

struct Nothing final : Step {
  void once() override {}
};

struct Send final : Step {
  explicit Send(OneThread& path) : path_(path) {}
  void prepare() override {
    path_.drain_gateway();
    path_.drain_session();
    ++order_.cl_ord_id;
  }
  void once() override {
    std::uint64_t sequence = 0;
    (void)path_.session().try_new_order(order_, &sequence);
  }

 private:
  OneThread& path_;
  wire::NewOrder order_ = sample_order(0);
};

/// One pass of the gateway that takes one order and hands it to the handler.
struct PickUp final : Step {
  explicit PickUp(OneThread& path) : path_(path), send_(path) {}
  void prepare() override {
    send_.prepare();
    send_.once();
  }
  void once() override { (void)path_.gateway().run_pass(); }

 private:
  OneThread& path_;
  Send send_;
};

/// The pass after it, which finds nothing and writes the status line.
struct PassAfter final : Step {
  explicit PassAfter(OneThread& path) : path_(path), pick_up_(path) {}
  void prepare() override {
    pick_up_.prepare();
    pick_up_.once();
  }
  void once() override { (void)path_.gateway().run_pass(); }

 private:
  OneThread& path_;
  PickUp pick_up_;
};

/// A poll that delivers one report.
struct Poll final : Step {
  explicit Poll(OneThread& path) : path_(path), send_(path) {}
  void prepare() override {
    send_.prepare();
    send_.once();
    path_.drain_gateway();
  }
  void once() override { (void)path_.session().poll(reports_, 8); }

 private:
  OneThread& path_;
  Send send_;
  wire::ReportRecord reports_[8];
};

struct EmptyPoll final : Step {
  explicit EmptyPoll(OneThread& path) : path_(path) { path.drain_session(); }
  void once() override { (void)path_.session().poll(reports_, 8); }

 private:
  OneThread& path_;
  wire::ReportRecord reports_[8];
};

std::unique_ptr<Step> make_step(const std::string& name, OneThread& path) {
  if (name == "nothing") return std::make_unique<Nothing>();
  if (name == "send") return std::make_unique<Send>(path);
  if (name.starts_with("pick_up")) return std::make_unique<PickUp>(path);
  if (name == "pass_after") return std::make_unique<PassAfter>(path);
  if (name == "poll") return std::make_unique<Poll>(path);
  if (name == "empty_poll") return std::make_unique<EmptyPoll>(path);
  throw std::invalid_argument("no such step: " + name);
}

// Under valgrind a step takes as long as a heartbeat really does; the count is to be of the step.
constexpr std::uint64_t kHeartbeatNs = 3'600'000'000'000;

int run(const Options& options) {
  const std::string name = options.text("step", "nothing");
  const bool answers = name == "poll" || name == "pick_up_and_report";
  OneThread path(answers ? make_accept_handler() : make_null_handler(),
                 open_journal(options.text("journal", ""), journal::SyncPolicy::kNone), 0,
                 kHeartbeatNs);
  const std::unique_ptr<Step> step = make_step(name, path);
  for (std::uint32_t i = 0; i < kStepCount; ++i) {
    step->prepare();
    measured_step(step.get());
  }
  JsonLine().add("step", name).add("count", std::uint64_t{kStepCount}).print();
  return 0;
}

}  // namespace
}  // namespace rdmaorder::bench

int main(int argc, char** argv) {
  return rdmaorder::bench::guarded_main(argc, argv, rdmaorder::bench::run);
}
