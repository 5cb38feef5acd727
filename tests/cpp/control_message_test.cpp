// URLs and the bytes of control messages. tests/unit/test_protocol.py reads and writes the same
// golden frames.
#include "control/authenticate.hpp"
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
        std::string("shm:"), std::string("shm://"), std::string("shm:///run/"),
        std::string("shm:/a?b"), std::string("shm:/a\0b", 8), "shm:" + std::string(108, 'a')}) {
    try {
      (void)parse_url(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(std::string(error.what()).find("shm:///absolute/path.sock"), std::string::npos);
    }
  }
}

TEST(ControlUrl, reads_host_port_and_options_of_an_rdma_address) {
  const Url plain = parse_url("rdma://gw.example.com:9000");
  EXPECT_EQ(plain.scheme, "rdma");
  EXPECT_EQ(plain.host, "gw.example.com");
  EXPECT_EQ(plain.port, 9000);
  EXPECT_TRUE(plain.options.empty());
  const Url full = parse_url("rdma://[fe80::1%eth0]:1?device=mlx5_0&gid_index=3&mtu=4096&tls=off");
  EXPECT_EQ(full.host, "fe80::1%eth0");
  EXPECT_EQ(full.port, 1);
  EXPECT_EQ(full.text("device"), "mlx5_0");
  EXPECT_EQ(full.number("gid_index", 9), 3U);
  EXPECT_EQ(full.number("port", 9), 9U) << "not given";
  EXPECT_EQ(full.text("tls", "on"), "off");
  EXPECT_EQ(parse_url("rdma://10.1.0.1:65535?tls_ca=/etc/ca=x.pem").text("tls_ca"),
            "/etc/ca=x.pem");
}

TEST(ControlUrl, names_what_is_wrong_with_an_rdma_address) {
  const std::pair<const char*, const char*> cases[] = {
      {"rdma:h:1", "'//'"},
      {"rdma://", "names no host"},
      {"rdma://:1", "names no host"},
      {"rdma://a b:1", "names no host"},
      {"rdma://h", "no port"},
      {"rdma://h:0", "no port"},
      {"rdma://h:65536", "no port"},
      {"rdma://h:+1", "no port"},
      {"rdma://h:1/path", "no port"},
      {"rdma://::1:1", "more than one ':'"},
      {"rdma://[::1:1", "no IPv6 address"},
      {"rdma://[10.0.0.1]:1", "no IPv6 address"},
      {"rdma://[::1]", "no port"},
      {"rdma://h:1?colour=blue", "unknown option 'colour' (known: depth, device, gid_index"},
      {"rdma://h:1?gid_index", "'gid_index', which is not key=value"},
      {"rdma://h:1?=1", "not key=value"},
      {"rdma://h:1?gid_index=-1", "gid_index = '-1', not an integer from 0 to 255"},
      {"rdma://h:1?gid_index=256", "from 0 to 255"},
      {"rdma://h:1?retry_count=7", "from 1 to 6"},
      {"rdma://h:1?mtu=1000", "256, 512, 1024, 2048 or 4096"},
      {"rdma://h:1?device=", "without a value"},
      {"rdma://h:1?tls=maybe", "not on or off"},
      {"rdma://h:1?port=1&port=2", "port twice"},
  };
  for (const auto& [text, words] : cases) {
    try {
      (void)parse_url(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("rdma://HOST:PORT"), std::string::npos);
    }
  }
}

TEST(ControlKey, is_read_from_hex_and_never_repeated_in_an_error) {
  EXPECT_EQ(parse_session_key(std::string(62, '0') + "fF"), std::string(31, '\0') + "\xff");
  for (const std::string& bad :
       {std::string(), std::string(62, 'a'), std::string(65, 'a'), std::string(63, 'a') + "g"}) {
    try {
      (void)parse_session_key(bad);
      ADD_FAILURE() << bad.size();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_EQ(std::string(error.what()).find("aaaa"), std::string::npos);
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

std::string counted_bytes(int first, int count) {
  std::string bytes;
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<char>(first + i));
  return bytes;
}

Endpoint golden_endpoint() {
  Endpoint endpoint;
  endpoint.qp_number = 17;
  endpoint.packet_sequence = 0xabcdef;
  endpoint.gid = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 1};
  endpoint.mtu_bytes = 1024;
  return endpoint;
}

TEST(ControlMessage, writes_the_golden_frames_of_an_rdma_link) {
  EXPECT_EQ(MessageWriter("Establish")
                .text("session", "alpha")
                .number("next_order_sequence", 0)
                .number("next_report_sequence", 1)
                .window({0x7f0012345000, 0x10203040, 69632, {4096, 64, 1024}})
                .endpoint(golden_endpoint())
                .frame(),
            golden("control-establish-rdma.bin"));
  EXPECT_EQ(MessageWriter("Established").number("epoch", 81'985'529'216'486'895).frame(),
            golden("control-established.bin"));
  EXPECT_EQ(MessageWriter("Established")
                .number("epoch", 81'985'529'216'486'895)
                .number("data_in_order", 1)
                .frame(),
            golden("control-established-in-order.bin"));
}

TEST(ControlMessage, reads_what_a_device_says_of_the_order_of_bytes_where_it_is_said) {
  const auto flag_of = [](const std::string& frame) {
    return Message::parse(body_of(frame)).flag("data_in_order");
  };
  EXPECT_FALSE(flag_of(golden("control-establishment-ack-rdma.bin")));
  EXPECT_TRUE(flag_of(golden("control-establishment-ack-in-order.bin")));
  EXPECT_FALSE(flag_of(MessageWriter("X").number("data_in_order", 0).frame()));
  EXPECT_THROW((void)flag_of(MessageWriter("X").number("data_in_order", 2).frame()), Error);
}

TEST(ControlMessage, reads_the_golden_answer_of_an_rdma_gateway) {
  const Message ack = Message::parse(body_of(golden("control-establishment-ack-rdma.bin")));
  const RemoteWindow window = ack.remote_window();
  EXPECT_EQ(window.address, 0x7feeddccb000U);
  EXPECT_EQ(window.key, 0xfffffffeU);
  EXPECT_EQ(window.bytes, 20480U);
  EXPECT_EQ(window.geometry.slot_count, 256U);
  const Endpoint endpoint = ack.endpoint();
  EXPECT_EQ(endpoint.qp_number, 0xffffffU);
  EXPECT_EQ(endpoint.packet_sequence, 0xabcdefU);
  EXPECT_EQ(endpoint.gid, golden_endpoint().gid);
  EXPECT_EQ(endpoint.mtu_bytes, 1024U);
}

TEST(ControlMessage, refuses_endpoints_and_windows_out_of_their_limits) {
  const auto changed = [](auto change) {
    Endpoint endpoint = golden_endpoint();
    RemoteWindow window{0x1000, 1, 69632, {4096, 64, 1024}};
    change(endpoint, window);
    return MessageWriter("X").window(window).endpoint(endpoint).frame();
  };
  for (const std::string& frame : {
           changed([](Endpoint& e, RemoteWindow&) { e.qp_number = 1U << 24; }),
           changed([](Endpoint& e, RemoteWindow&) { e.qp_number = 1; }),
           changed([](Endpoint& e, RemoteWindow&) { e.packet_sequence = 1U << 24; }),
           changed([](Endpoint& e, RemoteWindow&) { e.mtu_bytes = 1000; }),
           changed([](Endpoint& e, RemoteWindow&) { e.mtu_bytes = 8192; }),
           changed([](Endpoint&, RemoteWindow& w) { w.address = ~0ULL; }),
           changed([](Endpoint&, RemoteWindow& w) { w.bytes = 1; }),
       }) {
    const Message message = Message::parse(body_of(frame));
    EXPECT_THROW(
        {
          (void)message.remote_window();
          (void)message.endpoint();
        },
        Error);
  }
  const Message without = Message::parse(body_of(golden("control-establish.bin")));
  EXPECT_THROW((void)without.remote_window(), Error);
  EXPECT_THROW((void)without.endpoint(), Error);
}

TEST(ControlMessage, proves_a_key_as_the_golden_frame_does) {
  const Message challenge = Message::parse(body_of(golden("control-challenge.bin")));
  const Message answer = Message::parse(body_of(golden("control-authenticate.bin")));
  const std::string gateway_nonce = challenge.binary("nonce", kNonceBytes);
  const std::string client_nonce = answer.binary("client_nonce", kNonceBytes);
  EXPECT_EQ(gateway_nonce, counted_bytes(0, 32));
  EXPECT_EQ(client_nonce, counted_bytes(32, 32));
  const std::string binding = counted_bytes(200, 32);
  const ProofInput input{"alpha", gateway_nonce, client_nonce, binding};
  const std::string proof = proof_of(Prover::kClient, counted_bytes(100, 32), input);
  EXPECT_TRUE(is_same_proof(proof, answer.binary("mac", kProofBytes)));
  EXPECT_FALSE(is_same_proof(proof, proof_of(Prover::kGateway, counted_bytes(100, 32), input)));
  EXPECT_FALSE(is_same_proof(proof, proof.substr(1)));
  EXPECT_NE(random_nonce(), random_nonce());
  EXPECT_THROW((void)answer.binary("mac", 31), Error);
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
