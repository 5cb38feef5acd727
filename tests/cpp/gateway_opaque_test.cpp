// Sessions with a schema of their own.
#include <gtest/gtest.h>

#include "gateway_support.hpp"

namespace rdmaorder {
namespace {

using namespace gateway_support;
using journal::RecordKind;

TEST(OpaqueSession, CarriesMessagesBothWaysWithoutReadingThem) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Options options;
  options.slot_bytes = 256;
  options.schema_id = 77;
  options.order_slot_count = options.report_slot_count = 8;
  Strategy strategy = rig.connect("a", options);
  constexpr std::size_t kWords = 256 / 8;
  for (std::uint64_t n = 1; n <= 50; ++n) {
    std::vector<std::uint64_t> slot(kWords, 0);
    ring_support::fill(slot.data(), 256, n);
    std::uint64_t sequence = 0;
    ASSERT_EQ(strategy.session->try_send_slot(slot.data(), ring::Lane::kNormal, &sequence),
              Status::kOk);
    ASSERT_EQ(sequence, n);
    rig.settle();
    std::vector<std::uint64_t> answer(kWords, 0);
    ASSERT_EQ(strategy.session->poll_slots(answer.data(), 1), 1U);
    ASSERT_TRUE(ring_support::holds(answer.data(), 256, n));
    ASSERT_EQ(answer.back(), n);
    ASSERT_EQ(strategy.session->poll_slots(answer.data(), 1), 0U);
    strategy.session->check_link();
  }
  ASSERT_EQ(rig.handler->messages.size(), 50U);
  EXPECT_EQ(rig.handler->messages.back().second.size(), 248U);
  EXPECT_EQ(rig.journal->of_kind(RecordKind::kOrder).back().payload.size(), 248U);
  EXPECT_EQ(rig.journal->of_kind(RecordKind::kReport).size(), 50U);
}

TEST(OpaqueSession, TakesNoReportsOfTheOrderSchemaNorMessagesThatDoNotFit) {
  Rig rig;
  Options options;
  options.schema_id = 77;
  const std::uint32_t opaque = rig.open("opaque", options).session_index;
  const std::uint32_t plain = rig.open("plain").session_index;
  std::vector<std::byte> message(57);
  std::vector<Status> results;
  rig.handler->idle = [&](ReportSink& sink) {
    results = {sink.send(opaque, 1, {}),
               sink.send(99, 1, {}),
               sink.send_message(plain, std::span(message).first(56)),
               sink.send_message(99, std::span(message).first(56)),
               sink.send_message(opaque, std::span(message).first(7)),
               sink.send_message(opaque, std::span(message).first(57)),
               sink.send_message(opaque, std::span(message).first(56))};
  };
  rig.gateway->run_pass();
  EXPECT_EQ(results, (std::vector<Status>{Status::kInvalid, Status::kInvalid, Status::kInvalid,
                                          Status::kInvalid, Status::kInvalid, Status::kTooLarge,
                                          Status::kOk}));
}

// --- who decides the schema ---------------------------------------------------------------------

Options with_schema(std::uint16_t schema_id, std::uint32_t slot_bytes = 64) {
  Options options;
  options.schema_id = schema_id;
  options.slot_bytes = slot_bytes;
  return options;
}

TEST(SessionSchema, StaysThatOfTheFirstLink) {
  Rig rig(test_config(), std::make_unique<MemoryJournal>());
  Strategy first = rig.connect("a");
  ASSERT_EQ(first.send(), Status::kOk);
  (void)rig.detach(first);
  const auto refusal = [&] {
    try {
      rig.open("a", with_schema(77));
    } catch (const Error& error) {
      return std::string(error.code()) + ": " + error.what();
    }
    return std::string("no refusal");
  };
  EXPECT_EQ(refusal(),
            "BadRequest: session a has messages of schema 1, not 77; use another session for them");
  // What nobody waits for is journalled as before, and a kill cancels.
  Status sent = Status::kInvalid;
  rig.handler->idle = [&](ReportSink& sink) { sent = sink.send(first.index, 1, {}); };
  rig.gateway->run_pass();
  rig.handler->idle = nullptr;
  EXPECT_EQ(sent, Status::kOk);
  EXPECT_EQ(rig.journal->of_kind(RecordKind::kReport).size(), 2U);
  (void)rig.gateway->kill(first.index);
  EXPECT_EQ(rig.handler->applied[first.index].back().template_id,
            static_cast<std::uint16_t>(TemplateId::kMassCancel));
  (void)rig.detach(rig.connect("own", with_schema(77)));
  EXPECT_EQ(refusal_of([&] { rig.open("own"); }), "BadRequest");
  rig.open("own", with_schema(77));
}

TEST(SessionSchema, OfASessionWithoutALinkIsThatOfTheLinkThatComes) {
  Rig rig;
  rig.open("a", with_schema(77));
  rig.open("a");
  Strategy strategy = rig.connect("a", with_schema(1));
  ASSERT_EQ(strategy.send(), Status::kOk);
  rig.settle();
  EXPECT_EQ(order_sequences(strategy.poll()), range(1, 1));
}

TEST(SessionSchema, AndSlotSizeAreNotChangedByAskingAlone) {
  Rig rig;
  (void)rig.detach(rig.connect("a", with_schema(77, 256)));
  rig.open("a", with_schema(77, 64));
  Status sent = Status::kInvalid;
  rig.handler->idle = [&](ReportSink& sink) {
    sent = sink.send_message(0, std::vector<std::byte>(248));
  };
  rig.gateway->run_pass();
  EXPECT_EQ(sent, Status::kOk);
}

TEST(SessionSchema, ReportsMadeWhileALinkWithOtherSlotsIsBeingMadeFitThem) {
  for (const auto& [before, after] : {std::pair{64U, 256U}, std::pair{256U, 64U}}) {
    Rig rig;
    (void)rig.detach(rig.connect("a", with_schema(1, before)));
    rig.open("a", with_schema(1, after));
    AttachRequest request;
    request.report_geometry = {ring::kRingOffsetMinBytes, after, 64};
    memory::Window window = ring_support::make_window(request.report_geometry.window_bytes());
    request.connect = [&](const memory::Window&) {
      rig.handler->idle = [&](ReportSink& sink) {
        wire::ExecutionReport report{};
        report.cl_ord_id = 4711;
        EXPECT_EQ(sink.send(0, 1, report), Status::kOk);
      };
      rig.gateway->run_pass();
      rig.handler->idle = nullptr;
      return transport::make_shm(ring_support::map_again(window));
    };
    const ring::Geometry geometry = request.report_geometry;
    const AttachResult attached = rig.gateway->attach(std::move(request));
    rig.settle();
    ring::Reader reader(window.words(), geometry, attached.epoch, 1);
    std::uint64_t slot[256 / 8] = {};
    ASSERT_EQ(reader.read(slot), Status::kOk);
    EXPECT_EQ(slot[1], 4711U);
    for (std::size_t i = 7; i + 1 < after / 8; ++i) EXPECT_EQ(slot[i], 0U) << i;
  }
}

TEST(SessionSchema, IsKnownAgainFromTheJournal) {
  SessionRecovery recovery;
  {
    Rig rig(test_config(), std::make_unique<MemoryJournal>());
    (void)rig.detach(rig.connect("a", with_schema(77)));
    for (const MemoryJournal::Entry& entry : rig.journal->entries) {
      journal::Record record;
      record.kind = entry.kind;
      record.detail = entry.detail;
      record.session_index = entry.session_index;
      record.sequence = entry.sequence;
      record.payload = entry.payload;
      recovery(record);
    }
  }
  Rig rig(test_config(), std::make_unique<MemoryJournal>(), recovery.sessions());
  EXPECT_EQ(refusal_of([&] { rig.open("a"); }), "BadRequest");
  Status sent = Status::kInvalid;
  rig.handler->idle = [&](ReportSink& sink) {
    sent = sink.send_message(0, std::vector<std::byte>(56));
  };
  rig.gateway->run_pass();
  EXPECT_EQ(sent, Status::kOk) << "before its strategy is back";
  (void)rig.connect("a", with_schema(77));
}

}  // namespace
}  // namespace rdmaorder
