// A small model of one ring under its session: put, visibility, reader, credit, loss of the link,
// fence, new epoch, late writes. Small enough that every interleaving can be looked at; the rules
// are those of the library, one flag each, so that a planted bug is one flag turned.
//
//   strategy   unsent messages in order -> put: three words into flight (contents 0, contents 1,
//              commit word), if there is credit
//   flight     any word of any put becomes visible at any time, in any order, as a NIC may do it;
//              only two writes of one link to the same address keep their order
//   gateway    reader: commit word, then contents word by word, then the check; copy only
//   credit     the strategy learns the gateway's position at any time, or never
//   link loss  at any time: words in flight arrive late, or never, unless the fence stops them;
//              then the gateway says its next sequence, and the strategy goes on (own numbers) or
//              begins anew (the gateway's numbers), the ring's memory used again as it is, or new
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace rdmaorder::model {

inline constexpr int kSlots = 2;
inline constexpr int kFlightMax = 9;

struct Rules {
  int messages = 4;
  int links = 2;        ///< first link included
  bool resend = false;  ///< what was not applied is sent again under a new sequence
  // The protocol. Each of these turned is a bug that the search has to find.
  bool crc_has_epoch = true;
  bool crc_has_contents = true;
  bool fence_before_answer = true;  ///< else the gateway says its next, and reads on
  bool fence_stops_writes = true;   ///< else words of the old link land in the new one's memory
  bool credit_is_respected = true;
  bool credit_after_copy = true;        ///< else a slot is free when its commit word was seen
  bool resend_only_not_applied = true;  ///< else all that no credit has covered
};

/// Contents are a message's number; 0 is memory never written. The commit word holds the sequence
/// and what an ideal CRC would tell: epoch and contents it was made over.
struct Commit {
  std::uint8_t sequence = 0, epoch = 0, contents = 0;
  bool operator==(const Commit&) const = default;
};
struct Slot {
  std::array<std::uint8_t, 2> contents{};
  Commit commit;
  bool operator==(const Slot&) const = default;
};
/// One word on its way.
struct Word {
  std::uint8_t slot = 0, index = 0, message = 0, sequence = 0, epoch = 0;
  auto operator<=>(const Word&) const = default;
};

enum class Stage : std::uint8_t { kLive, kLost, kAnswered };
enum class Fate : std::uint8_t { kUnsent, kWritten, kNotApplied };

struct State {
  std::array<Slot, kSlots> ring{};
  std::array<Word, kFlightMax> flight{};  ///< sorted, so that equal states compare equal
  std::uint8_t flight_count = 0;
  Stage stage = Stage::kLive;
  std::uint8_t epoch = 1;
  std::uint8_t links = 1;
  // strategy
  std::uint8_t next_out = 1;
  std::uint8_t credit = 0;  ///< newest position of the gateway that is known
  std::array<Fate, 4> fate{};
  std::array<std::uint8_t, 4> written_as{};  ///< sequence
  // gateway
  std::uint8_t next_in = 1;
  std::uint8_t answered = 0;  ///< the next sequence that was told
  std::uint8_t phase = 0;     ///< words of the slot copied so far, commit word first
  Slot copy;
  std::array<std::uint8_t, 4> applied{};  ///< times, by message
  std::uint8_t last_applied = 0;
};

/// A state reached, and how; `violation` is empty while all is well.
struct Step {
  State state;
  std::string action;
  std::string violation;
};

class Protocol {
 public:
  explicit Protocol(const Rules& rules) : rules_(rules) {}

  /// Everything that can happen next.
  [[nodiscard]] std::vector<Step> successors(const State& state) const {
    std::vector<Step> steps;
    arrive(state, steps);
    read(state, steps);
    if (state.stage == Stage::kLive) {
      put(state, steps);
      learn_credit(state, steps);
    }
    lose_and_renew(state, steps);
    return steps;
  }

  /// What is wrong with a state in which nothing but a loss of the link can happen any more.
  [[nodiscard]] std::string judge_rest(const State& state) const {
    for (int m = 1; m <= rules_.messages; ++m) {
      const auto i = static_cast<std::size_t>(m - 1);
      const bool told_no = state.fate[i] == Fate::kNotApplied;
      if (state.applied[i] == 0 && !told_no) return "lost: message " + std::to_string(m);
    }
    return "";
  }

 private:
  static void take_word(State& state, int index) {
    for (int i = index; i + 1 < state.flight_count; ++i) {
      state.flight[static_cast<std::size_t>(i)] = state.flight[static_cast<std::size_t>(i + 1)];
    }
    state.flight[--state.flight_count] = Word{};
  }

  /// Two writes of one link to one address keep their order: windows are never registered with
  /// relaxed ordering.
  static bool is_first_to_its_place(const State& state, const Word& word) {
    return std::none_of(state.flight.begin(), state.flight.begin() + state.flight_count,
                        [&](const Word& other) {
                          return other.slot == word.slot && other.index == word.index &&
                                 other.epoch == word.epoch && other.sequence < word.sequence;
                        });
  }

  void arrive(const State& state, std::vector<Step>& steps) const {
    for (int i = 0; i < state.flight_count; ++i) {
      const Word word = state.flight[static_cast<std::size_t>(i)];
      if (!is_first_to_its_place(state, word)) continue;
      State next = state;
      take_word(next, i);
      const bool late = word.epoch != state.epoch;
      if (late || state.stage != Stage::kLive) {  // what a lost link carried may vanish instead
        steps.push_back({next, "a late word vanishes", ""});
      }
      Slot& slot = next.ring[word.slot];
      if (word.index < 2) {
        slot.contents[word.index] = word.message;
      } else {
        slot.commit = {word.sequence, word.epoch, word.message};
      }
      steps.push_back({next,
                       "word " + std::to_string(word.index) + " of message " +
                           std::to_string(word.message) + " becomes visible",
                       ""});
    }
  }

  void put(const State& state, std::vector<Step>& steps) const {
    if (state.flight_count + 3 > kFlightMax) return;
    if (rules_.credit_is_respected && state.next_out > state.credit + kSlots) return;
    for (int m = 1; m <= rules_.messages; ++m) {
      const auto i = static_cast<std::size_t>(m - 1);
      if (state.fate[i] != Fate::kUnsent) continue;
      State next = state;
      next.fate[i] = Fate::kWritten;
      next.written_as[i] = state.next_out;
      for (std::uint8_t index = 0; index < 3; ++index) {
        next.flight[next.flight_count++] = {
            static_cast<std::uint8_t>((state.next_out - 1) % kSlots), index,
            static_cast<std::uint8_t>(m), state.next_out, state.epoch};
      }
      std::sort(next.flight.begin(), next.flight.begin() + next.flight_count);
      ++next.next_out;
      steps.push_back({next, "put of message " + std::to_string(m), ""});
      return;  // in order: the first that waits
    }
  }

  void learn_credit(const State& state, std::vector<Step>& steps) const {
    // With the bug, a slot counts as free while it is still being copied.
    const auto position = static_cast<std::uint8_t>(
        state.next_in - 1 + (!rules_.credit_after_copy && state.phase > 0 ? 1 : 0));
    if (position <= state.credit) return;
    State next = state;
    next.credit = position;
    steps.push_back({next, "the strategy learns position " + std::to_string(position), ""});
  }

  void read(const State& state, std::vector<Step>& steps) const {
    const bool fenced = state.stage == Stage::kAnswered && rules_.fence_before_answer;
    if (fenced) return;
    const Slot& slot = state.ring[static_cast<std::size_t>((state.next_in - 1) % kSlots)];
    State next = state;
    if (state.phase == 0) {
      if (slot.commit.sequence != state.next_in) return;
      next.copy.commit = slot.commit;
      next.phase = 1;
      steps.push_back({next, "reader sees a commit word", ""});
    } else if (state.phase <= 2) {
      const auto index = static_cast<std::size_t>(state.phase - 1);
      next.copy.contents[index] = slot.contents[index];
      ++next.phase;
      steps.push_back({next, "reader copies a word", ""});
    } else {
      check(state, steps);
    }
  }

  void check(const State& state, std::vector<Step>& steps) const {
    State next = state;
    next.phase = 0;
    next.copy = Slot{};
    const Slot& copy = state.copy;
    const bool whole =
        copy.contents[0] == copy.commit.contents && copy.contents[1] == copy.commit.contents;
    if ((rules_.crc_has_contents && !whole) ||
        (rules_.crc_has_epoch && copy.commit.epoch != state.epoch)) {
      steps.push_back({next, "the copy does not verify", ""});
      return;
    }
    ++next.next_in;
    std::string wrong;
    const std::uint8_t message = copy.contents[0];
    if (!whole || message == 0) {
      wrong = "corrupted: a mixture was delivered";
    } else {
      wrong = judge_delivery(state, message);
      ++next.applied[static_cast<std::size_t>(message - 1)];
      next.last_applied = message;
    }
    steps.push_back({next, "message " + std::to_string(message) + " is applied", wrong});
  }

  [[nodiscard]] static std::string judge_delivery(const State& state, std::uint8_t message) {
    const auto i = static_cast<std::size_t>(message - 1);
    const std::string name = "message " + std::to_string(message);
    if (state.applied[i] != 0) return "duplicated: " + name;
    if (state.fate[i] == Fate::kNotApplied) return "unknown: told not applied, " + name;
    if (state.fate[i] == Fate::kUnsent) return "unknown: to be sent again, " + name;
    if (state.written_as[i] != state.next_in) return "corrupted: another sequence, " + name;
    if (message < state.last_applied) return "reordered: " + name;
    return "";
  }

  void lose_and_renew(const State& state, std::vector<Step>& steps) const {
    State next = state;
    switch (state.stage) {
      case Stage::kLive:
        if (state.links == rules_.links) return;
        next.stage = Stage::kLost;
        steps.push_back({next, "the link is lost", ""});
        return;
      case Stage::kLost:  // the gateway has taken what it found whole, or not
        next.stage = Stage::kAnswered;
        next.answered = state.next_in;
        if (rules_.fence_before_answer) {
          next.phase = 0;
          next.copy = Slot{};
        }
        tell_not_applied(next);
        steps.push_back(
            {next, "the gateway says its next is " + std::to_string(state.next_in), ""});
        return;
      case Stage::kAnswered:
        for (const bool own_numbers : {true, false}) {
          for (const bool new_memory : {false, true}) {
            steps.push_back(renew(state, own_numbers, new_memory));
          }
        }
        return;
    }
  }

  void tell_not_applied(State& state) const {
    for (int m = 1; m <= rules_.messages; ++m) {
      const auto i = static_cast<std::size_t>(m - 1);
      if (state.fate[i] != Fate::kWritten) continue;
      const int known = rules_.resend_only_not_applied ? state.answered - 1 : state.credit;
      if (state.written_as[i] <= known) continue;
      state.fate[i] = rules_.resend ? Fate::kUnsent : Fate::kNotApplied;
    }
  }

  [[nodiscard]] Step renew(const State& state, bool own_numbers, bool new_memory) const {
    State next = state;
    next.stage = Stage::kLive;
    ++next.epoch;
    ++next.links;
    next.phase = 0;
    next.copy = Slot{};
    if (own_numbers) {
      next.next_in = state.next_out;  // NotApplied covers what lies between
    } else {
      next.next_out = state.next_in;  // numbers of what was never applied are used again
    }
    next.credit = static_cast<std::uint8_t>(next.next_in - 1);
    if (new_memory) next.ring = {};
    if (new_memory || rules_.fence_stops_writes) {
      next.flight = {};
      next.flight_count = 0;
    }
    return {next,
            std::string("a new link, ") + (own_numbers ? "the strategy's" : "the gateway's") +
                " numbers, " + (new_memory ? "new memory" : "the same memory"),
            ""};
  }

  Rules rules_;
};

}  // namespace rdmaorder::model
