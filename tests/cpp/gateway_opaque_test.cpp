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

}  // namespace
}  // namespace rdmaorder
