// The transports of one machine against the contract, and shared memory between two real processes.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault_transport.hpp"
#include "rdmaorder/transport/inproc.hpp"
#include "rdmaorder/transport/shm.hpp"
#include "ring_support.hpp"
#include "transport_conformance.hpp"

namespace rdmaorder::transport {
namespace {

using namespace ring_support;

struct Inproc {
  std::shared_ptr<memory::Window> window;
  TransportEndpoint make(std::uint64_t window_bytes) {
    window = std::make_shared<memory::Window>(make_window(window_bytes));
    return {make_inproc(window), window->words(), window->bytes()};
  }
  [[nodiscard]] std::string absent() const { return {}; }
};

struct Shm {
  memory::Window window;
  TransportEndpoint make(std::uint64_t window_bytes) {
    window = make_window(window_bytes);
    return {make_shm(map_again(window)), window.words(), window.bytes()};
  }
  [[nodiscard]] std::string absent() const { return {}; }
};

/// The wrapper of the fault tests does no harm while it injects nothing.
struct FaultlessShm : Shm {
  TransportEndpoint make(std::uint64_t window_bytes) {
    TransportEndpoint end = Shm::make(window_bytes);
    end.transport = std::make_unique<FaultTransport>(std::move(end.transport));
    return end;
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(Inproc, TransportConformance, Inproc);
INSTANTIATE_TYPED_TEST_SUITE_P(Shm, TransportConformance, Shm);
INSTANTIATE_TYPED_TEST_SUITE_P(FaultlessShm, TransportConformance, FaultlessShm);

TEST(InprocTransport, KeepsTheWindowOfThePeerAlive) {
  auto window = std::make_shared<memory::Window>(make_window(4096));
  const std::weak_ptr<memory::Window> watch = window;
  auto transport = make_inproc(std::move(window));
  ASSERT_FALSE(watch.expired());
  const std::uint64_t value = 7;
  EXPECT_EQ(transport->put(0, &value, 8), Status::kOk);
  transport.reset();
  EXPECT_TRUE(watch.expired());
}

TEST(MappedTransports, HandOutEveryLineOfTheWindow) {
  Inproc inproc;
  Shm shm;
  for (const TransportEndpoint& end : {inproc.make(8192), shm.make(8192)}) {
    for (std::uint64_t offset = 0; offset < end.window_bytes; offset += 64) {
      ASSERT_NE(end.transport->mapped_line(offset), nullptr) << offset;
    }
  }
}

// --- two processes ------------------------------------------------------------------------------

/// A child that writes `last` messages of 128 bytes into the parent's ring and takes its credit
/// from its own window, where the parent stores the position it consumed. No test assertion may
/// run in it: it says how it went by its exit status.
class TwoProcesses : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kSlotBytes = 128;
  Geometry geometry_{ring::kRingOffsetMinBytes, kSlotBytes, 32};
  memory::Window ring_window_ = make_window(geometry_.window_bytes());
  memory::Window credit_window_ = make_window(4096);
  pid_t child_ = -1;

  void TearDown() override {
    if (child_ <= 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }

  void start_writer(std::uint64_t last) {
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is killed leaves no writer behind
    _exit(write_messages(last));
  }
  int write_messages(std::uint64_t last) {
    const auto transport = make_shm(map_again(ring_window_));
    const memory::Window credit = map_again(credit_window_);
    Writer writer(geometry_, kEpoch, 1, 0);
    alignas(64) std::uint64_t slot[kSlotBytes / 8];
    while (writer.next_sequence() <= last) {
      if (!writer.has_credit(Lane::kNormal)) {
        if (!ok(writer.on_consumed(load_acquire(credit.words())))) return 1;
        sched_yield();
        continue;
      }
      fill(slot, kSlotBytes, writer.next_sequence());
      writer.seal(slot);
      if (!ok(transport->put(writer.next_offset_bytes(), slot, kSlotBytes))) return 3;
      writer.advance();
    }
    return 0;
  }
  /// Reads until `last`, or until `done` says that nothing more will come. Counts wrong messages.
  std::uint64_t read_messages(Reader& reader, std::uint64_t last,
                              const std::function<bool()>& done) {
    const auto credit = make_shm(map_again(credit_window_));
    Words out(kSlotBytes / 8);
    std::uint64_t wrong = 0;
    EXPECT_TRUE(eventually([&] {
      const bool was_done = done();
      for (int batch = 0; batch < 64; ++batch) {
        const std::uint64_t sequence = reader.next_sequence();
        const Status status = reader.read(out.data());
        if (!ok(status)) {
          if (status != Status::kEmpty && status != Status::kTorn) ++wrong;
          return was_done;
        }
        if (!holds(out.data(), kSlotBytes, sequence)) ++wrong;
        if (!ok(credit->put(0, &sequence, 8))) ++wrong;
        if (sequence == last) return true;
      }
      return false;
    }));
    return wrong;
  }
};

TEST_F(TwoProcesses, PassEveryMessageOnceAndInOrder) {
  constexpr std::uint64_t kLast = 100'000;
  start_writer(kLast);
  Reader reader(ring_window_.words(), geometry_, kEpoch, 1);
  EXPECT_EQ(read_messages(reader, kLast, [] { return false; }), 0U);
  EXPECT_EQ(reader.next_sequence(), kLast + 1);
  int status = -1;
  ASSERT_EQ(waitpid(child_, &status, 0), child_);
  child_ = -1;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "wait status " << status;
}

TEST_F(TwoProcesses, LeaveAPrefixOfGoodMessagesWhenTheWriterIsKilledAnywhere) {
  start_writer(UINT64_MAX - 1);
  Reader reader(ring_window_.words(), geometry_, kEpoch, 1);
  std::uint64_t wrong = read_messages(reader, 5000, [] { return false; });
  std::atomic<bool> dead{false};
  std::thread killer([&] {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    dead = true;
  });
  wrong += read_messages(reader, UINT64_MAX, [&] { return dead.load(); });
  killer.join();
  child_ = -1;
  EXPECT_EQ(wrong, 0U);
  EXPECT_GT(reader.next_sequence(), 5000U);
  // What is behind the end is the lap before or a slot cut short, never a message.
  Words out(kSlotBytes / 8);
  EXPECT_NE(reader.read(out.data()), Status::kOk);
}

// --- the faults themselves ----------------------------------------------------------------------

class Faults : public ::testing::Test {
 protected:
  std::shared_ptr<memory::Window> window_ = std::make_shared<memory::Window>(make_window(4096));
  FaultTransport transport_{make_inproc(window_)};
  std::uint64_t source_[8] = {1, 2, 3, 4, 5, 6, 7, 8};

  void plan(Fault fault) {
    transport_.set_plan([fault](const Put&) { return fault; });
  }
  Status put() { return transport_.put(64, source_, 64); }
  std::uint64_t word(int index) { return window_->words()[8 + index]; }
};

TEST_F(Faults, DropWritesNothing) {
  plan(Fault::kDrop);
  EXPECT_EQ(put(), Status::kOk);
  EXPECT_EQ(word(7), 0U);
}

TEST_F(Faults, DelayWritesLater) {
  plan(Fault::kDelay);
  EXPECT_EQ(put(), Status::kOk);
  EXPECT_EQ(word(0), 0U);
  transport_.release();
  EXPECT_EQ(word(0), 1U);
  EXPECT_EQ(word(7), 8U);
}

TEST_F(Faults, TearWritesTheEndFirst) {
  plan(Fault::kTear);
  EXPECT_EQ(put(), Status::kOk);
  EXPECT_EQ(word(3), 0U);
  EXPECT_EQ(word(4), 5U);
  EXPECT_EQ(word(7), 8U);
  transport_.release();
  EXPECT_EQ(word(3), 4U);
}

TEST_F(Faults, FullRefusesAndDieIsForGood) {
  plan(Fault::kFull);
  EXPECT_EQ(put(), Status::kFull);
  plan(Fault::kDie);
  EXPECT_EQ(put(), Status::kTransport);
  plan(Fault::kNone);
  EXPECT_EQ(put(), Status::kTransport);
  EXPECT_EQ(transport_.progress(), Status::kTransport);
  EXPECT_NE(transport_.failure(), "");
  EXPECT_EQ(word(7), 0U);
}

}  // namespace
}  // namespace rdmaorder::transport
