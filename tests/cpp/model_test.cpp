// Every interleaving of a small model of ring, epoch and fence; see model_protocol.hpp. A rule
// taken away is a planted bug: the search must find it, or it would find nothing.
#include <gtest/gtest.h>

#include <cstddef>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "model_protocol.hpp"

namespace rdmaorder::model {
namespace {

/// All fields, none of the padding.
std::string key_of(const State& s) {
  std::string key;
  const auto add = [&](auto... values) { (key.push_back(static_cast<char>(values)), ...); };
  const auto add_slot = [&](const Slot& slot) {
    add(slot.contents[0], slot.contents[1], slot.commit.sequence, slot.commit.epoch,
        slot.commit.contents);
  };
  for (const Slot& slot : s.ring) add_slot(slot);
  add_slot(s.copy);
  for (int i = 0; i < s.flight_count; ++i) {
    const Word& w = s.flight[static_cast<std::size_t>(i)];
    add(w.slot, w.index, w.message, w.sequence, w.epoch);
  }
  add(s.stage, s.epoch, s.links, s.next_out, s.credit, s.next_in, s.answered, s.phase,
      s.last_applied, s.flight_count);
  for (std::size_t i = 0; i < s.fate.size(); ++i) add(s.fate[i], s.written_as[i], s.applied[i]);
  return key;
}

struct Found {
  std::size_t states = 0;
  std::size_t rests = 0;  ///< states in which nothing more can happen on the last link
  std::string violation;
  std::vector<std::string> trace;
};

/// Breadth first, so that a violation is found by one of its shortest ways. No bound but the
/// model's.
Found explore(const Rules& rules) {
  struct Seen {
    std::string before;
    std::string action;
  };
  const Protocol protocol(rules);
  std::unordered_map<std::string, Seen> seen;
  std::deque<State> queue{State{}};
  seen.emplace(key_of(State{}), Seen{});
  Found found;
  const auto blame = [&](const std::string& violation, std::string key) {
    found.violation = violation;
    while (!seen.at(key).action.empty()) {
      found.trace.insert(found.trace.begin(), seen.at(key).action);
      key = seen.at(key).before;
    }
  };
  while (!queue.empty() && found.violation.empty()) {
    const State state = queue.front();
    queue.pop_front();
    const std::string key = key_of(state);
    const std::vector<Step> steps = protocol.successors(state);
    // At rest: nothing in flight and a reader that has read and verified nothing new.
    bool at_rest = state.stage == Stage::kLive && state.flight_count == 0 && state.phase == 0;
    for (const Step& step : steps) {
      if (step.state.stage == Stage::kLive && step.state.phase == 0) at_rest = false;
    }
    const auto slot = static_cast<std::size_t>((state.next_in - 1) % kSlots);
    if (at_rest) {  // a commit word that will never verify does not count as progress
      const Slot& next = state.ring[slot];
      const bool good =
          next.commit.sequence == state.next_in && next.contents[0] == next.commit.contents &&
          next.contents[1] == next.commit.contents && next.commit.epoch == state.epoch;
      if (!good) {
        ++found.rests;
        const std::string violation = protocol.judge_rest(state);
        if (!violation.empty()) blame(violation, key);
      }
    }
    for (const Step& step : steps) {
      const std::string next_key = key_of(step.state);
      const bool is_new = seen.emplace(next_key, Seen{key, step.action}).second;
      if (!step.violation.empty()) {
        blame(step.violation, key);
        found.trace.push_back(step.action);
        break;
      }
      if (is_new) queue.push_back(step.state);
    }
  }
  found.states = seen.size();
  return found;
}

std::string told(const Found& found) {
  std::string text = found.violation + " after " + std::to_string(found.states) + " states:";
  for (const std::string& action : found.trace) text += "\n  " + action;
  return text;
}

TEST(Model, NoInterleavingLosesDuplicatesReordersOrCorrupts) {
  for (const bool resend : {false, true}) {
    Rules rules;
    rules.resend = resend;
    const Found found = explore(rules);
    EXPECT_EQ(found.violation, "") << told(found);
    EXPECT_GT(found.states, 10'000U);
    EXPECT_GT(found.rests, 0U);
    RecordProperty(resend ? "states_resend" : "states", static_cast<int>(found.states));
  }
}

TEST(Model, TwoLostLinksInARowAreNoMore) {
  Rules rules;
  rules.messages = 2;
  rules.links = 3;
  for (const bool resend : {false, true}) {
    rules.resend = resend;
    const Found found = explore(rules);
    EXPECT_EQ(found.violation, "") << told(found);
    EXPECT_GT(found.states, 10'000U);
    RecordProperty(resend ? "states_resend" : "states", static_cast<int>(found.states));
  }
}

struct Planted {
  const char* name;
  void (*plant)(Rules&);
  const char* violation;  ///< what it begins with
};

class PlantedBug : public testing::TestWithParam<Planted> {};

TEST_P(PlantedBug, IsFound) {
  Rules rules;
  GetParam().plant(rules);
  const Found found = explore(rules);
  EXPECT_EQ(found.violation.rfind(GetParam().violation, 0), 0U) << told(found);
  EXPECT_FALSE(found.trace.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Model, PlantedBug,
    testing::Values(
        Planted{"NoEpochInTheCrc", [](Rules& r) { r.crc_has_epoch = false; }, "unknown"},
        Planted{"NoContentsInTheCrc", [](Rules& r) { r.crc_has_contents = false; }, "corrupted"},
        Planted{"FenceAfterTheAnswer", [](Rules& r) { r.fence_before_answer = false; }, "unknown"},
        Planted{"NoFence", [](Rules& r) { r.fence_stops_writes = false; }, "lost"},
        Planted{"CreditIgnored", [](Rules& r) { r.credit_is_respected = false; }, "lost"},
        Planted{"CreditBeforeTheCopy", [](Rules& r) { r.credit_after_copy = false; }, "lost"},
        Planted{"ResendOfAllWithoutCredit",
                [](Rules& r) {
                  r.resend = true;
                  r.resend_only_not_applied = false;
                },
                "duplicated"}),
    [](const auto& instance) { return std::string(instance.param.name); });

}  // namespace
}  // namespace rdmaorder::model
