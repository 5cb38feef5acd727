// URLs and the bytes of control messages. tests/unit/test_protocol.py reads and writes the same
// golden frames.
#include "control_support.hpp"

namespace rdmaorder::control {
namespace {

TEST(ControlUrl, names_the_socket_file_in_each_accepted_form) {
  EXPECT_EQ(parse_url("shm:///run/gw.sock").path, "/run/gw.sock");
  EXPECT_EQ(parse_url("shm:/run/gw.sock").path, "/run/gw.sock");
  EXPECT_EQ(parse_url("shm:gw.sock").path, "gw.sock");
  EXPECT_EQ(parse_url("shm://gw.sock").path, "gw.sock");
  EXPECT_EQ(parse_url("shm:" + std::string(107, 'a')).path.size(), 107U);
}

TEST(ControlUrl, refuses_everything_else_and_says_what_to_write) {
  for (const std::string& text :
       {std::string(), std::string("/run/gw.sock"), std::string("tcp://host:1"),
        std::string("rdma://host:1"), std::string("shm:"), std::string("shm://"),
        std::string("shm:///run/"), std::string("shm:/a?b"), std::string("shm:/a\0b", 8),
        "shm:" + std::string(108, 'a')}) {
    try {
      (void)parse_url(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(std::string(error.what()).find("shm:///absolute/path.sock"), std::string::npos);
    }
  }
}

// -- bytes -------------------------------------------------------------------------------------

TEST(ControlMessage, writes_the_golden_frames_byte_by_byte) {
  EXPECT_EQ(MessageWriter("Negotiate")
                .text("protocol", "rdmaorder")
                .number("protocol_version", 1)
                .number("layout_version", 1)
                .text("client_version", "1.2.3")
                .text("session", "alpha")
                .text("transport", "shm")
                .number("schema_id", 1)
                .number("schema_version", 0)
                .number("slot_bytes", 64)
                .number("order_slot_count", 256)
                .number("report_slot_count", 1024)
                .text("flow", "Idempotent")
                .number("timestamp_ns", 1'700'000'000'123'456'789)
                .number("pid", 4242)
                .frame(),
            golden("control-negotiate.bin"));
  EXPECT_EQ(MessageWriter("Establish")
                .text("session", "alpha")
                .number("next_order_sequence", 0)
                .number("next_report_sequence", 1)
                .window({4096, 64, 1024}, 69632)
                .frame(),
            golden("control-establish.bin"));
  EXPECT_EQ(MessageWriter("Terminate")
                .text("code", "Finished")
                .number("last_sequence", 5'000'000'000)
                .text("text", "")
                .frame(),
            golden("control-terminate.bin"));
}

TEST(ControlMessage, reads_the_golden_frames_of_the_gateway) {
  const std::string grant = golden("control-negotiation-response.bin");
  EXPECT_EQ(body_length_bytes(grant.data()), grant.size() - kFrameHeaderBytes);
  const Message response = Message::parse(body_of(grant));
  EXPECT_EQ(response.type(), "NegotiationResponse");
  EXPECT_EQ(response.number("heartbeat_interval_ns", 1, UINT64_MAX), 1'000'000U);
  const Message reject = Message::parse(body_of(golden("control-negotiation-reject.bin")));
  EXPECT_EQ(reject.text("code"), "DuplicateId");
  const Message ack = Message::parse(body_of(golden("control-establishment-ack.bin")));
  EXPECT_EQ(ack.number("epoch", 1, UINT64_MAX), 81'985'529'216'486'895U);
  EXPECT_EQ(ack.window().bytes, 20480U);
  EXPECT_EQ(ack.window().geometry.slot_count, 256U);
  const Message blocked = Message::parse(body_of(golden("control-establishment-reject.bin")));
  EXPECT_EQ(blocked.text("code"), "BadWindow");
}

TEST(ControlMessage, refuses_bodies_that_are_no_map_of_the_protocol) {
  std::string nested;
  for (int i = 0; i < 20'000; ++i) nested += "\x81\xa1w";
  for (const std::string& body :
       {std::string(), std::string("\xc1"), std::string("\x91\x01"), std::string("\x81\x01\x02"),
        std::string("\x81\xa4type\xc0"), std::string("\x82\xa4type\xa1x\xa4type\xa1x"),
        std::string("\x81\xa4type\xa1x\x00", 9), std::string("\xdf\xff\xff\xff\xff"),
        std::string("\x81\xa4type\xdb\xff\xff\xff\xff"), std::string("\xdd\xff\xff\xff\xff"),
        std::string("\x81\xa4type\xa5x"), nested}) {
    EXPECT_THROW((void)Message::parse(body), Error) << ::testing::PrintToString(body.substr(0, 40));
  }
}

TEST(ControlMessage, makes_text_of_the_peer_fit_to_be_shown) {
  const std::string frame =
      MessageWriter("X").text("text", "a\n\x1b[31m" + std::string(3000, 'b')).frame();
  const std::string text = Message::parse(body_of(frame)).text("text");
  EXPECT_EQ(text.substr(0, 7), "a??[31m");
  EXPECT_EQ(text.size(), 1024U);
}

}  // namespace
}  // namespace rdmaorder::control
