// Reports of earlier links, read back from the journal for a strategy that asked for them.
//
// While a session is `replaying`, none of its reports goes to its ring from the receiver: they are
// journalled, and the replay, which reads the journal, gets to them in their order. It hands the
// receiver small batches between two passes, as many as the strategy has given credit for, so
// neither a long backlog nor a strategy that does not poll holds up anybody. When the ring has
// everything that was made, the receiver ends the replay and the next report is live.
//
// Reports are marked kFlagPossResend. For a report that no record holds (the journal could not
// write), the strategy gets a SessionEvent kReportsLost in its place.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "gateway/receiver.hpp"
#include "rdmaorder/journal_reader.hpp"

namespace rdmaorder {

class Gateway::Replay {
 public:
  explicit Replay(Receiver& receiver) : receiver_(receiver) {}
  ~Replay() { stop(); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  /// A link whose session is `replaying`. Any thread.
  void add(std::uint32_t session_index, std::uint64_t epoch);
  /// See Gateway::replay_pass. One thread.
  bool pass();
  void start();
  void stop();

 private:
  /// Held small enough for the others; each batch costs a wait for the receiver's next turn.
  static constexpr std::uint32_t kBatchCount = 512;
  struct Job {
    std::uint32_t session_index = 0;
    std::uint64_t epoch = 0;
    std::unique_ptr<journal::Reader> reader;
    std::uint64_t next = 0;  ///< sequence behind the last report sent
    bool asked = false;      ///< `state` is that of the moment after the last batch
    Receiver::ReplayState state;
    // A report that was read and whose turn has not come.
    std::uint64_t held_sequence = 0;
    std::vector<std::byte> held;
  };
  enum class Result : std::uint8_t { kDone, kWaiting, kSent };

  Result serve(Job& job);
  static bool read_report(Job& job, std::uint64_t last_position);
  void fill(Job& job, const Receiver::ReplayState& state);
  void run();

  Receiver& receiver_;
  std::vector<Job> jobs_;
  std::vector<std::uint64_t> slots_;
  std::mutex mutex_;  ///< guards added_ and stopping_
  std::condition_variable wake_;
  std::vector<Job> added_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace rdmaorder
