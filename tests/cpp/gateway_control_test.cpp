// Control threads against each other: kills, links and questions that come at the same time.
#include <gtest/gtest.h>

#include "gateway_support.hpp"

namespace rdmaorder {
namespace {

using namespace gateway_support;

/// A request for a link of session `grant` into memory of its own.
AttachRequest attach_request(const SessionGrant& grant) {
  AttachRequest request;
  request.session_index = grant.session_index;
  request.report_geometry = {ring::kRingOffsetMinBytes, 64, grant.report_slot_count};
  return request;
}

std::unique_ptr<transport::Transport> transport_of(const AttachRequest& request) {
  return transport::make_shm(ring_support::make_window(request.report_geometry.window_bytes()));
}

TEST(GatewayKill, LeavesNoLinkThatWasBeingMade) {
  for (const bool hold : {false, true}) {
    Rig rig(test_config(), std::make_unique<MemoryJournal>());
    const SessionGrant grant = rig.open("a");
    std::vector<std::string> told;
    AttachRequest request = attach_request(grant);
    request.hold = hold;
    auto made = std::make_unique<TellingTransport>(told, transport_of(request));
    request.connect = [&](const memory::Window&) {  // a queue pair takes its time
      EXPECT_EQ(rig.gateway->kill(grant.session_index).fence_ns, 0U) << "nothing to fence";
      return std::move(made);
    };
    EXPECT_EQ(refusal_of([&] { rig.gateway->attach(std::move(request)); }), "SessionBlocked");
    EXPECT_EQ(told, std::vector<std::string>{"gone"});
    const SessionView view = rig.gateway->sessions().at(grant.session_index);
    EXPECT_TRUE(view.killed);
    EXPECT_FALSE(view.live);
    EXPECT_TRUE(rig.journal->of_kind(journal::RecordKind::kLink).empty());
    // Nothing of it is left behind: released, the session has links as before.
    EXPECT_TRUE(rig.gateway->release(grant.session_index));
    Strategy strategy = rig.connect("a");
    ASSERT_EQ(strategy.send(), Status::kOk);
    rig.settle();
    EXPECT_EQ(rig.handler->sequences().back(), 1U);
  }
}

}  // namespace
}  // namespace rdmaorder
