#include "gateway/replay.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/start_thread.hpp"
#include "rdmaorder/error.hpp"

namespace rdmaorder {
namespace {

void mark_possible_resend(std::uint64_t* slot_words) noexcept {
  wire::MessageHeader header;
  std::memcpy(&header, slot_words, sizeof header);
  if (header.schema_id != wire::kSchemaId ||
      header.template_id != static_cast<std::uint16_t>(wire::TemplateId::kExecutionReport)) {
    return;
  }
  auto* bytes = reinterpret_cast<std::uint8_t*>(slot_words);
  bytes[wire::kHeaderBytes + offsetof(wire::ExecutionReport, flags)] |= kFlagPossResend;
}

void put_reports_lost(std::uint64_t* slot_words, std::uint64_t sequence, std::uint64_t count) {
  wire::SessionEvent event{};
  event.from_sequence = sequence;
  event.count = count;
  event.time_ns = realtime_ns();
  event.kind = SessionEventKind::kReportsLost;
  event.reason = Reason::kJournalUnavailable;
  const wire::MessageHeader header = wire::header_of(wire::TemplateId::kSessionEvent);
  std::memcpy(slot_words, &header, sizeof header);
  std::memcpy(slot_words + 1, &event, sizeof event);
}

}  // namespace

void Gateway::Replay::add(std::uint32_t session_index, std::uint64_t epoch) {
  const std::lock_guard lock(mutex_);
  Job& job = added_.emplace_back();
  job.session_index = session_index;
  job.epoch = epoch;
  wake_.notify_one();
}

/// The next report of the session into `held`; false at `last_position`.
bool Gateway::Replay::read_report(Job& job, std::uint64_t last_position) {
  journal::Record record;
  // Never past what is surely there: looking for the journal's end costs far more than a record.
  while (job.reader->next_position() <= last_position && job.reader->next(record)) {
    if (record.kind != journal::RecordKind::kReport || record.session_index != job.session_index ||
        record.sequence < job.next) {
      continue;
    }
    job.held_sequence = record.sequence;
    job.held.assign(record.payload.begin(), record.payload.end());
    return true;
  }
  return false;
}

/// The next slots of the report ring, at most what there is credit for.
void Gateway::Replay::fill(Job& job, const Receiver::ReplayState& state) {
  const std::size_t slot_words = state.slot_bytes / 8;
  const std::uint64_t end =
      std::min<std::uint64_t>(state.end, state.next + std::min(state.credit_count, kBatchCount));
  slots_.assign(static_cast<std::size_t>(end - state.next) * slot_words, 0);
  std::uint64_t* slot = slots_.data();
  for (std::uint64_t sequence = state.next; sequence < end; ++sequence, slot += slot_words) {
    job.next = sequence;
    if (job.held_sequence < sequence) (void)read_report(job, state.last_position);
    if (job.held_sequence == sequence) {
      std::memcpy(slot, job.held.data(),
                  std::min<std::size_t>(job.held.size(), state.slot_bytes - wire::kCommitBytes));
      mark_possible_resend(slot);
    } else {
      put_reports_lost(slot, sequence, 1);
    }
  }
  job.next = end;
}

Gateway::Replay::Result Gateway::Replay::serve(Job& job) {
  bool wanted = true;
  Receiver::ReplayState& state = job.state;
  const auto ask = [&] {
    state = {};
    wanted = receiver_.replay_state(job.session_index, job.epoch, &state);
  };
  if (!job.asked) receiver_.call(ask);
  job.asked = false;
  if (!wanted) return Result::kDone;
  if (state.next == 0 || state.credit_count == 0) return Result::kWaiting;
  if (job.reader == nullptr || job.next != state.next) {  // begins, or not all of it was taken
    job.reader =
        std::make_unique<journal::Reader>(receiver_.journal_writer()->directory(), state.begin);
    job.next = state.next;
    job.held_sequence = 0;
  }
  fill(job, state);
  // One turn of the receiver a batch: it takes this one and says what it wants next.
  receiver_.call([&] {
    receiver_.replay_send(job.session_index, job.epoch, slots_);
    ask();
  });
  job.asked = wanted;
  return wanted ? Result::kSent : Result::kDone;
}

bool Gateway::Replay::pass() {
  {
    const std::lock_guard lock(mutex_);
    for (Job& job : added_) jobs_.push_back(std::move(job));
    added_.clear();
  }
  bool sent = false;
  std::erase_if(jobs_, [&](Job& job) {
    try {
      const Result result = serve(job);
      sent = sent || result == Result::kSent;
      return result == Result::kDone;
    } catch (const Error& error) {
      const std::string cause = std::string("reports cannot be replayed: ") + error.what();
      receiver_.call([&] { receiver_.replay_failed(job.session_index, job.epoch, cause); });
      return true;
    }
  });
  return sent;
}

void Gateway::Replay::start() {
  if (thread_.joinable()) return;
  stopping_ = false;
  thread_ = start_thread("the gateway's replay thread", [this] { run(); });
}

void Gateway::Replay::run() {
  pthread_setname_np(pthread_self(), "ro-replay");
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    const bool sent = pass();
    lock.lock();
    if (sent || stopping_) continue;
    if (jobs_.empty()) {
      wake_.wait(lock, [this] { return stopping_ || !added_.empty(); });
    } else {  // strategies that have to poll first
      wake_.wait_for(lock, std::chrono::microseconds(200));
    }
  }
}

void Gateway::Replay::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

}  // namespace rdmaorder
