// The connection of a live link: looks, questions and their late answers, the end.
#include "control/channel.hpp"
#include "control_support.hpp"

namespace rdmaorder::control {
namespace {

using memory::UniqueFd;

class ControlLink : public ::testing::Test {
 protected:
  ControlLink() {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    own_ = make_plain_connection(UniqueFd(ends[0]));
    gateway_ = UniqueFd(ends[1]);
  }
  void gateway_says(std::string_view data) const { Peer(gateway_.get()).send(data); }
  PeerCheck check() { return own_->check(&text_); }
  /// Asks for the fates of `count` orders from `from` on and gives up at once.
  void ask_in_vain(std::uint64_t from, std::uint32_t count) {
    try {
      (void)resolve(*own_, Inquiry::kFates, from, count, 1);
      ADD_FAILURE() << "nobody has answered";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kTimeout) << error.what();
    }
  }

  std::unique_ptr<Connection> own_;
  UniqueFd gateway_;
  std::string text_;
};

const std::string kShutdown = MessageWriter("Terminate")
                                  .text("code", "GatewayShutdown")
                                  .number("last_sequence", 40)
                                  .text("text", "the gateway is shutting down")
                                  .frame();

std::string resolved(std::uint64_t request, std::uint64_t from, std::size_t count) {
  std::string fates(count * sizeof(OrderFate), '\0');
  for (std::size_t i = 0; i < count; ++i) {
    OrderFate fate;
    fate.sequence = from + i;
    fate.fate = Fate::kAnswered;
    std::memcpy(&fates[i * sizeof fate], &fate, sizeof fate);
  }
  return MessageWriter("Resolved")
      .number("request", request)
      .number("next_order_sequence", 5000)
      .binary("fates", fates)
      .frame();
}

TEST_F(ControlLink, is_quiet_while_nothing_is_said) {
  EXPECT_EQ(check(), PeerCheck::kQuiet);
  EXPECT_EQ(text_, "");
}

TEST_F(ControlLink, is_terminated_by_a_frame_and_gone_after_it) {
  gateway_says(kShutdown);
  gateway_.reset();
  EXPECT_EQ(check(), PeerCheck::kTerminated);
  EXPECT_EQ(text_, "GatewayShutdown: the gateway is shutting down");
  EXPECT_EQ(own_->check(nullptr), PeerCheck::kGone);
}

TEST_F(ControlLink, stays_quiet_until_the_last_byte_of_a_terminate) {
  for (std::size_t i = 0; i + 1 < kShutdown.size(); ++i) {
    gateway_says({&kShutdown[i], 1});
    ASSERT_EQ(check(), PeerCheck::kQuiet) << i;
  }
  gateway_says({&kShutdown.back(), 1});
  EXPECT_EQ(check(), PeerCheck::kTerminated);
}

TEST_F(ControlLink, is_gone_after_end_of_file_even_within_a_frame) {
  gateway_says(kShutdown.substr(0, 30));
  gateway_.reset();
  EXPECT_EQ(check(), PeerCheck::kGone);
  EXPECT_NE(text_.find("within a frame"), std::string::npos);
}

TEST_F(ControlLink, is_gone_after_garbage) {
  for (const std::string& data :
       {std::string("GET / HTTP/1.1"), std::string(4, '\0'), frame_of("\xc1"),
        MessageWriter("Hello").frame(), frame_of(std::string(9000, 'x')),
        MessageWriter("Clock").number("request", 1).number("time_ns", 1).frame(),
        MessageWriter("Terminate").text("code", "X").frame()}) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const auto own = make_plain_connection(UniqueFd(ends[0]));
    const UniqueFd gateway(ends[1]);
    Peer(gateway.get()).send(data);
    EXPECT_EQ(own->check(&text_), PeerCheck::kGone);
    EXPECT_TRUE(text_.starts_with("it sent ")) << text_;
  }
}

TEST_F(ControlLink, is_gone_with_the_systems_words_where_the_socket_fails) {
  EXPECT_EQ(make_plain_connection(UniqueFd())->check(&text_), PeerCheck::kGone);
  EXPECT_EQ(text_, "receive from the control socket: Bad file descriptor");
  EXPECT_EQ(make_plain_connection(make_memfd(64, 0))->check(&text_), PeerCheck::kGone);
  EXPECT_EQ(text_, "receive from the control socket: Socket operation on non-socket");
}

TEST_F(ControlLink, ends_with_the_last_applied_sequence_confirmed) {
  std::uint64_t written = 0;
  std::thread gateway([&] {
    written = Peer(gateway_.get()).receive().number("last_sequence", 0, UINT64_MAX);
    for (const char& byte : golden("control-terminate.bin")) gateway_says({&byte, 1});
  });
  std::uint64_t confirmed = 0;
  EXPECT_TRUE(own_->terminate(41, kPatienceNs, &confirmed));
  gateway.join();
  EXPECT_EQ(written, 41U);
  EXPECT_EQ(confirmed, 5'000'000'000U);
}

TEST_F(ControlLink, takes_a_terminate_that_crossed_for_the_answer) {
  gateway_says(kShutdown);
  gateway_.reset();
  std::uint64_t confirmed = 0;
  EXPECT_TRUE(own_->terminate(41, kPatienceNs, &confirmed));
  EXPECT_EQ(confirmed, 40U);
}

TEST_F(ControlLink, is_not_confirmed_by_silence_half_a_frame_or_a_close) {
  std::uint64_t confirmed = 7;
  EXPECT_FALSE(own_->terminate(41, kShortNs, &confirmed));
  gateway_says(kShutdown.substr(0, 20));
  EXPECT_FALSE(own_->terminate(41, kShortNs, &confirmed));
  gateway_.reset();
  EXPECT_FALSE(own_->terminate(41, kPatienceNs, &confirmed));
  EXPECT_EQ(confirmed, 7U);
}

// -- answers that come after their time ----------------------------------------------------------

TEST_F(ControlLink, takes_no_late_answer_for_that_to_the_next_question) {
  ask_in_vain(1, 3);
  gateway_says(resolved(1, 1, 3));
  std::thread gateway([&] {
    const Peer peer(gateway_.get());
    EXPECT_EQ(peer.receive().number("request", 0, UINT64_MAX), 1U);
    const Message question = peer.receive();
    EXPECT_EQ(question.number("from_sequence", 0, UINT64_MAX), 101U);
    peer.send(resolved(question.number("request", 0, UINT64_MAX), 101, 2));
  });
  const Resolved answer = resolve(*own_, Inquiry::kFates, 101, 2, kPatienceNs);
  gateway.join();
  ASSERT_EQ(answer.fates.size(), 2U);
  EXPECT_EQ(answer.fates[0].sequence, 101U);
  EXPECT_EQ(answer.fates[1].sequence, 102U);
}

TEST_F(ControlLink, stays_quiet_while_a_long_late_answer_comes_in_parts) {
  ask_in_vain(1, 1000);
  const std::string late = resolved(1, 1, 1000);
  for (std::size_t i = 0; i < late.size(); i += 777) {
    gateway_says(late.substr(i, 777));
    ASSERT_EQ(check(), PeerCheck::kQuiet) << i << text_;
  }
  gateway_says(kShutdown);
  EXPECT_EQ(check(), PeerCheck::kTerminated) << text_;
  gateway_says(late);
  EXPECT_EQ(check(), PeerCheck::kGone) << "nobody owes that answer any more";
  EXPECT_EQ(text_, "it sent Resolved");
}

TEST_F(ControlLink, is_confirmed_by_a_terminate_behind_a_late_answer) {
  ask_in_vain(1, 1000);
  gateway_says(resolved(1, 1, 1000));
  gateway_says(kShutdown);
  std::uint64_t confirmed = 0;
  EXPECT_TRUE(own_->terminate(41, kPatienceNs, &confirmed));
  EXPECT_EQ(confirmed, 40U);
}

TEST_F(ControlLink, owes_one_long_answer_at_most_and_kills_at_once) {
  ask_in_vain(1, 1000);
  ask_in_vain(1, 1000);  // not sent: the first has no answer
  EXPECT_THROW((void)kill(*own_, 1), Error);
  const Peer peer(gateway_.get());
  EXPECT_EQ(peer.receive().type(), "Resolve");
  EXPECT_EQ(peer.receive().type(), "Kill");
}

TEST_F(ControlLink, takes_the_answer_to_what_was_looked_up_behind_that_to_a_kill) {
  ask_in_vain(1, 1000);
  EXPECT_THROW((void)kill(*own_, 1), Error);
  gateway_says(MessageWriter("Killed")
                   .number("request", 2)
                   .number("canceled", 0)
                   .number("fence_ns", 1)
                   .number("sessions", 1)
                   .number("recorded", 1)
                   .frame());
  gateway_says(resolved(1, 1, 1000));
  EXPECT_EQ(check(), PeerCheck::kQuiet) << text_;
  gateway_says(kShutdown);
  EXPECT_EQ(check(), PeerCheck::kTerminated) << text_;
}

TEST_F(ControlLink, leaves_a_terminate_in_place_of_an_answer_to_the_next_look) {
  gateway_says(kShutdown);
  try {
    (void)measure_clock(*own_, kPatienceNs);
    ADD_FAILURE() << "nobody has answered";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "GatewayShutdown");
  }
  EXPECT_EQ(check(), PeerCheck::kTerminated);
}

TEST_F(ControlLink, asks_in_the_golden_frames_and_reads_the_golden_answers) {
  const auto asks = [](const char* question, const char* answer, const auto& ask) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const auto own = make_plain_connection(UniqueFd(ends[0]));
    const UniqueFd gateway(ends[1]);
    Peer(gateway.get()).send(golden(answer));
    ask(*own);
    std::string sent = golden(question);
    const std::string expected = sent;
    ASSERT_EQ(::recv(gateway.get(), sent.data(), sent.size(), MSG_WAITALL),
              static_cast<ssize_t>(sent.size()));
    EXPECT_EQ(sent, expected) << question;
  };
  asks("control-resolve.bin", "control-resolved.bin", [](Connection& own) {
    const Resolved answer = resolve(own, Inquiry::kFates, 11, 1, kPatienceNs);
    EXPECT_EQ(answer.next_order_sequence, 12U);
    ASSERT_EQ(answer.fates.size(), 1U);
    EXPECT_EQ(answer.fates[0].price, -5);
  });
  asks("control-resolve.bin", "control-refused.bin", [](Connection& own) {
    EXPECT_THROW((void)resolve(own, Inquiry::kFates, 11, 1, kPatienceNs), Error);
    EXPECT_EQ(own.check(nullptr), PeerCheck::kQuiet) << "the link goes on";
  });
  asks("control-kill.bin", "control-killed.bin",
       [](Connection& own) { EXPECT_EQ(kill(own, kPatienceNs), 2U); });
  asks("control-clock-question.bin", "control-clock.bin", [](Connection& own) {
    EXPECT_THROW((void)measure_clock(own, kShortNs), Error) << "one answer, then silence";
  });
}

/// The error that `inquiry` about 3 orders from 5 on ends with when that is the answer.
std::string refusal_of(Inquiry inquiry, const std::string& answer) {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  const auto own = make_plain_connection(UniqueFd(ends[0]));
  const UniqueFd gateway(ends[1]);
  Peer(gateway.get()).send(answer);
  try {
    (void)resolve(*own, inquiry, 5, 3, kPatienceNs);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kHandshake) << error.what();
    return error.what();
  }
  return "taken";
}

TEST_F(ControlLink, refuses_fates_of_other_orders_than_were_asked_for) {
  for (const std::string& answer :
       {resolved(1, 4, 3), resolved(1, 5, 4), MessageWriter("Killed").number("canceled", 0).frame(),
        MessageWriter("Clock").number("request", 1).number("time_ns", 0).frame()}) {
    EXPECT_NE(refusal_of(Inquiry::kFates, answer), "taken");
  }
}

TEST_F(ControlLink, takes_open_orders_in_ascending_order_alone) {
  const auto open_orders = [](std::vector<std::uint64_t> sequences) {
    std::string fates;
    for (const std::uint64_t sequence : sequences) {
      OrderFate fate;
      fate.sequence = sequence;
      fates.append(reinterpret_cast<const char*>(&fate), sizeof fate);
    }
    return refusal_of(Inquiry::kOpenOrders, MessageWriter("Resolved")
                                                .number("request", 1)
                                                .number("next_order_sequence", 5000)
                                                .binary("fates", fates)
                                                .frame());
  };
  EXPECT_EQ(open_orders({5, 9, 4000}), "taken");
  EXPECT_NE(open_orders({5, 4}).find("has order 4 in place 1"), std::string::npos);
  EXPECT_NE(open_orders({9, 8, 10}).find("has order 8 in place 1"), std::string::npos);
  EXPECT_NE(open_orders({5, UINT64_MAX}).find("in place 1"), std::string::npos)
      << "the page behind it would begin at 0";
}

}  // namespace
}  // namespace rdmaorder::control
