// The two ways to send: one order at a time (closed loop), and when each is due (open loop). An
// End is what orders go into and answers come out of:
//
//   Status send(std::uint64_t index) noexcept;      kOk, kFull (later), else the peer is lost
//   template <class F> std::uint32_t poll(F&& answered) noexcept;
//                                                   calls answered(index) for each new answer
//   void settle() noexcept;                         after the stamp of an answer: what can wait
//   bool alive() noexcept;                          asked now and then while waiting
//   std::string cause();                            why not
//   void finish(Outcome&);                          adds what it counted
//
// Orders of the warm-up have indices too: the first order of a run is index 0 of the End.
#pragma once

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>

#include "bench/pingpong/stamp.hpp"
#include "rdmaorder/atomic_word.hpp"
#include "rdmaorder/clock.hpp"
#include "rdmaorder/pingpong.hpp"

namespace rdmaorder::pingpong {

/// Notes what the kernel did around orders that took unusually long. A look is a system call: none
/// falls into the time of an order in a closed loop, and none is made before kBetweenLooksNs have
/// passed since the last (orders that wait behind a stall are all unusual).
class AnomalyLog {
 public:
  explicit AnomalyLog(std::vector<Anomaly>& anomalies) : anomalies_(anomalies) {
    anomalies_.reserve(kAnomalyCountMax);
    look();
  }
  /// An order took that long from its send: eight times the shortest is unusual.
  RDMAORDER_ALWAYS_INLINE void learn(std::uint64_t taken_ticks) noexcept {
    if (RDMAORDER_LIKELY(taken_ticks >= shortest_ticks_)) return;
    shortest_ticks_ = taken_ticks;
    threshold_ticks_ = std::max(taken_ticks * 8, TickRate::get().from_ns(2'000));
  }
  /// After the last stamp of an order. `now` may be that stamp.
  RDMAORDER_ALWAYS_INLINE void check(std::uint64_t now, std::uint64_t taken_ticks) noexcept {
    if (RDMAORDER_UNLIKELY(taken_ticks > threshold_ticks_) && now > looked_ticks_ + between_ticks_)
      note();
  }
  /// So that what is noted next is not of long before.
  RDMAORDER_ALWAYS_INLINE void refresh(std::uint64_t now) noexcept {
    if (RDMAORDER_UNLIKELY(now > looked_ticks_ + refresh_ticks_)) note();
  }

 private:
  static constexpr std::uint64_t kBetweenLooksNs = 20'000;
  static constexpr std::uint64_t kRefreshNs = 10'000'000;

  struct Seen {
    rusage usage{};
    int cpu = -1;
  };
  void look() noexcept {
    (void)getrusage(RUSAGE_THREAD, &seen_.usage);
    seen_.cpu = sched_getcpu();
    looked_ticks_ = ticks();
  }
  [[gnu::noinline]] void note() noexcept {
    const Seen before = seen_;
    const std::uint64_t since_ticks = looked_ticks_;
    look();
    const auto delta = [](long now, long then) { return static_cast<std::uint64_t>(now - then); };
    const Anomaly found{since_ticks,
                        looked_ticks_,
                        delta(seen_.usage.ru_nvcsw, before.usage.ru_nvcsw),
                        delta(seen_.usage.ru_nivcsw, before.usage.ru_nivcsw),
                        delta(seen_.usage.ru_minflt, before.usage.ru_minflt),
                        delta(seen_.usage.ru_majflt, before.usage.ru_majflt),
                        seen_.cpu != before.cpu ? 1U : 0U};
    const bool counted = (found.voluntary_switches | found.involuntary_switches |
                          found.minor_faults | found.major_faults | found.migrated) != 0;
    if (counted && anomalies_.size() < anomalies_.capacity()) anomalies_.push_back(found);
  }

  std::vector<Anomaly>& anomalies_;
  std::uint64_t shortest_ticks_ = UINT64_MAX;
  std::uint64_t threshold_ticks_ = UINT64_MAX;
  std::uint64_t between_ticks_ = TickRate::get().from_ns(kBetweenLooksNs);
  std::uint64_t refresh_ticks_ = TickRate::get().from_ns(kRefreshNs);
  std::uint64_t looked_ticks_ = 0;
  Seen seen_;
};

/// Waiting for answers: counts looks, and from the kPollsBeforeStamps-th on times them.
class Wait {
 public:
  explicit Wait(std::uint64_t timeout_ticks) noexcept : timeout_ticks_(timeout_ticks) {}

  /// After a look that found nothing. False: give up (`ending`).
  template <class End>
  RDMAORDER_ALWAYS_INLINE bool nothing(End& end) noexcept {
    ++polls_;
    if (RDMAORDER_LIKELY(polls_ < kPollsBeforeStamps)) return true;
    return stamped(end);
  }
  [[nodiscard]] std::uint64_t polls() const noexcept { return polls_; }
  [[nodiscard]] std::uint64_t gap_ticks() const noexcept { return gap_ticks_; }
  [[nodiscard]] Ending ending() const noexcept { return ending_; }
  void reset() noexcept { polls_ = 0, gap_ticks_ = 0; }

 private:
  template <class End>
  [[gnu::noinline]] bool stamped(End& end) noexcept {
    const std::uint64_t now = ticks();
    if (polls_ == kPollsBeforeStamps) {
      since_ticks_ = now;
    } else {
      gap_ticks_ = std::max(gap_ticks_, now - last_ticks_);
    }
    last_ticks_ = now;
    if ((polls_ & 255) != 0) return true;
    if (InterruptGuard::interrupted()) {
      ending_ = Ending::kInterrupted;
      return false;
    }
    if (!end.alive() || now - since_ticks_ > timeout_ticks_) {
      ending_ = Ending::kPeerLost;
      return false;
    }
    return true;
  }

  std::uint64_t timeout_ticks_;
  std::uint64_t polls_ = 0;
  std::uint64_t gap_ticks_ = 0;
  std::uint64_t since_ticks_ = 0;
  std::uint64_t last_ticks_ = 0;
  Ending ending_ = Ending::kDone;
};

template <class End>
class Loop {
 public:
  Loop(End& end, const Plan& plan)
      : end_(end),
        plan_(plan),
        wait_(TickRate::get().from_ns(plan.answer_timeout_ns)),
        log_(outcome_.anomalies) {}

  Outcome run() {
    if (plan_.due_ns.empty()) {
      closed();
    } else {
      open();
    }
    outcome_.ending = ending_;
    if (ending_ == Ending::kPeerLost) {
      outcome_.cause = end_.cause();
      if (outcome_.cause.empty()) {
        outcome_.cause =
            "no answer within " + std::to_string(plan_.answer_timeout_ns / 1'000'000) + " ms";
      }
    }
    end_.finish(outcome_);
    return std::move(outcome_);
  }

 private:
  /// One order there and back. False: the run is over.
  RDMAORDER_ALWAYS_INLINE bool round_trip(std::uint64_t index, Sample& sample) noexcept {
    wait_.reset();
    const std::uint64_t sent = ticks();
    sample.intended_ticks = sample.sent_ticks = sent;
    for (;;) {
      const Status status = end_.send(index);
      if (RDMAORDER_LIKELY(status == Status::kOk)) break;
      if (status != Status::kFull) return end_with(Ending::kPeerLost);
      ++outcome_.full;
      if (!wait_.nothing(end_)) return end_with(wait_.ending());
    }
    if (plan_.stamps_written) sample.written_ticks = ticks();
    bool here = false;
    for (;;) {
      end_.poll([&](std::uint64_t answered) {
        if (RDMAORDER_LIKELY(answered == index)) {
          here = true;
        } else {
          ++outcome_.strays;
        }
      });
      if (here) break;
      if (RDMAORDER_UNLIKELY(!wait_.nothing(end_))) return end_with(wait_.ending());
    }
    sample.received_ticks = ticks_after_loads();
    sample.gap_ticks = wait_.gap_ticks();
    sample.poll_count = wait_.polls();
    return true;
  }

  bool end_with(Ending ending) noexcept {
    ending_ = ending;
    return false;
  }

  void closed() noexcept {
    std::uint64_t index = 0;
    Sample scratch;
    for (; index < plan_.warm_up_count; ++index) {
      if (!round_trip(index, scratch)) return;
      end_.settle();
      log_.learn(scratch.received_ticks - scratch.sent_ticks);
    }
    log_.refresh(UINT64_MAX);
    const std::uint64_t end_ticks = ticks() + TickRate::get().from_ns(plan_.duration_ns);
    for (std::size_t i = 0; i < plan_.samples.size(); ++i) {
      Sample& sample = plan_.samples[i];
      const bool answered = round_trip(index++, sample);
      ++outcome_.sent_count;
      if (!answered) return;
      end_.settle();
      ++outcome_.answered_count;
      const std::uint64_t taken_ticks = sample.received_ticks - sample.sent_ticks;
      log_.learn(taken_ticks);
      log_.check(sample.received_ticks, taken_ticks);
      log_.refresh(sample.received_ticks);
      if (RDMAORDER_UNLIKELY(InterruptGuard::interrupted())) {
        ending_ = Ending::kInterrupted;
        return;
      }
      if (plan_.duration_ns != 0 && sample.received_ticks >= end_ticks) return;
    }
  }

  /// A look of a paced run: the longest time without one.
  RDMAORDER_ALWAYS_INLINE void note_look(std::uint64_t now) noexcept {
    if (now - look_ticks_ > gap_ticks_) {
      gap_ticks_ = now - look_ticks_;
      gap_end_ticks_ = now;
    }
    look_ticks_ = now;
  }

  /// Takes every answer that is here. Payloads of the warm-up, if any, precede the samples.
  void take_answers() noexcept {
    const std::uint32_t found = end_.poll([&](std::uint64_t answered) {
      const std::uint64_t now = ticks_after_loads();
      if (answered >= outcome_.sent_count || plan_.samples[answered].received_ticks != 0) {
        ++outcome_.strays;
        return;
      }
      Sample& sample = plan_.samples[answered];
      sample.received_ticks = heard_ticks_ = now;
      note_look(now);
      if (gap_end_ticks_ <= sample.sent_ticks) gap_ticks_ = 0;  // before its time, and all later's
      sample.gap_ticks = gap_ticks_;
      sample.poll_count = look_count_ - sample.poll_count;
      ++outcome_.answered_count;
      log_.learn(now - sample.sent_ticks);
      log_.check(now, now - sample.intended_ticks);
    });
    if (found == 0) ++look_count_;
  }

  /// While a paced run waits. False: the run is over. A flag is read every time, the peer is asked
  /// for once a millisecond.
  bool go_on(std::uint64_t now, bool answer_due) noexcept {
    if (RDMAORDER_UNLIKELY(InterruptGuard::interrupted())) return end_with(Ending::kInterrupted);
    if (RDMAORDER_LIKELY(now < check_ticks_)) return true;
    const TickRate& rate = TickRate::get();
    check_ticks_ = now + rate.from_ns(1'000'000);
    log_.refresh(now);
    // What was heard may be later than this look.
    const bool silent = answer_due && now > heard_ticks_ + rate.from_ns(plan_.answer_timeout_ns);
    return !silent && end_.alive() ? true : end_with(Ending::kPeerLost);
  }

  /// `now`: when it was no longer early.
  bool wait_until(std::uint64_t due, std::uint64_t& now) noexcept {
    for (now = ticks(); now < due; now = ticks()) {
      note_look(now);
      take_answers();
      if (!go_on(now, outcome_.answered_count < outcome_.sent_count)) return false;
    }
    return InterruptGuard::interrupted() ? end_with(Ending::kInterrupted) : true;
  }

  bool send_paced(std::uint64_t due, std::uint64_t now) noexcept {
    Sample& sample = plan_.samples[outcome_.sent_count];
    note_look(now);
    if (outcome_.answered_count == outcome_.sent_count) {
      heard_ticks_ = now;  // until now nothing was waited for
      gap_ticks_ = 0;
    }
    for (;;) {
      sample.intended_ticks = due;
      sample.sent_ticks = now;
      sample.poll_count = look_count_;
      const Status status = end_.send(outcome_.sent_count);
      if (RDMAORDER_LIKELY(status == Status::kOk)) break;
      if (status != Status::kFull) return end_with(Ending::kPeerLost);
      // No room: the order stays due, and waits in every later one's time as well.
      ++outcome_.full;
      take_answers();
      now = ticks();
      note_look(now);
      if (!go_on(now, true)) return false;
    }
    if (plan_.stamps_written) sample.written_ticks = ticks();
    ++outcome_.sent_count;
    take_answers();
    return true;
  }

  void open() noexcept {
    const TickRate& rate = TickRate::get();
    look_ticks_ = ticks();
    const std::uint64_t start = look_ticks_ + rate.from_ns(50'000);
    const std::size_t count = std::min(plan_.samples.size(), plan_.due_ns.size());
    const std::uint64_t end_ticks = start + rate.from_ns(plan_.duration_ns);
    while (outcome_.sent_count < count) {
      const std::uint64_t due = start + rate.from_ns(plan_.due_ns[outcome_.sent_count]);
      if (plan_.duration_ns != 0 && due >= end_ticks) break;
      std::uint64_t now = 0;
      if (!wait_until(due, now) || !send_paced(due, now)) return;
    }
    while (outcome_.answered_count < outcome_.sent_count) {
      const std::uint64_t now = ticks();
      note_look(now);
      take_answers();
      if (!go_on(now, true)) return;
    }
  }

  End& end_;
  const Plan& plan_;
  Wait wait_;
  Outcome outcome_;
  AnomalyLog log_;
  Ending ending_ = Ending::kDone;
  // Of a paced run.
  std::uint64_t look_count_ = 0;     ///< that found nothing
  std::uint64_t look_ticks_ = 0;     ///< the last one
  std::uint64_t gap_ticks_ = 0;      ///< longest time between two, of those that still matter
  std::uint64_t gap_end_ticks_ = 0;  ///< when that was over
  std::uint64_t heard_ticks_ = 0;    ///< last answer, or order that was the first to wait for one
  std::uint64_t check_ticks_ = 0;    ///< when the peer is to be asked for again
};

}  // namespace rdmaorder::pingpong
