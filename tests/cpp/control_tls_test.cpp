// connect() over TCP and TLS against the real control server, and against what is none.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>

#include <initializer_list>

#include "control/tls_stream.hpp"
#include "control_tls_support.hpp"

namespace rdmaorder::control {
namespace {

constexpr const char* kTls =
    R"("listen":"rdma://127.0.0.1:0","tls_certificate":"@gateway.pem","tls_key":"@gateway.key")";
constexpr const char* kPlain = R"("listen":"rdma://127.0.0.1:0","tls":"off")";
const std::string kKeyHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

class ControlTls : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { certificates_ = std::make_unique<TemporaryDirectory>(); }
  static void TearDownTestSuite() { certificates_.reset(); }
  void SetUp() override {
    if (test_python().empty()) GTEST_SKIP() << "needs .venv/bin/python or the variable PYTHON";
  }

  static std::string file(const std::string& name) { return certificates_->file(name); }
  static std::unique_ptr<PythonGateway> start(const std::string& settings) {
    return std::make_unique<PythonGateway>(file(""), settings);
  }
  static ConnectRequest request(const std::string& url) {
    ConnectRequest made;
    made.url = url;
    made.session = "alpha";
    made.order_slot_count = 64;
    made.report_slot_count = 64;
    made.timeout_ns = kPatienceNs;
    made.huge_pages = memory::HugePages::kOff;
    made.tls_ca = file("ca.pem");
    return made;
  }
  /// The error that connect() ends with. `of_peer`: descriptors a peer in this process may hold.
  Error failure(const ConnectRequest& asked, std::size_t of_peer = 0) {
    const std::size_t before = open_descriptor_count();
    try {
      (void)connect(asked, &maker_);
    } catch (const Error& error) {
      EXPECT_LE(open_descriptor_count(), before + of_peer);
      return error;
    }
    ADD_FAILURE() << "connect() succeeded";
    return {ErrorKind::kConfig, ""};
  }
  static void expect(const Error& error, ErrorKind kind, std::initializer_list<const char*> words) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    for (const char* word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << "\n"
                                                                         << error.what();
    }
  }

  static std::unique_ptr<TemporaryDirectory> certificates_;
  BookLinkMaker maker_;
};

std::unique_ptr<TemporaryDirectory> ControlTls::certificates_;

// -- links ---------------------------------------------------------------------------------------

class ControlTlsLink : public ControlTls, public ::testing::WithParamInterface<const char*> {
 protected:
  static std::string url_of(const PythonGateway& gateway, const std::string& options) {
    const bool plain = std::string(GetParam()) == kPlain;
    return gateway.url() + "?" + options + (plain ? "&tls=off" : "&tls=on");
  }
};

TEST_P(ControlTlsLink, exchanges_endpoints_and_ends_gracefully) {
  const auto gateway = start(GetParam());
  const Established link = connect(request(url_of(*gateway, "gid_index=3")), &maker_);
  EXPECT_EQ(maker_.terms.local_address, "127.0.0.1");
  EXPECT_EQ(maker_.terms.peer_address, "127.0.0.1");
  EXPECT_EQ(maker_.terms.options.at("gid_index"), "3");
  EXPECT_EQ(maker_.terms.report_geometry.slot_count, 64U);
  EXPECT_EQ(maker_.window_bytes, link.report_window.bytes());
  EXPECT_EQ(maker_.answer.endpoint.qp_number, 77U);
  EXPECT_EQ(maker_.answer.endpoint.gid[15], 15U);
  EXPECT_EQ(maker_.answer.order_window.address, 1ULL << 47);
  EXPECT_EQ(maker_.answer.order_window.key, 0xfffffffeU);
  EXPECT_EQ(link.order_geometry.slot_count, 64U);
  EXPECT_FALSE(link.order_window);
  EXPECT_EQ(link.epoch, 101U);
  EXPECT_EQ(link.next_order_sequence, 7U);

  const std::string facts = gateway->await("\"activated\":[[0,101,true]]");
  EXPECT_NE(facts.find("\"gid\":\"abababababababababababababababab\""), std::string::npos) << facts;
  EXPECT_NE(facts.find("\"packet_sequence\":1193046"), std::string::npos) << facts;
  EXPECT_NE(facts.find("\"key\":99"), std::string::npos) << facts;

  std::string text;
  EXPECT_EQ(link.connection->check(&text), PeerCheck::kQuiet);
  std::uint64_t confirmed = 0;
  EXPECT_TRUE(link.connection->terminate(40, kPatienceNs, &confirmed));
  EXPECT_EQ(confirmed, 40U);
  gateway->await("\"detached\":[[0,101,true]]");
}

TEST_P(ControlTlsLink, goes_on_when_answers_come_after_their_time) {
  const auto gateway = start(GetParam());
  const Established link = connect(request(url_of(*gateway, "port=1")), &maker_);
  gateway->await("\"activated\":[[0,101,true]]");
  gateway->suspend();
  EXPECT_THROW((void)measure_clock(*link.connection, 1), Error);
  gateway->resume();
  pollfd late{link.connection->fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&late, 1, static_cast<int>(kPatienceNs / 1'000'000)), 1);
  std::string text;
  EXPECT_EQ(link.connection->check(&text), PeerCheck::kQuiet) << text;
  gateway->suspend();
  EXPECT_THROW((void)measure_clock(*link.connection, 1), Error);
  gateway->resume();
  EXPECT_LT(measure_clock(*link.connection, kPatienceNs).bound_ns, kPatienceNs);
  EXPECT_TRUE(link.connection->terminate(40, kPatienceNs, nullptr));
}

TEST_P(ControlTlsLink, outlives_the_copy_of_a_forked_child) {
  const auto gateway = start(GetParam());
  Established link = connect(request(url_of(*gateway, "port=1")), &maker_);
  gateway->await("\"activated\":[[0,101,true]]");
  const pid_t child = ::fork();
  if (child == 0) {
    link.connection->disown();
    link.connection.reset();
    ::_exit(0);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_LT(measure_clock(*link.connection, kPatienceNs).bound_ns, kPatienceNs);
  EXPECT_TRUE(link.connection->terminate(40, kPatienceNs, nullptr));
}

TEST_P(ControlTlsLink, tells_a_shutdown_of_the_gateway_and_its_reason) {
  const auto gateway = start(GetParam());
  const Established link = connect(request(url_of(*gateway, "port=1")), &maker_);
  gateway->await("\"activated\":[[0,101,true]]");
  gateway->ask("close");
  std::string text;
  PeerCheck state = PeerCheck::kQuiet;
  while (state == PeerCheck::kQuiet) state = link.connection->check(&text);
  EXPECT_EQ(state, PeerCheck::kTerminated);
  EXPECT_EQ(text, "GatewayShutdown: the gateway is shutting down");
  while (link.connection->check(nullptr) == PeerCheck::kQuiet) {
  }
  EXPECT_EQ(link.connection->check(&text), PeerCheck::kGone);
  EXPECT_FALSE(link.connection->terminate(1, kPatienceNs, nullptr));
}

TEST_P(ControlTlsLink, tells_that_the_gateways_process_is_gone) {
  const auto gateway = start(GetParam());
  const Established link = connect(request(url_of(*gateway, "port=1")), &maker_);
  gateway->kill();
  std::string text;
  while (link.connection->check(&text) == PeerCheck::kQuiet) {
  }
  EXPECT_NE(text, "");
  EXPECT_EQ(link.connection->check(&text), PeerCheck::kGone);
  EXPECT_FALSE(link.connection->terminate(1, kPatienceNs, nullptr));
}

TEST_P(ControlTlsLink, is_detached_when_the_strategy_goes_or_cannot_connect_its_end) {
  const auto gateway = start(GetParam());
  (void)connect(request(url_of(*gateway, "port=1")), &maker_);
  gateway->await("\"detached\":[[0,101,true]]");
  EXPECT_EQ(maker_.abandoned_count, 0);
  maker_.fail_accept = true;
  expect(failure(request(url_of(*gateway, "port=1"))), ErrorKind::kTransport,
         {"Establish", "no route to that GID"});
  const std::string facts = gateway->await("[0,102,true]");
  EXPECT_NE(facts.find("\"activated\":[[0,101,true]]"), std::string::npos)
      << "the second never was";
  EXPECT_EQ(maker_.abandoned_count, 1);
  EXPECT_TRUE(maker_.window_was_mapped) << "what it registered goes before the memory";
  maker_.fail_offer = true;
  expect(failure(request(url_of(*gateway, "port=1"))), ErrorKind::kTransport, {"no RDMA device"});
}

INSTANTIATE_TEST_SUITE_P(Over, ControlTlsLink, ::testing::Values(kTls, kPlain),
                         [](const auto& each) { return each.index == 0 ? "Tls" : "PlainTcp"; });

TEST_F(ControlTls, reaches_names_and_ipv6_addresses_that_the_certificate_carries) {
  const auto gateway = start(kTls);
  EXPECT_NO_THROW((void)connect(request("rdma://localhost" + gateway->port()), &maker_));
  const auto six = start(
      R"("listen":"rdma://[::1]:0","tls_certificate":"@gateway.pem","tls_key":"@gateway.key")");
  EXPECT_NO_THROW((void)connect(request(six->url()), &maker_));
  EXPECT_EQ(maker_.terms.local_address, "::1");
}

// -- certificates --------------------------------------------------------------------------------

TEST_F(ControlTls, refuses_gateways_that_do_not_prove_who_they_are) {
  const auto gateway = start(kTls);
  ConnectRequest asked = request(gateway->url());
  asked.tls_ca = file("other-ca.pem");
  expect(failure(asked), ErrorKind::kHandshake, {"TLS with the gateway", "refused", "as tls_ca"});
  asked = request(gateway->url() + "?tls_name=elsewhere.example");
  expect(failure(asked), ErrorKind::kHandshake, {"mismatch", "tls_name"});
  asked = request(gateway->url());
  asked.tls_name = "10.9.8.7";
  expect(failure(asked), ErrorKind::kHandshake, {"mismatch", "tls_name"});

  const auto expired = start(
      R"("listen":"rdma://127.0.0.1:0","tls_certificate":"@expired.pem","tls_key":"@expired.key")");
  expect(failure(request(expired->url())), ErrorKind::kHandshake, {"expired", "renew it"});

  const auto other = start(
      R"("listen":"rdma://127.0.0.1:0","tls_certificate":"@other-name.pem","tls_key":"@other-name.key")");
  expect(failure(request(other->url())), ErrorKind::kHandshake, {"mismatch"});
  EXPECT_NO_THROW((void)connect(request(other->url() + "?tls_name=elsewhere.example"), &maker_));
  gateway->await("\"tls_failed\":3");
}

TEST_F(ControlTls, gives_a_certificate_of_its_own_where_one_is_demanded) {
  const auto gateway = start(std::string(kTls) + R"(,"tls_client_ca":"@ca.pem")");
  expect(failure(request(gateway->url())), ErrorKind::kHandshake,
         {"demands a certificate", "tls_certificate and tls_key"});
  ConnectRequest asked = request(gateway->url());
  asked.tls_certificate = file("stranger.pem");
  asked.tls_key = file("stranger.key");
  expect(failure(asked), ErrorKind::kHandshake, {"refuses the certificate", "tls_client_ca"});
  asked.tls_certificate = file("strategy.pem");
  asked.tls_key = file("strategy.key");
  EXPECT_NO_THROW((void)connect(asked, &maker_));
}

TEST_F(ControlTls, names_the_file_it_cannot_use_before_anything_is_said) {
  const auto gateway = start(kTls);
  ConnectRequest asked = request(gateway->url());
  asked.tls_ca.clear();
  expect(failure(asked), ErrorKind::kConfig, {"tls_ca is not given", "tls=off"});
  asked.tls_ca = file("absent.pem");
  expect(failure(asked), ErrorKind::kConfig, {"tls_ca = ", "absent.pem", "No such file"});
  asked.tls_ca = file("ca.key");
  expect(failure(asked), ErrorKind::kConfig, {"tls_ca = ", "ca.key"});
  asked = request(gateway->url());
  asked.tls_certificate = file("strategy.pem");
  expect(failure(asked), ErrorKind::kConfig, {"belong together"});
  asked.tls_key = file("stranger.key");
  expect(failure(asked), ErrorKind::kConfig, {"tls_key = ", "stranger.key", "mismatch"});
  EXPECT_THROW((void)connect(request(gateway->url())), Error) << "without a LinkMaker";
}

TEST_F(ControlTls, says_what_to_change_when_only_one_side_speaks_tls) {
  const auto with = start(kTls);
  const Error told = failure(request(with->url() + "?tls=off"));
  expect(told, ErrorKind::kRefused, {"TLS only", "tls_ca"});
  EXPECT_EQ(told.code(), "Credentials");
  const auto without = start(kPlain);
  expect(failure(request(without->url())), ErrorKind::kHandshake, {"not speak TLS", "tls=off"});
}

// -- keys ----------------------------------------------------------------------------------------

TEST_P(ControlTlsLink, proves_the_sessions_key_and_demands_the_gateways_proof) {
  const auto gateway =
      start(std::string(GetParam()) + R"(,"session_keys":{"alpha":")" + kKeyHex + "\"}");
  ConnectRequest asked = request(url_of(*gateway, "port=1"));
  expect(failure(asked), ErrorKind::kConfig, {"[sessions.alpha]", "none was given here"});
  asked.session_key = std::string(32, 'x');
  const Error wrong = failure(asked);
  expect(wrong, ErrorKind::kRefused, {"Credentials", "key differs"});
  EXPECT_EQ(wrong.code(), "Credentials");
  asked.session_key = std::string(31, 'x');
  expect(failure(asked), ErrorKind::kConfig, {"31 bytes"});
  asked.session_key = parse_session_key(kKeyHex);
  EXPECT_NO_THROW((void)connect(asked, &maker_));
  asked.session = "beta";
  EXPECT_EQ(failure(asked).code(), "UnknownSession");

  const auto keyless = start(GetParam());
  asked = request(url_of(*keyless, "port=1"));
  asked.session_key = parse_session_key(kKeyHex);
  expect(failure(asked), ErrorKind::kHandshake, {"asked for none", "[sessions.alpha]"});
}

TEST_F(ControlTls, refuses_a_gateway_that_asks_for_proof_and_has_none_itself) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("gw.sock");
  for (const char* mac : {"", "11111111111111111111111111111111"}) {
    const FakeGateway gateway(path, [&](const Peer& peer) {
      (void)peer.receive();
      peer.send(golden("control-challenge.bin"));
      (void)peer.receive();
      MessageWriter answer("NegotiationResponse");
      if (*mac != 0) answer.binary("mac", mac);
      peer.send(answer.frame());
      peer.await_close();
    });
    ConnectRequest asked = request("shm:" + path);
    asked.session_key = std::string(32, 'k');
    const Error error = failure(asked, 1);
    EXPECT_EQ(error.kind(), ErrorKind::kHandshake);
    EXPECT_NE(std::string(error.what()).find(*mac == 0 ? "'mac' is missing" : "did not prove"),
              std::string::npos)
        << error.what();
    std::filesystem::remove(path);
  }
}

// -- no gateway at all ---------------------------------------------------------------------------

/// A TCP listener on 127.0.0.1 that runs `script` on its first connection.
class TcpListener {
 public:
  explicit TcpListener(std::function<void(const Peer&)> script)
      : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener_.get(), generic, bytes), 0);
    EXPECT_EQ(::listen(listener_.get(), 4), 0);
    EXPECT_EQ(::getsockname(listener_.get(), generic, &bytes), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, run = std::move(script)] {
      memory::UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (socket) run(Peer(socket.get()));
    });
  }
  TcpListener(const TcpListener&) = delete;
  TcpListener& operator=(const TcpListener&) = delete;
  ~TcpListener() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  [[nodiscard]] std::string url() const { return "rdma://127.0.0.1:" + std::to_string(port_); }

 private:
  memory::UniqueFd listener_;
  int port_ = 0;
  std::thread thread_;
};

TEST_F(ControlTls, says_that_the_listener_is_silent_garbage_or_gone) {
  (void)start(kTls);  // makes the certificates
  {
    const TcpListener silent([](const Peer& peer) { peer.await_close(); });
    ConnectRequest asked = request(silent.url());
    asked.timeout_ns = kShortNs;
    expect(failure(asked, 1), ErrorKind::kTimeout, {"session alpha, TLS", "60 ms"});
  }
  {
    const TcpListener half([](const Peer& peer) {
      peer.send({"\x16\x03\x03\x00\x7a\x02", 6});
      peer.await_close();
    });
    ConnectRequest asked = request(half.url());
    asked.timeout_ns = kShortNs;
    expect(failure(asked, 1), ErrorKind::kTimeout, {"TLS", "60 ms"});
  }
  {
    const TcpListener web([](const Peer& peer) { peer.send("HTTP/1.1 400 Bad Request\r\n\r\n"); });
    expect(failure(request(web.url()), 1), ErrorKind::kHandshake, {"does not speak TLS"});
  }
  {
    const TcpListener leaver([](const Peer&) {});
    expect(failure(request(leaver.url()), 1), ErrorKind::kHandshake, {"closed during"});
  }
  std::string nobody;
  {
    const TcpListener ended([](const Peer&) {});
    nobody = ended.url();
  }
  const Error refused = failure(request(nobody));
  expect(refused, ErrorKind::kSystem, {"nobody listens on that port", "127.0.0.1:"});
  EXPECT_EQ(refused.error_number(), ECONNREFUSED);
  expect(failure(request("rdma://no-such-host.invalid:1")), ErrorKind::kSystem,
         {"no-such-host.invalid", "check the name"});
}

// -- what TLS says by itself ---------------------------------------------------------------------

/// A TLS server whose bytes go out when told to, and the stream that it shook hands with.
class TlsPair {
 public:
  TlsPair(const std::string& certificate, const std::string& key, const TlsSettings& settings) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    socket_ = memory::UniqueFd(ends[0]);
    stream = std::make_unique<TlsStream>(memory::UniqueFd(ends[1]), settings);
    context_.reset(::SSL_CTX_new(::TLS_server_method()));
    ::SSL_CTX_set_num_tickets(context_.get(), 0);
    EXPECT_EQ(::SSL_CTX_use_certificate_chain_file(context_.get(), certificate.c_str()), 1);
    EXPECT_EQ(::SSL_CTX_use_PrivateKey_file(context_.get(), key.c_str(), SSL_FILETYPE_PEM), 1);
    ssl_.reset(::SSL_new(context_.get()));
    EXPECT_EQ(::SSL_set_fd(ssl_.get(), socket_.get()), 1);
    std::thread server([this] { EXPECT_EQ(::SSL_accept(ssl_.get()), 1); });
    stream->handshake(Deadline(kPatienceNs));
    server.join();
    ::SSL_set0_wbio(ssl_.get(), ::BIO_new(::BIO_s_mem()));
  }
  void update_keys(int type, int count) {
    for (int i = 0; i < count; ++i) {
      ASSERT_EQ(::SSL_key_update(ssl_.get(), type), 1);
      ASSERT_EQ(::SSL_do_handshake(ssl_.get()), 1);
    }
  }
  void write(const std::string& data) {
    ASSERT_EQ(::SSL_write(ssl_.get(), data.data(), static_cast<int>(data.size())),
              static_cast<int>(data.size()));
  }
  /// All at once.
  std::size_t send() {
    BIO* source = ::SSL_get_wbio(ssl_.get());
    char* pending = nullptr;
    const auto bytes = static_cast<std::size_t>(BIO_get_mem_data(source, &pending));
    EXPECT_EQ(::send(socket_.get(), pending, bytes, MSG_NOSIGNAL), static_cast<ssize_t>(bytes));
    (void)BIO_reset(source);
    return bytes;
  }

  std::unique_ptr<TlsStream> stream;

 private:
  memory::UniqueFd socket_;
  TlsContext context_;
  std::unique_ptr<SSL, TlsFree> ssl_;
};

constexpr std::size_t kLookBytes = 16 * 1024;

TEST_F(ControlTls, looks_at_so_much_at_once_however_many_key_updates_come) {
  (void)start(kTls);  // makes the certificates
  TlsPair pair(file("gateway.pem"), file("gateway.key"), {file("ca.pem"), "", "", "localhost"});
  pair.update_keys(SSL_KEY_UPDATE_NOT_REQUESTED, 3000);
  pair.write("x");
  const std::size_t sent = pair.send();
  ASSERT_GT(sent, 3 * kLookBytes);
  std::size_t looks = 1;
  char byte = 0;
  std::size_t got = 0;
  while (pair.stream->read_some(&byte, 1, &got) == Got::kNothing) ++looks;
  EXPECT_EQ(byte, 'x');
  EXPECT_GE(looks, sent / kLookBytes);
}

TEST_F(ControlTls, gives_up_a_peer_that_wants_new_keys_and_reads_nothing) {
  (void)start(kTls);  // makes the certificates
  TlsPair pair(file("gateway.pem"), file("gateway.key"), {file("ca.pem"), "", "", "localhost"});
  const auto flood = [&] {
    char byte = 0;
    std::size_t got = 0;
    for (int round = 0; round < 500; ++round) {  // 8 MB to answer
      pair.update_keys(SSL_KEY_UPDATE_REQUESTED, 600);
      (void)pair.send();
      EXPECT_EQ(pair.stream->read_some(&byte, 1, &got), Got::kNothing);
    }
  };
  try {
    flood();
    FAIL() << "8 MB are owed";
  } catch (const Error& error) {
    expect(error, ErrorKind::kHandshake, {"reads no answer"});
  }
}

}  // namespace
}  // namespace rdmaorder::control
