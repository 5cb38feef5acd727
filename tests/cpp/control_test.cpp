// connect() against gateways that answer well, badly, late or not at all.
#include <sys/stat.h>

#include <atomic>
#include <initializer_list>

#include "control_support.hpp"

namespace rdmaorder::control {
namespace {

using memory::UniqueFd;

constexpr int kWindowSeals = F_SEAL_SHRINK | F_SEAL_GROW;

class ControlConnect : public ::testing::Test {
 protected:
  ConnectRequest request() const {
    ConnectRequest made;
    made.url = "shm://" + path_;
    made.session = "alpha";
    made.order_slot_count = 256;
    made.report_slot_count = 1024;
    made.timeout_ns = kPatienceNs;
    made.huge_pages = memory::HugePages::kOff;
    return made;
  }

  /// The error that connect() ends with.
  static Error failure(const ConnectRequest& request) {
    const std::size_t before = open_descriptor_count();
    try {
      (void)connect(request);
    } catch (const Error& error) {
      EXPECT_LE(open_descriptor_count(), before + 2) << "the peer's two at most stay open";
      return error;
    }
    ADD_FAILURE() << "connect() succeeded";
    return {ErrorKind::kConfig, ""};
  }

  Error failure_with(std::function<void(const Peer&)> script,
                     std::uint64_t timeout_ns = kPatienceNs) {
    const FakeGateway gateway(path_, std::move(script));
    ConnectRequest asked = request();
    asked.timeout_ns = timeout_ns;
    return failure(asked);
  }

  static void expect(const Error& error, ErrorKind kind, std::initializer_list<const char*> words) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const char* word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << "\n"
                                                                         << error.what();
    }
  }

  TemporaryDirectory directory_;
  std::string path_ = directory_.file("gw.sock");
};

MessageWriter good_response() {
  return MessageWriter("NegotiationResponse")
      .text("gateway_version", "1.2.3")
      .number("session_index", 3)
      .number("next_order_sequence", 7)
      .number("next_report_sequence", 5)
      .number("slot_bytes", 64)
      .number("order_slot_count", 256)
      .number("report_slot_count", 512)
      .number("cancel_reserve_count", 16)
      .number("heartbeat_interval_ns", 1'000'000)
      .number("pid", 1717);
}

std::string ack(const ring::Geometry& geometry, std::uint64_t window_bytes,
                std::uint64_t epoch = 99) {
  return MessageWriter("EstablishmentAck")
      .number("epoch", epoch)
      .number("next_order_sequence", 9)
      .number("next_report_sequence", 5)
      .number("not_applied_count", 2)
      .window(geometry, window_bytes)
      .frame();
}

const ring::Geometry kOrders{4096, 64, 256};
constexpr std::uint64_t kOrderBytes = 20480;

TEST_F(ControlConnect, yields_a_link_whose_windows_both_sides_share) {
  UniqueFd reports;
  const UniqueFd orders = make_memfd(kOrderBytes, kWindowSeals);
  std::string asked_session;
  Message::Window report_window;
  const FakeGateway gateway(path_, [&](const Peer& peer) {
    const Message asked = peer.receive();
    asked_session =
        asked.text("session") + "/" + asked.text("flow") + "/" + asked.text("transport");
    peer.send(good_response().frame());
    report_window = peer.receive(&reports).window();
    peer.send(ack(kOrders, kOrderBytes), {orders.get()});
    peer.await_close();
  });
  const Established link = connect(request());
  EXPECT_EQ(asked_session, "alpha/Idempotent/shm");
  EXPECT_EQ(link.epoch, 99U);
  EXPECT_EQ(link.session_index, 3U);
  EXPECT_EQ(link.next_order_sequence, 9U);
  EXPECT_EQ(link.next_report_sequence, 5U);
  EXPECT_EQ(link.not_applied_count, 2U);
  EXPECT_EQ(link.cancel_reserve_count, 16U);
  EXPECT_EQ(link.heartbeat_interval_ns, 1'000'000U);
  EXPECT_EQ(link.gateway_version, "1.2.3");
  EXPECT_EQ(link.gateway_pid, 1717);
  EXPECT_EQ(link.order_geometry.slot_count, 256U);
  EXPECT_EQ(link.report_geometry.slot_count, 512U) << "what was granted, not what was asked";
  EXPECT_EQ(report_window.geometry.offset_bytes, 4096U);

  link.order_window.words()[512] = 0x1122334455667788;
  std::uint64_t seen = 0;
  ASSERT_EQ(::pread(orders.get(), &seen, 8, 4096), 8);
  EXPECT_EQ(seen, 0x1122334455667788U);
  ASSERT_EQ(::pwrite(reports.get(), &seen, 8, 8), 8);
  EXPECT_EQ(link.report_window.words()[1], 0x1122334455667788U);
  for (const int fd : {link.connection->fd(), link.order_window.fd(), link.report_window.fd()}) {
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  }
}

TEST_F(ControlConnect, names_the_first_bad_field_of_the_request) {
  const auto broken = [this](auto change) {
    ConnectRequest made = request();
    change(made);
    return failure(made);
  };
  expect(broken([](auto& r) { r.session = ""; }), ErrorKind::kConfig, {"session ''"});
  expect(broken([](auto& r) { r.session = "a b"; }), ErrorKind::kConfig, {"'a b'", "64 char"});
  expect(broken([](auto& r) { r.session = std::string(65, 'a'); }), ErrorKind::kConfig, {"64"});
  expect(broken([](auto& r) { r.slot_bytes = 100; }), ErrorKind::kConfig, {"slot_bytes = 100"});
  expect(broken([](auto& r) { r.order_slot_count = 4; }), ErrorKind::kConfig, {"= 4", "power"});
  expect(broken([](auto& r) { r.report_slot_count = 9; }), ErrorKind::kConfig, {"report", "= 9"});
  expect(broken([](auto& r) { r.timeout_ns = 0; }), ErrorKind::kConfig, {"timeout_ns"});
  expect(broken([](auto& r) { r.next_order_sequence = ~0ULL; }), ErrorKind::kConfig,
         {"next_order_sequence"});
}

TEST_F(ControlConnect, tells_each_reason_why_nobody_answers_at_the_path) {
  Error error = failure(request());
  expect(error, ErrorKind::kSystem,
         {"is the gateway running?", "rdmaorder gateway --listen shm:///", "No such file"});
  EXPECT_EQ(error.error_number(), ENOENT);

  std::ofstream(path_) << "a file";
  expect(failure(request()), ErrorKind::kSystem, {path_.c_str(), "not a socket"});
  std::filesystem::remove(path_);

  const sockaddr_un address = address_of(path_);
  {
    const UniqueFd dead(::socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_EQ(::bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  error = failure(request());
  expect(error, ErrorKind::kSystem, {"nobody listens", "start it again"});
  EXPECT_EQ(error.error_number(), ECONNREFUSED);
  std::filesystem::remove(path_);

  const UniqueFd datagram(::socket(AF_UNIX, SOCK_DGRAM, 0));
  ASSERT_EQ(::bind(datagram.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  expect(failure(request()), ErrorKind::kSystem, {"another kind"});
}

TEST_F(ControlConnect, tells_that_a_full_backlog_is_not_served) {
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(path_);
  const auto* at = reinterpret_cast<const sockaddr*>(&address);
  ASSERT_EQ(::bind(listener.get(), at, sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  std::vector<UniqueFd> waiting;
  do {
    waiting.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  } while (::connect(waiting.back().get(), at, sizeof address) == 0);
  ConnectRequest asked = request();
  asked.timeout_ns = kShortNs;
  expect(failure(asked), ErrorKind::kTimeout, {path_.c_str(), "accepted nobody", "60 ms"});
}

TEST_F(ControlConnect, refuses_a_gateway_of_another_user) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to listen as another user";
  ASSERT_EQ(::chmod(std::filesystem::path(path_).parent_path().c_str(), 0777), 0);
  ASSERT_EQ(::seteuid(65534), 0);
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(path_);
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(listener.get(), 4), 0);
  ASSERT_EQ(::seteuid(0), 0);
  expect(failure(request()), ErrorKind::kHandshake, {"uid 65534", "expected 0"});

  ASSERT_EQ(::chown(path_.c_str(), 0, 0), 0);
  ASSERT_EQ(::chmod(path_.c_str(), 0600), 0);
  ASSERT_EQ(::seteuid(65534), 0);
  const Error error = failure(request());
  ASSERT_EQ(::seteuid(0), 0);
  expect(error, ErrorKind::kSystem, {"allowed_uids"});
  EXPECT_EQ(error.error_number(), EACCES);
}

TEST_F(ControlConnect, says_at_which_step_the_gateway_fell_silent) {
  expect(failure_with([](const Peer& peer) { peer.await_close(); }, kShortNs), ErrorKind::kTimeout,
         {"session alpha", "Negotiate", "60 ms", path_.c_str()});
  std::filesystem::remove(path_);
  expect(failure_with(
             [](const Peer& peer) {
               peer.send(good_response().frame());
               peer.await_close();
             },
             kShortNs),
         ErrorKind::kTimeout, {"session alpha", "Establish", "60 ms"});
}

TEST_F(ControlConnect, gives_a_gateway_that_trickles_bytes_no_more_time) {
  std::atomic<bool> stop{false};
  std::string long_frame = frame_of(std::string(60'000, 'x'));
  const FakeGateway gateway(path_, [&](const Peer& peer) {
    for (const char& byte : long_frame) {
      if (stop.load()) return;
      peer.send({&byte, 1});
      ::usleep(2000);
    }
  });
  ConnectRequest asked = request();
  asked.timeout_ns = kShortNs;
  const Error error = failure(asked);
  stop.store(true);
  expect(error, ErrorKind::kTimeout, {"60 ms"});
}

TEST_F(ControlConnect, hands_on_the_code_and_text_of_a_refusal) {
  Error error = failure_with([](const Peer& peer) {
    peer.send(golden("control-negotiation-reject.bin"));
    peer.await_close();
  });
  expect(error, ErrorKind::kRefused, {"DuplicateId", "is live on another connection (pid 4242)"});
  EXPECT_EQ(error.code(), "DuplicateId");
  std::filesystem::remove(path_);
  error = failure_with([](const Peer& peer) {
    (void)peer.receive();
    peer.send(good_response().frame());
    (void)peer.receive();
    peer.send(golden("control-establishment-reject.bin"));
  });
  expect(error, ErrorKind::kRefused, {"BadWindow", "sealed against writing", "Establish"});
  EXPECT_EQ(error.code(), "BadWindow");
}

TEST_F(ControlConnect, reads_a_refusal_of_a_gateway_that_closed_without_reading) {
  const Error error = failure_with([](const Peer& peer) {
    peer.send(golden("control-negotiation-reject.bin"));
    ::shutdown(peer.fd(), SHUT_RDWR);
  });
  EXPECT_EQ(error.code(), "DuplicateId") << error.what();
}

TEST_F(ControlConnect, refuses_answers_that_are_no_frames_of_the_protocol) {
  const std::string response = good_response().frame();
  const std::vector<std::pair<std::string, const char*>> answers = {
      {"", "closed before"},
      {"\x05", "closed before"},
      {response.substr(0, 20), "closed before"},
      {"HTTP/1.1 400 Bad Request\r\n\r\n", "no control frame"},
      {std::string(4, '\0'), "no control frame"},
      {std::string("\x01\x00\x01\x00", 4), "no control frame"},
      {frame_of("\xc1\xc1"), "not one msgpack map"},
      {frame_of("\xdf\xff\xff\xff\xff"), "not one msgpack map"},
      {MessageWriter("Hello").frame(), "expected NegotiationResponse, got 'Hello'"},
      {MessageWriter("NegotiationResponse").frame(), "gateway_version"},
      {golden("control-establishment-ack.bin"), "EstablishmentAck"},
  };
  for (const auto& [answer, words] : answers) {
    const Error error = failure_with([text = answer](const Peer& peer) {
      (void)peer.receive();
      if (!text.empty()) peer.send(text);
      ::shutdown(peer.fd(), SHUT_RDWR);
    });
    expect(error, ErrorKind::kHandshake, {words, "Negotiate", path_.c_str()});
    std::filesystem::remove(path_);
  }
}

TEST_F(ControlConnect, refuses_grants_outside_every_limit) {
  const auto grant = [](const char* key, std::uint64_t value) {
    MessageWriter writer("NegotiationResponse");
    writer.text("gateway_version", "1.2.3");
    const std::pair<const char*, std::uint64_t> fields[] = {
        {"session_index", 3},         {"next_order_sequence", 7},      {"next_report_sequence", 5},
        {"slot_bytes", 64},           {"order_slot_count", 256},       {"report_slot_count", 512},
        {"cancel_reserve_count", 16}, {"heartbeat_interval_ns", 1000}, {"pid", 1}};
    for (const auto& [name, usual] : fields) {
      writer.number(name, std::strcmp(name, key) == 0 ? value : usual);
    }
    return writer.frame();
  };
  const std::vector<std::pair<const char*, std::uint64_t>> wrong = {
      {"slot_bytes", 128},        {"order_slot_count", 100},       {"order_slot_count", 1U << 21},
      {"report_slot_count", 4},   {"cancel_reserve_count", 256},   {"heartbeat_interval_ns", 0},
      {"next_order_sequence", 0}, {"next_report_sequence", ~0ULL}, {"session_index", 1ULL << 32}};
  for (const auto& [key, value] : wrong) {
    const Error error = failure_with([&, name = key, number = value](const Peer& peer) {
      peer.send(grant(name, number));
      peer.await_close();
    });
    EXPECT_EQ(error.kind(), ErrorKind::kHandshake) << key << " " << error.what();
    std::filesystem::remove(path_);
  }
}

TEST_F(ControlConnect, refuses_order_windows_that_cannot_be_trusted) {
  struct Case {
    const char* words;
    std::string frame;
    std::uint64_t bytes;
    int seals;
    std::size_t descriptor_count;
  };
  const std::vector<Case> cases = {
      {"0 descriptors", ack(kOrders, kOrderBytes), kOrderBytes, kWindowSeals, 0},
      {"2 descriptors", ack(kOrders, kOrderBytes), kOrderBytes, kWindowSeals, 2},
      {"more descriptors", ack(kOrders, kOrderBytes), kOrderBytes, kWindowSeals, 60},
      {"sealed", ack(kOrders, kOrderBytes), kOrderBytes, 0, 1},
      {"sealed", ack(kOrders, kOrderBytes), kOrderBytes, F_SEAL_GROW, 1},
      {"4096", ack(kOrders, kOrderBytes), 4096, kWindowSeals, 1},
      {"impossible", ack(kOrders, kOrderBytes - 1), kOrderBytes, kWindowSeals, 1},
      {"impossible", ack({64, 64, 256}, kOrderBytes), kOrderBytes, kWindowSeals, 1},
      {"impossible", ack({4096, 64, 255}, kOrderBytes), kOrderBytes, kWindowSeals, 1},
      {"impossible", ack({4096, 0, 256}, kOrderBytes), kOrderBytes, kWindowSeals, 1},
      {"granted were 256", ack({4096, 64, 128}, kOrderBytes), kOrderBytes, kWindowSeals, 1},
      {"granted were 256", ack({4096, 128, 64}, kOrderBytes), kOrderBytes, kWindowSeals, 1},
      {"outside", ack(kOrders, 1ULL << 41), kOrderBytes, kWindowSeals, 1},
      {"epoch", ack(kOrders, kOrderBytes, 0), kOrderBytes, kWindowSeals, 1},
  };
  for (const Case& each : cases) {
    const Error error = failure_with([&](const Peer& peer) {
      (void)peer.receive();
      peer.send(good_response().frame());
      (void)peer.receive();
      const UniqueFd window = make_memfd(each.bytes, each.seals);
      peer.send(each.frame, std::vector<int>(each.descriptor_count, window.get()));
    });
    expect(error, ErrorKind::kHandshake, {each.words, "Establish"});
    std::filesystem::remove(path_);
  }
}

TEST_F(ControlConnect, refuses_a_descriptor_that_came_with_the_wrong_message) {
  const Error error = failure_with([](const Peer& peer) {
    const UniqueFd window = make_memfd(4096, kWindowSeals);
    peer.send(good_response().frame(), {window.get()});
    peer.await_close();
  });
  expect(error, ErrorKind::kHandshake, {"carries a descriptor"});
}

}  // namespace
}  // namespace rdmaorder::control
