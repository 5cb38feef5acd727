// check_peer() and terminate() on the control socket of a live link.
#include "control_support.hpp"

namespace rdmaorder::control {
namespace {

using memory::UniqueFd;

class ControlLink : public ::testing::Test {
 protected:
  ControlLink() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    own_ = UniqueFd(ends[0]);
    gateway_ = UniqueFd(ends[1]);
  }
  void gateway_says(std::string_view data) const { Peer(gateway_.get()).send(data); }

  UniqueFd own_;
  UniqueFd gateway_;
  std::string text_;
};

const std::string kShutdown = MessageWriter("Terminate")
                                  .text("code", "GatewayShutdown")
                                  .number("last_sequence", 40)
                                  .text("text", "the gateway is shutting down")
                                  .frame();

TEST_F(ControlLink, is_quiet_while_nothing_is_said) {
  EXPECT_EQ(check_peer(own_.get(), &text_), PeerCheck::kQuiet);
  EXPECT_EQ(text_, "");
}

TEST_F(ControlLink, is_terminated_by_a_frame_and_gone_after_it) {
  gateway_says(kShutdown);
  gateway_.reset();
  EXPECT_EQ(check_peer(own_.get(), &text_), PeerCheck::kTerminated);
  EXPECT_EQ(text_, "GatewayShutdown: the gateway is shutting down");
  EXPECT_EQ(check_peer(own_.get(), nullptr), PeerCheck::kGone);
}

TEST_F(ControlLink, stays_quiet_until_the_last_byte_of_a_terminate) {
  for (std::size_t i = 0; i + 1 < kShutdown.size(); ++i) {
    gateway_says({&kShutdown[i], 1});
    ASSERT_EQ(check_peer(own_.get(), &text_), PeerCheck::kQuiet) << i;
  }
  gateway_says({&kShutdown.back(), 1});
  EXPECT_EQ(check_peer(own_.get(), &text_), PeerCheck::kTerminated);
}

TEST_F(ControlLink, is_gone_after_end_of_file_even_within_a_frame) {
  gateway_says(kShutdown.substr(0, 30));
  gateway_.reset();
  EXPECT_EQ(check_peer(own_.get(), &text_), PeerCheck::kGone);
  EXPECT_NE(text_.find("within a frame"), std::string::npos);
}

TEST_F(ControlLink, is_gone_after_garbage) {
  for (const std::string& data :
       {std::string("GET / HTTP/1.1"), std::string(4, '\0'), frame_of("\xc1"),
        MessageWriter("Hello").frame(), frame_of(std::string(9000, 'x')),
        MessageWriter("Terminate").text("code", "X").frame()}) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd own(ends[0]);
    const UniqueFd gateway(ends[1]);
    Peer(gateway.get()).send(data);
    EXPECT_EQ(check_peer(own.get(), &text_), PeerCheck::kGone);
    EXPECT_NE(text_, "");
  }
}

TEST_F(ControlLink, is_gone_on_a_descriptor_that_is_no_socket) {
  EXPECT_EQ(check_peer(-1, &text_), PeerCheck::kGone);
  const UniqueFd file = make_memfd(64, 0);
  EXPECT_EQ(check_peer(file.get(), &text_), PeerCheck::kGone);
}

TEST_F(ControlLink, ends_with_the_last_applied_sequence_confirmed) {
  std::uint64_t written = 0;
  std::thread gateway([&] {
    written = Peer(gateway_.get()).receive().number("last_sequence", 0, UINT64_MAX);
    for (const char& byte : golden("control-terminate.bin")) gateway_says({&byte, 1});
  });
  std::uint64_t confirmed = 0;
  EXPECT_TRUE(terminate(own_.get(), 41, kPatienceNs, &confirmed));
  gateway.join();
  EXPECT_EQ(written, 41U);
  EXPECT_EQ(confirmed, 5'000'000'000U);
}

TEST_F(ControlLink, takes_a_terminate_that_crossed_for_the_answer) {
  gateway_says(kShutdown);
  gateway_.reset();
  std::uint64_t confirmed = 0;
  EXPECT_TRUE(terminate(own_.get(), 41, kPatienceNs, &confirmed));
  EXPECT_EQ(confirmed, 40U);
}

TEST_F(ControlLink, is_not_confirmed_by_silence_half_a_frame_or_a_close) {
  std::uint64_t confirmed = 7;
  EXPECT_FALSE(terminate(own_.get(), 41, kShortNs, &confirmed));
  gateway_says(kShutdown.substr(0, 20));
  EXPECT_FALSE(terminate(own_.get(), 41, kShortNs, &confirmed));
  gateway_.reset();
  EXPECT_FALSE(terminate(own_.get(), 41, kPatienceNs, &confirmed));
  EXPECT_EQ(confirmed, 7U);
}

}  // namespace
}  // namespace rdmaorder::control
