// What a gateway learns from its journal: who is in doubt, and a venue built out of its reports.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "gateway_support.hpp"
#include "handler_support.hpp"
#include "rdmaorder/recovery.hpp"

namespace rdmaorder {
namespace {

using gateway_support::Rig;
using gateway_support::Strategy;
using gateway_support::test_config;
using handler_support::Client;
using handler_support::make_record;
using handler_support::RecordingSink;
using handler_support::Sent;
using handler_support::Terms;
using journal::RecordKind;
using wire::TemplateId;

/// Feeds records as a journal would.
class Feeder {
 public:
  explicit Feeder(Handler* handler = nullptr) : recovery(handler) {
    const std::string name = "alpha";
    feed(RecordKind::kSession, 1, name.data(), name.size());
  }
  void order(const wire::OrderRecord& order, Reason refusal = Reason::kNone) {
    const auto message = message_of(static_cast<TemplateId>(order.template_id), order.block_words);
    feed(RecordKind::kOrder, order.sequence, message.data(), message.size(), refusal);
  }
  void report(std::uint64_t order_sequence, wire::ExecutionReport report) {
    report.order_sequence_low = static_cast<std::uint32_t>(order_sequence);
    const auto message = message_of(TemplateId::kExecutionReport, &report);
    feed(RecordKind::kReport, ++report_sequence_, message.data(), message.size());
  }
  void feed(RecordKind kind, std::uint64_t sequence, const void* payload, std::size_t bytes,
            Reason detail = Reason::kNone, std::uint32_t session_index = 0) {
    journal::Record record;
    record.session_index = session_index;
    record.position = ++position_;
    record.kind = kind;
    record.sequence = sequence;
    record.detail = static_cast<std::uint16_t>(detail);
    record.payload = {static_cast<const std::byte*>(payload), bytes};
    recovery(record);
  }

  SessionRecovery recovery;

 private:
  static std::array<std::byte, 56> message_of(TemplateId id, const void* block) {
    std::array<std::byte, 56> message{};
    const wire::MessageHeader header = wire::header_of(id);
    std::memcpy(message.data(), &header, sizeof header);
    std::memcpy(message.data() + sizeof header, block, wire::kBlockBytes);
    return message;
  }
  std::uint64_t position_ = 0;
  std::uint64_t report_sequence_ = 0;
};

TEST(Recovery, TakesOrdersNeverAppliedForNoStepBackWhereTheirRecordComesLate) {
  Feeder feeder;
  feeder.order(make_record(TemplateId::kNewOrder, 7, 0));
  const std::uint64_t count = 4;
  feeder.feed(RecordKind::kNotApplied, 1, &count, sizeof count);
  EXPECT_EQ(feeder.recovery.sessions()[0].next_order_sequence, 8U);
}

TEST(Recovery, KeepsAKillOfAllForTheSessionsThatCameLaterAndTheReleaseOfOne) {
  Feeder feeder;
  const auto kill = [&](std::uint64_t killed, std::uint32_t session_index) {
    feeder.feed(RecordKind::kKill, 0, &killed, sizeof killed, Reason::kNone, session_index);
  };
  const auto killed = [&] {
    std::string names;
    for (const auto& session : feeder.recovery.sessions()) {
      if (session.killed) names += session.name;
    }
    return names + (feeder.recovery.all_killed() ? " and who comes" : "");
  };
  kill(1, journal::kEverySession);
  feeder.feed(RecordKind::kSession, 1, "beta", 4, Reason::kNone, 1);
  EXPECT_EQ(killed(), "alphabeta and who comes");
  kill(0, 1);
  EXPECT_EQ(killed(), "alpha and who comes");
  kill(0, journal::kEverySession);
  EXPECT_EQ(killed(), "");
}

TEST(Recovery, FindsTheRequestsThatHaveNoReport) {
  Feeder feeder;
  for (std::uint64_t sequence = 1; sequence <= 4; ++sequence) {
    feeder.order(make_record(TemplateId::kNewOrder, sequence, 0),
                 sequence == 3 ? Reason::kStale : Reason::kNone);
  }
  feeder.report(2, {});
  feeder.report(2, {});  // a fill: answers nothing further
  const auto sessions = feeder.recovery.sessions();
  ASSERT_EQ(sessions.size(), 1U);
  ASSERT_EQ(sessions[0].unanswered.size(), 3U);
  EXPECT_EQ(sessions[0].unanswered[0].order.sequence, 1U);
  EXPECT_EQ(sessions[0].unanswered[1].order.sequence, 3U);
  EXPECT_EQ(sessions[0].unanswered[1].refusal, Reason::kStale);
  EXPECT_EQ(sessions[0].unanswered[2].order.sequence, 4U);
  EXPECT_EQ(sessions[0].next_report_sequence, 3U);
}

TEST(Recovery, SkipsMessagesOfOtherSchemas) {
  Feeder feeder;
  const std::array<std::byte, 248> message{};
  feeder.feed(RecordKind::kOrder, 1, message.data(), message.size());
  EXPECT_TRUE(feeder.recovery.sessions()[0].unanswered.empty());
  EXPECT_EQ(feeder.recovery.sessions()[0].next_order_sequence, 2U);
}

class InDoubtHandler final : public Handler {
 public:
  explicit InDoubtHandler(std::vector<wire::OrderRecord>& given) : given_(given) {}
  void recover(std::span<const wire::OrderRecord> in_doubt, ReportSink& sink) noexcept override {
    given_.assign(in_doubt.begin(), in_doubt.end());
    for (const auto& order : in_doubt) (void)sink.send(order.session_index, order.sequence, {});
  }
  void on_orders(std::span<const wire::OrderRecord> /*orders*/,
                 ReportSink& /*sink*/) noexcept override {}

 private:
  std::vector<wire::OrderRecord>& given_;
};

TEST(Recovery, GivesTheHandlerTheOrdersInDoubtMarkedAndAnswersTheRefusedOnes) {
  Feeder feeder;
  feeder.order(make_record(TemplateId::kNewOrder, 1, 0));
  feeder.order(make_record(TemplateId::kCancelOrder, 2, 0), Reason::kInvalidQuantity);
  feeder.order(make_record(TemplateId::kMassCancel, 3, 0));
  std::vector<wire::OrderRecord> given;
  auto disk = std::make_unique<gateway_support::MemoryJournal>();
  const gateway_support::MemoryJournal& journal = *disk;
  const Gateway gateway(test_config(), std::make_unique<InDoubtHandler>(given), std::move(disk),
                        feeder.recovery.sessions());
  ASSERT_EQ(given.size(), 2U);
  EXPECT_EQ(given[0].sequence, 1U);
  EXPECT_EQ(given[0].new_order.flags, kFlagPossResend);
  EXPECT_EQ(given[1].sequence, 3U);
  EXPECT_EQ(given[1].mass_cancel.flags, kFlagPossResend);
  const auto reports = journal.of_kind(RecordKind::kReport);
  ASSERT_EQ(reports.size(), 3U);
  EXPECT_EQ(reports[0].sequence, 1U);
}

TEST(Recovery, KeepsAKilledSessionOutAndCancelsWhatTheKillHadNotGotTo) {
  Feeder feeder;
  const std::uint64_t yes = 1;
  feeder.order(make_record(TemplateId::kNewOrder, 1, 0));
  feeder.feed(RecordKind::kKill, 2, &yes, sizeof yes);
  ASSERT_TRUE(feeder.recovery.sessions()[0].killed);
  Rig rig(test_config(), std::make_unique<gateway_support::MemoryJournal>(),
          feeder.recovery.sessions());
  // The handler is asked once more to cancel everything, orders that were in doubt included.
  ASSERT_EQ(rig.handler->applied[0].size(), 1U);
  EXPECT_EQ(rig.handler->applied[0][0].template_id,
            static_cast<std::uint16_t>(TemplateId::kMassCancel));
  EXPECT_EQ(rig.handler->applied[0][0].mass_cancel.scope, MassCancelScope::kSession);
  try {
    (void)rig.connect("alpha");
    FAIL() << "a killed session got a link";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "SessionBlocked");
  }
  EXPECT_TRUE(rig.gateway->release(0));
  EXPECT_EQ(rig.connect("alpha").session->next_sequence(), 2U);
  ASSERT_EQ(rig.journal->of_kind(RecordKind::kKill).size(), 1U);
  const std::uint64_t no = 0;
  feeder.feed(RecordKind::kKill, 2, &no, sizeof no);
  EXPECT_FALSE(feeder.recovery.sessions()[0].killed);
}

TEST(Recovery, KnowsTheSchemaFromOrdersWhereNoLinkSaysIt) {
  Feeder plain;
  plain.feed(RecordKind::kLink, 1, nullptr, 0);
  EXPECT_EQ(plain.recovery.sessions()[0].schema_id, 0U);
  plain.order(make_record(TemplateId::kNewOrder, 1, 0));
  plain.feed(RecordKind::kLink, 2, nullptr, 0);
  EXPECT_EQ(plain.recovery.sessions()[0].schema_id, wire::kSchemaId);
  Feeder own;
  const std::array<std::byte, 56> message{};
  own.feed(RecordKind::kOrder, 1, message.data(), message.size());
  EXPECT_EQ(own.recovery.sessions()[0].schema_id, 0U);
  own.feed(RecordKind::kLink, 2, nullptr, 0, Reason{77});
  EXPECT_EQ(own.recovery.sessions()[0].schema_id, 77U);
}

TEST(Recovery, AKillSaysWhetherTheNextRunWillKnow) {
  Rig rig(test_config(), std::make_unique<gateway_support::MemoryJournal>());
  const Strategy strategy = rig.connect("a");
  EXPECT_TRUE(rig.gateway->kill(strategy.index).recorded);
  rig.journal->full = true;
  EXPECT_FALSE(rig.gateway->kill(strategy.index).recorded);
  EXPECT_FALSE(rig.gateway->release(strategy.index));
  const auto records = rig.journal->of_kind(RecordKind::kKill);
  ASSERT_EQ(records.size(), 1U);
  EXPECT_EQ(records[0].payload[0], std::byte{1});
  Rig without;
  EXPECT_FALSE(without.gateway->kill(without.connect("a").index).recorded);
}

/// The reports of a random stream, and the venue that made them.
struct Stream {
  std::vector<wire::OrderRecord> orders;
  std::vector<std::vector<Sent>> reports;
};

Stream run_stream(Handler& venue, std::uint32_t seed, int count) {
  std::mt19937 random(seed);
  const auto any = [&](std::uint64_t n) { return 1 + random() % n; };
  Stream stream;
  for (int i = 0; i < count; ++i) {
    const auto id = static_cast<TemplateId>(1 + random() % 40 / 13);
    auto record = make_record(random() % 50 == 0 ? TemplateId::kMassCancel : id,
                              static_cast<std::uint64_t>(i) + 1, 0);
    record.block_words[0] = any(400);
    switch (static_cast<TemplateId>(record.template_id)) {
      case TemplateId::kReplaceOrder:
        record.replace_order.orig_cl_ord_id = any(400);
        record.replace_order.side = Side::kBuy;
        record.replace_order.instrument = static_cast<std::uint32_t>(any(2));
        record.replace_order.quantity = static_cast<std::int64_t>(any(9));
        record.replace_order.ord_type = random() % 8 == 0 ? OrdType::kMarket : OrdType::kLimit;
        break;
      case TemplateId::kCancelOrder:
        record.cancel_order.orig_cl_ord_id = any(400);
        record.cancel_order.quantity = static_cast<std::int64_t>(random() % 4);
        break;
      case TemplateId::kMassCancel:
        record.mass_cancel.scope = MassCancelScope::kInstrument;
        record.mass_cancel.instrument = static_cast<std::uint32_t>(any(2));
        break;
      default:
        record.new_order.side = Side::kBuy;
        record.new_order.instrument = static_cast<std::uint32_t>(any(2));
        record.new_order.quantity = static_cast<std::int64_t>(any(9));
        record.new_order.ord_type = random() % 8 == 0 ? OrdType::kMarket : OrdType::kLimit;
    }
    RecordingSink sink;
    venue.on_orders({&record, 1}, sink);
    stream.orders.push_back(record);
    stream.reports.push_back(sink.sent);
  }
  return stream;
}

/// What a venue holds: the reports of a mass cancel, as text.
std::string holdings(Handler& venue) {
  RecordingSink sink;
  auto record = make_record(TemplateId::kMassCancel, 1'000'000, 0);
  record.mass_cancel.scope = MassCancelScope::kSession;
  record.mass_cancel.cl_ord_id = 999;
  venue.on_orders({&record, 1}, sink);
  std::string text;
  for (const Sent& sent : sink.sent) text += handler_support::text_of(sent) + "\n";
  return text;
}

TEST(Recovery, AVenueBuiltOutOfItsReportsHoldsWhatTheFirstOneHeld) {
  for (std::uint32_t seed = 1; seed <= 30; ++seed) {
    const auto first = make_venue_handler({.max_order_count = 1024});
    const Stream stream = run_stream(*first, seed, 300);
    const auto second = make_venue_handler({.max_order_count = 1024});
    Feeder feeder(second.get());
    for (std::size_t i = 0; i < stream.orders.size(); ++i) {
      feeder.order(stream.orders[i]);
      for (const Sent& sent : stream.reports[i]) feeder.report(sent.order_sequence, sent.report);
    }
    RecordingSink sink;
    second->recover({}, sink);
    EXPECT_TRUE(sink.sent.empty()) << "nothing was left to expire";
    EXPECT_TRUE(feeder.recovery.sessions()[0].unanswered.empty());
    ASSERT_EQ(holdings(*second), holdings(*first)) << "seed " << seed;
  }
}

TEST(Recovery, AnOrderThatHadNoTimeToExpireExpiresAtTheStart) {
  const auto first = make_venue_handler({.max_order_count = 16});
  Client client(*first);
  const auto sent = client.new_order(5, {.time_in_force = TimeInForce::kImmediateOrCancel});
  ASSERT_EQ(sent.size(), 2U);
  const auto second = make_venue_handler({.max_order_count = 16});
  Feeder feeder(second.get());
  auto record = make_record(TemplateId::kNewOrder, 1, 0);
  record.new_order.cl_ord_id = 5;
  record.new_order.quantity = 100;
  record.new_order.time_in_force = TimeInForce::kImmediateOrCancel;
  feeder.order(record);
  feeder.report(1, sent[0].report);
  RecordingSink sink;
  second->recover({}, sink);
  ASSERT_EQ(sink.sent.size(), 1U);
  EXPECT_EQ(sink.sent[0].report.exec_type, ExecType::kExpired);
  EXPECT_EQ(sink.sent[0].order_sequence, 1U);
}

TEST(Recovery, WhatWentStaleSinceItWasInDoubtHasNoEffectAnyMore) {
  const auto in_doubt = [](TemplateId id, std::uint64_t sequence, std::uint64_t stale_after_ns) {
    auto record = make_record(id, sequence, 0);
    record.block_words[0] = sequence;
    if (id == TemplateId::kNewOrder) {
      record.new_order.quantity = 100;
      record.new_order.side = Side::kBuy;
      record.new_order.ord_type = OrdType::kLimit;
      record.new_order.stale_after_ns = stale_after_ns;
    } else if (id == TemplateId::kReplaceOrder) {
      record.replace_order.orig_cl_ord_id = 1;
      record.replace_order.quantity = 7;
      record.replace_order.side = Side::kBuy;
      record.replace_order.stale_after_ns = stale_after_ns;
    } else {
      record.cancel_order.orig_cl_ord_id = 1;
      record.cancel_order.stale_after_ns = stale_after_ns;
    }
    return record;
  };
  constexpr std::uint64_t kPast = 1;
  constexpr std::uint64_t kFuture = INT64_MAX;
  const std::vector<wire::OrderRecord> orders = {
      in_doubt(TemplateId::kNewOrder, 1, 0), in_doubt(TemplateId::kNewOrder, 2, kPast),
      in_doubt(TemplateId::kReplaceOrder, 3, kPast), in_doubt(TemplateId::kCancelOrder, 4, kPast),
      in_doubt(TemplateId::kNewOrder, 5, kFuture)};
  for (const auto& make : {+[] { return make_accept_handler(); },
                           +[] { return make_venue_handler({.max_order_count = 16}); }}) {
    const auto handler = make();
    RecordingSink sink;
    handler->recover(orders, sink);
    ASSERT_EQ(sink.sent.size(), orders.size());
    // A run later: those reports are what the journal has, and the sum of it is the same.
    const auto next = make();
    Feeder feeder(next.get());
    for (const auto& order : orders) feeder.order(order);
    for (std::size_t i = 0; i < orders.size(); ++i) {
      const Sent& sent = sink.sent[i];
      const bool stale = i >= 1 && i <= 3;
      EXPECT_EQ(sent.order_sequence, i + 1);
      EXPECT_EQ(sent.report.exec_type, stale ? ExecType::kExpired : ExecType::kNew);
      EXPECT_EQ(sent.report.reason, stale ? Reason::kStale : Reason::kNone);
      feeder.report(sent.order_sequence, sent.report);
    }
    EXPECT_EQ(holdings(*next), holdings(*handler));
  }
}

// --- marks
// ----------------------------------------------------------------------------------------

TEST(JournalMarks, LeadToAPlaceBeforeWhatIsSoughtHoweverManyThereWere) {
  JournalMarks marks;
  std::uint64_t sequence = 1;
  for (; sequence < 5'000'000; sequence += 200) {
    if (marks.is_due(sequence, sequence)) {
      marks.add(sequence, sequence, {1, sequence * 10, sequence});
    }
  }
  for (std::uint64_t sought = 1; sought < sequence; sought += 12'345) {
    const journal::Location order = marks.find(sought, 0);
    const journal::Location report = marks.find(0, sought);
    ASSERT_LE(order.position, sought);
    ASSERT_EQ(order.position, report.position);
    ASSERT_LT(sought - order.position, 40'000U) << "a thin index, not an empty one";
  }
  EXPECT_EQ(JournalMarks().find(7, 7).segment, 0U);
}

}  // namespace
}  // namespace rdmaorder
